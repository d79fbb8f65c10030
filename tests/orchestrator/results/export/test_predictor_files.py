"""What an export of a search has beside its model."""

import pandas as pd
import pytest

from orchestrator import Predictor, Search
from tests.orchestrator.results.test_adapt import BAG, table
from trials.programs.new_tasks.task_distance import TRAINING_TASKS, load_task_means

pytestmark = pytest.mark.slow


def search(folder, **parts):
    path = table(folder / "known.csv", 0)
    texts = {"source": "text", "path": path, "features": "ngrams", "buckets": 2048, "max_length": 8}
    config = {
        "name": "topics",
        "datasets": {"texts": texts},
        "model": BAG,
        "search": {"trials": 2, "reference_trials": 1, "finalists": 1, "seeds": 2, "lanes": 1},
        **parts,
    }
    made = Search(config, home=folder / "home")
    made.run(executor="inline")
    return made.export(folder / "out")


def test_a_student_is_a_predictor(tmp_path):
    task = {"name": "topics", "dataset": "texts", "label": "label", "query": {}}
    out = search(
        tmp_path,
        tasks={"validation": [task], "test": [task], "overlap": True},
        episodes={"way": 6, "shot": 5},
        batch=16,
        steps=60,
        space={"lr/adapt": {"low": 0.01, "high": 0.1}},
    )
    rows = pd.read_csv(tmp_path / "known.csv")
    student = Predictor.load(out)
    assert len(student.classes) == 6
    assert (student.predict(rows) == rows["label"]).mean() > 0.8


def test_a_meta_trained_export_has_the_means_of_its_training_tasks(tmp_path):
    def task(first):
        names = [f"topic {c}" for c in range(first, first + 2)]
        return {
            "name": f"t{first}",
            "dataset": "texts",
            "label": "label",
            "where": {"label": names},
        }

    out = search(
        tmp_path,
        tasks={
            "train": [task(0), task(2)],
            "validation": [task(4)],
            "test": [task(4)],
            "overlap": True,
        },
        learner={"name": "protonet"},
        episodes={"way": 2, "shot": 2, "query": 2, "validation": 5, "test": 5},
        steps=2,
        space={"lr/outer": {"low": 0.001, "high": 0.1}},
    )
    means = load_task_means(out / TRAINING_TASKS)
    assert means is not None
    assert means.names == ("t0", "t2")
