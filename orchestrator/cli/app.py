"""The `fewtune` command: its subcommands, error messages and exit codes."""

import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer
import typer.core

from fewshot.errors.inputs import FewtuneError, InputError
from orchestrator.cli import cluster, doctor, searches, start
from orchestrator.cli.output import Output
from orchestrator.cli.results import models, reports, similarity, stages
from orchestrator.record.disk_errors import disk_error
from orchestrator.record.home import Home


class _Commands(typer.core.TyperGroup):
    """Turns the return value or the exception of a command into an exit code; prints errors."""

    def invoke(self, ctx: typer.Context) -> None:  # type: ignore[override]
        output = Output()
        try:
            code = super().invoke(ctx)
        except InputError as error:
            for detail in error.details:
                output.error("error", str(detail))
            code = 2
        except FewtuneError as error:
            output.error("failed", str(error))
            code = 1
        except KeyboardInterrupt:
            output.messages.print("stopped")
            code = 130
        except Exception as error:
            found = disk_error(error, Home.at(_home_in(ctx.obj)).path)
            if found is None:
                raise
            output.error("failed", str(found))
            code = 1
        raise typer.Exit(code or 0)


app = typer.Typer(
    name="fewtune",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Search the task weights, learning rates and distillation temperatures with which a model "
    "learns new tasks from a few examples.",
    epilog="Exit codes: 0 done, 1 failed, 2 bad input, 130 stopped (can be resumed).",
)
for _commands in (
    searches.app,
    similarity.app,
    reports.app,
    stages.app,
    models.app,
    cluster.app,
    start.app,
    doctor.app,
):
    app.add_typer(_commands)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"fewtune {version('fewtune')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    del version  # handled by the callback
    # The driver's matrices are small: more threads for them would only take the workers' cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    # While its database is away, MLflow logs a traceback for each attempt; our sender says it once.
    for name in ("mlflow.store.db.utils", "psycopg"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns 0 (done), 1 (failed), 2 (bad input) or 130 (stopped)."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(typed, prog_name="fewtune", obj=typed)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def _home_in(typed: Sequence[str]) -> str | None:
    """The value of `--home`, for the message about a full disk."""
    for i, word in enumerate(typed):
        if word == "--home" and i + 1 < len(typed):
            return typed[i + 1]
        if word.startswith("--home="):
            return word.removeprefix("--home=")
    return None


if __name__ == "__main__":
    sys.exit(main())
