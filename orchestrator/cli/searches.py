"""The commands that check, run, show, list and delete searches.

Modules that take long to import are imported inside the commands, so that `--help` and the errors
of a config appear at once.
"""

import os
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import typer

from orchestrator.cli.output import (
    RESULTS,
    SEARCH,
    Config,
    HomeOption,
    Json,
    Name,
    Output,
    Resume,
    Set,
    Trust,
)
from orchestrator.search.durations import duration

if TYPE_CHECKING:
    from orchestrator.api import Search
    from orchestrator.results.leaderboard import Summary
    from orchestrator.search.forecast import Forecast

app = typer.Typer()
_REASONS = 5  # of failed trials that are shown, the most frequent ones


@app.command(rich_help_panel=SEARCH)
def check(
    config: Config, set_: Set = None, home: HomeOption = None, trust_code: Trust = False
) -> None:
    """Find every error in a config, and forecast the time and memory of the search."""
    output = Output()
    search = _search(config, set_, home, trust_code)
    what = "importing the program" if "program" in search.config else "trying a few steps"
    output.messages.print(f"{config}: no errors in the file; {what} ...")
    found = search.check()
    for advice in found.advice:
        output.advise(advice)
    text = _own_loop(search, found) if "program" in search.config else str(found)
    output.results.print(text, markup=False, emoji=False)


@app.command(rich_help_panel=SEARCH)
def search(
    context: typer.Context,
    config: Config,
    set_: Set = None,
    home: HomeOption = None,
    resume: Resume = False,
    trials: Annotated[
        int | None,
        typer.Option(
            help="With --resume: the number of trials in all, to add trials to a search.",
            show_default=False,
        ),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="NAME",
            help="Run the best trials of another search after the reference trials.",
            show_default=False,
        ),
    ] = None,
    executor: Annotated[
        Literal["inline", "ray"],
        typer.Option(help="Train in Ray workers, or in this process."),
    ] = "ray",
    trust_code: Trust = False,
    json: Json = False,
) -> int:
    """Run a search."""
    from orchestrator.cli.display import ProgressDisplay
    from orchestrator.search.loop import Stopped

    output = Output()
    found = _search(config, set_, home, trust_code)
    again = shlex.join(["fewtune", *(word for word in context.obj if word != "--resume")])
    again += " --resume"
    display = ProgressDisplay(output.messages, found)
    with display, _interruptible(output, lambda: display.started) as signals:
        try:
            summary = found.run(
                resume=resume,
                trials=trials,
                from_search=from_,
                executor=executor,
                observe=display,
                advise=output.advise,
                should_stop=lambda: bool(signals),
            )
        except (Stopped, KeyboardInterrupt):
            if not display.started:
                raise
            message = f"stopped; nothing that was reported is lost. To resume: {again}"
            # Without markup, as the command may contain brackets.
            output.messages.print(message, markup=False)
            return 130
    _show(output, summary.name, found.home, json=json)
    if not found.sent:
        message = (
            "MLflow has not received the whole record. The rest is kept on disk; to send it: "
            f"{again}"
        )
        output.messages.print(message, style="yellow", markup=False)
        return 1
    return 0


@app.command(rich_help_panel=SEARCH)
def enqueue(
    name: Name,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="TASK=WEIGHT,...",
            help="Task weights with sum 1; other tasks get zero.",
            show_default=False,
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A hyperparameter; can be repeated."),
    ] = None,
    home: HomeOption = None,
) -> None:
    """Add a trial of your own to a search that runs, or that you resume later."""
    from orchestrator.api import Search
    from orchestrator.record.home import Home
    from orchestrator.record.studies.study import read_study
    from orchestrator.search.decisions.early_stopping import what_is_waited_for

    found, output = Search.open(name, home=home), Output()
    given = None if weights is None else _values(weights.split(","))
    params = found.enqueue(given, _values(set_ or []))
    shown = ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in params.items()
    )
    output.results.print(f"enqueued: {shown}", markup=False)
    record = read_study(Home(found.home).storage(name), name)
    assert record is not None, "the search has a study"
    if message := what_is_waited_for(record, found.config["search"]["trials"]):
        output.messages.print(message, markup=False)


def _values(texts: list[str]) -> dict[str, Any]:
    """Values by name from texts like `name=0.5`, read as in a config."""
    from orchestrator.config.loading import loaded

    pairs = [text.partition("=") for text in texts]
    return {name.strip(): loaded(value, name) if value else value for name, _, value in pairs}


@app.command(rich_help_panel=RESULTS)
def show(
    name: Name,
    home: HomeOption = None,
    why: Annotated[
        bool,
        typer.Option("--why", help="Also show which training tasks help, and health checks."),
    ] = False,
    json: Json = False,
) -> None:
    """Show the leaderboard, the intervals and the verdict of a search."""
    from orchestrator.record.home import Home

    output, place = Output(), Home.at(home).path
    summary = _show(output, name, place, json=json)
    if why and not json:
        _show_why(output, summary)


