"""The commands as a user gives them."""

import contextlib
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.numpy import load_file

from fewshot.tasks import glyphs
from orchestrator import launch
from orchestrator.cli import app as cli
from orchestrator.config.loading import load_config
from orchestrator.record.home import Home
from orchestrator.record.search_records import read_records
from orchestrator.search.loop import Stopped
from orchestrator.tracking.sending import mlflow_sender as tracking
from tests.orchestrator.shipped import CHANGES, planned
from tests.paths import ROOT

SMALL = {
    "search.trials": 9,
    "search.reference_trials": 2,
    "search.finalists": 1,
    "search.seeds": 3,
    "search.lanes": 4,
    "steps": 40,
    "episodes": {"way": 5, "shot": 1, "query": 2, "per_task": 2, "validation": 10, "test": 30},
}


AUTO = {
    "search.lanes": "auto",
    "search.trials": 4,
    "search.reference_trials": 2,
    "search.finalists": 1,
    "search.seeds": 2,
    "steps": 4,
    "episodes.validation": 10,
    "episodes.test": 10,
    "learner.adapt_steps": 1,
}


def fewtune(
    *arguments: object, cwd: Path | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
        timeout=280,
    )


@pytest.fixture
def called(capsys: pytest.CaptureFixture[str]):
    """A command run in this very process, which has imported torch already."""

    def call(*arguments: object) -> "subprocess.CompletedProcess[str]":
        returncode = cli.main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, returncode, said.out, said.err)

    return call


def sets(**changes: object) -> list[str]:
    given = SMALL | {key.replace("__", "."): value for key, value in changes.items()}
    return [word for k, v in given.items() for word in ("--set", f"{k}={json.dumps(v)}")]


QUICKSTART = ROOT / "configs" / "quickstart.yaml"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, made_once, home_with_glyphs) -> Path:
    """A home with one small finished search of the glyphs; this process's own copy."""

    def search(home: Path) -> None:
        words = ["search", QUICKSTART, "--executor", "inline", "--home", home_with_glyphs(home)]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert cli.main([*map(str, words), "--json", *sets()]) == 0
        summary = json.loads(printed.getvalue().splitlines()[-1])
        assert summary["state"] == "complete"

    searched = made_once("searched_home", search)
    return shutil.copytree(searched, tmp_path_factory.mktemp("home"), dirs_exist_ok=True)


