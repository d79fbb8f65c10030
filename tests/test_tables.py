"""A search of tables: tasks of classes and of numbers, learned by one model."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from orchestrator.cli import app as cli
from orchestrator.config.loading import load_config
from orchestrator.record.home import Home
from orchestrator.record.search_records import read_records
from tests.orchestrator.tiny import quiet

REGIONS = ["north", "south", "east", "west", "coast", "hills"]


def fields(path: Path) -> None:
    """Soils of six regions, in units of their own; what grows there, and how much of it."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(4, 4))
    rows = []
    for i, region in enumerate(REGIONS):
        x = rng.normal(size=(60, 4))
        crops, harvest = (x @ mix[:, :3]).argmax(1), (x @ mix[:, 3])
        units = 10.0 ** rng.integers(-3, 4, 4)
        for row, crop, kilos in zip(x * units + i * units, crops, harvest, strict=True):
            named = dict(zip(("acid", "clay", "rain", "sun"), row, strict=True))
            rows.append(
                {"region": region, **named, "crop": f"crop {crop}", "kilos": 500 + 40 * i * kilos}
            )
    table = pd.DataFrame(rows)
    table.loc[table["region"] == "north", "kilos"] = 1e6 * rng.normal(size=60)  # nothing to learn
    table.to_csv(path, index=False)


