"""The command that compares splits between meta-training and adaptation."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from orchestrator.cli.output import RESULTS, HomeOption, Json, Name, Output
from orchestrator.search.durations import duration

if TYPE_CHECKING:
    from orchestrator.record.home import Home
    from orchestrator.results.budget.stages import Cheapest, Split, Stages

app = typer.Typer()


@app.command(rich_help_panel=RESULTS)
def stages(
    name: Name,
    new_tasks: Annotated[
        int, typer.Option(min=1, help="The number of new tasks that the model will learn.")
    ] = 1000,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Also write a figure.")
    ] = None,
    home: HomeOption = None,
    json: Json = False,
) -> None:
    """Compare numbers of meta-training and adaptation steps; name the cheapest that suffices.

    For a search with a teacher on one new task, compare numbers of unlabelled examples instead.
    """
    from fewshot.tasks.files import write_text
    from orchestrator.record.home import Home
    from orchestrator.results.budget.stages import cheapest, figure, stages_of
    from orchestrator.results.budget.transfer import has_teacher

    output = Output()
    if has_teacher(name, Home.at(home)):
        _sizes(output, name, Home.at(home), out, json)
        return
    output.messages.print(f"{name}: scoring the best finalist after other numbers of steps ...")
    found = stages_of(name, Home.at(home))
    if out is not None:
        write_text(out, figure(found, new_tasks).to_html(include_plotlyjs=True))
    if json:
        output.json(found.to_dict(new_tasks))
        return
    chosen = cheapest(found.splits, new_tasks)
    output.results.print(_table(found, chosen, new_tasks))
    output.results.print(_sentence(found, chosen, new_tasks))
    if out is not None:
        output.results.print(f"figure: {out}")


def _sizes(output: Output, name: str, home: "Home", out: Path | None, json: bool) -> None:
    """Compare sizes of the transfer set."""
    from fewshot.tasks.files import write_text
    from orchestrator.results.budget.transfer import figure, smallest, transfer_sizes_of

    output.messages.print(f"{name}: training the best finalist with fewer unlabelled examples ...")
    found = transfer_sizes_of(name, home)
    if out is not None:
        write_text(out, figure(found).to_html(include_plotlyjs=True))
    if json:
        output.json(found.to_dict())
        return
    table = Table(title=f"{name}: sizes of the transfer set", title_justify="left")
    for column in ("unlabelled examples", "score", "standard error", "seconds of training"):
        table.add_column(column, justify="right")
    enough = smallest(found.sizes)
    for size in found.sizes:
        numbers = (f"{size.score:.3f}", f"{size.error:.3f}", f"{size.seconds:.1f}")
        mark = "bold" if size is enough else ""
        table.add_row(f"{size.unlabelled:,}{' *' if mark else ''}", *numbers, style=mark)
    output.results.print(table)
    output.results.print(
        f"{enough.unlabelled:,} unlabelled examples are enough: the score {enough.score:.3f} is "
        f"within noise of the best. The search used {found.sizes[-1].unlabelled:,}."
    )
    if out is not None:
        output.results.print(f"figure: {out}")


def _table(found: "Stages", chosen: "Cheapest", new_tasks: int) -> Table:
    title = f"{found.name}: splits between meta-training and adaptation"
    table = Table(title=title, title_justify="left")
    for column in ("meta-training steps", "adaptation steps", "score", "seconds, once"):
        table.add_column(column, justify="right")
    table.add_column("ms per new task", justify="right")
    table.add_column(f"{new_tasks} new tasks", justify="right")
    table.add_column("source")
    for split in found.splits:
        mark = " *" if split is chosen.split else ""
        table.add_row(
            str(split.meta_steps),
            "-" if split.adapt_steps is None else str(split.adapt_steps),
            f"{split.score:.3f}{mark}",
            f"{split.meta_seconds:.1f}",
            f"{1000 * split.adapt_seconds:.2f}",
            duration(split.seconds(new_tasks)),
            split.source,
            style="bold" if mark else "",
        )
    return table


def _sentence(found: "Stages", chosen: "Cheapest", new_tasks: int) -> str:
    split, best = chosen.split, chosen.best

    def costs(of: "Split") -> str:
        return f"{of.title} (score {of.score:.3f}, {duration(of.seconds(new_tasks))})"

    text = (
        f"For {new_tasks} new tasks the cheapest split within noise of the best is {costs(split)}."
    )
    if split is not best:
        text += f" The best is {costs(best)}."
    return text + f" The search used {costs(found.own)}."
