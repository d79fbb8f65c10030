"""The similarity of tasks as a figure, and as an HTML file that opens offline."""

import html
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fewshot.metrics import Estimate
from fewshot.tasks.files import write_text
from orchestrator.results.similarity.similarity import TaskSimilarity
from trials.programs.similarity.similarity import MEASURES, Measure, Similarity

# One hue from light to dark, legible in greyscale and to the colour-blind.
_COLOURS = "Cividis"
_ROW, _MARGIN = 26, 160  # pixels
_TITLES: dict[Measure, str] = {
    "transfer": "transfer of linear probes (gain in skill over permuted labels)",
    "nearness": "nearness (1 is the average training task)",
    "gradient": "cosine of gradients at initialisation",
}


def figure(found: Similarity) -> go.Figure:
    """A heat map for each measure, most similar tasks on top, beside its means with intervals."""
    shown = [measure for measure in MEASURES if measure in found.tables]
    tasks = found.ranking()
    titles = [title for m in shown for title in (_TITLES[m], "mean, 95 % interval")]
    made = make_subplots(
        rows=len(shown),
        cols=2,
        column_widths=[0.65, 0.35],
        shared_yaxes=True,
        subplot_titles=titles,
        horizontal_spacing=0.04,
    )
    for i, measure in enumerate(shown):
        made.add_trace(_heat_map(found, measure, tasks), row=i + 1, col=1)
        made.add_trace(_means(found, measure, tasks), row=i + 1, col=2)
        made.update_yaxes(autorange="reversed", row=i + 1)
    height = len(shown) * (_ROW * len(tasks) + _MARGIN)
    made.update_layout(height=height, template="plotly_white", showlegend=False)
    return made


def _heat_map(found: Similarity, measure: Measure, tasks: Sequence[str]) -> go.Heatmap:
    rows = dict(zip(found.train, found.tables[measure], strict=True))
    return go.Heatmap(
        name=measure,
        x=list(found.validation),
        y=list(tasks),
        z=[[one.mean for one in rows[task]] for task in tasks],
        customdata=[[_interval(one) for one in rows[task]] for task in tasks],
        colorscale=_COLOURS,
        showscale=False,
        texttemplate="%{z:.2f}",
        hovertemplate="%{y} on %{x}: %{z:.3f} (%{customdata})<extra></extra>",
    )


def _means(found: Similarity, measure: Measure, tasks: Sequence[str]) -> go.Scatter:
    means = found.means(measure)
    return go.Scatter(
        name=f"mean {measure}",
        x=[means[task].mean for task in tasks],
        y=list(tasks),
        error_x={"type": "data", "array": [1.96 * means[task].standard_error for task in tasks]},
        mode="markers",
        marker={"color": "black"},
        hovertemplate="%{y}: %{x:.3f}<extra></extra>",
    )


def _interval(one: Estimate) -> str:
    low, high = one.interval()
    return f"{low:.3f} to {high:.3f}"


def write_html(found: TaskSimilarity, name: str, path: Path) -> None:
    """Write the warnings and the figure to one file, which needs no network."""
    body = figure(found.measures).to_html(full_html=False, include_plotlyjs=True)
    warnings = "".join(f"<li>{html.escape(str(warning))}</li>" for warning in found.warnings)
    said = f"<ul>{warnings}</ul>" if warnings else "<p>No warnings.</p>"
    title = f"{html.escape(name)}: similarity of training and validation tasks"
    write_text(
        path,
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{title}</title></head>\n"
        f'<body style="font-family: sans-serif"><h1>{title}</h1>\n{said}\n{body}</body></html>\n',
    )
