"""The command line: its commands, their options, and what becomes of an error."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fewshot.errors.inputs import FewtuneError, InputError
from orchestrator.cli import commands
from orchestrator.cli.commands import Output
from orchestrator.record.disk_errors import disk_error
from orchestrator.record.home import Home

DESCRIPTION = """Search the task weights, learning rates and distillation temperatures with which a
model learns new tasks from a few examples best."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. 0: done; 1: it failed; 2: bad input; 130: stopped, and can be resumed."""
    # The driver's matrices are small: more threads for them would only take the workers' cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    typed = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(typed)
    options.typed = typed
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    screen = Output()
    command: _Command = options.run
    try:
        return command(options, screen)
    except InputError as error:
        for input_error in error.details:
            screen.said.print(f"[red]error[/red] {_escaped(str(input_error))}")
        return 2
    except FewtuneError as error:
        screen.said.print(f"[red]failed[/red] {_escaped(str(error))}")
        return 1
    except KeyboardInterrupt:
        screen.said.print("stopped")
        return 130
    except Exception as error:
        found = disk_error(error, Home.at(getattr(options, "home", None)).path)
        if found is None:
            raise
        screen.said.print(f"[red]failed[/red] {_escaped(str(found))}")
        return 1


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(prog="fewtune", description=DESCRIPTION)
    subparsers = top.add_subparsers(required=True, metavar="COMMAND")
    for run, arguments, about in _COMMANDS:
        added = subparsers.add_parser(run.__name__, help=about, description=about)
        added.set_defaults(run=run, json=False)
        for argument in arguments.split(", "):
            names, options = _ARGUMENTS[argument]
            added.add_argument(*names, **options)
    return top


_Command = Callable[[argparse.Namespace, Output], int]

# What runs a command, its arguments, and what it is for.
_COMMANDS: tuple[tuple[_Command, str, str], ...] = (
    (
        commands.check,
        "config, set, home, trust",
        "find every fault of a config, and what it costs",
    ),
    (
        commands.search,
        "config, set, home, resume, executor, trust, json",
        "run a search",
    ),
    (
        commands.submit,
        "config, set, address, cluster home, resume, trust",
        "run a search as a job on a Ray cluster",
    ),
    (commands.status, "name, address", "how a submitted search stands"),
    (commands.logs, "name, address, follow", "what a submitted search printed"),
    (commands.stop, "name, address", "stop a submitted search; it can be resumed"),
    (
        commands.show,
        "name, home, json",
        "leaderboard, intervals and verdict of a search",
    ),
    (commands.dashboard, "home, port", "serve the MLflow dashboard on 127.0.0.1"),
    (commands.export, "name, out, home", "write the best configuration and model"),
    (
        commands.train,
        "config, set, home, trust, json",
        "train an exported configuration again",
    ),
    (
        commands.adapt,
        "folder, data, shots, label, predictions, home, trust",
        "let an exported model learn a new task",
    ),
)

_ARGUMENTS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "config": (("config",), {"type": Path, "metavar": "CONFIG"}),
    "name": (("name",), {"metavar": "NAME", "help": "the search's name"}),
    "folder": (("folder",), {"type": Path, "metavar": "DIR", "help": "an exported model"}),
    "set": (
        ("--set",),
        {"action": "append", "default": [], "metavar": "KEY=VALUE", "help": "override a key"},
    ),
    "home": (("--home",), {"metavar": "DIR", "help": "state of all searches [fewtune-runs]"}),
    "cluster home": (("--home",), {"metavar": "DIR", "help": "a folder all nodes share"}),
    "resume": (("--resume",), {"action": "store_true", "help": "go on with an earlier run"}),
    "trust": (
        ("--trust-code",),
        {"action": "store_true", "help": "run code that an export, or a teacher's file, names"},
    ),
    "executor": (("--executor",), {"choices": ["inline", "ray"], "default": "ray"}),
    "json": (("--json",), {"action": "store_true", "help": "one line of JSON as the last line"}),
    "address": (("--address",), {"metavar": "URL", "help": "of the cluster's dashboard"}),
    "follow": (("--follow",), {"action": "store_true"}),
    "port": (("--port",), {"type": int, "default": 5000}),
    "out": (("--out",), {"type": Path, "required": True, "metavar": "DIR"}),
    "predictions": (("--out",), {"type": Path, "default": Path("adapted"), "metavar": "DIR"}),
    "data": (("--data",), {"required": True, "metavar": "FILE"}),
    "shots": (("--shots",), {"type": int, "default": 5}),
    "label": (("--label",), {"default": "label", "metavar": "COLUMN"}),
}


if __name__ == "__main__":
    sys.exit(main())
