"""A new search that starts from the trials of another one."""

import itertools
from dataclasses import replace

import pytest

from orchestrator import InputError, Search, Stopped
from orchestrator.record.studies.study import StudiedTrial
from orchestrator.search.decisions.own_trials import FROM, _encoded, _fitting
from orchestrator.space.search_space import Range
from orchestrator.space.simplex import Simplex
from tests.orchestrator import toys
from tests.orchestrator.test_api import mlflow_client, runs, small

SPACE = toys.plan().space
WIDER = replace(
    SPACE,
    ranges={"lr/outer": Range(1e-3, 1e-2, log=True), "distill/soft_weight": Range(0.0, 1.0)},
    weights=Simplex(("clean", "noise", "new"), (1 / 3,) * 3, zero_below=0.05),
)


def ended(number: int, score: float, rate: float, **weights: float) -> StudiedTrial:
    notes = {"hyperparameters": {"lr/outer": rate}, "task_weights": weights}
    state = "complete" if score >= 0 else "pruned"
    return StudiedTrial(number, state, {}, {10: abs(score)}, notes)


def test_trials_are_encoded_in_the_new_space() -> None:
    params = _encoded(WIDER, {"lr/outer": 0.05}, {"clean": 0.3, "mixed": 0.4, "noise": 0.3})
    assert params is not None
    hyperparameters, weights = WIDER.decode(params)
    assert hyperparameters["lr/outer"] == 1e-2
    assert hyperparameters["distill/soft_weight"] == 0.5
    assert weights == pytest.approx({"clean": 0.5, "noise": 0.5, "new": 0.0})
    assert _encoded(WIDER, {"lr/outer": 0.05}, {"mixed": 1.0}) is None
    fixed = replace(WIDER, weights={"clean": 1.0})
    assert _encoded(fixed, {}, {"mixed": 1.0}) == {
        "lr/outer": pytest.approx(10**-2.5),
        "distill/soft_weight": 0.5,
    }


def test_the_four_best_different_trials_that_are_no_references_fit() -> None:
    third = 1 / 3
    trials = [
        ended(0, 0.9, 0.01, clean=third, mixed=third, noise=third),  # the reference
        ended(1, 0.8, 0.01, mixed=1.0),  # if that task is gone, nothing is left
        ended(2, 0.5, 0.01, clean=1.0),
        ended(3, 0.7, 0.01, clean=1.0),
        ended(9, 0.69, 0.011, clean=0.96, noise=0.04),  # almost the same
        ended(4, -0.99, 0.01, noise=1.0),  # pruned
        ended(5, 0.6, 0.02, clean=1.0),
        ended(6, 0.1, 0.03, clean=1.0),
        ended(7, 0.2, 0.005, clean=1.0),
        ended(8, 0.3, 0.05, clean=1.0),
    ]
    gone = replace(SPACE, weights=Simplex(("clean", "noise"), (0.5, 0.5), zero_below=0.05))
    assert [t["number"] for t in _fitting(trials, gone)] == [3, 5, 8, 7]
    assert [t["number"] for t in _fitting(trials, SPACE)] == [1, 3, 5, 8]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    made = small(tmp_path_factory.mktemp("from"))
    made.run(executor="inline")
    return made.home


def wider(home, name: str = "wider", *more: str) -> Search:
    tasks = "tasks.train=[{function: square}, {function: quadratic}, {function: sinusoid}]"
    rates = "space.lr/outer={low: 0.001, high: 0.1}"
    return small(home, f"name={name}", tasks, rates, "search.trials=10", *more)


def test_a_search_with_other_tasks_first_runs_the_best_of_the_earlier(home) -> None:
    old, search = Search.open("functions", home=home), wider(home)
    calls = itertools.count()
    options = {"executor": "inline", "should_stop": lambda: next(calls) > 0}
    with pytest.raises(Stopped):
        search.run(from_search="functions", **options)
    assert wider(home).run(executor="inline", resume=True).state == "complete"
    taken = search._record().notes[FROM]
    assert taken["search"] == "functions"
    given = [t for t in search._record().trials() if "origin" in t.notes]
    assert [t.number for t in given] == list(range(2, 2 + len(taken["trials"])))
    assert 0 < len(given) <= 4
    table = old.trials()
    for trial, source in zip(given, taken["trials"], strict=True):
        assert trial.notes["origin"] == f"functions/{source['number']}"
        row = table.loc[source["number"]]
        assert row.state == "complete"
        rate = min(max(row["lr/outer"], 1e-3), 1e-1)
        assert trial.params["lr/outer"] == rate
        weights = search.plan.space.decode(trial.params)[1]
        assert weights["sinusoid"] == 0
    scores = [table.score[t["number"]] for t in taken["trials"]]
    assert scores == sorted(scores, reverse=True)
    tags = [run.data.tags for run in runs(mlflow_client(search))]
    origins = {t["fewtune.origin"] for t in tags if "fewtune.origin" in t}
    assert origins == {t.notes["origin"] for t in given}


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("new", "function", "--from: must be the name of a search.*Did you mean `functions`"),
        ("new", "new", "--from: must be the name of another search"),
        ("functions", "other", "--from: is for a new search, and this one was started without it"),
    ],
)
def test_what_is_no_source_is_refused(home, name, source, said) -> None:
    made = small(home) if name == "functions" else wider(home, name)
    with pytest.raises(InputError, match=said):
        made.run(executor="inline", from_search=source)
    assert name == "functions" or not (home / "searches" / name).exists()


def test_a_source_without_common_tasks_is_refused(home) -> None:
    tasks = "tasks.train=[{function: sinusoid}, {function: line, name: straight}]"
    made = small(home, "name=strange", tasks)
    with pytest.raises(InputError, match="no complete trial with weight on a task"):
        made.run(executor="inline", from_search="functions")
    assert not (home / "searches" / "strange").exists()
