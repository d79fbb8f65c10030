"""`fewtune init`: a config for a data file that `fewtune check` accepts."""

import itertools

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from orchestrator import InputError, Search
from orchestrator.cli import app as cli
from orchestrator.config import data_columns
from orchestrator.config.proposal import propose


@pytest.fixture(autouse=True)
def without_encoder(monkeypatch):
    """As on a machine without MiniLM: n-grams need no download."""
    monkeypatch.setattr(data_columns.importlib.util, "find_spec", lambda name: None)


def checked(folder, data, *options):
    out = folder / "search.yaml"
    assert cli.main(["init", *([str(data)] if data else []), "--out", str(out), *options]) == 0
    search = Search.from_yaml(out, home=folder / "home", overrides=["steps=2"])
    return search, search.check()


def texts(n_domains=6, n_labels=3, n=8, header=("text", "intent", "domain")):
    words = ["red", "blue", "green", "old", "new", "big", "small", "hot", "cold", "wet"]
    rng = np.random.default_rng(0)
    rows = [
        (" ".join(rng.choice(words, 5)) + f" {d} {i} {j}", f"{d}_{i}", f"domain {d}")
        for d, i, j in itertools.product(range(n_domains), range(n_labels), range(n))
    ]
    return pd.DataFrame(rows, columns=header)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_texts_with_domains_are_split_by_domain(tmp_path, ending):
    data = tmp_path / f"my texts.{ending}"
    frame = texts()
    if ending == "csv":
        frame.to_csv(data, index=False)
    elif ending == "jsonl":
        frame.to_json(data, orient="records", lines=True)
    else:
        frame.to_parquet(data)
    search, found = checked(tmp_path, data)
    assert search.name == "my-texts"
    assert len(found.task_sizes) == 4
    assert search.config["tasks"]["train"][0]["label"] == "intent"
    assert search.config["datasets"]["data"]["path"] == data.name, "relative to the config"


def test_texts_without_domains_are_split_by_class(tmp_path):
    texts()[["text", "intent"]].to_csv(tmp_path / "texts.csv", index=False)
    search, found = checked(tmp_path, tmp_path / "texts.csv")
    tasks = search.config["tasks"]
    used = [
        set(t["where"]["intent"]) for split in ("train", "validation", "test") for t in tasks[split]
    ]
    assert sum(map(len, used)) == len(set.union(*used)) == 18
    assert found.task_sizes


def test_odd_names_of_columns_and_classes_are_quoted(tmp_path):
    frame = texts(header=("what, he said", "on", "null"))
    frame["on"] = frame["on"].map(lambda label: f"yes: {label} # no")
    frame.to_csv(tmp_path / "odd.csv", index=False)
    search, _ = checked(tmp_path, tmp_path / "odd.csv", "--label", "on", "--group", "null")
    assert search.config["tasks"]["train"][0]["label"] == "on"


def test_a_folder_of_images_is_split_by_class(tmp_path):
    rng = np.random.default_rng(0)
    for name in "abcdefghij":
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 255, (12, 12), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    search, found = checked(tmp_path, tmp_path / "images")
    assert search.config["datasets"]["data"]["source"] == "images"
    assert search.config["episodes"]["way"] == 2
    assert found.task_sizes


def test_an_archive_of_images_is_split_by_group(tmp_path):
    labels = np.repeat(np.arange(18), 4)
    images = np.random.default_rng(0).integers(0, 255, (72, 9, 9), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, char=labels, alphabet=labels // 3)
    search, found = checked(tmp_path, tmp_path / "a.npz")
    assert list(search.config["tasks"]["train"][0]["each"]) == ["alphabet"]
    assert len(found.task_sizes) == 4


def test_a_table_of_numbers_is_split_by_group(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(240, 3)), columns=["a", "b", "y"])
    frame["school"] = np.repeat([f"s{i}" for i in range(8)], 30)
    frame.to_csv(tmp_path / "t.csv", index=False)
    search, found = checked(tmp_path, tmp_path / "t.csv")
    (train,) = search.config["tasks"]["train"]
    assert (train["kind"], train["label"]) == ("regression", "y")
    assert len(found.task_sizes) == 4


def test_without_data_the_tasks_are_functions(tmp_path):
    _, found = checked(tmp_path, None)
    assert found.seconds > 0


@pytest.mark.parametrize(
    ("make", "options", "path"),
    [
        (lambda p: None, {}, "DATA"),
        (lambda p: p.write_text("a,b\n1,2\n"), {}, "--label"),
        (lambda p: texts().to_csv(p), {"label": "nothing"}, "--label"),
        (lambda p: texts().to_csv(p), {"group": "nothing"}, "--group"),
        (lambda p: texts(n_domains=2).to_csv(p), {"group": "domain"}, "DATA"),
        (lambda p: p.write_text(""), {}, "DATA"),
        (lambda p: p.write_bytes(b"\xff\xfe\x00"), {}, "DATA"),
    ],
)
def test_data_that_does_not_suffice_is_named(tmp_path, make, options, path):
    data = tmp_path / "data.csv"
    make(data)
    with pytest.raises(InputError) as caught:
        propose(data, tmp_path / "search.yaml", **options)
    assert [detail.path for detail in caught.value.details] == [path]


def test_a_file_is_not_overwritten_unless_forced(tmp_path, capsys):
    out = tmp_path / "search.yaml"
    out.write_text("mine")
    assert cli.main(["init", "--out", str(out)]) == 2
    assert out.read_text() == "mine"
    assert cli.main(["init", "--out", str(out), "--force"]) == 0
    assert "name: functions" in out.read_text()
