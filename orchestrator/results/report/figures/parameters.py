"""The score over each rate, temperature, soft weight and choice."""

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from orchestrator.record.studies.study import StudiedTrial
from orchestrator.results.report.figures import style
from orchestrator.results.report.findings import Findings
from orchestrator.results.report.parts import Part, absent, listed
from orchestrator.search.advice import on_edges
from orchestrator.space.choices import Choice, WholeRange
from orchestrator.space.search_space import Range

_MOST, _FIGURES = 400, 12  # marks of each state in a figure, and figures
_EDGE = 0.05  # part of a range that is shaded where the best trial is at its end
_SPREAD = 0.28  # of the marks of one option

_LOOKS = {
    "pruned": (style.GREY, "line-ew-open", 7),
    "complete": (style.BLUE, "circle", 7),
    "reference": (style.ORANGE, "diamond", 8),
}


def parameters(found: Findings) -> Part:
    """A figure for each searched parameter that is no weight; optima at an edge are flagged."""
    key, topic = "parameters", "Score over each rate and choice"
    space = found.plan.space.parameters()
    if not space:
        return absent(key, topic, "The rates are fixed, and no options are searched.")
    drawn_trials = [
        t for t in found.trials if t.state in ("complete", "pruned") and math.isfinite(t.score)
    ]
    if not drawn_trials:
        return absent(key, topic, "No trial has a score.")
    importances = found.summary.explanation.importances
    names = sorted(space, key=lambda name: -importances.get(name, 0.0))[:_FIGURES]
    best = found.best_trial
    edges = {} if best is None else _edges(found, best)
    figures = {
        str(i): _figure(found, name, space[name], drawn_trials, best, edges.get(name))
        for i, name in enumerate(names)
    }
    at_edge = [name for name in names if name in edges]
    ends = "the end of its range" if len(at_edge) == 1 else "the ends of their ranges"
    message = (
        f"The best trial is at {ends}: {listed(at_edge)}"
        if at_edge
        else "The best trial is inside of every range"
    )
    notes = [f"{name}: {text}" for name, (_, text) in edges.items()]
    if len(space) > len(names):
        notes.append(f"Only the {len(names)} most important of {len(space)} are drawn.")
    if len(drawn_trials) > _MOST:
        notes.append(f"At most {_MOST} trials of each state are drawn, evenly spaced.")
    return Part(
        key,
        topic,
        message if best is not None else "No trial has completed",
        "Good values are where the blue marks are highest; a shaded edge says that the best trial "
        "lies there, so better values may lie beyond the range.",
        figures,
        notes=notes,
    )


def _edges(found: Findings, best: StudiedTrial) -> dict[str, tuple[str, str]]:
    """By parameter: the end of its range at which the best trial is, and advice."""
    edges = {}
    for advice in on_edges(found.plan.space, [best]):
        name, _, end = advice.path.removeprefix("space.").rpartition(".")
        edges[name] = end, f"{advice.warning} {advice.remedy}"
    return edges


def _figure(
    found: Findings,
    name: str,
    of: Range | Choice | WholeRange,
    trials: Sequence[StudiedTrial],
    best: StudiedTrial | None,
    edge: tuple[str, str] | None,
) -> go.Figure:
    own = [t for t in trials if name in t.params]
    title = style.safe(name) + (" (at the edge)" if edge else "")
    drawn = style.figure(300, xaxis=style.axis(title), yaxis=style.axis("score"))
    drawn.update_layout(margin={"t": 60})
    if (bounds := style.score_range([t.score for t in trials])) is not None:
        drawn.update_yaxes(range=list(bounds))
    options: Sequence[object] = of.options if isinstance(of, Choice) else ()
    if options:
        drawn.update_xaxes(
            tickvals=list(range(len(options))), ticktext=[style.label(o) for o in options]
        )
    elif isinstance(of, Range) and of.log:
        drawn.update_xaxes(type="log", dtick="D2", exponentformat="e")
    if not isinstance(of, Choice):
        drawn.update_xaxes(range=_span(of))
    low = -math.inf if bounds is None else bounds[0]
    _marks(found, drawn, own, (name, options), low)
    if best is not None and name in best.params:
        drawn.add_scatter(
            x=[_place(best, name, options)],
            y=[best.score],
            mode="markers",
            marker=style.marker(style.BLACK, "star-open", 14, line={"width": 2}),
            name=f"best (trial {best.number})",
        )
    if edge is not None and isinstance(of, Range):
        inner, end = (_EDGE, 0.0) if edge[0] == "low" else (1 - _EDGE, 1.0)
        shade = {"fillcolor": style.VERMILLION, "opacity": 0.2, "line_width": 0}
        drawn.add_vrect(min(of.at(inner), of.at(end)), max(of.at(inner), of.at(end)), **shade)
    return drawn


def _marks(
    found: Findings,
    drawn: go.Figure,
    trials: Sequence[StudiedTrial],
    of: tuple[str, Sequence[object]],
    low: float,
) -> None:
    """One trace for each group of trials. of: the parameter and its options; low: the axis' end."""
    is_reference = found.plan.space.is_reference
    complete = [t for t in trials if t.state == "complete"]
    groups = {
        "pruned": [t for t in trials if t.state == "pruned"],
        "complete": [t for t in complete if not is_reference(t.params)],
        "reference": [t for t in complete if is_reference(t.params)],
    }
    name, options = of
    for group, own in groups.items():
        kept = [own[i] for i in style.thinned(len(own), _MOST)] if own else []
        if kept:
            drawn.add_scatter(
                x=[_place(t, name, options) for t in kept],
                y=[max(t.score, low) for t in kept],
                mode="markers",
                marker=style.marker(*_LOOKS[group]),
                name=group,
                hovertext=[f"trial {t.number}: {style.safe(t.params[name])}" for t in kept],
                hovertemplate="%{hovertext}<br>score %{y:.4f}<extra></extra>",
            )


def _span(of: Range | WholeRange) -> list[float]:
    """The range with some room at both ends, as Plotly wants it: logarithms on a log axis."""
    low, high = float(of.low), float(of.high)
    if isinstance(of, Range) and of.log:
        low, high = math.log10(low), math.log10(high)
    room = 0.04 * (high - low)
    return [low - room, high + room]


def _place(trial: StudiedTrial, name: str, options: Sequence[object]) -> float:
    """The value, or the index of the option moved a little, so that marks do not hide others."""
    value = trial.params[name]
    if not options:
        return float(value)
    moved = (trial.number * 0.618034) % 1.0  # evenly spread for any number of trials
    return options.index(value) + _SPREAD * (2 * moved - 1)
