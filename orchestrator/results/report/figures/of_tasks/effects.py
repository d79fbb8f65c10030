"""Which training tasks help, and which weights the best trials have."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from orchestrator.results.explanation.explanation import TaskEffect
from orchestrator.results.report.figures import style
from orchestrator.results.report.findings import Findings
from orchestrator.results.report.parts import Part, absent, count, listed
from orchestrator.space.simplex import Simplex

_MARKS = {
    "helps": (style.BLUE, "circle"),
    "harms": (style.VERMILLION, "x"),
    "not needed": (style.ORANGE, "diamond-open"),
    "cannot be told": (style.GREY, "circle-open"),
}
_MOST = 60  # rows of a figure
_BEST = 10  # trials whose weights are shown

_NO_WEIGHTS = "The task weights are not searched, so there is nothing to compare."


def effects(found: Findings) -> Part:
    """The effect of each training task with its interval."""
    key, topic = "effects", "Effect of each training task"
    every = found.summary.explanation.effects
    if not every:
        return absent(key, topic, _NO_WEIGHTS)
    if math.isnan(every[0].effect.mean):
        return absent(key, topic, f"Effects can't be estimated: {every[0].effect.note}.")
    ranked = sorted(every, key=lambda e: -e.effect.mean)
    shown = _both_ends(ranked)
    drawn = style.rows([_name(e) for e in shown], xaxis=style.axis(f"effect ({found.unit})"))
    drawn.add_vline(0, line={"color": style.BLACK, "width": 1})
    for verdict, (color, symbol) in _MARKS.items():
        at = [i for i, e in enumerate(shown) if e.verdict == verdict]
        if not at:
            continue
        mean, low, high = (
            [found.difference(getattr(shown[i].effect, end)) for i in at]
            for end in ("mean", "low", "high")
        )
        drawn.add_scatter(
            x=mean,
            y=at,
            mode="markers",
            name=verdict,
            marker=style.marker(color, symbol),
            error_x={**style.ends(mean, low, high), "color": color},
            hovertext=[_hover(found, shown[i]) for i in at],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    notes = []
    if len(shown) < len(every):
        notes.append(f"{count(len(every) - len(shown), 'task')} in the middle are not drawn.")
    return Part(
        key,
        topic,
        _message(ranked),
        "Each mark says how much the score changes if the task gets a share of .1 instead of none "
        "while the others keep their proportions; the line is the 95 % interval, and a line that "
        "crosses zero means that help and harm can't be told apart.",
        {"": drawn},
        notes=notes,
    )


def _both_ends(ranked: Sequence[TaskEffect]) -> list[TaskEffect]:
    half = _MOST // 2
    return list(ranked) if len(ranked) <= _MOST else [*ranked[:half], *ranked[-half:]]


def _name(effect: TaskEffect) -> str:
    n = len(effect.tasks)
    return effect.task if n == 1 else f"{effect.task} ({n} tasks)"


def _hover(found: Findings, effect: TaskEffect) -> str:
    lines = [f"<b>{style.safe(_name(effect))}</b>: {effect.verdict}"]
    lines.append(f"effect {found.interval(effect.effect)}")
    if effect.weight is not None:
        lines.append(f"weight of the best trial {effect.weight:.2f}")
    if effect.good is not None:
        lines.append(f"as good within noise: {effect.good[0]:.2f} to {effect.good[1]:.2f}")
    return "<br>".join(lines)


def _message(ranked: Sequence[TaskEffect]) -> str:
    named = {
        verdict: [e.task for e in ranked if e.verdict == verdict]
        for verdict in ("helps", "harms", "not needed")
    }
    named["harms"].reverse()  # the most harmful first
    parts = []
    for verdict, one, many in (
        ("helps", "helps", "help"),
        ("harms", "harms", "harm"),
        ("not needed", "is not needed", "are not needed"),
    ):
        tasks = named[verdict]
        if tasks:
            parts.append(f"{listed(tasks)} {one if len(tasks) == 1 else many}")
    if not parts:
        return "Which tasks help cannot be told from these trials"
    rest = sum(e.verdict == "cannot be told" for e in ranked)
    if rest:
        parts.append(f"{count(rest, 'task')} cannot be told")
    return "; ".join(parts)


def weights(found: Findings) -> Part:
    """The weights of the best trials as ranges, beside the uniform ones and the prior."""
    key, topic = "weights", "Weights of the best trials"
    simplex = found.plan.space.weights
    if not isinstance(simplex, Simplex):
        return absent(key, topic, _NO_WEIGHTS)
    searched = [t for t in found.scored if not found.plan.space.is_reference(t.params)]
    best = sorted(searched, key=lambda t: (-t.score, t.number))[:_BEST]
    if not best:
        return absent(key, topic, "No trial with searched weights has completed.")
    table = {
        task: [t.notes["task_weights"][task] for t in best]
        for task in best[0].notes["task_weights"]
    }
    medians = {task: float(np.median(values)) for task, values in table.items()}
    ranked = sorted(table, key=lambda task: (-medians[task], task))
    shown = ranked[:_MOST]
    drawn = style.rows(shown, xaxis=style.axis("weight"))
    _good_ranges(found, drawn, shown)
    _ranges(drawn, {task: table[task] for task in shown}, len(best))
    _chosen_and_usual(found, simplex, drawn, shown)
    drawn.update_layout(margin={"t": 84}, height=drawn.layout.height + 50)
    heavy = [f"{task} ({medians[task]:.2f})" for task in shown[:3]]
    left = len(ranked) - len(shown)
    return Part(
        key,
        topic,
        f"The best trials give most weight to {listed(heavy)}",
        "A task whose range lies to the right of the dashed line got more than an equal share in "
        "every one of the best trials; the grey band, where there is one, holds the shares that "
        "are as good as the best within noise.",
        {"": drawn},
        notes=[f"{count(left, 'task')} with smaller weights are not drawn."] if left else [],
    )


def _ranges(drawn: go.Figure, table: Mapping[str, Sequence[float]], n: int) -> None:
    """The median, the lowest and the highest weight of each task in the best n trials."""
    low, middle, high = (
        [float(f(values)) for values in table.values()] for f in (min, np.median, max)
    )
    drawn.add_scatter(
        x=middle,
        y=list(range(len(table))),
        mode="markers",
        name=f"best {count(n, 'trial')}: median, lowest to highest",
        marker=style.marker(style.BLUE, "circle"),
        error_x={**style.ends(middle, low, high), "color": style.BLUE},
        hovertext=[
            f"<b>{style.safe(task)}</b><br>median {m:.3f}, {a:.3f} to {b:.3f}"
            for task, a, m, b in zip(table, low, middle, high, strict=True)
        ],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _chosen_and_usual(
    found: Findings, simplex: Simplex, drawn: go.Figure, shown: Sequence[str]
) -> None:
    """The weights of the best candidate, the prior if it is not uniform, and uniform weights."""
    marks = []
    chosen = found.summary.candidate
    if chosen is not None:
        star = style.marker(style.BLACK, "star-open", 12, line={"width": 2})
        marks.append((f"best candidate (trial {chosen.number})", star, chosen.task_weights))
    uniform = 1 / len(simplex.tasks)
    prior = dict(zip(simplex.tasks, simplex.prior, strict=True))
    if any(abs(value - uniform) > 1e-9 for value in prior.values()):
        marks.append(("prior", style.marker(style.PURPLE, "triangle-up-open"), prior))
    for name, mark, of in marks:
        at = list(range(len(shown)))
        x = [of[task] for task in shown]
        drawn.add_scatter(x=x, y=at, mode="markers", name=name, marker=mark)
    drawn.add_scatter(
        x=[uniform, uniform],
        y=[-0.6, len(shown) - 0.4],
        mode="lines",
        name=f"uniform ({uniform:.3g})",
        line={"color": style.ORANGE, "dash": "dash", "width": 2},
    )


def _good_ranges(found: Findings, drawn: go.Figure, shown: Sequence[str]) -> None:
    """Grey bands: the shares of each task that are as good as the best within noise."""
    good = {
        task: (e.good[0] / len(e.tasks), e.good[1] / len(e.tasks))
        for e in found.summary.explanation.effects
        if e.good is not None
        for task in e.tasks
    }
    if not good:
        return
    drawn.add_bar(
        orientation="h",
        base=[good[task][0] for task in shown],
        x=[good[task][1] - good[task][0] for task in shown],
        y=list(range(len(shown))),
        width=0.62,
        name="as good as the best within noise",
        marker={"color": style.LIGHT},
        hovertext=[f"{good[t][0]:.3f} to {good[t][1]:.3f}" for t in shown],
        hovertemplate="as good: %{hovertext}<extra></extra>",
    )
