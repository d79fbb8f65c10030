"""The command that writes the record of a search to MLflow again."""

import time

import typer

from orchestrator.cli.output import RESULTS, HomeOption, Name, Output

_LINE_SECONDS = 15.0  # between lines where the output is not a terminal

app = typer.Typer()


@app.command(rich_help_panel=RESULTS)
def sync(name: Name, home: HomeOption = None) -> int:
    """Write the record of a search to MLflow again, for example to a new database.

    Runs that MLflow has are kept, and those that it lacks are created.
    """
    from orchestrator.mlflow_record import resent
    from orchestrator.record.home import Home

    output, printed = Output(), 0.0
    with output.messages.status("looking for the runs that MLflow has") as status:

        def show(runs_left: int) -> None:
            nonlocal printed
            line = f"sending the record to MLflow: {runs_left:,} runs left"
            status.update(line)
            if not output.messages.is_terminal and time.monotonic() - printed > _LINE_SECONDS:
                output.messages.print(line)
                printed = time.monotonic()

        sent = resent(name, Home.at(home), waiting=show)
    if not sent:
        message = "MLflow makes no progress. The rest is kept on disk; run the command again."
        output.messages.print(message, style="yellow")
        return 1
    output.messages.print(f"MLflow has all runs of {name}", markup=False)
    return 0
