"""The comparison of two searches, as a page in the form of a report."""

from collections.abc import Callable, Sequence
from pathlib import Path

from fewshot.tasks.files import write_text
from orchestrator.record.home import Home
from orchestrator.results.report.answer import answer
from orchestrator.results.report.comparable import difference_on_tests, obstacles
from orchestrator.results.report.figures import pairs
from orchestrator.results.report.figures.pairs import Pair
from orchestrator.results.report.files import comparison_path
from orchestrator.results.report.findings import findings_of
from orchestrator.results.report.page import page
from orchestrator.results.report.parts import Part
from orchestrator.results.report.report import footer
from orchestrator.search.finals.intervals import NEGLIGIBLE, verdict

PARTS: Sequence[Callable[[Pair], Part]] = (
    pairs.differing,
    pairs.finalists,
    pairs.effects,
    pairs.weights,
    pairs.progress,
)

_VERDICTS = {
    "better": "{b} is better than {a}",
    "no better": "{b} is no better than {a}",
    "undecided": "It is undecided whether {b} is better than {a}",
}


def write_comparison(a: str, b: str, home: Home, out: Path | None = None) -> tuple[str, Path]:
    """Write the comparison of two searches; returns its sentence and the path of the file.

    out: by default `comparison_path`. Raises InputError if this home lacks one of the searches.
    """
    pair = Pair(findings_of(a, home), findings_of(b, home))
    path = comparison_path(home, a, b) if out is None else out
    told = sentence(pair)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, _html(pair, told))
    return told, path


def _html(pair: Pair, told: str) -> str:
    a, b = pair.names
    return page(
        f"{a} and {b} - fewtune",
        f"{a} and {b}",
        [(name, answer(found)) for name, found in zip(pair.names, pair, strict=True)],
        [make(pair) for make in PARTS],
        {name: found.summary.to_dict() for name, found in zip(pair.names, pair, strict=True)},
        footer(),
        lead=told,
    )


def sentence(pair: Pair) -> str:
    """What the comparison says: the difference on the test tasks, or why there is none."""
    a, b = pair.names
    why = obstacles(*pair)
    if why:
        return f"The scores of {a} and {b} can't be compared: {'; '.join(why)}."
    difference = difference_on_tests(*pair)
    if difference is None:
        return f"{a} and {b} can't be compared: one has no candidate with test scores."
    negligible = NEGLIGIBLE if pair.a.has_points else 0.0
    told = _VERDICTS[verdict(difference, negligible)].format(a=a, b=b)
    return f"{told}: {pair.a.interval(difference)} on the test tasks, best candidate against best."
