"""The similarity of training tasks to the validation tasks, beside the effects that were found."""

import math

import numpy as np

from orchestrator.results.report.figures import style
from orchestrator.results.report.findings import Findings
from orchestrator.results.report.parts import Part, absent
from orchestrator.results.similarity.agreement import rank_correlation
from orchestrator.search.finals.intervals import Interval


def similarity(found: Findings) -> Part:
    """The affinity that was measured before the first trial, and the effect of each task."""
    key, topic = "similarity", "Similar tasks"
    affinity = found.records.search.notes.get("affinity") or {}
    every = found.summary.explanation.effects
    if not affinity or not every:
        why = "The similarity of the tasks was not measured in this search"
        return absent(key, topic, f"{why}; `fewtune similarity CONFIG` measures it.")
    if math.isnan(every[0].effect.mean):
        return absent(key, topic, f"Effects can't be estimated: {every[0].effect.note}.")
    x = np.array([np.mean([affinity[task] for task in e.tasks]) for e in every])
    y = [found.difference(e.effect.mean) for e in every]
    agreed = rank_correlation(x, np.array(y))
    drawn = style.figure(
        380,
        xaxis=style.axis("affinity: nearness times skill of the untrained model"),
        yaxis=style.axis(f"effect ({found.unit})"),
        showlegend=False,
    )
    drawn.add_hline(0, line={"color": style.BLACK, "width": 1})
    drawn.add_scatter(
        x=x.tolist(),
        y=y,
        mode="markers+text" if len(every) <= _MOST else "markers",
        text=[style.label(e.task) for e in every],
        textposition="top center",
        textfont={"size": 11},
        marker=style.marker(style.BLUE, "circle"),
        error_y={
            **style.ends(
                y,
                [found.difference(e.effect.low) for e in every],
                [found.difference(e.effect.high) for e in every],
            ),
            "color": style.LIGHT,
        },
        hovertemplate="<b>%{text}</b><br>affinity %{x:.3f}<br>effect %{y:.2f}<extra></extra>",
        name="training tasks",
        cliponaxis=False,
    )
    return Part(
        key,
        topic,
        _message(agreed),
        "Each mark is a training task: how similar it looked before the first trial, and how much "
        "it helped; marks that rise to the right say that the similarity was a good guess.",
        {"": drawn},
        notes=["`fewtune similarity CONFIG` measures similarity in three ways, before any search."],
    )


_MOST = 25  # names that a figure has room for


def _message(agreed: Interval) -> str:
    if math.isnan(agreed.mean):
        return f"Whether similar tasks helped more is not known: {agreed.note}"
    told = f"rank correlation {agreed.mean:.2f}, {agreed.low:.2f} to {agreed.high:.2f}"
    if agreed.low > 0:
        return f"Similar tasks helped more ({told})"
    return f"It cannot be told whether similar tasks helped more ({told})"
