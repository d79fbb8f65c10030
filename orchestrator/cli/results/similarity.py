"""The command that compares training tasks with validation tasks, before a search."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from orchestrator.cli.output import SEARCH, Config, HomeOption, Json, Output, Set, Trust

if TYPE_CHECKING:
    from fewshot.metrics import Estimate
    from trials.programs.similarity.similarity import Measure, Similarity

app = typer.Typer()

_SHADES = " ░▒▓█"


@app.command(rich_help_panel=SEARCH)
def similarity(
    config: Config,
    set_: Set = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Also write an interactive heat map."),
    ] = None,
    home: HomeOption = None,
    trust_code: Trust = False,
    json: Json = False,
) -> None:
    """Compare training tasks with validation tasks; warn if meta-learning is unlikely to help."""
    from orchestrator.api import Search
    from orchestrator.results.similarity.figure import write_html

    output = Output()
    search = Search.from_yaml(config, home=home, overrides=set_ or (), trust_code=trust_code)
    output.messages.print(f"{config}: comparing the tasks ...")
    found = search.similarity()
    if out is not None:
        write_html(found, search.name, out)
    if json:
        output.json(found.to_dict())
        return
    for table in tables(found.measures):
        output.results.print(table)
    for warning in found.warnings:
        output.advise(warning)
    if not found.warnings:
        output.results.print("No sign that meta-learning will not help.")
    if out is not None:
        output.results.print(f"heat map: {out}")


def tables(found: "Similarity") -> Iterator[Table]:
    """The ranking of the training tasks, and a heat map of the measure that ranks them."""
    from trials.programs.similarity.similarity import MEASURES

    shown = [measure for measure in MEASURES if measure in found.tables]
    yield _ranking(found, shown)
    yield _heat_map(found, shown[0])


def _ranking(found: "Similarity", shown: "Sequence[Measure]") -> Table:
    title = "similarity to the validation tasks, means (95 % interval), most similar first"
    table = Table(title=title, title_justify="left")
    table.add_column("training task")
    for measure in shown:
        table.add_column(measure, justify="right")
    if found.affinity:
        table.add_column("affinity", justify="right")
    means: Mapping[str, Mapping[str, Estimate]] = {m: found.means(m) for m in shown}
    for task in found.ranking():
        cells = [_cell(means[measure][task]) for measure in shown]
        cells += [f"{found.affinity[task]:.2f}"] if found.affinity else []
        table.add_row(escape(task), *cells)
    return table


def _cell(one: "Estimate") -> str:
    low, high = one.interval()
    return f"{one.mean:+.2f} ({low:+.2f} to {high:+.2f})"


def _heat_map(found: "Similarity", measure: "Measure") -> Table:
    """Values of a measure with shades: five steps from the lowest to the highest value."""
    table = Table(title=f"{measure} by validation task", title_justify="left")
    table.add_column("training task")
    for task in found.validation:
        table.add_column(escape(task), justify="right")
    rows = dict(zip(found.train, found.tables[measure], strict=True))
    values = [one.mean for row in rows.values() for one in row]
    low, high = min(values), max(values)
    for task in found.ranking():
        table.add_row(escape(task), *(_shaded(one.mean, low, high) for one in rows[task]))
    return table


def _shaded(value: float, low: float, high: float) -> str:
    share = 0.0 if high == low else (value - low) / (high - low)
    return f"{_SHADES[min(int(share * len(_SHADES)), len(_SHADES) - 1)] * 2} {value:+.2f}"
