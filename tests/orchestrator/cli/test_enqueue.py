"""The command `fewtune enqueue`."""

import pytest

from orchestrator import Search, Stopped
from tests.orchestrator.cli.test_cli import called
from tests.orchestrator.test_api import mlflow_client, runs, small

__all__ = ["called"]  # a fixture


TEN = ["search.trials=10"]


@pytest.fixture
def stopped(tmp_path) -> Search:
    made, turns = small(tmp_path, *TEN), []
    with pytest.raises(Stopped):
        made.run(executor="inline", should_stop=lambda: len(turns) > 0 or turns.append(1))
    return made


def test_a_trial_of_ones_own_is_run_when_the_search_is_resumed(stopped, called) -> None:
    home = stopped.home
    words = ["--weights", "line=0.25,quadratic=0.75", "--set", "lr/outer=0.01", "--home", home]
    answer = called("enqueue", "functions", *words)
    assert answer.returncode == 0, answer.stderr
    assert "enqueued: lr/outer 0.01" in answer.stdout
    assert "lambda/quadratic 0.75" in answer.stdout
    small(home, *TEN).run(executor="inline", resume=True)
    (trial,) = (t for t in stopped.study().trials if "origin" in t.user_attrs)
    assert trial.params["lambda/line"] == pytest.approx(0.25)
    assert trial.params["lr/outer"] == 0.01
    tags = [run.data.tags for run in runs(mlflow_client(stopped))]
    marked = [t["fewtune.key"] for t in tags if t.get("fewtune.origin") == "enqueued"]
    assert marked == [f"functions/search-{trial.number:04d}"]
    late = called("enqueue", "functions", "--set", "lr/outer=0.005", "--home", home)
    assert late.returncode == 0
    assert "--resume --trials 11" in late.stderr
    small(home, *TEN).run(executor="inline", resume=True, trials=11)
    assert stopped.trials()["lr/outer"].iloc[-1] == 0.005


def test_all_errors_are_said_at_once_and_nothing_is_written(stopped, called) -> None:
    words = ["--weights", "lime=1,line", "--set", "lr/outer=fast", "--set", "nothing"]
    answer = called("enqueue", "functions", *words, "--home", stopped.home)
    assert answer.returncode == 2
    for said in (
        "weights.lime: is not a training task. Did you mean `line`?",
        "weights.line: must be a number of at least 0. Found ''",
        "lr/outer: must be a number from 0.0003 to 0.01. Found 'fast'",
        "nothing: is not a hyperparameter of this search",
    ):
        assert said in answer.stderr
    assert not (stopped.home / "searches" / "functions" / "enqueued").exists()
    unknown = called("enqueue", "function", "--home", stopped.home)
    assert unknown.returncode == 2
    assert "Did you mean `functions`" in unknown.stderr
