"""What adaptation does in the test worlds: returns after each step, and problems made worse."""

from collections.abc import Sequence

import plotly.graph_objects as go

from orchestrator.results.report.figures import style
from orchestrator.results.report.findings import Findings
from orchestrator.results.report.parts import Part, absent
from orchestrator.results.returns import Returns, header

_COLORS = {
    "candidate": style.BLUE,
    "uniform": style.ORANGE,
    "untrained": style.BLACK,
}
_MARKS = {"candidate": "circle", "uniform": "diamond", "untrained": "circle-open"}


def returns(found: Findings) -> Part:
    """Mean returns over the steps of adaptation, one figure for each test world."""
    key, topic = "returns", "What adaptation does to the returns"
    every = found.summary.returns
    if not every:
        return absent(key, topic, "The test worlds are played when the search has ended.")
    tasks = dict.fromkeys(each.task for each in every)
    drawn = {
        task: _drawn([each for each in every if each.task == task])
        for task in tasks
        if len(every[0].after) > 1
    }
    return Part(
        key,
        topic,
        _message(every[0]),
        "Mean returns over all test problems and training seeds after each step of adaptation; the "
        "last column is the share of problems whose last return is below the first.",
        drawn,
        table=[
            ["world", "policy", *header(every)],
            *([each.task, each.model, *each.cells] for each in every),
        ],
    )


def _message(shown: Returns) -> str:
    first, last, steps = shown.after[0], shown.after[-1], len(shown.after) - 1
    name = f"the {shown.model} in {shown.task}"
    if shown.worse is None:
        return f"The mean return of {name} is {first:.4g}"
    what = "1 step of adaptation changes" if steps == 1 else f"{steps} steps of adaptation change"
    return (
        f"{what} the mean return of {name} from {first:.4g} to {last:.4g}; "
        f"{100 * shown.worse:.0f} % of the problems get worse"
    )


def _drawn(every: Sequence[Returns]) -> go.Figure:
    drawn = style.figure(
        xaxis=style.axis("steps of adaptation", dtick=1), yaxis=style.axis("mean return")
    )
    for each in every:
        drawn.add_scatter(
            x=list(range(len(each.after))),
            y=list(each.after),
            mode="lines+markers",
            name=each.model,
            line={"color": _COLORS[each.model]},
            marker=style.marker(_COLORS[each.model], _MARKS[each.model]),
            hovertemplate=f"{each.model}<br>after %{{x}} steps: %{{y:.4g}}<extra></extra>",
        )
    return drawn
