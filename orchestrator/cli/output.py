"""The output streams of the commands, with the types of their shared options."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

SEARCH, RESULTS, CLUSTER, SETUP = "Search", "Results", "Cluster", "Set-up"  # panels of --help

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file.", show_default=False)]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of a search.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key; can be repeated."),
]
HomeOption = Annotated[
    str | None,
    typer.Option(
        "--home",
        metavar="DIR",
        help="The folder of all searches. Default: FEWTUNE_HOME, else fewtune-runs.",
        show_default=False,
    ),
]
Trust = Annotated[
    bool,
    typer.Option("--trust-code", help="Run code that an export, or the file of a teacher, names."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON as the last line.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted search.")]
Address = Annotated[
    str | None,
    typer.Option("--address", metavar="URL", help="The cluster's dashboard.", show_default=False),
]


# Columns of tables in a file or a pipe, if COLUMNS is not set.
_WIDTH = 160


class Output:
    """`messages` for people on standard error, `results` on standard output."""

    def __init__(self) -> None:
        self.messages = Console(stderr=True, highlight=False, soft_wrap=True)
        self.results = Console(highlight=False, soft_wrap=True)
        if not self.results.is_terminal and "COLUMNS" not in os.environ:
            self.results.width = _WIDTH

    def advise(self, advice: Any) -> None:
        """A warning with its remedy."""
        self.messages.print(f"[yellow]note[/yellow] {escape(str(advice))}")

    def error(self, kind: str, text: str) -> None:
        self.messages.print(f"[red]{kind}[/red] {escape(text)}")

    def json(self, value: Any) -> None:
        """One line that programs can read."""
        print(json.dumps(value))
