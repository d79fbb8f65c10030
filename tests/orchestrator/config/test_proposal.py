"""`fewtune init`: a config for a data file that `fewtune check` accepts."""

import itertools

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from orchestrator import InputError, Search
from orchestrator.cli import app as cli
from orchestrator.config.proposal import data_columns
from orchestrator.config.proposal.proposal import propose


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


def test_a_config_with_a_name_of_its_own_names_the_search(tmp_path):
    texts().to_csv(tmp_path / "texts.csv", index=False)
    out = tmp_path / "mine.yaml"
    assert cli.main(["init", str(tmp_path / "texts.csv"), "--out", str(out)]) == 0
    assert Search.from_yaml(out).name == "mine", "as `fewtune show mine` expects it"


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
    assert len(found.task_sizes) == 2, "one training task has no weights to search"


def test_colour_photos_of_several_sizes_are_cropped(tmp_path):
    rng = np.random.default_rng(0)
    for name in "abcdefghij":
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 255, (40 + i, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.jpg")
    search, found = checked(tmp_path, tmp_path / "photos")
    wanted = {"source": "images", "size": 32, "crop": True, "channels": 3}
    assert wanted.items() <= search.config["datasets"]["data"].items()
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


def table(**columns):
    """240 rows: three measurements, then the given columns."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(240, 3)), columns=["width", "height", "weight"])
    return pd.concat([frame, pd.DataFrame(columns)], axis=1)


PLACES = np.repeat(["north", "east", "south", "west", "middle", "coast"], 40)
FEW = np.arange(240) % 3  # classes
MEASURED = np.random.default_rng(1).normal(size=240)


@pytest.mark.parametrize(
    ("frame", "label", "group"),
    [
        (table(age=FEW + 20, cured=FEW, ward=PLACES), "cured", "ward"),
        (table(ward=PLACES, cured=FEW.astype(bool)), "cured", "ward"),
        (table(kind=np.where(FEW, "a", "b"), ward=PLACES, charge=MEASURED), "charge", "ward"),
        (table(children=FEW, ward=PLACES, charge=MEASURED, id=range(240)), "charge", "ward"),
        (table(animal=PLACES), "animal", None),
        (table(charge=MEASURED, constant=1, city=np.repeat([*"abcd"], 60)), "charge", "city"),
        (table(user_id=np.repeat(range(8), 30), time=range(240), stars=FEW), "stars", "user_id"),
        (table(Outcome=FEW, ward=PLACES, last=FEW), "Outcome", "ward"),
    ],
)
def test_the_columns_of_a_table_without_usual_names_are_guessed(tmp_path, frame, label, group):
    frame.to_csv(tmp_path / "t.csv", index=False)
    search, found = checked(tmp_path, tmp_path / "t.csv")
    train = search.config["tasks"]["train"]
    assert {task["label"] for task in train} == {label}
    assert [list(task.get("each", ())) for task in train[:1]] == [[group] if group else []]
    assert found.task_sizes


def test_the_config_says_why_columns_were_chosen(tmp_path, capsys):
    frame = table(empty=np.nan, row_id=range(240), cured=FEW, ward=PLACES)
    frame.loc[5, "height"] = np.nan
    frame.to_csv(tmp_path / "t.csv", index=False)
    search, _ = checked(tmp_path, tmp_path / "t.csv")
    said = capsys.readouterr().out
    text = (tmp_path / "search.yaml").read_text()
    assert '# label: "cured" (classes): the last column that is neither constant nor an id' in text
    assert '# tasks: values of "ward": of the columns of names, it has the most values' in text
    assert '# Not features: "empty" (is empty), "row_id" (an id).' in text
    assert "--label COLUMN --group COLUMN" in text
    assert "other columns: --label COLUMN --group COLUMN" in said
    data = search.config["datasets"]["data"]
    assert (data["labels"], data["missing"]) == (["cured", "empty", "row_id"], [])
    assert 'not used as features: "empty"' in said


def test_a_split_has_at_most_24_tasks(tmp_path):
    frame = pd.DataFrame({"x": np.arange(4000) / 7, "y": np.arange(4000) % 2})
    frame["shop"] = np.repeat([f"s{i}" for i in range(200)], 20)
    frame.to_csv(tmp_path / "t.csv", index=False)
    proposal = propose(tmp_path / "t.csv", tmp_path / "search.yaml")
    assert "24 / 24 / 24 tasks for train / validation / test (128 more are not used)" in str(
        proposal.summary
    )


def test_many_groups_are_episodes(tmp_path, capsys):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(2000, 2)), columns=["age", "gcse"])
    frame["gender"] = rng.choice(["f", "m"], 2000)
    frame["filmId"] = rng.permutation(np.arange(2000) % 150)
    frame["user"] = np.repeat(range(100), 20)
    frame["rating"] = frame["gcse"] + rng.normal(size=100)[frame["user"]]
    frame.loc[::7, "age"] = np.nan
    frame["height"] = np.where(np.arange(2000) % 9, frame["age"].round(2).astype(str), "?")
    frame.to_csv(tmp_path / "t.csv", index=False)
    search, found = checked(tmp_path, tmp_path / "t.csv")
    (task,) = search.config["tasks"]["train"]
    assert (task["within"], task["label"], task["kind"]) == ("user", "rating", "regression")
    data = search.config["datasets"]["data"]
    wanted = {
        "categories": ["gender"],
        "missing": ["?"],
        "means": {"filmId": "rating"},
        "split": "user",
        "scale": "train",
    }
    assert wanted.items() <= data.items()
    assert found.task_sizes
    assert "an episode is one of 100 groups" in capsys.readouterr().out


def test_images_with_titles_have_two_modalities(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["file,text"]
    for name in "abcdefghij":
        (tmp_path / "goods" / name).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 255, (12, 12), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "goods" / name / f"{i}.png")
            lines.append(f"{name}/{i}.png,thing {name}")
    (tmp_path / "goods" / "names.csv").write_text("\n".join(lines))
    search, found = checked(tmp_path, tmp_path / "goods")
    data = search.config["datasets"]["data"]
    assert {"text": "names.csv", "query": "image"}.items() <= data.items()
    assert search.config["learner"]["name"] == "modal_protonet"
    assert "modal/text" in search.config["space"]
    assert found.task_sizes


def test_texts_whose_few_classes_occur_everywhere_are_split_by_their_column_of_names(tmp_path):
    frame = texts()[["text", "domain"]]
    frame["feeling"] = ["good", "bad"] * (len(frame) // 2)
    frame.to_csv(tmp_path / "t.csv", index=False)
    search, _ = checked(tmp_path, tmp_path / "t.csv", "--label", "feeling")
    assert list(search.config["tasks"]["train"][0]["each"]) == ["domain"]


def test_a_label_is_chosen_for_which_the_texts_can_be_split(tmp_path):
    frame = texts(n_domains=5)[["text", "domain"]]
    frame["stars"] = np.arange(len(frame)) % 3
    frame.to_csv(tmp_path / "t.csv", index=False)
    search, _ = checked(tmp_path, tmp_path / "t.csv")
    train = search.config["tasks"]["train"][0]
    assert (train["label"], list(train["each"])) == ("stars", ["domain"])


def test_a_table_of_patients_is_split_by_hospital(data, tmp_path):
    search, _ = checked(tmp_path, data / "heart" / "heart.csv")
    train = search.config["tasks"]["train"][0]
    assert (train["label"], list(train["each"])) == ("num", ["hospital"])


def test_without_data_the_tasks_are_functions(tmp_path):
    _, found = checked(tmp_path, None)
    assert found.seconds > 0


@pytest.mark.parametrize(
    ("make", "options", "path"),
    [
        (lambda p: None, {}, "DATA"),
        (lambda p: p.write_text("a,b\n1,2\n"), {}, "--label"),
        (lambda p: p.write_text("a,b\n.1,.5\n.2,.4\n.3,.3\n"), {}, "--group"),
        (lambda p: texts().to_csv(p), {"label": "nothing"}, "--label"),
        (lambda p: texts().to_csv(p), {"group": "nothing"}, "--group"),
        (lambda p: texts(n_domains=2).to_csv(p), {"group": "domain"}, "DATA"),
        (lambda p: p.write_text("a;b\n1;2\n"), {}, "DATA"),
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


def test_columns_that_could_be_the_group_are_named_if_the_classes_are_divided(tmp_path):
    frame = texts(header=("text", "intent", "shop"))
    frame["intent"] = [text.split()[-2] + text.split()[0] for text in frame.text]
    data = tmp_path / "shops.csv"
    frame.assign(shop=frame["shop"].str[-1]).to_csv(data, index=False)
    found = propose(data, tmp_path / "a.yaml")
    (line,) = [line for line in found.summary if line.startswith("split by")]
    assert line.endswith("for tasks that are the values of a column, add --group shop")
    again = propose(data, tmp_path / "b.yaml", group="shop")
    assert any(line.startswith("split by shop") for line in again.summary)
    frame.drop(columns="shop").to_csv(data, index=False)
    found = propose(data, tmp_path / "c.yaml")
    assert any("no other column divides" in line for line in found.summary)
