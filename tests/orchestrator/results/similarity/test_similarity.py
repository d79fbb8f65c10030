"""Warnings, agreement with effects, the command and its files, on small tables."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from fewshot.errors.inputs import InputError
from fewshot.metrics import Estimate
from orchestrator import Search
from orchestrator.cli import app as cli
from orchestrator.config import loading
from orchestrator.results.similarity.agreement import agreement, rank_correlation
from orchestrator.results.similarity.figure import figure
from orchestrator.search.finals.intervals import Interval
from tests.orchestrator import tiny
from trials.programs.similarity.similarity import Similarity

TASKS = ("one", "two", "three", "four")


def searched(folder, *, shift=0.0, noise=1.0, wide=4.0, corrupt=None) -> Search:
    """Training tasks `shift` away from the validation tasks, whose classes are `noise` wide.

    Half of the features tell the classes apart; the other half are `wide` and say nothing.
    """
    rng = np.random.default_rng(0)
    rows = []
    for i, task in enumerate(("a", "b", "c", "d", "e")):
        middles = rng.normal(size=(4, 4))
        for c in range(4):
            useful = middles[c] + noise * rng.normal(size=(30, 4))
            idle = wide * rng.normal(size=(30, 4))
            far = shift if i < 3 else 0.0
            for x in np.concatenate([useful, idle], 1) + far:
                named = {f"x{j}": value for j, value in enumerate(x)}
                rows.append({"task": task, "class": f"{task}{c}", **named})
    path = folder / "table.csv"
    pd.DataFrame(rows).to_csv(path, index=False)

    def tasks(*names: str, **more: str) -> list[dict[str, object]]:
        return [
            {"name": n, "dataset": "t", "label": "class", "where": {"task": n}} | more
            for n in names
        ]

    more = {} if corrupt is None else {"corrupt": corrupt}
    config = {
        "name": "tables",
        "datasets": {"t": {"source": "table", "path": str(path)}},
        "tasks": {"train": tasks("a", "b", "c", **more), "validation": tasks("d", "e")},
        "model": {"name": "mlp", "hidden": [8], "n_out": 8},
        "learner": {"name": "protonet"},
        "episodes": {"way": 4, "shot": 2, "query": 4, "validation": 20, "test": 20},
        "steps": 2,
        "space": {"lr/outer": 0.01},
        "search": {"trials": 2, "reference_trials": 1, "finalists": 1},
    }
    config["tasks"]["test"] = [{**tasks("e")[0], "name": "test"}]
    config["tasks"]["overlap"] = True
    (folder / "config.yaml").write_text(loading.dump(loading.parse(config)))
    return Search.from_yaml(folder / "config.yaml", home=folder / "home")


def warnings(search: Search) -> str:
    return " ".join(map(str, search.similarity().warnings))


def test_a_pool_that_can_help_has_no_warnings(tmp_path):
    found = searched(tmp_path).similarity()
    assert not found.warnings
    assert found.measures.means("transfer")["a"].interval()[0] > 0


def test_a_pool_with_other_inputs_is_unlike(tmp_path):
    assert "have inputs unlike" in warnings(searched(tmp_path, shift=100.0))


def test_shuffled_labels_are_not_above_chance_on_transfer(tmp_path):
    assert "no training task is above chance" in warnings(searched(tmp_path, corrupt="shuffle"))


def test_features_that_tell_all_classes_apart_leave_nothing_to_gain(tmp_path):
    assert "meta-training can gain 0.0" in warnings(searched(tmp_path, noise=0.01, wide=0.0))


def test_a_config_without_training_tasks_is_refused(tmp_path):
    config = loading.data_of(tiny.config())
    config["tasks"] |= {"train": []}
    with pytest.raises(InputError):
        Search(config, home=tmp_path).similarity()


def test_the_command_prints_a_ranking_and_writes_a_page_that_opens_offline(tmp_path, capfd):
    search, page = searched(tmp_path), tmp_path / "page.html"
    words = ["similarity", str(tmp_path / "config.yaml"), "--home", str(search.home)]
    assert cli.main(words) == 0
    printed = capfd.readouterr().out
    assert "transfer by validation task" in printed
    assert cli.main([*words, "--json", "--out", str(page)]) == 0
    found = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert {row["task"] for row in found["ranking"]} == {"a", "b", "c"}
    assert found["warnings"] == []
    assert found["ranking"][0]["transfer"]["low"] < found["ranking"][0]["transfer"]["mean"]
    text = page.read_text()
    assert "Plotly.newPlot" in text
    assert 'src="http' not in text
    drawn = figure(search.similarity().measures)
    assert [trace.type for trace in drawn.data] == ["heatmap", "scatter"] * 3
    heights = {row["task"]: row["transfer"]["mean"] for row in found["ranking"]}
    means = next(trace for trace in drawn.data if trace.name == "mean transfer")
    assert dict(zip(means.y, means.x, strict=True)) == pytest.approx(heights)
    assert not (search.home / "searches").exists()


@dataclass
class Found:
    tasks: tuple[str, ...]
    effect: Interval


def made(*values: float) -> Similarity:
    rows = [[Estimate(value, 0.1, 10)] for value in values]
    return Similarity(TASKS, ("v",), {"transfer": rows}, {}, {}, {})


def effects(*values: float) -> list[Found]:
    return [Found((t,), Interval(v, v, v)) for t, v in zip(TASKS, values, strict=True)]


def test_the_agreement_is_a_rank_correlation_with_an_interval():
    found = agreement(made(1, 2, 3, 4), effects(0.1, 0.2, 0.3, 0.9))["transfer"]
    assert found.mean == pytest.approx(1)
    found = agreement(made(1, 2, 3, 4), effects(0.1, 0.3, 0.2, 0.4))["transfer"]
    assert found.mean == pytest.approx(0.8)
    assert found.low < 0 < found.high < 1
    assert math.isnan(agreement(made(1, 2, 3, 4), effects(*[math.nan] * 4))["transfer"].mean)
    assert math.isnan(agreement(made(1, 1, 1, 1), effects(1, 2, 3, 4))["transfer"].mean)


def test_tasks_with_one_weight_count_once():
    groups = [Found(TASKS[:2], Interval(0.1, 0, 1)), Found(TASKS[2:], Interval(0.2, 0, 1))]
    assert "2 tasks are too few" in agreement(made(1, 2, 3, 4), groups)["transfer"].note


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng, within = np.random.default_rng(0), 0
    for _ in range(300):
        x, y = rng.normal(size=(2, 12))
        found = rank_correlation(x, y)
        within += found.low <= 0 <= found.high
    assert 0.9 < within / 300 < 0.99
