"""The stored explanation of an ended search."""

import json
from dataclasses import replace

import pytest

from orchestrator import Search
from orchestrator.results.explanation import explanation as explanations
from orchestrator.results.explanation import stored
from orchestrator.results.explanation.explanation import Explanation
from orchestrator.search.finals.intervals import Interval
from tests.orchestrator.cli.results.test_explanation import FOUND
from tests.orchestrator.cli.test_cli import called
from tests.orchestrator.tiny import config, quiet

__all__ = ["called"]  # a fixture


@pytest.fixture
def fits(monkeypatch) -> list[str]:
    """The names of the searches whose explanation is fitted."""
    found, explain = [], explanations.explain

    def counted(plan, records, summary):
        found.append(summary.name)
        return explain(plan, records, summary)

    monkeypatch.setattr(explanations, "explain", counted)
    return found


@pytest.fixture
def ended(tmp_path, monkeypatch, fits) -> Search:
    monkeypatch.setattr("orchestrator.tracking.sending.mlflow_sender.recorder", quiet)
    search = Search(config(), home=tmp_path)
    search.run(executor="inline")
    return search


def test_an_ended_search_is_explained_once(ended, fits, called) -> None:
    assert fits == ["toy"], "at its end, for MLflow"
    shown = json.loads(called("show", "toy", "--json", "--home", ended.home).stdout)
    assert shown["explanation"] == ended.summary().explanation.to_dict()
    assert called("show", "toy", "--why", "--home", ended.home).returncode == 0
    assert fits == ["toy"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"key": [], "explanation": {}}'])
def test_a_file_of_another_state_is_not_used(ended, fits, text) -> None:
    path = ended.home / "searches" / "toy" / stored.FILE
    before = path.read_text()
    path.write_text(text)
    assert ended.summary().explanation.checks
    assert fits == ["toy", "toy"]
    assert path.read_text() == before


def test_more_trials_are_explained_again(ended, fits) -> None:
    ended.run(executor="inline", resume=True, trials=3)
    assert fits == ["toy", "toy"]


def test_the_plain_values_of_an_explanation_are_read_back() -> None:
    few = Interval(float("nan"), float("nan"), float("nan"), "too few")
    effects = [*FOUND.effects, replace(FOUND.effects[0], effect=few, weight=None, good=None)]
    found = replace(FOUND, effects=effects)
    plain = json.loads(json.dumps(found.to_dict()))
    assert repr(Explanation.from_dict(plain)) == repr(found)
