"""What the displays of a search's progress show."""

import io

import optuna
import pytest
from rich.console import Console

from orchestrator import Search
from orchestrator.cli.display import ProgressDisplay
from orchestrator.executors.inline import InlineExecutor
from orchestrator.progress import progress_of
from orchestrator.search.loop import run_search
from tests.orchestrator import toys
from tests.orchestrator.tiny import config, quiet
from tests.orchestrator.toys import SIZES, Told, Toy


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.sampling.sampler.Sampler.suggest", toys.quick_suggest)
    monkeypatch.setattr("orchestrator.tracking.sending.mlflow_sender.recorder", quiet)


def test_the_number_of_retrainings_is_known_from_the_start() -> None:
    plan = toys.plan()
    records = toys.records(optuna.storages.InMemoryStorage(), plan)
    seen = []

    def observe(stage: str) -> None:
        if stage == "final":
            seen.append(progress_of(stage, records, plan))

    executor = InlineExecutor(lambda: Toy(3))
    run_search(plan, records, executor, Told(), task_sizes=SIZES, observe=observe)
    assert {total for _, total, _ in seen} == {(plan.finalists + 2) * plan.seeds}
    assert seen[0][2] == f"{plan.seeds} of them only if a searched trial is the best"
    done, total, note = seen[-1]
    assert (done, note) == (total, "")


def test_the_display_ends_with_a_last_word(tmp_path) -> None:
    search = Search(config(), home=tmp_path)
    console = Console(file=io.StringIO(), width=120)
    with ProgressDisplay(console, search) as display:
        search.run(executor="inline", observe=display)
    lines = console.file.getvalue().splitlines()
    assert "sending the record to MLflow" in lines
    assert lines[-1].startswith("the search has ended 2/2 best score")


def test_the_number_of_runs_that_mlflow_does_not_have_is_shown() -> None:
    assert progress_of("record", None, toys.plan(), 1234)[2] == "1,234 runs left"
    assert progress_of("record", None, toys.plan(), 1)[2] == "1 run left"
    assert progress_of("record", None, toys.plan())[2] == ""


def test_a_forecast_is_printed_as_by_the_command(tmp_path) -> None:
    text = str(Search(config(), home=tmp_path).check())
    assert "2 trials of 2 steps" in text
    assert "lanes: 1, with about" in text
