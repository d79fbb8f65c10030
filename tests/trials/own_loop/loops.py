"""Training functions of a user; what each does depends on its seed and its folder alone."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trials.own_loop import Trial

VALIDATION, TEST = ("angelic", "braille"), ("runic",)


def train(trial: Trial) -> Iterator[dict[str, float]]:
    """Adds up a number that depends on every step; notes in `steps.txt` which steps it takes."""
    saved = trial.folder / f"{trial.last_step}.json"
    total = json.loads(saved.read_text()) if trial.last_step else 0.0
    for step in range(trial.last_step + 1, trial.steps + 1):
        total += trial.weights["clean"] * ((trial.seed * step) % 7)
        with (trial.folder / "steps.txt").open("a") as file:
            file.write(f"{step}\n")
        if step in trial.rungs:
            (trial.folder / f"{step}.json").write_text(json.dumps(total))
            yield scores(total / step)
    (trial.folder / "model.txt").write_text(str(total))


def scores(score: float) -> dict[str, float]:
    return {"angelic": score, "braille": score + 1, "runic": 100.0}


def without_tests(trial: Trial) -> Iterator[dict[str, float]]:
    for found in train(trial):
        yield {task: found[task] for task in VALIDATION}


def cleans_up(trial: Trial) -> Iterator[dict[str, float]]:
    try:
        yield from train(trial)
    finally:
        (trial.folder / "cleaned").touch()


def prints(trial: Trial) -> Iterator[dict[str, float]]:
    print("to the output", os.getcwd())
    print("to the errors", file=sys.stderr)
    yield from train(trial)


def starts_a_process(trial: Trial) -> Iterator[dict[str, float]]:
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (trial.folder / "pids").write_text(f"{os.getpid()} {helper.pid}")
    yield from train(trial)
    time.sleep(600)


def holds_the_lock(trial: Trial) -> Iterator[dict[str, float]]:
    """No thread of this process can run meanwhile."""
    (trial.folder / "pids").write_text(str(os.getpid()))
    ctypes.PyDLL(None).sleep(600)
    yield {}


# ---- functions that fail after their first report ---------------------------------------------


def fails(trial: Trial) -> Iterator[Any]:
    """How it fails is the hyperparameter `how`, an index of `FAILURES`."""
    yield scores(0.5)
    yield from FAILURES[list(FAILURES)[round(trial.hyperparameters["how"])]](trial)


def _raises(trial: Trial) -> Iterator[Any]:
    raise RuntimeError(f"no luck\nwith {trial.seed}")
    yield


def _hangs(trial: Trial) -> Iterator[Any]:
    time.sleep(600)
    yield


def _exits(trial: Trial) -> Iterator[Any]:
    sys.exit(3)
    yield


def _exits_at_once(trial: Trial) -> Iterator[Any]:
    print("the last words")
    os._exit(4)
    yield


def _kills_itself(trial: Trial) -> Iterator[Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    yield


def _ends_early(trial: Trial) -> Iterator[Any]:
    return
    yield


def _yields(value: Any) -> Any:
    def run(trial: Trial) -> Iterator[Any]:
        yield value

    return run


def _raises_at_the_end(trial: Trial) -> Iterator[Any]:
    yield scores(0.5)
    raise OSError("no room for the model")


def _yields_too_often(trial: Trial) -> Iterator[Any]:
    yield scores(0.5)
    yield scores(0.5)


def fills_the_disk(trial: Trial) -> Iterator[Any]:
    """Finds the disk full after its first report, until there is a file `space`."""
    for found in train(trial):
        yield found
        if not (trial.folder / "space").exists():
            Path("/dev/full").write_text("some data")


def hangs(trial: Trial) -> Iterator[Any]:
    yield from _hangs(trial)


# The function that fails, by a part of the reason.
FAILURES: Mapping[str, Any] = {
    "RuntimeError: no luck": _raises,
    "made no report for 10 s (search.trial_timeout)": _hangs,
    "its process exited with code 3": _exits,
    "its process exited with code 4": _exits_at_once,
    "its process was killed by SIGKILL, perhaps because the memory was full": _kills_itself,
    "it ended after step 2, without scores for step 4": _ends_early,
    "diverged: it yielded nan for braille at step 4": _yields(
        {"angelic": 0, "braille": float("nan")}
    ),
    "it yielded no score for braille at step 4": _yields({"angelic": 0.5}),
    "it yielded a score for drawer; the tasks are angelic, braille, runic at step 4": _yields(
        scores(0.5) | {"drawer": 0.5}
    ),
    "it yielded 'high' for angelic, which is not a number at step 4": _yields(
        scores(0.5) | {"angelic": "high"}
    ),
    "it yielded 0.5 instead of {validation task: score} at step 4": _yields(0.5),
    "OSError: no room for the model": _raises_at_the_end,
    "it yielded again after the last rung, 4": _yields_too_often,
}


def no_generator(trial: Trial) -> dict[str, float]:
    return scores(0.5)
