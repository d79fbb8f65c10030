"""A distilled export learns a new task from a table, taught by what an earlier search found."""

import csv

import numpy as np
import pytest
from safetensors.torch import save_file

from orchestrator.adapting import adapt
from orchestrator.config import dump, parse
from orchestrator.home import Home
from orchestrator.plan import plan_of
from trials import checkpoint
from trials.build import build

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


def exported(made, folder):
    """The folder of an exported model, trained as the config says."""
    plan = plan_of(made)
    spec = plan.spec(0, *plan.space.decode({}), stage="final")
    program = build(plan.recipe, lanes=1, folder=folder / "runs", cache=folder)
    program.admit(spec)
    program.advance()
    tensors = program.parameters(spec.key)
    save_file(tensors, folder / "model.safetensors", {checkpoint.SPEC: spec.to_json()})
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
