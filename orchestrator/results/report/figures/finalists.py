"""The finalists against the references, in pairs, on validation and on test tasks."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import plotly.graph_objects as go

from orchestrator.record.studies.study import StudiedTrial
from orchestrator.results.measures import (
    TESTED,
    Measured,
    difference_bounds,
    measure_tables,
    measured,
    notes_by_seed,
)
from orchestrator.results.report.figures import style
from orchestrator.results.report.findings import Findings
from orchestrator.results.report.parts import Part, absent, count
from orchestrator.results.retrained import Finalist
from orchestrator.search.finals.intervals import Interval

Split = Literal["validation", "test"]

_REFERENCES = {"untrained": style.BLACK, "uniform": style.ORANGE}
_MARKS = {
    ("validation", "untrained"): "circle-open",
    ("validation", "uniform"): "diamond-open",
    ("test", "untrained"): "circle",
    ("test", "uniform"): "diamond",
}
_MOST = 40  # tasks of a split in a figure


@dataclass(frozen=True)
class Difference:
    """A finalist minus a reference on the same episodes, in the measure of the search.

    by_task: intervals over seeds, and over problems if the task is a sample of problems.
    """

    finalist: Finalist
    reference: Finalist
    split: Split
    overall: Interval
    by_task: Mapping[str, Interval]


def differences(found: Findings) -> list[Difference]:
    """All pairs of a finalist and a reference that were scored on the same tasks."""
    summary = found.summary
    references = [f for f in (summary.untrained, summary.uniform) if f is not None]
    return [
        Difference(finalist, reference, split, *_intervals(found, table, trials, finalist))
        for reference in references
        for finalist in summary.finalists
        if finalist.role != "untrained" and finalist is not reference
        for split, trials, table in _tables(found, finalist, reference)
    ]


def _tables(
    found: Findings, finalist: Finalist, reference: Finalist
) -> Iterator[tuple[Split, Sequence[StudiedTrial], Measured]]:
    """The differences on each split on which both were scored."""
    measure, summary = found.summary.measure, found.summary
    finals, tests = found.records.final.trials(), found.records.test.trials()
    ours, theirs = (notes_by_seed(finals, f) for f in (finalist, reference))
    seeds = sorted(ours if reference.role == "untrained" else ours.keys() & theirs.keys())
    if seeds and theirs:
        # The untrained model does not depend on the seed.
        of = [theirs[0 if reference.role == "untrained" else seed] for seed in seeds]
        own = measured([ours[seed] for seed in seeds], measure)
        yield "validation", finals, own.minus(measured(of, measure))
    if finalist is summary.candidate or finalist is summary.uniform:
        known = [f for f in (summary.candidate, summary.uniform, summary.untrained) if f]
        tables = measure_tables(tests, known, measure)  # those of the verdict
        pair = TESTED[finalist.role], TESTED[reference.role]
        if set(pair) <= tables.keys():
            yield "test", tests, tables[pair[0]].minus(tables[pair[1]])


def _intervals(
    found: Findings, gain: Measured, trials: Sequence[StudiedTrial], finalist: Finalist
) -> tuple[Interval, dict[str, Interval]]:
    within = difference_bounds(found.summary.measure)
    of = next(t for t in trials if finalist.is_of(t) and t.state == "complete")
    by_task = {
        task: gain.of_task(i).interval(within, of_tasks=False)
        for i, task in enumerate(of.notes["tasks"])
    }
    return gain.interval(within), by_task


def finalists(found: Findings) -> Part:
    """Paired differences of all finalists to both references."""
    key, topic = "finalists", "Finalists against the references"
    every = _known(found)
    if isinstance(every, str):
        return absent(key, topic, every)
    names = list(dict.fromkeys(_name(d.finalist) for d in every))
    drawn = style.rows(names, xaxis=style.axis(f"difference ({found.unit})"))
    drawn.add_vline(0, line={"color": style.BLACK, "width": 1})
    traces = [(s, r) for s in ("validation", "test") for r in _REFERENCES]
    for place, (split, role) in enumerate(traces):
        own = [d for d in every if (d.split, d.reference.role) == (split, role)]
        at = [names.index(_name(d.finalist)) + (place - 1.5) * 0.18 for d in own]
        hover = [f"<b>{_name(d.finalist)}</b>, {split}, minus {role}" for d in own]
        _add(found, drawn, (split, role), [d.overall for d in own], at, hover)
    drawn.update_layout(height=drawn.layout.height + 14 * len(names) + 50, margin={"t": 84})
    return Part(
        key,
        topic,
        _message(found, every),
        "Each mark is a retrained finalist minus a reference on the same episodes with the same "
        "seeds, with its 95 % interval; right of zero it is better than the reference.",
        {"": drawn},
        notes=_notes(every),
    )


def _known(found: Findings) -> list[Difference] | str:
    """The differences, or why there are none."""
    every = differences(found)
    if every:
        return every
    if found.summary.state != "complete":
        return "The finalists are compared when the search has ended."
    if not found.summary.finalists:
        return "No finalist has been retrained."
    if found.summary.untrained is None and found.summary.uniform is None:
        return (
            "This search has no reference: there is no untrained model to score, and no trial "
            "with uniform weights completed."
        )
    return "No finalist and reference have been scored on the same tasks."


def _add(
    found: Findings,
    drawn: go.Figure,
    of: tuple[str, str],
    values: Sequence[Interval],
    at: Sequence[float],
    hover: Sequence[str],
) -> None:
    """One trace: differences on a split to a reference."""
    if not values:
        return
    split, role = of
    mean, low, high = (
        [found.difference(getattr(value, end)) for value in values]
        for end in ("mean", "low", "high")
    )
    drawn.add_scatter(
        x=mean,
        y=list(at),
        mode="markers",
        name=f"{split}, minus {'no training' if role == 'untrained' else 'uniform'}",
        marker=style.marker(_REFERENCES[role], _MARKS[split, role], 10),
        error_x={**style.ends(mean, low, high), "color": _REFERENCES[role]},
        hovertext=[f"{h}<br>{found.interval(v)}" for h, v in zip(hover, values, strict=True)],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _name(finalist: Finalist) -> str:
    if finalist.role == "searched":
        return f"trial {finalist.number}"
    matched = math.isnan(finalist.search_score)
    return f"uniform, rates of {finalist.number}" if matched else f"uniform ({finalist.number})"


def _message(found: Findings, every: Sequence[Difference]) -> str:
    for split in ("test", "validation"):
        own = [d for d in every if d.split == split and d.finalist is found.summary.candidate]
        if own:
            told = " and ".join(
                f"{found.shown(d.overall.mean)} against "
                f"{'no training' if d.reference.role == 'untrained' else 'uniform weights'}"
                for d in own
            )
            return f"The best candidate on the {split} tasks: {told}"
    return "Retrained models minus the references"


def _notes(every: Sequence[Difference]) -> list[str]:
    notes = [
        "The candidate was chosen by its validation scores, so its differences there are too high "
        "on average; those on the test tasks are not."
    ]
    short = sorted({d.overall.note for d in every if d.overall.note})
    return notes + [f"A note on the intervals: {note}." for note in short]


def per_task(found: Findings) -> Part:
    """The best candidate minus the references on each held-out task."""
    key, topic = "per-task", "Gain on each held-out task"
    every = _known(found)
    if isinstance(every, str):
        return absent(key, topic, every)
    own = [d for d in every if d.finalist is found.summary.candidate]
    if not own:
        return absent(key, topic, "The best candidate is chosen when the search has ended.")
    drawn, left = {}, 0
    for split in ("validation", "test"):
        of_split = [d for d in own if d.split == split]
        if of_split:
            drawn[split] = _of_split(found, of_split)
            left += max(0, len(of_split[0].by_task) - _MOST)
    return Part(
        key,
        topic,
        _message_of_tasks(own),
        "As above, one row for each held-out task, for the best candidate only; the intervals are "
        "over seeds, and over problems such as goals or schools; they say nothing about other "
        "tasks.",
        drawn,
        notes=[f"{count(left, 'task')} in the middle are not drawn."] if left else [],
    )


def _of_split(found: Findings, own: Sequence[Difference]) -> go.Figure:
    tasks = sorted(own[-1].by_task, key=lambda task: -own[-1].by_task[task].mean)
    if len(tasks) > _MOST:
        tasks = [*tasks[: _MOST // 2], *tasks[-_MOST // 2 :]]
    split = own[0].split
    drawn = style.rows(tasks, xaxis=style.axis(f"{split} ({found.unit})"))
    drawn.add_vline(0, line={"color": style.BLACK, "width": 1})
    for place, d in enumerate(own):
        role = d.reference.role
        hover = [f"<b>{style.safe(task)}</b>, minus {role}" for task in tasks]
        at = [i + (place - 0.5 * (len(own) - 1)) * 0.3 for i in range(len(tasks))]
        _add(found, drawn, (split, role), [d.by_task[task] for task in tasks], at, hover)
    drawn.update_layout(height=drawn.layout.height + 26, margin={"t": 60})
    return drawn


def _message_of_tasks(own: Sequence[Difference]) -> str:
    split = "test" if any(d.split == "test" for d in own) else "validation"
    told = []
    for d in own:
        if d.split == split:
            n = sum(i.mean > 0 for i in d.by_task.values())
            name = "no training" if d.reference.role == "untrained" else "uniform weights"
            told.append(f"{n} of {len(d.by_task)} against {name}")
    return f"The best candidate is ahead on {split} tasks: {', '.join(told)}"
