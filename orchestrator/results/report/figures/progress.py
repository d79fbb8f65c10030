"""The best score so far, by trials and by time."""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import plotly.graph_objects as go

from orchestrator.record.studies.study import StudiedTrial
from orchestrator.results.report.figures import style
from orchestrator.results.report.findings import Findings
from orchestrator.results.report.parts import Part, absent, count

_MOST = 800  # marks of each state in a figure
_MARKS = {
    "complete": (style.BLUE, "circle", 7),
    "pruned": (style.GREY, "line-ew-open", 7),
    "failed": (style.VERMILLION, "x", 8),
}


def best_so_far(trials: Sequence[StudiedTrial]) -> list[tuple[StudiedTrial, float]]:
    """The complete trials in the order in which they ended, with the best score until then."""
    complete = [t for t in trials if t.state == "complete" and math.isfinite(t.score)]
    complete.sort(key=lambda t: (t.ended or 0.0, t.number))
    return list(zip(complete, accumulate((t.score for t in complete), max), strict=True))


def progress(found: Findings) -> Part:
    """The best score so far by the number of ended trials and by time."""
    key, topic = "progress", "Best score so far"
    ended = [t for t in found.trials if t.state != "running"]
    if not ended:
        return absent(key, topic, "No trial has ended.")
    ended.sort(key=lambda t: (t.ended or 0.0, t.number))
    places = {t.number: i + 1 for i, t in enumerate(ended)}
    drawn = {"trials": _figure(found, ended, lambda t: places[t.number], "ended trials")}
    starts = [t.started for t in ended if t.started is not None]
    if starts and all(t.ended is not None for t in ended):
        begin = min(starts)
        longest = max(t.ended - begin for t in ended if t.ended is not None)
        unit, seconds = ("minutes", 60.0) if longest < 3 * 3600 else ("hours", 3600.0)
        title = f"{unit} since the first trial started"
        drawn["time"] = _figure(
            found, ended, lambda t: ((t.ended or begin) - begin) / seconds, title
        )
        drawn["time"].update_layout(showlegend=False)  # that of the first figure, beside it
    notes = _notes(found, ended)
    if "time" not in drawn:
        notes.append("The times of the trials are not recorded, so there is no figure by time.")
    return Part(
        key,
        topic,
        _message(found, places),
        "The line is the best score of a complete trial until then; marks are single trials, and "
        "a dash shows where a trial was stopped (pruned) early, at the score that it had by then.",
        drawn,
        notes=notes,
    )


def _figure(
    found: Findings, ended: Sequence[StudiedTrial], at: Callable[[StudiedTrial], float], title: str
) -> go.Figure:
    drawn = style.figure(400, xaxis=style.axis(title), yaxis=style.axis("score in the search"))
    drawn.update_layout(margin={"t": 76})
    bounds = _score_range(found, ended)
    bottom = 0.0
    if bounds is not None:
        drawn.update_yaxes(range=list(bounds))
        bottom = bounds[0]
    references = {t.number for t in found.trials if found.plan.space.is_reference(t.params)}
    for state, (color, symbol, size) in _MARKS.items():
        own = [t for t in ended if t.state == state]
        plain = [t for t in own if state == "failed" or t.number not in references]
        _add(drawn, plain, at, bottom, state, style.marker(color, symbol, size))
        if state == "complete":
            uniform = [t for t in own if t.number in references]
            mark = style.marker(style.ORANGE, "diamond", 8)
            _add(drawn, uniform, at, bottom, "complete, reference", mark)
    line = _steps(best_so_far(ended))
    if line:
        drawn.add_scatter(
            x=[at(t) for t, _ in line],
            y=[best for _, best in line],
            mode="lines",
            line={"shape": "hv", "color": style.BLACK, "width": 2},
            name="best so far",
            hovertemplate="best so far %{y:.4f}<extra></extra>",
        )
    untrained = found.summary.untrained
    if untrained is not None and untrained.score.mean >= bottom and line:
        last = max(at(t) for t in ended)
        drawn.add_scatter(
            x=[min(at(t) for t in ended), last],
            y=[untrained.score.mean] * 2,
            mode="lines",
            line={"color": style.GREEN, "dash": "dot", "width": 2},
            name="no training",
        )
    return drawn


def _score_range(found: Findings, ended: Sequence[StudiedTrial]) -> tuple[float, float] | None:
    """The ends of the axis, with the score of the untrained model if it is not far below."""
    scores = [t.score for t in ended]
    bounds, untrained = style.score_range(scores), found.summary.untrained
    if bounds is None or untrained is None or not math.isfinite(untrained.score.mean):
        return bounds
    far = bounds[0] - 2 * (bounds[1] - bounds[0])
    room = 0.05 * (bounds[1] - bounds[0])
    low = min(bounds[0], untrained.score.mean - room) if untrained.score.mean > far else bounds[0]
    return low, max(bounds[1], untrained.score.mean + room)


def _steps(line: Sequence[tuple[StudiedTrial, float]]) -> list[tuple[StudiedTrial, float]]:
    """The points at which the best score rises, with the first and the last one."""
    return [
        pair for i, pair in enumerate(line) if i in (0, len(line) - 1) or pair[1] > line[i - 1][1]
    ]


def _add(
    drawn: go.Figure,
    trials: Sequence[StudiedTrial],
    at: Callable[[StudiedTrial], float],
    bottom: float,
    name: str,
    mark: dict[str, Any],
) -> None:
    kept = [trials[i] for i in style.thinned(len(trials), _MOST)] if trials else []
    if not kept:
        return
    failed = name == "failed"
    drawn.add_scatter(
        x=[at(t) for t in kept],
        # A failed trial has no score of its own, or one that is not finite.
        y=[bottom if failed else max(t.score, bottom) for t in kept],
        mode="markers",
        marker=mark,
        name=name,
        hovertext=[_hover(t) for t in kept],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _hover(trial: StudiedTrial) -> str:
    step = max(trial.reports, default=0)
    reason = str(trial.notes.get("reason", ""))[:90]
    text = f"trial {trial.number}, {trial.state}"
    if math.isfinite(trial.score):
        text += f"<br>score {trial.score:.4f} at step {step}"
    return text if trial.state == "complete" else f"{text}<br>{style.safe(reason)}"


def _message(found: Findings, places: dict[int, int]) -> str:
    line = best_so_far(found.trials)
    if not line:
        return "No trial has completed"
    best = next(t for t, value in line if value == line[-1][1])
    when = f"after {places[best.number]} of {len(places)} trials had ended"
    return f"The best score, {line[-1][1]:.3f}, came from trial {best.number}, {when}"


def _notes(found: Findings, ended: Sequence[StudiedTrial]) -> list[str]:
    notes = [
        "The best score of a search is too high on average, because it was selected for being "
        "high; the finalists are therefore retrained."
    ]
    if found.summary.stopped_early:
        notes.append(found.summary.stopped_early)
    else:
        notes.append("The expected gain of further trials is not recorded for this search.")
    if len(ended) > _MOST:
        notes.append(f"At most {_MOST} trials of each state are drawn, evenly spaced.")
    bounds = _score_range(found, ended)
    untrained = found.summary.untrained
    if untrained is not None and bounds is not None and untrained.score.mean < bounds[0]:
        notes.append(f"Without training the score is {untrained.score.mean:.3f}, below the figure.")
    below = sum(t.state != "failed" and t.score < (bounds or (0, 0))[0] for t in ended)
    if below:
        notes.append(f"Very low scores ({count(below, 'trial')}) are drawn at the lower edge.")
    return notes
