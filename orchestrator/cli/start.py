"""The commands for a first config, for the schema of configs, for the dashboard."""

import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from fewshot.errors.inputs import FewtuneError
from orchestrator.cli.output import RESULTS, SETUP, HomeOption, Output

if TYPE_CHECKING:
    import subprocess

    from orchestrator.record.home import Home

app = typer.Typer()


@app.command(rich_help_panel=SETUP)
def init(
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATA",
            help="A table (CSV, JSONL, Parquet), an .npz of images, or a folder of images; without "
            "it, the config is for families of functions.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The config to write.")] = Path(
        "search.yaml"
    ),
    label: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="The column to predict.", show_default=False),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="A column whose values are the tasks.", show_default=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a commented config for your data, with a proposed split into tasks."""
    from fewshot.errors.inputs import input_error
    from orchestrator.config.proposal.proposal import propose

    if out.exists() and not force:
        raise input_error("--out", "exists.", str(out), "Give another name, or add --force.")
    found = propose(data, out, label=label, group=group)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(found.text, encoding="utf-8")
    output = Output()
    for line in found.summary:
        output.results.print(line)
    output.results.print(f"written to {out}. Next: fewtune check {out}")


@app.command(rich_help_panel=SETUP)
def schema() -> None:
    """Print the JSON schema of a config, for editors."""
    from orchestrator.config.json_schema import json_schema

    Output().json(json_schema())


@app.command(rich_help_panel=RESULTS)
def dashboard(
    home: HomeOption = None,
    port: Annotated[int, typer.Option(help="The port on 127.0.0.1.")] = 5000,
) -> None:
    """Serve the MLflow dashboard on 127.0.0.1."""
    from orchestrator.record.home import Home
    from orchestrator.tracking.dashboard import server

    output, place = Output(), Home.at(home)
    running = server(place.path, port)
    signals = _ending(running.process)
    if not running.base.endswith(f":{port}"):
        other = running.base.rpartition(":")[2]
        output.messages.print(f"port {port} is in use by another program; taking {other}")
    try:
        running.wait(120.0)
        output.results.print(f"MLflow dashboard: {running.url}")
        for link in _search_links(running.base, place):
            output.results.print(link)
        output.messages.print("Ctrl-C ends it.")
        running.process.wait()
    except FewtuneError:
        if not signals:
            raise
    finally:
        running.close()


def _ending(process: "subprocess.Popen[bytes]") -> list[int]:
    """SIGINT and SIGTERM end `process` from now on; returns the list of the received signals.

    The handler raises no KeyboardInterrupt: Python drops an exception that is raised while the
    garbage collector runs a callback, and the server would outlive its command.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        process.terminate()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
    return received


def _search_links(base: str, home: "Home") -> Iterator[str]:
    from orchestrator.tracking.dashboard import search_url

    for name in home.searches():
        try:
            yield f"  {name}: {search_url(base, home.tracking_uri, 'fewtune', name)}"
        except FewtuneError:  # started, but without a run in MLflow yet
            continue