def config(folder: Path, learner: dict[str, object], space: dict[str, object]) -> Path:
    def task(label: str, *regions: str, **more: str) -> list[dict[str, object]]:
        kind = {"kind": "regression"} if label == "kilos" else {}
        return [
            {"name": f"{label}_{r}", "dataset": "fields", "label": label, "where": {"region": r}}
            | kind
            | more
            for r in regions
        ]

    fields(folder / "fields.csv")
    path = folder / "tables.yaml"
    data = {
        "name": "tables",
        "datasets": {
            "fields": {
                "source": "table",
                "path": str(folder / "fields.csv"),
                "labels": ["kilos"],
            }
        },
        "tasks": {
            "train": [
                *task("kilos", "north"),
                *task("kilos", "south", "east", group="harvests"),
                *task("crop", "south", "east", group="crops"),
            ],
            "validation": [*task("kilos", "west"), *task("crop", "west")],
            "test": [*task("kilos", "coast", "hills"), *task("crop", "coast", "hills")],
        },
        "model": {"name": "mlp", "hidden": [16]},
        "learner": learner,
        "episodes": {
            "way": 2,
            "shot": 5,
            "query": 5,
            "per_task": 2,
            "validation": 10,
            "test": 10,
        },
        "steps": 30,
        "space": space,
        "search": {
            "trials": 8,
            "reference_trials": 2,
            "finalists": 1,
            "seeds": 2,
            "lanes": 4,
        },
    }
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.fixture(scope="module", autouse=True)
def _no_mlflow() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.tracking.sending.mlflow_sender.recorder", quiet)
        yield


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search, in the folder of its tables."""
    folder = tmp_path_factory.mktemp("tables")
    path = config(folder, {"name": "protonet"}, {"lr/outer": {"low": 1e-3, "high": 3e-2}})
    arguments = ["search", str(path), "--executor", "inline", "--home", str(folder / "home")]
    assert cli.main(arguments) == 0
    return folder


def test_classes_and_numbers_are_scored_together(searched: Path, capsys) -> None:
    assert cli.main(["show", "tables", "--home", str(searched / "home"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["state"] == "complete"
    assert shown["measure"] == "skill"
    assert shown["trials"]["failed"] == 0
    assert shown["test"]["candidate"]["mean"] > 0.3
    assert shown["figures"] == {}
    cli.main(["show", "tables", "--home", str(searched / "home")])
    assert "of the gap between chance and perfect on the test tasks" in capsys.readouterr().out


def test_every_trial_tells_both_kinds_in_their_own_measures(searched: Path) -> None:
    records = read_records("tables", Home(searched / "home"))
    assert records is not None
    for trial in records.test.trials():
        tasks = trial.notes["tasks"]
        assert {name for name, found in tasks.items() if "mse" in found} == {
            "kilos_coast",
            "kilos_hills",
        }
        assert {name for name, found in tasks.items() if "accuracy" in found} == {
            "crop_coast",
            "crop_hills",
        }


def test_the_tasks_of_a_group_have_one_weight(searched: Path) -> None:
    records = read_records("tables", Home(searched / "home"))
    assert records is not None
    several = set()
    for trial in records.search.trials():
        weights = trial.notes["task_weights"]
        assert weights["kilos_south"] == weights["kilos_east"]
        assert weights["crop_south"] == weights["crop_east"]
        several.add(weights["kilos_north"])
        assert [name for name in trial.params if name.startswith("lambda")] == [
            "lambda.ilr1",
            "lambda.ilr2",
        ]
    assert len(several) > 2


def test_what_was_found_is_exported_and_learns_a_new_region(searched: Path, capsys) -> None:
    out = searched / "best"
    home = ["--home", str(searched / "home")]
    assert cli.main(["export", "tables", "--out", str(out), *home]) == 0
    fixed = load_config(out / "config.yaml").space.task_weights.fixed
    assert fixed is not None
    assert set(fixed) == {
        "kilos_north",
        "kilos_south",
        "kilos_east",
        "crop_south",
        "crop_east",
    }
    new = pd.read_csv(searched / "fields.csv").query("region == 'hills'")
    new.to_csv(searched / "new.csv", index=False)
    arguments = ["adapt", str(out), "--data", str(searched / "new.csv"), "--shots", "8"]
    assert cli.main([*arguments, "--label", "crop", "--out", str(searched / "told"), *home]) == 0
    told = json.loads((searched / "told" / "metrics.json").read_text())
    assert told["accuracy"] > 0.5, "of three crops"


def test_the_test_tasks_may_be_of_a_kind_that_no_validation_task_is(tmp_path: Path, capsys) -> None:
    path = config(tmp_path, {"name": "protonet"}, {"lr/outer": {"low": 1e-3, "high": 3e-2}})
    home = ["--home", str(tmp_path / "home")]
    classes = ["--set", "tasks.validation=[{name: crop, dataset: fields, label: crop, "
               "where: {region: west}}]", "--set", "search.trials=3"]  # fmt: skip
    few_steps = ["--set", "steps=10"]
    search = ["search", str(path), "--executor", "inline", *classes, *few_steps, *home]
    assert cli.main(search) == 0
    assert cli.main([*search, "--resume"]) == 0
    capsys.readouterr()
    assert cli.main(["show", "tables", "--json", *home]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["measure"] == "skill"
    assert shown["test"].keys() >= {"uniform", "untrained"}
    out = tmp_path / "best"
    assert cli.main(["export", "tables", "--out", str(out), *home]) == 0
    data = ["--set", f"datasets.fields.path={tmp_path / 'fields.csv'}"]
    assert cli.main(["train", str(out / "config.yaml"), *data, *home]) == 0
    assert "skill on the test tasks" in capsys.readouterr().out


def test_check_says_what_does_not_fit(tmp_path: Path, capsys) -> None:
    path = config(tmp_path, {"name": "protonet"}, {"lr/outer": 0.01})
    wrong = [
        "--set", 'datasets.fields.labels=[]',
        "--set", 'tasks.train=[{name: a, dataset: fields, label: crop, kind: regression},'
        ' {name: b, dataset: fields, label: kilos, kind: regression}]',
    ]  # fmt: skip
    assert cli.main(["check", str(path), "--home", str(tmp_path / "home"), *wrong]) == 2
    said = capsys.readouterr().err
    assert "tasks.train.a.label: must have a finite number in every row" in said
    assert "tasks.train.b.label: must not be one of the features" in said
    assert "tasks.validation.kilos_west.label: must not be one of the features" in said


def test_tables_and_functions_need_one_shape(tmp_path: Path, capsys) -> None:
    path = config(tmp_path, {"name": "protonet"}, {"lr/outer": 0.01})
    mixed = ["--set", "tasks.validation=[{function: line}]"]
    assert cli.main(["check", str(path), "--home", str(tmp_path / "home"), *mixed]) == 2
    assert "must all have examples of the same shape" in capsys.readouterr().err
    one = ["--set", "datasets.fields.features=[rain]", *mixed]
    assert cli.main(["check", str(path), "--home", str(tmp_path / "home"), *one]) == 0
