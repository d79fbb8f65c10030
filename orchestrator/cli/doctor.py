"""The command that says whether a search can run here."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from orchestrator.cli.output import SETUP, HomeOption, Json, Output, Set

app = typer.Typer()

_STYLES = {"ok": "green", "warning": "yellow", "problem": "red"}


@app.command(rich_help_panel=SETUP)
def doctor(
    config: Annotated[
        Path | None,
        typer.Argument(
            metavar="CONFIG", help="Also check its data and encoders.", show_default=False
        ),
    ] = None,
    set_: Set = None,
    ray: Annotated[
        bool,
        typer.Option("--ray", help="Start Ray here and look from a worker too."),
    ] = False,
    home: HomeOption = None,
    json: Json = False,
) -> int:
    """Check versions, GPU, Ray, storage, MLflow, disk and memory; each finding with its remedy."""
    from dataclasses import asdict

    from orchestrator.doctor.doctor import examined
    from orchestrator.record.home import Home

    output = Output()
    found = examined(Home.at(home), config, overrides=set_ or (), start_ray=ray)
    problems = [each for each in found if each.status == "problem"]
    if json:
        output.json({"findings": [asdict(each) for each in found], "problems": len(problems)})
        return 1 if problems else 0
    table = Table()
    for column in ("", "where", "what", "found"):
        table.add_column(column)
    for each in found:
        style = _STYLES[each.status]
        text = f"{each.text}\n{each.remedy}" if each.remedy else each.text
        status = f"[{style}]{each.status}[/{style}]"
        table.add_row(status, each.place, escape(each.what), escape(text))
    output.results.print(table)
    n = len(problems)
    would = f"{n} problem{'' if n == 1 else 's'} would stop a search"
    output.results.print(would if n else "nothing that would stop a search")
    return 1 if problems else 0
