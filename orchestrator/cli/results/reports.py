"""The commands that write pages to look at: the report of a search, and a comparison of two."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.output import RESULTS, HomeOption, Name, Output

app = typer.Typer()

_Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE.html",
        help="The file. Default: in the folder of the search.",
        show_default=False,
    ),
]


@app.command(rich_help_panel=RESULTS)
def report(
    name: Name,
    out: _Out = None,
    new_tasks: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Also measure how much meta-training and adaptation suit so many new tasks.",
            show_default=False,
        ),
    ] = None,
    home: HomeOption = None,
) -> None:
    """Write a report to look at: one HTML file that needs no network."""
    from orchestrator.record.home import Home
    from orchestrator.results.report.report import write_report

    path = write_report(name, Home.at(home), _file(out), new_tasks)
    Output().results.print(f"report: {path}", markup=False)


@app.command(rich_help_panel=RESULTS)
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="The name of a search.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The name of another search.")],
    out: _Out = None,
    home: HomeOption = None,
) -> None:
    """Set two searches side by side in a HTML file."""
    from orchestrator.record.home import Home
    from orchestrator.results.report.comparison import write_comparison

    output = Output()
    told, path = write_comparison(a, b, Home.at(home), _file(out))
    output.results.print(told, markup=False)
    output.results.print(f"comparison: {path}", markup=False)


def _file(out: Path | None) -> Path | None:
    """The path of a file to write; raises InputError if it is a folder."""
    from fewshot.errors.inputs import input_error

    if out is not None and out.is_dir():
        raise input_error("--out", "must be a file, not a folder.", str(out), "Add a file name.")
    return out
