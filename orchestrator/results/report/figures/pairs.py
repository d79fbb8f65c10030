"""Figures of two searches side by side."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from orchestrator.results.explanation.explanation import TaskEffect
from orchestrator.results.report.comparable import settings
from orchestrator.results.report.figures import style
from orchestrator.results.report.figures.progress import best_so_far
from orchestrator.results.report.findings import Findings
from orchestrator.results.report.parts import Part, absent, count
from orchestrator.results.retrained import Finalist
from orchestrator.search.finals.intervals import Interval

_LOOKS = ((style.BLUE, "circle", "solid"), (style.VERMILLION, "diamond-open", "dash"))
_MOST = 60  # rows of a figure or table


class Pair(NamedTuple):
    """Two searches."""

    a: Findings
    b: Findings

    @property
    def names(self) -> tuple[str, str]:
        return self.a.summary.name, self.b.summary.name


def differing(pair: Pair) -> Part:
    """The settings that differ."""
    key, topic = "settings", "Settings that differ"
    rows = list(settings(*pair))
    if not rows:
        return absent(key, topic, "The configs are the same except for the name.")
    left = len(rows) - _MOST
    return Part(
        key,
        topic,
        f"{count(len(rows), 'setting')} {'differs' if len(rows) == 1 else 'differ'}",
        "One row for each key of the configs whose values differ.",
        table=[("key", *pair.names), *rows[:_MOST]],
        notes=[f"{count(left, 'further setting')} are not listed."] if left > 0 else [],
    )


def finalists(pair: Pair) -> Part:
    """All finalists with their scores on fresh validation episodes."""
    key, topic = "finalists", "Finalists"
    rows = [
        (name, found, finalist)
        for name, found in zip(pair.names, pair, strict=True)
        for finalist in found.summary.finalists
        if math.isfinite(finalist.score.mean)
    ]
    if not rows:
        return absent(key, topic, "Neither search has retrained finalists.")
    labels = [f"{name}: {_role(finalist)}" for name, _, finalist in rows]
    drawn = style.rows([_role(finalist) for _, _, finalist in rows], xaxis=style.axis("score"))
    for found, name, (color, symbol, _) in zip(pair, pair.names, _LOOKS, strict=True):
        at = [i for i, row in enumerate(rows) if row[1] is found]
        values = [rows[i][2].score for i in at]
        hover = [f"<b>{style.safe(labels[i])}</b>" for i in at]
        _add(drawn, name, (color, symbol), values, at, hover)
    return Part(
        key,
        topic,
        "Scores of the retrained finalists",
        "Each mark is the score of a retrained model on fresh validation episodes with its 95 % "
        "interval; compare scores of the two searches only if their validation tasks are the same.",
        {"": drawn},
    )


def _role(finalist: Finalist) -> str:
    if finalist.role == "untrained":
        return "no training"
    return f"{'uniform' if finalist.role == 'uniform' else 'trial'} {finalist.number}"


def _add(
    drawn: go.Figure,
    name: str,
    look: tuple[str, str],
    values: Sequence[Interval],
    at: Sequence[float],
    hover: Sequence[str],
    scale: float = 1.0,
) -> None:
    mean, low, high = ([scale * getattr(v, end) for v in values] for end in ("mean", "low", "high"))
    drawn.add_scatter(
        x=mean,
        y=list(at),
        mode="markers",
        name=style.label(name),
        marker=style.marker(*look, 10),
        error_x={**style.ends(mean, low, high), "color": look[0]},
        hovertext=[f"{h}<br>{m:.4g}" for h, m in zip(hover, mean, strict=True)],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def weights(pair: Pair) -> Part:
    """The weights of the best candidates."""
    key, topic = "weights", "Weights of the best candidates"
    chosen = [found.summary.candidate for found in pair]
    tables = [dict(c.task_weights) if c is not None else {} for c in chosen]
    tasks = list(dict.fromkeys(task for table in tables for task in table))
    if not tasks:
        return absent(key, topic, "Neither search has a best candidate with task weights.")
    tasks.sort(key=lambda task: -max(table.get(task, 0.0) for table in tables))
    shown = tasks[:_MOST]
    drawn = style.rows(shown, xaxis=style.axis("weight"))
    for place, (name, table, (color, symbol, _)) in enumerate(
        zip(pair.names, tables, _LOOKS, strict=True)
    ):
        own = [i for i, task in enumerate(shown) if task in table]
        drawn.add_scatter(
            x=[table[shown[i]] for i in own],
            y=[i + (place - 0.5) * 0.3 for i in own],
            mode="markers",
            name=style.label(name),
            marker=style.marker(color, symbol, 10),
            hovertext=[style.safe(shown[i]) for i in own],
            hovertemplate="%{hovertext}: %{x:.3f}<extra></extra>",
        )
    left = len(tasks) - len(shown)
    return Part(
        key,
        topic,
        "Weights of the best candidates",
        "One row for each training task; a task without a mark is not in that search.",
        {"": drawn},
        notes=[f"{count(left, 'task')} with smaller weights are not drawn."] if left else [],
    )


def progress(pair: Pair) -> Part:
    """The best score so far of both searches."""
    key, topic = "progress", "Best score so far"
    lines = [best_so_far(found.trials) for found in pair]
    if not any(lines):
        return absent(key, topic, "No trial has completed in either search.")
    drawn = {}
    for figure, title in (("trials", "complete trials"), ("time", "minutes since the start")):
        drawn[figure] = style.figure(
            360, xaxis=style.axis(title, rangemode="tozero"), yaxis=style.axis("best score")
        )
        for found, name, line, (color, _, dash) in zip(
            pair, pair.names, lines, _LOOKS, strict=True
        ):
            begin = min((t.started for t in found.trials if t.started is not None), default=0.0)
            known = [(i, t, best) for i, (t, best) in enumerate(line) if t.ended is not None]
            drawn[figure].add_scatter(
                x=[
                    i + 1 if figure == "trials" else ((t.ended or begin) - begin) / 60
                    for i, t, _ in known
                ],
                y=[best for *_, best in known],
                mode="lines",
                line={"color": color, "dash": dash, "shape": "hv", "width": 2},
                name=style.label(name),
            )
        if (bounds := style.score_range([best for line in lines for _, best in line])) is not None:
            drawn[figure].update_yaxes(range=list(bounds))
    return Part(
        key,
        topic,
        "Best score so far in both searches",
        "The higher line has the better score by then; scores can be compared only if the "
        "validation tasks of both searches are the same.",
        drawn,
    )


def effects(pair: Pair) -> Part:
    """The effects of the training tasks in both searches."""
    key, topic = "effects", "Effect of each training task"
    tables: list[dict[str, TaskEffect]] = [
        {e.task: e for e in found.summary.explanation.effects if math.isfinite(e.effect.mean)}
        for found in pair
    ]
    tasks = list(dict.fromkeys(task for table in tables for task in table))
    if not tasks:
        return absent(key, topic, "Neither search has enough trials with searched weights.")
    means = {t: max(table[t].effect.mean for table in tables if t in table) for t in tasks}
    tasks.sort(key=lambda task: -means[task])
    shown = tasks if len(tasks) <= _MOST else [*tasks[: _MOST // 2], *tasks[-_MOST // 2 :]]
    drawn = style.rows(shown, xaxis=style.axis(f"effect ({pair.a.unit})"))
    drawn.add_vline(0, line={"color": style.BLACK, "width": 1})
    for place, (name, table, (color, symbol, _)) in enumerate(
        zip(pair.names, tables, _LOOKS, strict=True)
    ):
        own = [i for i, task in enumerate(shown) if task in table]
        if own:
            values = [table[shown[i]].effect for i in own]
            at = [i + (place - 0.5) * 0.3 for i in own]
            hover = [f"<b>{style.safe(shown[i])}</b>: {table[shown[i]].verdict}" for i in own]
            scale = 100.0 if pair.a.has_points else 1.0
            _add(drawn, name, (color, symbol), values, at, hover, scale)
    agree = [t for t in shown if all(t in table for table in tables)]
    same = sum(tables[0][t].verdict == tables[1][t].verdict for t in agree)
    left = len(tasks) - len(shown)
    return Part(
        key,
        topic,
        f"{same} of {len(agree)} common training tasks have the same verdict"
        if agree
        else "The searches have no training task in common",
        "Each mark is the change of the score if the task gets a share of .1 instead of none, with "
        "its 95 % interval.",
        {"": drawn},
        notes=[f"{count(left, 'task')} in the middle are not drawn."] if left else [],
    )