@pytest.fixture(scope="module")
def exported(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "best"
    assert cli.main(["export", "quickstart", "--out", str(out), "--home", str(home)]) == 0
    return out


def test_show_counts_every_trial_and_gives_a_verdict(home, called):
    shown = json.loads(called("show", "quickstart", "--home", home, "--json").stdout)
    counts = shown["trials"]
    assert sum(counts.values()) == SMALL["search.trials"]
    assert counts["running"] == 0
    assert counts["complete"] >= 3
    assert shown["verdict"] in ("better", "no better", "undecided")
    assert shown["difference"]["low"] <= shown["difference"]["mean"] <= shown["difference"]["high"]
    assert abs(sum(shown["best"]["task_weights"].values()) - 1) < 1e-9
    assert 0 < shown["occupancy"] <= 1


def test_lanes_are_found_once_and_a_resumed_search_has_as_many(tmp_path, called, monkeypatch):
    found = iter([4])
    monkeypatch.setattr(launch, "lanes_of", lambda *args: lambda: next(found))
    stops = iter([False, False, True])
    functions = ROOT / "configs" / "functions.yaml"
    config = load_config(functions, [f"{k}={json.dumps(v)}" for k, v in AUTO.items()])
    home = Home.at(str(tmp_path))
    with pytest.raises(Stopped):
        launch.run(config, home, placement="inline", should_stop=lambda: next(stops))
    ended = launch.run(config, home, placement="inline", resume=True)
    assert ended.summary.state == "complete"
    shown = called("show", "functions", "--home", tmp_path).stdout
    assert "4 lanes" in shown


def test_show_ends_with_a_sentence_and_where_things_are(home, called):
    shown = called("show", "quickstart", "--home", home).stdout
    assert "on the test tasks" in shown
    assert "95 % interval" in shown
    assert f"fewtune dashboard --home {home}" in shown
    assert str(home / "searches" / "quickstart" / "best") in shown


def test_mlflow_has_every_trial_and_every_adaptation_once(home):
    counts = tracking.counts(Home(home).tracking_uri, "quickstart")
    records = read_records("quickstart", Home(home))
    assert records is not None
    all_trials = [t for r in vars(records).values() for t in r.trials()]
    states = [t.state for t in all_trials]
    assert counts["search"] == {"FINISHED": 1}
    assert counts["trial"].get("FINISHED", 0) == states.count("complete")
    assert counts["trial"].get("KILLED", 0) == states.count("pruned")
    assert sum(counts["trial"].values()) == len(states)
    adaptations = sum(len(t.notes["tasks"]) for t in all_trials if t.state == "complete")
    assert counts["adaptation"] == {"FINISHED": adaptations}


def test_a_finished_search_is_shown_when_it_is_asked_for_again(home, called):
    again = called("search", QUICKSTART, "--executor", "inline", "--home", home, *sets())
    assert again.returncode == 0, again.stderr
    assert "quickstart: " in again.stdout


def test_a_record_that_mlflow_has_not_taken_in_is_said_and_sent_by_the_next_call(
    home, called, monkeypatch
):
    command = ["search", QUICKSTART, "--executor", "inline", "--home", home, *sets()]
    before = tracking.counts(Home(home).tracking_uri, "quickstart")
    (home / "searches" / "quickstart" / "outbox.sent").write_text("0")
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        away.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        away.setattr("orchestrator.mlflow_record._DRAIN_SECONDS", 0.5)
        late = called(*command)
    assert late.returncode == 1
    assert "MLflow has not received the whole record" in late.stderr
    again = called(*command, "--resume")
    assert again.returncode == 0, again.stderr
    assert tracking.counts(Home(home).tracking_uri, "quickstart") == before


def test_a_search_that_is_asked_to_stop_does_not_wait_for_mlflow(home, monkeypatch):
    config = load_config(QUICKSTART, [f"{k}={json.dumps(v)}" for k, v in SMALL.items()])
    mark = home / "searches" / "quickstart" / "outbox.sent"
    before = mark.read_text()
    mark.write_text("0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    begun = time.monotonic()
    with pytest.raises(Stopped):
        launch.run(config, Home(home), placement="inline", should_stop=lambda: True)
    assert time.monotonic() - begun < 10
    mark.write_text(before)


def test_another_config_of_the_same_name_is_refused(home, called):
    other = called("search", QUICKSTART, "--home", home, *sets(steps=31))
    assert other.returncode == 2
    assert "different config" in other.stderr
    assert "--set name=" in other.stderr


def test_episodes_may_differ_in_way_and_shot(home, tmp_path, called):
    shapes = {"way": [3, 5], "shot": [1, 3], "imbalance": "random", "query": 2, "per_task": 1}
    episodes = {"episodes": shapes | {"validation": 5, "test": 5}}
    few = {"search.trials": 3, "search.reference_trials": 1, "search.lanes": 3, "steps": 4}
    own = sets(name="unlike", **few, **episodes)
    options = [*("--executor", "inline", "--home", home, "--json"), *own]
    done = called("search", QUICKSTART, *options)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["state"] == "complete"
    assert sum(summary["trials"].values()) == 3
    assert 0 < summary["test"]["uniform"]["mean"] < 1
    out = tmp_path / "best"
    assert called("export", "unlike", "--out", out, "--home", home).returncode == 0
    assert "3 to 5-way 1 to 3-shot episodes" in (out / "README.md").read_text()


def test_an_export_trains_to_the_same_score_again(exported, home, called):
    again = called("train", exported / "config.yaml", "--home", home, "--json")
    assert again.returncode == 0, again.stderr
    before = json.loads((exported / "result.json").read_text())["score"]
    # The score counts correct answers: 2 tasks of 10 episodes with 5 classes and 2 queries each.
    # Rounding in float32 depends on the number of lanes, so single queries may change their class.
    query = 1 / (2 * 10 * 5 * 2) / (1 - 1 / 5)
    assert json.loads(again.stdout)["score"] == pytest.approx(before, rel=0, abs=2.01 * query)


def test_what_a_search_found_teaches_another(home, exported, called, capsys):
    for source, path in (("export", exported), ("finalists", home / "searches" / "quickstart")):
        changes = {
            "name": f"taught_by_{source}",
            "teacher": {"source": source, "path": str(path)},
            "space.distill/temperature": 2.0,
            "space.distill/soft_weight": 0.5,
            "steps": 5,
        }
        checked = called("check", QUICKSTART, "--home", home, *sets(**changes))
        assert checked.returncode == 0, checked.stderr
        assert "teacher" in checked.stdout


def test_the_divisors_of_the_losses_are_kept(home, exported, called):
    shown = json.loads(called("show", "quickstart", "--home", home, "--json").stdout)
    names = set(shown["best"]["task_weights"])
    assert shown["null_losses"] == dict.fromkeys(names, pytest.approx(math.log(5)))
    assert json.loads((exported / "result.json").read_text())["null_losses"].keys() == names
    card = (exported / "README.md").read_text()
    assert "divided by the loss of the best constant prediction" in card
    assert "1.609" in card


def test_an_export_loads_with_safetensors_alone(exported):
    code = (
        "import sys; from safetensors.numpy import load_file;"
        "w = load_file(sys.argv[1]); assert w['weight0'].shape == (196, 128), w"
    )
    subprocess.run([sys.executable, "-c", code, exported / "model.safetensors"], check=True)
    card = (exported / "README.md").read_text()
    assert "How it was chosen" in card
    assert "--data new_images --shots" in card


def test_the_package_is_run_as_a_program():
    done = fewtune("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("fewtune ")
    assert fewtune("show").returncode == 2


@pytest.mark.parametrize("own_process", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_exported_model_learns_a_script_it_has_never_seen(
    exported, home, tmp_path, called, own_process
):
    dataset = glyphs.load(cache=home / "features")
    script = dataset.columns["script"] == "hebrew"
    letters = [f"HEBREW LETTER {name}" for name in ("ALEF", "GIMEL", "LAMED", "SHIN", "TAV")]
    for name in letters:
        rows = np.flatnonzero(script & (dataset.columns["character"] == name))
        for i, row in enumerate(rows):
            path = tmp_path / "hebrew" / name.replace(" ", "_") / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((dataset.inputs[row].numpy() * 255).astype("uint8")).save(path)
    out = tmp_path / "out"
    call = fewtune if own_process else called
    done = call(
        "adapt", exported, "--data", tmp_path / "hebrew", "--shots", 3, "--out", out, "--home", home
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "metrics.json").read_text())["accuracy"] > 0.5  # chance is 0.2
    assert len(pd.read_csv(out / "predictions.csv")) == 5 * (12 - 3)


def test_data_of_a_different_kind_than_the_models_are_refused(exported, home, tmp_path, called):
    (tmp_path / "texts.csv").write_text("text,label\nred,a\nblue,b\n")
    done = called("adapt", exported, "--data", tmp_path / "texts.csv", "--home", home)
    assert done.returncode == 2
    assert "--data: must be a file that ends in .npz, or a folder" in done.stderr


def test_an_export_whose_model_is_damaged_is_refused_in_one_sentence(
    home, exported, tmp_path, called
):
    broken = shutil.copytree(exported, tmp_path / "broken")
    whole = (broken / "model.safetensors").read_bytes()
    np.savez(tmp_path / "new.npz", images=np.zeros((6, 14, 14), "uint8"), label=[*"aaabbb"])
    for damaged in (whole[:-1], whole[:100], b"", b"garbage" * 100):
        (broken / "model.safetensors").write_bytes(damaged)
        new = ["--data", tmp_path / "new.npz", "--shots", 2]
        done = called("adapt", broken, *new, "--out", tmp_path / "out", "--home", tmp_path)
        assert done.returncode == 2, done.stderr
        assert "model.safetensors: must be a model that `fewtune export` wrote" in done.stderr
        assert not (tmp_path / "out").exists()
    teacher = {"teacher": {"source": "export", "path": str(broken)}}
    rates = {"space.distill/temperature": 2.0, "space.distill/soft_weight": 0.5}
    done = called("check", QUICKSTART, "--home", home, *sets(**teacher, **rates))
    assert done.returncode == 2, done.stderr
    assert "teacher.path: must be a model that this version of fewtune trained" in done.stderr


def test_an_export_finds_the_model_though_a_checkpoint_is_lost_or_the_home_was_moved(
    home, exported, tmp_path, called
):
    moved = shutil.copytree(home, tmp_path / "moved")
    checkpoints, out = moved / "searches" / "quickstart" / "checkpoints", tmp_path / "out"
    export = ["export", "quickstart", "--home", moved, "--out", out]
    for path in checkpoints.glob("final-*"):
        path.write_bytes(path.read_bytes()[:-1])
    done = called(*export)
    assert done.returncode == 0, done.stderr
    found, model = load_file(out / "model.safetensors"), load_file(exported / "model.safetensors")
    assert found.keys() == model.keys()
    assert all((found[name] == model[name]).all() for name in model)
    shutil.rmtree(out)
    for path in checkpoints.glob("test-*"):
        path.unlink()
    done = called(*export)
    assert done.returncode == 1
    assert "The model of the best finalist is lost" in done.stderr
    assert "final-0" in done.stderr
    assert "Restore one of the files" in done.stderr
    assert not out.exists()


def test_an_export_does_not_write_over_what_is_not_an_export(home, tmp_path, called):
    (tmp_path / "mine.txt").write_text("keep me")
    for out in (tmp_path, tmp_path / "mine.txt"):
        done = called("export", "quickstart", "--out", out, "--home", home)
        assert done.returncode == 2
        assert "must be a new or empty folder, or an earlier export" in done.stderr
        assert (tmp_path / "mine.txt").read_text() == "keep me"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": "many"}, "steps"),
        ({"stepz": 3}, "stepz"),
        ({"space": {"lr/outer": {"low": 1, "high": 0.1}}}, "must be below high = 0.1"),
        ({"space__task_weights": {"prior": {"greek": 0.7}}}, "sum to 1"),
        ({"name": "../escape"}, "name"),
        ({"episodes__query": 500}, "query"),
        ({"datasets": {"glyphs": {"source": "images", "path": "/nowhere/at.npz"}}}, "/nowhere"),
        ({"search.workers": 10_000}, "needs 10000 cores"),
        ({"search.workers": 10_000, "search.gpus_per_worker": 1}, "too much for 10000 workers"),
    ],
)
def test_bad_input_is_named_with_exit_code_2_and_leaves_nothing(
    tmp_path, home_with_glyphs, changes, said, called
):
    home = home_with_glyphs(tmp_path / "home")
    done = called("search", QUICKSTART, "--home", home, *sets(**changes))
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (home / "searches").exists()
    assert not (home / "studies").exists()
    assert not (home / "mlflow.db").exists()


def test_all_faults_are_told_at_once(tmp_path, called):
    done = called("check", QUICKSTART, "--home", tmp_path, *sets(stepz=1, seed=-1, steps="x"))
    assert done.returncode == 2
    assert all(word in done.stderr for word in ("stepz", "seed", "steps"))


@pytest.mark.parametrize(("asked", "lanes"), [(4, {4}), ("auto", {2**i for i in range(8)})])
def test_check_says_what_a_search_will_take(tmp_path, home_with_glyphs, called, asked, lanes):
    home_with_glyphs(tmp_path)
    done = called("check", QUICKSTART, "--home", tmp_path, *sets(search__lanes=asked))
    assert done.returncode == 0, done.stderr
    assert "search: about" in done.stdout
    assert "teacher" not in done.stdout
    line = r"^lanes: (\d+), with about (\d+) MB of memory each; a worker .* needs (\d+) MB$"
    found = re.search(line, done.stdout, re.M)
    assert found
    assert int(found[1]) in lanes
    assert int(found[3]) > 100 + int(found[2]), "Python and torch alone need more"
    assert not (tmp_path / "searches").exists()


def wait_for_trials(home: Home, n: int, process: "subprocess.Popen[str]") -> None:
    for _ in range(600):
        records = read_records("quickstart", home)
        if records is not None:
            ended = [t for t in records.search.trials() if t.state in ("complete", "pruned")]
            if len(ended) >= n:
                return
        assert process.poll() is None, "the search ended before it could be killed"
        time.sleep(0.1)
    raise AssertionError("no trials ended")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_search_is_resumed_without_losing_or_repeating_anything(
    tmp_path, home_set_up, called, number
):
    home = Home(home_set_up(tmp_path))
    command = [sys.executable, "-m", "orchestrator.cli", "search", str(QUICKSTART)]
    command += ["--executor", "inline", "--home", str(tmp_path), *sets(steps=150)]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        wait_for_trials(home, 3, process)
        process.send_signal(number)
        said = process.stderr.read()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert f"--home {tmp_path}" in said
        assert "--resume" in said
    refused = called("search", QUICKSTART, "--home", tmp_path, *sets(steps=150))
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    done = called(*command[3:], "--resume", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert sum(summary["trials"].values()) == SMALL["search.trials"]
    assert summary["trials"]["running"] == 0
    test_mlflow_has_every_trial_and_every_adaptation_once(tmp_path)


@pytest.mark.slow
def test_the_dashboard_ends_with_its_command(home):
    command = [sys.executable, "-m", "orchestrator.cli", "dashboard", "--home", str(home)]
    with subprocess.Popen([*command, "--port", "0"], text=True, stdout=subprocess.PIPE) as process:
        base = process.stdout.readline().split()[2].partition("/?")[0]
        with urllib.request.urlopen(f"{base}/health", timeout=10) as answer:
            assert answer.status == 200
        process.terminate()
        assert process.wait(timeout=30) == 0
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{base}/health", timeout=10)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CHANGES)
def test_every_other_shipped_config_runs_small(name, shipped):
    home = shipped(name)
    summary = json.loads((home / "summary.json").read_text())
    assert summary["state"] == "complete"
    assert sum(summary["trials"].values()) == planned(name)
    best = home / "searches" / name / "best"
    assert (best / "model.safetensors").exists()
    assert (best / "encoder" / "config.json").exists() == (name in ("intents", "finetune"))
    assert (best / "labels.json").exists() == (name in ("distill", "finetune"))
    assert (best / "config.json").exists() == (name == "finetune")
