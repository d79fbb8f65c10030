"""Who pays for the gain: the validation tasks of the best trials against uniform weights."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from orchestrator.record.studies.study import StudiedTrial
from orchestrator.results.report.figures import style
from orchestrator.results.report.findings import Findings
from orchestrator.results.report.parts import Part, absent, listed

_COLUMNS, _BEST, _ROWS = 24, 12, 40
_NUMBERS = 8  # of trials below the columns
# From vermillion over white to blue; the cells below zero also have a minus sign.
_SCALE = [[0.0, style.VERMILLION], [0.5, "#ffffff"], [1.0, style.BLUE]]

_BAR = {
    "orientation": "h",
    "thickness": 10,
    "len": 1.0,
    "y": 1.0,
    "yanchor": "bottom",
    "nticks": 5,
    "tickangle": 0,
}


def _skills(trial: StudiedTrial) -> dict[str, float]:
    tasks = trial.notes.get("tasks", {})
    return {task: float(of["skill"][0]) for task, of in tasks.items() if "skill" in of}


def held_out(found: Findings) -> Part:
    """A heat map: validation tasks by trials, as differences to the mean of the references."""
    key, topic = "held-out", "Who pays for the gain"
    references = [s for t in found.references if (s := _skills(t))]
    if not references:
        return absent(key, topic, "No trial with uniform weights has completed to compare with.")
    tasks = list(references[0])
    if len(tasks) < 2:
        return absent(key, topic, "There is one validation task, so no task pays for another.")
    usual = {task: float(np.mean([s[task] for s in references])) for task in tasks}
    own = [t for t in found.scored if not found.plan.space.is_reference(t.params) and _skills(t)]
    if not own:
        return absent(key, topic, "No trial with searched parameters has completed.")
    ranked = sorted(own, key=lambda t: (-t.score, t.number))
    shown = _chosen(ranked)
    candidate = found.best_trial if found.best_trial in own else ranked[0]
    if candidate is not None and candidate not in shown:
        shown = [candidate, *shown[:-1]]
    gain = {t: found.difference(_skills(candidate)[t] - usual[t]) for t in tasks}
    tasks = sorted(tasks, key=lambda task: -gain[task])
    kept = tasks if len(tasks) <= _ROWS else [*tasks[: _ROWS // 2], *tasks[-_ROWS // 2 :]]
    drawn = _heat_map(found, kept, shown, usual, candidate)
    place = shown.index(candidate) + 1
    notes = [f"The best trial, {candidate.number}, is column {place}."]
    if len(shown) < len(own):
        notes.append(
            f"{len(shown)} of {len(own)} complete trials are drawn: the best {_BEST}, and others "
            "evenly spaced."
        )
    if len(kept) < len(tasks):
        notes.append(f"{len(tasks) - len(kept)} tasks in the middle are not drawn.")
    return Part(
        key,
        topic,
        _message(found, gain, candidate),
        "Each cell is the score of a trial on a validation task minus the mean of the trials with "
        "the reference weights; a blue cell gains, and a red one with a minus sign pays.",
        {"": drawn},
        notes=notes,
    )


def _heat_map(
    found: Findings,
    tasks: Sequence[str],
    trials: Sequence[StudiedTrial],
    usual: Mapping[str, float],
    best: StudiedTrial,
) -> go.Figure:
    """One row for each task, one column for each trial. usual: the skills to compare with."""
    skills = [_skills(t) for t in trials]
    table = [[found.difference(of[task] - usual[task]) for of in skills] for task in tasks]
    finite = np.abs(np.array(table))
    most = float(np.quantile(finite[np.isfinite(finite)], 0.95)) or 1.0
    drawn = style.rows(tasks, xaxis=style.axis("trial, the best one first"))
    drawn.add_heatmap(
        z=table,
        x=list(range(len(trials))),
        y=list(range(len(tasks))),
        text=[["−" if value < 0 else "" for value in row] for row in table],
        texttemplate="%{text}",
        zmin=-most,
        zmax=most,
        colorscale=_SCALE,
        xgap=1,
        ygap=1,
        customdata=[[f"trial {t.number}, {style.safe(task)}" for t in trials] for task in tasks],
        hovertemplate="%{customdata}<br>%{z:+.2f} " + found.unit + "<extra></extra>",
        colorbar={**_BAR, "title": {"text": found.unit, "side": "top"}},
    )
    names = [f"<b>{t.number}</b>" if t is best else str(t.number) for t in trials]
    step = math.ceil(len(trials) / _NUMBERS)  # more numbers do not fit on a phone
    at = [i for i in range(len(trials)) if i % step == 0]
    ticks = {"tickvals": at, "ticktext": [names[i] for i in at], "tickangle": 0}
    drawn.update_xaxes(showgrid=False, **ticks)
    drawn.update_layout(height=drawn.layout.height + 54, margin={"t": 84})
    return drawn


def _chosen(ranked: list[StudiedTrial]) -> list[StudiedTrial]:
    """The best trials, and others evenly spaced."""
    if len(ranked) <= _COLUMNS:
        return ranked
    rest = ranked[_BEST:]
    return ranked[:_BEST] + [rest[i] for i in style.thinned(len(rest), _COLUMNS - _BEST)]


def _message(found: Findings, gain: dict[str, float], candidate: StudiedTrial) -> str:
    pays = sorted((t for t in gain if gain[t] < 0), key=lambda t: gain[t])
    if not pays:
        return f"No validation task pays: trial {candidate.number} gains on all {len(gain)}"
    digits = ".1f" if found.has_points else ".3g"
    worst = listed([f"{t} ({gain[t]:+{digits}})" for t in pays], at_most=2)
    return f"{len(pays)} of {len(gain)} validation tasks pay in trial {candidate.number}: {worst}"
