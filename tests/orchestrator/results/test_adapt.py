"""A distilled export learns a new task from a table, taught by what an earlier search found."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import save_file

from fewshot.errors.inputs import InputError
from orchestrator.config.loading import dump, parse
from orchestrator.config.plan import plan_of
from orchestrator.record.home import Home
from orchestrator.results.new_tasks.adapt import adapt
from orchestrator.results.predictor.predictor import Predictor
from trials.lanes import checkpoint
from trials.programs.build import build

BAG = {"name": "bag", "n_ids": 2048, "width": 16}


def table(path, first, n_classes=6, per_class=12):
    """Texts of made-up words, some of which belong to a class."""
    rng = np.random.default_rng(first)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for c in range(first, first + n_classes):
            own = [f"w{c}x{i}" for i in range(4)] + ["and"]
            rows.writerows([" ".join(rng.choice(own, 6)), f"topic {c}"] for _ in range(per_class))
    return str(path)


def config(path, **more):
    task = {"name": "topics", "dataset": "texts", "label": "label"}
    texts = {"source": "text", "path": path, "features": "ngrams", "buckets": 2048, "max_length": 8}
    return parse(
        {
            "name": "topics",
            "datasets": {"texts": texts},
            "tasks": {"train": [task], "validation": [task], "test": [task], "overlap": True},
            "model": BAG,
            "episodes": {"way": 3, "shot": 2, "query": 2, "validation": 5, "test": 5},
            "batch": 16,
            **more,
        }
    )


def exported(made, folder, *, calibrated=False):
    """The folder of an exported model, trained as the config says."""
    plan = plan_of(made)
    spec = plan.spec(0, *plan.space.decode({}), stage="final")
    program = build(plan.recipe, lanes=1, folder=folder / "runs", cache=folder)
    program.admit(spec)
    (report,) = program.advance()
    tensors = program.parameters(spec.key)
    metadata = {checkpoint.SPEC: spec.to_json()}
    if calibrated:
        (scale,) = (v for name, v in report.metrics.items() if name.endswith("/logit_scale"))
        metadata[checkpoint.LOGIT_SCALE] = repr(scale)
    save_file(tensors, folder / "model.safetensors", metadata)
    (folder / "config.yaml").write_text(dump(made))
    return folder


@pytest.fixture
def taught(tmp_path):
    """An exported student whose teacher is an exported prototypical network."""
    path = table(tmp_path / "known.csv", 0)
    for name in ("teacher", "student"):
        (tmp_path / name).mkdir()
    means = config(path, learner={"name": "protonet"}, steps=40, space={"lr/outer": 0.02})
    teacher = {"source": "export", "path": str(exported(means, tmp_path / "teacher"))}
    task = {"name": "topics", "dataset": "texts", "label": "label", "query": {}}
    tasks = {"train": [], "validation": [task], "test": [task], "overlap": True}
    soft = {"lr/adapt": 0.03, "distill/temperature": 1.0, "distill/soft_weight": 0.7}
    student = config(path, teacher=teacher, tasks=tasks, steps=80, space=soft)
    return exported(student, tmp_path / "student")


def test_an_export_teaches_a_student_a_task_that_is_new_to_both(taught, tmp_path):
    data = table(tmp_path / "new.csv", 100, n_classes=4)
    home = Home.at(str(tmp_path / "home"))
    found = adapt(taught, data, shots=3, label="label", out=tmp_path / "out", home=home)
    assert (found.classes, found.support, found.predicted) == (4, 12, 36)
    assert found.metrics["accuracy"] > 0.6  # chance is 0.25
    with found.predictions.open() as file:
        assert len(list(csv.DictReader(file))) == 36


def test_a_model_may_learn_from_all_rows(taught, of_functions, tmp_path):
    home, out = Home.at(str(tmp_path / "home")), tmp_path / "out"
    words = table(tmp_path / "new.csv", 100, n_classes=4)
    adapt(taught, words, shots=3, label="label", out=out, home=home)
    found = adapt(taught, words, shots=12, label="label", out=out, home=home)
    assert (found.support, found.predicted, found.predictions, found.metrics) == (48, 0, None, {})
    assert not (out / "predictions.csv").exists(), "those of the earlier adaptation"
    predictor = Predictor.load(out)
    assert set(predictor.predict(list(pd.read_csv(words)["text"]))) == set(predictor.classes)
    numbers = points(tmp_path / "points.csv", last="0")
    found = adapt(of_functions, numbers, shots=40, label="y", out=tmp_path / "line", home=home)
    assert (found.support, found.predicted, found.predictions) == (40, 0, None)
    assert abs(Predictor.load(tmp_path / "line").predict(np.ones((1, 1)))[0] - 3) < 2


@pytest.mark.parametrize("column", ["topic", "label"])
def test_the_label_is_the_models_own_column_or_label(tmp_path, column):
    known = Path(table(tmp_path / "known.csv", 0))
    known.write_text(known.read_text().replace("text,label", "text,topic"))
    task = {"name": "topics", "dataset": "texts", "label": "topic"}
    tasks = {key: [task] for key in ("train", "validation", "test")} | {"overlap": True}
    options = {"learner": {"name": "protonet"}, "steps": 2, "space": {"lr/outer": 0.02}}
    folder = exported(config(str(known), tasks=tasks, **options), tmp_path)
    data = Path(table(tmp_path / "new.csv", 100, n_classes=4))
    data.write_text(data.read_text().replace("text,label", f"text,{column}"))
    home = Home.at(str(tmp_path / "home"))
    assert adapt(folder, str(data), shots=3, out=tmp_path / "out", home=home).classes == 4


# ---- numbers ----------------------------------------------------------------------------------


def points(path, slope=2.0, n=40, more="", last=""):
    """A line, whose last row may have no value."""
    x = np.random.default_rng(0).uniform(-4, 4, n)
    rows = [f"{x[i]},{slope * x[i] + 1 if i < n - 1 else last}{more}" for i in range(n)]
    path.write_text("\n".join(["x,y" + (",z" if more else ""), *rows]))
    return str(path)


@pytest.fixture(scope="module")
def of_functions(tmp_path_factory):
    """An exported model of functions."""
    folder = tmp_path_factory.mktemp("functions")
    made = parse(
        {
            "name": "lines",
            "tasks": {split: [{"function": "line"}] for split in ("train", "validation", "test")},
            "model": {"name": "mlp", "hidden": [20, 20]},
            "learner": {"name": "maml", "adapt_steps": 5},
            "episodes": {"shot": 10, "query": 10, "per_task": 10, "validation": 5, "test": 5},
            "steps": 300,
            "space": {"lr/outer": 0.005, "lr/inner": 0.02, "lr/adapt": 0.02},
        }
    )
    return exported(made, folder)


def test_a_model_of_functions_learns_a_new_one_from_a_table(of_functions, tmp_path):
    home = Home.at(str(tmp_path / "home"))
    data = points(tmp_path / "points.csv")
    found = adapt(of_functions, data, shots=10, label="y", out=tmp_path / "out", home=home)
    assert (found.classes, found.support, found.predicted) == (0, 10, 30)
    assert found.metrics.keys() == {"mse", "skill"}
    assert found.metrics["skill"] > 0.5
    with found.predictions.open() as file:
        last = list(csv.DictReader(file))[-1]
    assert last["y"] == ""
    assert abs(float(last["prediction"]) - (2 * float(last["x"]) + 1)) < 5


@pytest.mark.parametrize(
    ("more", "label", "shots", "path"),
    [
        (",1", "y", 10, "--data"),  # a second column to learn from
        ("", "y", 41, "--data"),
        (",high", "z", 5, "--label"),
        ("", "nothing", 5, "--label"),
    ],
)
def test_what_does_not_fit_a_model_of_numbers_is_refused(
    of_functions, tmp_path, more, label, shots, path
):
    home = Home.at(str(tmp_path / "home"))
    data = points(tmp_path / "points.csv", more=more, last="0")
    with pytest.raises(InputError) as caught:
        adapt(of_functions, data, shots=shots, label=label, out=tmp_path / "out", home=home)
    assert caught.value.details[0].path == path
    assert not (tmp_path / "out").exists()


# ---- probabilities ----------------------------------------------------------------------------


def features(path, n_classes=6, per_class=40):
    """Directions of length 1: a class is one of them and noise, and classes overlap."""
    rng = np.random.default_rng(1)
    middles = rng.normal(size=(n_classes, 8))
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*(f"x{i}" for i in range(8)), "label"])
        for c, middle in enumerate(middles):
            points = middle + rng.normal(size=(per_class, 8))
            points /= np.linalg.norm(points, axis=1, keepdims=True)
            rows.writerows([*(f"{value:.5f}" for value in point), f"class {c}"] for point in points)
    return str(path)


@pytest.mark.parametrize("shots", [1, 5])
def test_probabilities_are_calibrated(tmp_path, shots):
    """Distances between features of length 1 are small: the softmax of them is nearly flat."""
    path = features(tmp_path / "features.csv")
    task = {"name": "classes", "dataset": "features", "label": "label"}
    made = parse(
        {
            "name": "features",
            "datasets": {"features": {"source": "table", "path": path}},
            "tasks": {"train": [task], "validation": [task], "test": [task], "overlap": True},
            "model": {"name": "untrained"},
            "learner": {"name": "protonet"},
            "episodes": {"way": 6, "shot": shots, "test": 60},
            "steps": 0,
            "space": {"task_weights": {"search": False}},
        }
    )
    folder = tmp_path / "export"
    folder.mkdir()
    exported(made, folder, calibrated=True)
    home = Home.at(str(tmp_path / "home"))
    found = adapt(folder, path, shots=shots, label="label", out=tmp_path / "out", home=home)
    assert found.metrics["ece"] < 0.15
    with found.predictions.open() as file:
        told = [float(row["probability"]) for row in csv.DictReader(file)]
    assert abs(np.mean(told) - found.metrics["accuracy"]) < 0.12
    assert max(told) - min(told) > 0.3
