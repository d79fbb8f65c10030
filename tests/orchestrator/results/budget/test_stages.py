"""Splits between the stages: the choice, and their scores on one small search."""

import json
import math

import pytest

from fewshot.errors.inputs import InputError
from orchestrator import Search
from orchestrator.cli import app as cli
from orchestrator.record.home import Home
from orchestrator.results.budget.stages import STEPS, Split, cheapest, figure, stages_of
from tests.orchestrator.test_api import small


def split(
    score: float, meta_seconds: float, adapt_seconds: float = 0.0, *, wobble: float = 0.0
) -> Split:
    """A split of three seeds and three tasks, whose skills wobble by seed around the score."""
    skills = tuple((score + d, score + d, score + d) for d in (-wobble, 0.0, wobble))
    return Split(100, 5, skills, meta_seconds, adapt_seconds, "scored")


def test_the_cheapest_within_noise_is_chosen_and_depends_on_the_number_of_tasks():
    best, quick = split(0.81, 100, 1.0), split(0.80, 100, 0.1, wobble=0.05)
    short, bad = split(0.79, 10, 0.5, wobble=0.05), split(0.3, 0)
    every = [best, quick, short, bad]
    assert cheapest(every, 1).split is short
    assert cheapest(every, 1000).split is quick
    found = cheapest(every, 1000)
    assert found.best is best
    assert found.loss == pytest.approx(0.01)
    assert found.noise > found.loss


def test_without_noise_the_best_is_chosen_and_ties_go_to_the_cheaper():
    best, cheap, worse = split(0.8, 100), split(0.8, 50), split(0.79, 1)
    assert cheapest([best, cheap, worse], 10).split is cheap


def test_splits_without_a_score_or_a_cost_do_not_count():
    known = split(0.1, 1)
    assert cheapest([split(math.nan, 1), split(0.9, math.nan), known], 1).split is known
    with pytest.raises(ValueError, match="No split"):
        cheapest([split(math.nan, 1)], 1)


@pytest.fixture(scope="module")
def search(tmp_path_factory) -> Search:
    made = small(tmp_path_factory.mktemp("stages"), "search.trials=4", "search.rungs=[0.5]")
    made.run(executor="inline")
    return made


@pytest.mark.slow
def test_the_splits_of_a_search(search):
    found = stages_of(search.name, Home(search.home))
    summary, last = search.summary(), search.config["steps"]
    best = summary.best
    scored = {(s.meta_steps, s.adapt_steps): s for s in found.splits if s.source == "scored"}
    assert set(scored) == {(m, a) for m in (0, last) for a in {*STEPS, 2}}
    # The split that the search used has the recorded score of the finalist.
    assert found.own is scored[last, 2]
    assert found.own.score == pytest.approx(best.score.mean, abs=1e-6)
    assert all(s.meta_seconds == 0 for s in found.splits if s.meta_steps == 0)
    assert found.own.meta_seconds > 0
    assert scored[last, 50].adapt_seconds > scored[last, 0].adapt_seconds > 0
    between = [s for s in found.splits if s.source == "record"]
    trial = search.trials().loc[best.number]
    if not math.isnan(best.search_score):
        (half,) = between
        assert (half.meta_steps, half.adapt_steps) == (last // 2, 2)
        change = trial[f"score@{last // 2}"] - trial[f"score@{last}"]
        # The study rounds skills.
        assert half.score - found.own.score == pytest.approx(change, abs=1e-3)
        assert half.meta_seconds == pytest.approx(found.own.meta_seconds / 2)
    drawn = figure(found, 100)
    assert [trace.type for trace in drawn.data] == ["heatmap", *["scatter"] * 4]
    assert len(drawn.data[0].z) == len(found.splits)


@pytest.mark.slow
def test_the_command_names_the_cheapest_split(search, tmp_path, capfd):
    words = ["stages", search.name, "--home", str(search.home), "--new-tasks", "10"]
    page = tmp_path / "stages.html"
    assert cli.main([*words, "--json", "--out", str(page)]) == 0
    found = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert found["cheapest"]["seconds"] <= found["best"]["seconds"]
    assert found["loss"] <= found["noise"] or found["loss"] == 0
    assert "Plotly.newPlot" in page.read_text()
    assert cli.main(words) == 0
    assert "For 10 new tasks the cheapest split" in capfd.readouterr().out


def test_an_unknown_search_is_refused(tmp_path):
    with pytest.raises(InputError, match="must be the name of a search"):
        stages_of("none", Home(tmp_path))
