"""The report of one search: its parts in the order of the page, and the file."""

import logging
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from fewshot.tasks.files import write_text
from orchestrator.config.loading import load_config
from orchestrator.record.home import Home
from orchestrator.record.search_records import SearchRecords
from orchestrator.results.leaderboard import Summary
from orchestrator.results.report.again import again, checks, failures
from orchestrator.results.report.answer import answer
from orchestrator.results.report.figures.finalists import finalists, per_task
from orchestrator.results.report.figures.of_tasks.effects import effects, weights
from orchestrator.results.report.figures.of_tasks.held_out import held_out
from orchestrator.results.report.figures.of_tasks.returns import returns
from orchestrator.results.report.figures.of_tasks.similarity import similarity
from orchestrator.results.report.figures.parameters import parameters
from orchestrator.results.report.figures.progress import progress
from orchestrator.results.report.figures.stages import stages
from orchestrator.results.report.figures.times import times
from orchestrator.results.report.files import report_path
from orchestrator.results.report.findings import Findings, findings, findings_of
from orchestrator.results.report.page import page
from orchestrator.results.report.parts import MakePart, Part, absent, count

log = logging.getLogger(__name__)

# In the order of the page. A further part is a function from findings to a `Part`.
PARTS: Sequence[MakePart] = (
    effects,
    finalists,
    per_task,
    returns,
    weights,
    progress,
    held_out,
    parameters,
    stages,
    times,
    similarity,
    failures,
    checks,
    again,
)


def write_report(
    name: str, home: Home, out: Path | None = None, new_tasks: int | None = None
) -> Path:
    """Write the report of the search `name`, which may be running; returns the path of the file.

    out: by default `report_path`. new_tasks: for how many new tasks the split between the stages is
    measured; None leaves it out. Raises InputError if this home has no such search.
    """
    path = report_path(home, name) if out is None else out
    text = html_of(findings_of(name, home, new_tasks))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return path


def write_at_end(summary: Summary, records: SearchRecords, home: Home) -> list[Path]:
    """Write the report of a search that ends; returns its path in a list.

    A search does not fail at its end because its report fails: that is logged.
    """
    try:
        config = load_config(home.config(summary.name))
        text = html_of(findings(config, summary, records))
    except Exception as error:
        log.warning("no_report search=%s error=%s", summary.name, error)
        return []
    path = report_path(home, summary.name)
    write_text(path, text)
    return [path]


def html_of(found: Findings) -> str:
    """The report as HTML."""
    summary = found.summary
    counts = ", ".join(f"{n:,} {state}" for state, n in summary.trials.items() if n)
    n = sum(summary.trials.values())
    state = "the search is complete" if summary.state == "complete" else "the search has not ended"
    intro = f"{summary.name}: {count(n, 'trial')}{f' ({counts})' if n else ''}; {state}"
    data = summary.to_dict() | {"explanation": summary.explanation.to_dict()}
    parts = [_made(make, found) for make in _parts_of(found)]
    return page(
        f"{summary.name} - fewtune", intro, [(summary.name, answer(found))], parts, data, footer()
    )


def _parts_of(found: Findings) -> list[MakePart]:
    """The parts that can apply to a search."""
    of_worlds = found.plan.recipe.program == "worlds"
    return [make for make in PARTS if of_worlds or make is not returns]


def _made(make: MakePart, found: Findings) -> Part:
    """A part; a part that fails is left out, so that the others are shown."""
    try:
        return make(found)
    except Exception as error:
        log.exception("no_part search=%s part=%s", found.summary.name, make.__name__)
        why = f"This part can't be made: {type(error).__name__}: {error}"
        return absent(make.__name__.replace("_", "-"), make.__name__.replace("_", " "), why)


def footer() -> str:
    """When and with which version a page was written."""
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return f"Written by fewtune {version('fewtune')} on {now}. This file needs no network."
