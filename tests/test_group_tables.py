"""A search of schools as tasks, with missing values and categories: from file to predictions."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from orchestrator import Search
from orchestrator.cli import app as cli

pytestmark = pytest.mark.slow


def pupils(n_schools=60, size=16):
    """The score is 2 * grade + 3 if the course is `b` + a mean of the school + noise."""
    rng = np.random.default_rng(0)
    n = n_schools * size
    school = np.repeat([f"school {i}" for i in range(n_schools)], size)
    grade, course = rng.normal(size=n), rng.choice(["a", "b"], n)
    score = 2 * grade + 3 * (course == "b") + rng.normal(size=n)
    score += np.repeat(2 * rng.normal(size=n_schools), size)
    grade[rng.random(n) < 0.1] = -9
    day = pd.Timestamp("2026-01-01") + pd.to_timedelta(rng.permutation(n), unit="h")
    columns = {"school": school, "grade": grade, "course": course, "day": day, "score": score}
    return pd.DataFrame(columns)


def config(path):
    task = {
        "dataset": "pupils",
        "label": "score",
        "kind": "regression",
        "within": "school",
        "order": "day",
    }
    return {
        "name": "schools",
        "datasets": {
            "pupils": {
                "source": "table",
                "path": str(path),
                "features": ["grade"],
                "categories": ["course"],
                "missing": [-9],
                "split": "school",
                "scale": "train",
            }
        },
        "tasks": {
            split: [task | {"name": f"{split}_schools", "where": {"split": split}}]
            for split in ("train", "validation", "test")
        },
        "model": {"name": "mlp", "hidden": [8]},
        "learner": {"name": "meta_sgd"},
        "episodes": {"shot": 5, "query": 10, "per_task": 8, "validation": 50, "test": 200},
        "steps": 150,
        "space": {"lr/outer": {"low": 0.01, "high": 0.03}, "lr/inner": 0.02},
        "search": {
            "trials": 2,
            "reference_trials": 1,
            "finalists": 1,
            "seeds": 2,
            "lanes": 2,
            "rungs": [],
        },
    }


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("schools")
    pupils().to_csv(folder / "pupils.csv", index=False)
    file = folder / "schools.yaml"
    file.write_text(yaml.safe_dump(config(folder / "pupils.csv")))
    search = Search.from_yaml(file, home=folder / "home")
    return folder, search, search.run(executor="inline")


def test_pooled_models_are_shown_beside_the_verdict(searched):
    _, _, summary = searched
    assert summary.figures["pooled model without adaptation"] < 0.8
    assert summary.figures["pooled model with a group offset"] > 0.8
    pooled, offset = summary.pooled
    assert (pooled.task, pooled.difference.low > 0) == ("test_schools", True)
    text = str(summary)
    assert "Adaptation beats the pooled model without adaptation on test_schools (+" in text
    assert "the pooled model with a group offset on test_schools (" in text
    found = json.loads(json.dumps(summary.to_dict()))["pooled"]
    assert found[1]["difference"]["mean"] == pytest.approx(offset.difference.mean)
    # The measures are taken on the same episodes.
    ours = summary.test["candidate"].mean
    theirs = summary.figures["pooled model without adaptation"]
    assert ours - theirs == pytest.approx(pooled.difference.mean, abs=1e-4)


def test_the_untrained_model_has_the_same_scale_and_is_worse(searched):
    _, _, summary = searched
    assert summary.untrained is not None
    assert summary.untrained.score.mean < summary.candidate.score.mean


def test_an_export_reads_a_new_school_as_the_training_schools(searched, tmp_path):
    _, search, _ = searched
    search.export(tmp_path / "best")
    data = yaml.safe_load((tmp_path / "best" / "config.yaml").read_text())["datasets"]["pupils"]
    assert data["categories"] == {"course": ["a", "b"]}
    assert list(data["fill"]) == ["grade"]
    assert data["scale"].keys() == {"features", "numbers"}
    table = pupils(80)
    new = table[table["school"] == "school 70"].drop(columns=["school", "day"])
    new = new.assign(course=["b", "c"] * 8)  # a course that nobody knows
    new.to_csv(tmp_path / "new.csv", index=False)
    words = [str(tmp_path / "best"), "--data", str(tmp_path / "new.csv"), "--shots", "5"]
    assert cli.main(["adapt", *words, "--out", str(tmp_path / "mine")]) == 0
    predicted = pd.read_csv(tmp_path / "mine" / "predictions.csv", index_col="row")
    assert len(predicted) == 11
    more = [str(tmp_path / "mine"), "--data", str(tmp_path / "new.csv")]
    assert cli.main(["predict", *more, "--out", str(tmp_path / "again.csv")]) == 0
    again = pd.read_csv(tmp_path / "again.csv")
    np.testing.assert_allclose(again["prediction"][5:], predicted["prediction"], rtol=1e-4)
