"""The child process of a trial: imports the training function and runs it.

`python -m trials.own_loop.child CONNECTION LIFELINE` gets two inherited file descriptors. The
connection is a socket for lines of JSON: the process reads one task (`Task` in
trials.own_loop.process), and then writes messages. After each message with scores it waits for the
order `go` or `end`. The lifeline is a pipe without data: it closes when the parent process ends.
This module must not import torch, because then every trial would wait for this import.
"""

import fcntl
import inspect
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from fewshot.errors.disk import disk_problem
from fewshot.errors.inputs import InputError, input_error
from fewshot.errors.parts import failure_of, place_of
from fewshot.registry import resolve
from trials.own_loop.scores import BadScores, checked_scores
from trials.own_loop.trial import Trial

IN_TRIAL = "FEWTUNE_IN_TRIAL"  # this environment variable marks the process of a trial


def main(connection: int, lifeline: int) -> None:
    """Run the task that the parent process sends."""
    end_with_parent(lifeline)
    channel = socket.socket(fileno=connection)
    channel.set_inheritable(False)  # programs that the function starts must not keep it open
    os.environ[IN_TRIAL] = "1"
    with (
        channel,
        channel.makefile("r", encoding="utf-8") as orders,
        channel.makefile("w", encoding="utf-8") as messages,
    ):
        task = json.loads(orders.readline())
        send(messages, **_run(task, orders, messages))


def end_with_parent(lifeline: int) -> None:
    """Kill this process group as soon as the other end of the pipe `lifeline` is closed."""
    os.set_inheritable(lifeline, False)

    def wait() -> None:
        os.read(lifeline, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()
    if hasattr(fcntl, "F_SETSIG"):
        # On Linux the kernel sends the signal: a thread can't run while an extension module
        # holds the global interpreter lock.
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)


def send(messages: TextIO, **message: Any) -> None:
    """Write one message to the parent process."""
    messages.write(json.dumps(message) + "\n")
    messages.flush()


def _run(task: dict[str, Any], orders: TextIO, messages: TextIO) -> dict[str, Any]:
    """The last message: how the task ended."""
    try:
        train = function_named(task["function"], task["path"])
        if task["trial"] is not None:
            _train(train, task, orders, messages)
    except Exception as error:
        return _failed(error)
    return {"kind": "ended"}


def _failed(error: Exception) -> dict[str, Any]:
    """How a task failed: because of a disk, of the input, of the scores or of the function."""
    failure, problem = failure_of(error), disk_problem(error)
    if problem is not None and problem.of_machine:
        path = problem.path or f"A file of the training function{place_of(error)}"
        return {"kind": "failed", "disk": [problem.errno, path]}
    if isinstance(error, InputError):
        details = [(d.path, d.rule, d.found, d.remedy) for d in error.details]
        return {"kind": "failed", "error": str(error), "details": details}
    if isinstance(error, BadScores):
        return {"kind": "failed", "error": str(error)}
    return {"kind": "failed", "error": failure.message, "traceback": failure.traceback}


def function_named(name: str, path: list[str]) -> Callable[[Trial], Iterator[Any]]:
    """The generator function `package.module:function`.

    path: the folder of the config, then the parent's `sys.path`.

    Raises InputError if there is no such generator function.
    """
    sys.path.insert(0, path[0])
    sys.path.extend(entry for entry in path[1:] if entry not in sys.path)
    found = resolve({}, name, "program")
    if not inspect.isgeneratorfunction(inspect.unwrap(found)):
        rule = "must be a generator function: it yields {validation task: score} at each rung."
        raise input_error("program", rule, name, "Use `yield`, or `yield from another(trial)`.")
    return found


def _train(
    train: Callable[[Trial], Iterator[Any]],
    task: dict[str, Any],
    orders: TextIO,
    messages: TextIO,
) -> None:
    """Run the training function, and send its scores at each rung."""
    trial, needed, known = trial_of(task["trial"]), task["needed"], task["known"]
    due = [step for step in trial.rungs if step > trial.last_step]
    running = train(trial)
    for scores in running:
        if not due:
            raise BadScores(f"it yielded again after the last rung, {trial.steps}")
        step = due.pop(0)
        try:
            found = checked_scores(scores, needed if due else task["needed_at_end"], known)
        except BadScores as error:
            raise BadScores(f"{error} at step {step}") from None
        send(messages, kind="scores", step=step, scores=found)
        if orders.readline().strip() != "go":
            running.close()  # type: ignore[attr-defined]
            return
    if due:
        reached = max((step for step in trial.rungs if step < due[0]), default=0)
        where = f"after step {reached}" if reached else "before its first rung"
        raise BadScores(f"it ended {where}, without scores for step {due[0]}")


def trial_of(data: dict[str, Any]) -> Trial:
    """The trial in a task."""
    return Trial(**data | {"rungs": tuple(data["rungs"]), "folder": Path(data["folder"])})


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
