"""Sizes of the transfer set: the choice, and the scores of one small search with a teacher."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from orchestrator import Search
from orchestrator.cli import app as cli
from orchestrator.record.home import Home
from orchestrator.results.budget.transfer import TransferSize, figure, smallest, transfer_sizes_of


def size(unlabelled: int, *skills: float) -> TransferSize:
    return TransferSize(unlabelled, skills, 1.0)


def test_the_smallest_within_noise_is_enough():
    sizes = [size(0, 0.1, 0.1, 0.1), size(10, 0.70, 0.82, 0.78), size(20, 0.8, 0.8, 0.8)]
    assert smallest(sizes) is sizes[1]
    assert smallest([*sizes, size(40, 0.9, 0.9, 0.9)]).unlabelled == 40


def test_a_size_with_a_student_that_diverged_does_not_count():
    sizes = [size(0, math.nan, 0.9), size(10, 0.5, 0.5), size(20, 0.8, 0.8)]
    assert smallest(sizes) is sizes[2]


def test_with_one_seed_the_best_is_needed():
    sizes = [size(0, 0.79), size(10, 0.8), size(20, 0.8)]
    assert smallest(sizes) is sizes[1]


@pytest.fixture(scope="module")
def search(tmp_path_factory) -> Search:
    """A search for a student of a teacher, which sees more of four clouds of points."""
    folder, rng = tmp_path_factory.mktemp("transfer"), np.random.default_rng(0)
    rows, centres = [], 1.5 * rng.standard_normal((4, 6))
    for part, n in (("labelled", 3), ("unlabelled", 16), ("query", 12), ("test", 4)):
        for kind, centre in enumerate(centres):
            points = centre + rng.standard_normal((n, 6))
            rows += [[*map(float, point), f"kind {kind}", part] for point in points]
    columns = [f"x{i}" for i in range(6)]
    table = pd.DataFrame(rows, columns=[*columns, "kind", "part"])
    table.to_csv(folder / "points.csv", index=False)
    points = {"source": "table", "path": str(folder / "points.csv")}
    task = {"name": "points", "dataset": "points", "label": "kind", "where": {"part": "labelled"}}
    validation = task | {"unlabelled": {"part": "unlabelled"}, "query": {"part": "query"}}
    config = {
        "name": "taught",
        "datasets": {"points": points | {"features": columns[:4]}},
        "teacher": points | {"features": columns},
        "tasks": {"validation": [validation], "test": [task | {"query": {"part": "test"}}]},
        "model": {"name": "mlp", "hidden": [8]},
        "episodes": {"way": 4, "shot": 3},
        "batch": 8,
        "steps": 40,
        "space": {
            "lr/adapt": {"low": 1e-2, "high": 1e-1},
            "distill/temperature": 2.0,
            "distill/soft_weight": 0.9,
        },
        "search": {"trials": 4, "reference_trials": 2, "finalists": 1, "seeds": 2, "lanes": 2},
    }
    made = Search(config, home=folder / "home")
    made.run(executor="inline")
    return made


@pytest.mark.slow
def test_the_sizes_of_a_search(search, capsys, tmp_path):
    found = transfer_sizes_of(search.name, Home(search.home))
    assert [size.unlabelled for size in found.sizes] == [0, 4, 16, 32, 64]
    assert all(len(size.skills) == 2 and size.seconds > 0 for size in found.sizes)
    assert found.sizes[-1].score == pytest.approx(search.summary().best.score.mean)
    (drawn,) = figure(found).data
    assert list(drawn.y) == [size.score for size in found.sizes]
    out = tmp_path / "sizes.html"
    command = ["stages", search.name, "--home", str(search.home), "--json", "--out", str(out)]
    assert cli.main(command) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [size["skills"] for size in printed["sizes"]] == [list(s.skills) for s in found.sizes]
    assert printed["smallest"] == smallest(found.sizes).unlabelled
    assert "unlabelled examples" in out.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_size_of_the_search_itself_gives_its_own_scores(search, monkeypatch):
    # Twice as many examples as there are: all of them.
    monkeypatch.setattr("orchestrator.results.budget.transfer.SHARES", (2.0,))
    trained, recorded = transfer_sizes_of(search.name, Home(search.home)).sizes
    assert (trained.unlabelled, recorded.unlabelled) == (128, 64)
    assert trained.skills == pytest.approx(recorded.skills, abs=1e-6)


@pytest.mark.slow
def test_the_command_says_how_many_are_enough(search, capsys):
    assert cli.main(["stages", search.name, "--home", str(search.home)]) == 0
    assert "unlabelled examples are enough" in capsys.readouterr().out