@app.command("list", rich_help_panel=RESULTS)
def list_(home: HomeOption = None, json: Json = False) -> None:
    """List all searches of a home: state, trials, best score, age."""
    from orchestrator.api import list_searches
    from orchestrator.cli.display import search_list
    from orchestrator.record.home import Home

    output, place = Output(), Home.at(home).path
    found = list_searches(place)
    if json:
        output.json([vars(each) for each in found])
    elif found:
        output.results.print(search_list(found))
    else:
        output.messages.print(f"no searches in {place}")


@app.command(rich_help_panel=SEARCH)
def delete(
    name: Name,
    home: HomeOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> int:
    """Delete a search: its studies, its files and its MLflow runs."""
    from orchestrator.api import Search, delete_search

    output = Output()
    found = Search.open(name, home=home)
    if not yes:
        question = f"Delete {name} in {found.home}, with its studies, files and MLflow runs?"
        if not typer.confirm(question, err=True):
            output.messages.print("nothing was deleted")
            return 1
    delete_search(name, home=found.home)
    output.messages.print(f"deleted {name}")
    return 0


def _own_loop(search: "Search", found: "Forecast") -> str:
    """What a search over a training function will run."""
    plan, options = search.plan, search.config["search"]
    workers = "; ".join(found.kinds) or options["workers"]
    function = plan.recipe.function
    assert function is not None, "the config has a program"
    rungs = ", ".join(str(step) for step in plan.rungs)
    finalists = f"{plan.finalists} finalists and the reference, {plan.seeds} seeds each"
    timeout = options.get("trial_timeout")
    limit = "no time limit" if timeout is None else f"at most {duration(timeout)} between reports"
    return (
        f"{function.name} can be imported, with the folder {function.folder}\n"
        f"search: {plan.trials} trials of {plan.rungs[-1]} steps with reports at {rungs}; {limit}\n"
        f"then: {finalists}\n"
        f"workers: {workers}, with one trial each"
    )


def _search(config: Path, overrides: list[str] | None, home: str | None, trust: bool) -> "Search":
    from orchestrator.api import Search

    return Search.from_yaml(config, home=home, overrides=overrides or (), trust_code=trust)


def _show(output: Output, name: str, home: Path, *, json: bool) -> "Summary":
    from orchestrator.cli.display import leaderboard, returns_table
    from orchestrator.record.home import Home
    from orchestrator.results.leaderboard import summary_of
    from orchestrator.results.liveness import sentence, status_of
    from orchestrator.results.report.files import report_path

    place = Home(home)
    summary, report = summary_of(name, place), report_path(place, name)
    path = str(report) if report.exists() else None
    if json:
        extra = {"explanation": summary.explanation.to_dict(), "report": path}
        output.json(summary.to_dict() | extra)
        return summary
    output.results.print(leaderboard(summary))
    for reason, n in Counter(summary.failures).most_common(_REASONS):
        output.results.print(f"{n} failed: {reason}", markup=False)
    if summary.returns:
        output.results.print(returns_table(summary.returns))
    output.results.print(str(summary))
    if summary.state != "complete":
        output.results.print(sentence(status_of(name, place)), markup=False)
    for advice in summary.advice:
        output.advise(advice)
    for who, value in summary.figures.items():
        output.results.print(f"For comparison, the {who}: {100 * value:.1f} %.")
    if (place.best(name) / "config.yaml").exists():
        output.results.print(f"\nbest configuration and model: {place.best(name)}")
    output.results.print(f"dashboard: fewtune dashboard --home {home}")
    output.results.print(f"report: {path or f'fewtune report {name} --home {home}'}")
    return summary


def _show_why(output: Output, summary: "Summary") -> None:
    from orchestrator.cli.results.explanation import why

    for part in why(summary.explanation):
        output.results.print(part)


@contextmanager
def _interruptible(output: Output, started: Callable[[], bool]) -> Iterator[list[int]]:
    """The first SIGINT, SIGTERM or SIGHUP requests a clean stop; a second one ends at once.

    Before the search has started, the first also ends it at once. Yields the received signals.
    """
    received: list[int] = []
    terminals = [file for file in (sys.stdout, sys.stderr) if file.isatty()]

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _detach(terminals)
        if received or not started():
            raise KeyboardInterrupt
        received.append(number)
        output.messages.print("stopping when the workers next report; a second signal ends at once")

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # under `nohup` it is ignored
        numbers.append(signal.SIGHUP)
    before: dict[int, Any] = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _detach(terminals: list[TextIO]) -> None:
    """Redirect a closed terminal to `os.devnull`, because writing to it would raise an error."""
    with open(os.devnull, "w") as nothing:
        for file in terminals:
            if not os.isatty(file.fileno()):
                os.dup2(nothing.fileno(), file.fileno())
