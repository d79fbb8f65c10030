"""Where the time of a search went, as far as its record knows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from orchestrator.record.starts import sending_of, starts_of
from orchestrator.record.studies.study import StudiedTrial
from orchestrator.results.report.figures import style
from orchestrator.results.report.findings import Findings
from orchestrator.results.report.parts import Part, absent, count

# Fills that a greyscale print tells apart.
_FILLS = ((style.BLUE, ""), (style.ORANGE, "/"), (style.SKY, "."), (style.LIGHT, "x"))


@dataclass(frozen=True)
class TimeUse:
    """Seconds of a search.

    clock: of the wall clock by phase. workers: of all workers together by activity; empty if the
    record does not have them. lane_steps: steps that trained a trial, and steps of free lanes.
    pauses: between the processes of a search that was resumed; not part of the others.
    """

    clock: dict[str, float]
    workers: dict[str, float]
    lane_steps: dict[str, float]
    n_starts: int
    pauses: float


def time_use(found: Findings) -> TimeUse | None:
    """The use of time; None if the record of the search has no times."""
    starts = starts_of(found.records.search)
    stages = [r.trials() for r in (found.records.search, found.records.final, found.records.test)]
    ended = sorted(t.ended for trials in stages for t in trials if t.ended is not None)
    if not starts or not ended or ended[-1] < starts[0].ready:
        return None
    begins = [start.began for start in starts[1:]] + [math.inf]
    lasts = [
        max((e for e in ended if e < begin), default=start.ready)
        for start, begin in zip(starts, begins, strict=True)
    ]
    # A process that was killed before a trial ended has no end in the record.
    runs = [
        (start.ready, max(last, start.ready)) for start, last in zip(starts, lasts, strict=True)
    ]
    clock = {"start-up": sum(start.ready - start.began for start in starts)}
    before = -math.inf
    for name, trials in zip(("search", "retraining", "tests"), stages, strict=True):
        until = max((t.ended for t in trials if t.ended is not None), default=before)
        clock[name] = sum(max(0.0, min(end, until) - max(ready, before)) for ready, end in runs)
        before = max(before, until)
    whole = runs[-1][1] - starts[0].began
    return TimeUse(
        clock,
        _workers(found, stages, sum(end - ready for ready, end in runs)),
        _lane_steps(found),
        len(starts),
        max(0.0, whole - sum(clock.values())),
    )


def _workers(
    found: Findings, stages: Sequence[Sequence[StudiedTrial]], running: float
) -> dict[str, float]:
    trained = [t for trials in stages for t in trials if t.notes.get("role") != "untrained"]
    workers = found.config.search.n_workers
    if workers is None or not any("lane_seconds" in t.notes for t in trained):
        return {}
    training = sum(t.notes.get("lane_seconds", 0.0) for t in trained)
    scoring = sum(_scoring(trials) for trials in stages)
    total = running * workers
    if found.plan.recipe.function is not None:  # which trains and scores
        return {"your function": training, "other": max(0.0, total - training)}
    return {
        "meta-training" if found.plan.recipe.program == "meta_training" else "training": training,
        "adaptation and scoring": scoring,
        "other": max(0.0, total - training - scoring),
    }


def _scoring(trials: Sequence[StudiedTrial]) -> float:
    """Seconds of scoring at all rungs; a scoring that was not timed takes the median of others."""
    own = [t for t in trials if t.notes.get("role") != "untrained"]
    known = [t.notes["scoring_seconds"] for t in own if "scoring_seconds" in t.notes]
    usual = median(known) if known else 0.0
    return float(sum(t.notes.get("scoring_seconds", usual) * len(t.reports) for t in own))


def _lane_steps(found: Findings) -> dict[str, float]:
    used = capacity = 0
    for record in (found.records.search, found.records.final):
        steps = record.notes.get("steps", (0, 0))
        used, capacity = used + steps[0], capacity + steps[1]
    return {"used": used, "free": capacity - used} if capacity else {}


def times(found: Findings) -> Part:
    """Bars of the wall clock, of the workers and of the lanes, and a table."""
    key, topic = "times", "Where the time went"
    use = time_use(found)
    if use is None:
        return absent(key, topic, "The record of this search has no times.")
    bars = [("wall clock", use.clock), ("workers", use.workers), ("lane steps", use.lane_steps)]
    bars = [(name, parts) for name, parts in bars if sum(parts.values()) > 0]
    table: list[tuple[str, ...]] = [("of", "part", "share", "seconds")]
    drawn = style.rows([name for name, _ in bars], xaxis=style.axis("% of the bar", range=[0, 100]))
    drawn.update_layout(barmode="stack", showlegend=False)
    for row, (name, parts) in enumerate(bars):
        total = sum(parts.values())
        for (part, value), (color, pattern) in zip(parts.items(), _FILLS, strict=False):
            share = 100 * value / total
            seconds = f"{value:,.1f}" if name != "lane steps" else f"{value:,.0f} steps"
            table.append((name, part, f"{share:.0f} %", seconds))
            drawn.add_bar(
                orientation="h",
                x=[share],
                y=[row],
                width=0.7,
                marker=_fill(color, pattern),
                text=part if share > 12 else "",
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                textfont={"color": "#ffffff" if color == style.BLUE else style.BLACK},
                name=part,
                hovertemplate=f"{name}: {part}<br>{share:.1f} %, {seconds}<extra></extra>",
            )
    drawn.update_layout(height=drawn.layout.height + 12 * len(bars))
    return Part(
        key,
        topic,
        _message(use),
        "Each bar is split into parts of 100 %: the wall clock by phase of the search, the time of "
        "all workers by activity, and the training steps of all lanes.",
        {"": drawn},
        table=table,
        notes=_notes(found, use),
    )


def _fill(color: str, pattern: str) -> dict[str, Any]:
    """A colour with a white pattern on it."""
    lines = {"shape": pattern, "fillmode": "overlay", "fgcolor": "#ffffff", "fgopacity": 0.6}
    return {
        "color": color,
        "pattern": {**lines, "size": 7, "solidity": 0.2},
        "line": {"color": "#ffffff", "width": 1},
    }


def _message(use: TimeUse) -> str:
    total = sum(use.clock.values())
    minutes = f"{total / 60:.1f} minutes" if total < 7200 else f"{total / 3600:.1f} hours"
    if not use.workers or not sum(use.workers.values()):
        return f"The search took {minutes}"
    part, value = max(use.workers.items(), key=lambda item: item[1])
    share = 100 * value / sum(use.workers.values())
    return f"The search took {minutes}; {share:.0f} % of the workers' time was {part}"


def _sending(found: Findings) -> str:
    sending = sending_of(found.records.search)
    if sending is None:
        return "The time of sending to MLflow, which runs beside the trials, is not recorded."
    return (
        f"Runs were sent to MLflow beside the trials for {sending.seconds:,.1f} s. Runs "
        f"that were left when the last trial had ended: {sending.runs_left:,}."
    )


def _notes(found: Findings, use: TimeUse) -> list[str]:
    notes = [
        "Scoring a model adapts it to each validation task, so adaptation and scoring are one "
        "time. It is measured at the last rung; at earlier rungs the same time is assumed.",
        "“Other” is what is left of the workers' time: waiting for new trials or at the end of a "
        "stage, the first step of a program, checkpoints, scoring of failed trials.",
        f"{_sending(found)} The time of writing this report is not recorded.",
    ]
    if "your function" in use.workers:
        notes[0] = "The time of your function has training and scoring in one."
    if not use.workers:
        notes[:2] = ["The record of this search has no times of its workers' activities."]
    if use.n_starts > 1:
        notes.append(
            f"The search was started {count(use.n_starts, 'time')}; {use.pauses:,.0f} s between an "
            "ended trial and the next start are left out."
        )
    if found.summary.state != "complete":
        notes.append("The search has not ended: trials that are running are not counted.")
    return notes
