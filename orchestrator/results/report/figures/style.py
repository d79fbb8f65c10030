"""The look of all figures: colours and symbols that differ in greyscale, sizes, labels."""

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from orchestrator.results.report.parts import short

# Okabe and Ito, "Color universal design", 2008: told apart by people with any colour vision. Each
# meaning also has a symbol or a dash of its own, so that a greyscale print can be read.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#767676"
LIGHT = "#D9D9D9"

_ROW, _ABOVE = 26, 96  # heights in pixels: of one row of a chart with names, of what is around it
_LEAST = 3  # a figure has room for so many rows, so that the axis below fits
_LONGEST = 20  # characters of a name on an axis
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"


def safe(name: object) -> str:
    """A name from a config as Plotly shows it. Plotly reads a few HTML tags in texts."""
    return html.escape(str(name), quote=False)


def label(name: object) -> str:
    """A name for an axis: its middle is left out if it is long."""
    return safe(short(str(name), _LONGEST))


def figure(height: int = 340, **layout: Any) -> go.Figure:
    """An empty figure with the common layout."""
    return go.Figure(
        layout={
            "template": "none",
            "height": height,
            "font": {"family": _FONT, "size": 13, "color": "#222222"},
            "margin": {"l": 10, "r": 14, "t": 34, "b": 10},
            "legend": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "y": 1.0,
                "yanchor": "bottom",
            },
            "showlegend": True,
            "hoverlabel": {"align": "left"},
            "plot_bgcolor": "#ffffff",
            **layout,
        }
    )


def axis(title: str = "", **options: Any) -> dict[str, Any]:
    """A quiet axis with a title."""
    return {
        "title": {"text": title, "standoff": 6},
        "automargin": True,
        "gridcolor": "#eeeeee",
        "zeroline": False,
        "linecolor": "#999999",
        "ticks": "outside",
        "tickcolor": "#999999",
        **options,
    }


def rows(names: Sequence[str], **layout: Any) -> go.Figure:
    """A figure with one row for each name, the first one at the top, at y = 0, 1, .."""
    n = len(names)
    below = axis(
        tickvals=list(range(n)), ticktext=[label(name) for name in names], range=[n - 0.4, -0.6]
    )
    return figure(_ABOVE + _ROW * max(n, _LEAST), yaxis=below, **layout)


def marker(color: str, symbol: str, size: int = 9, **options: Any) -> dict[str, Any]:
    return {"color": color, "symbol": symbol, "size": size, **options}


def ends(means: Sequence[float], lows: Sequence[float], highs: Sequence[float]) -> dict[str, Any]:
    """Error bars from `lows` to `highs`; none where an end is NaN."""

    def lengths(above: Sequence[float], below: Sequence[float]) -> list[float]:
        pairs = zip(above, below, strict=True)
        return [0.0 if math.isnan(a - b) else a - b for a, b in pairs]

    return {
        "type": "data",
        "symmetric": False,
        "array": lengths(highs, means),
        "arrayminus": lengths(means, lows),
        "thickness": 1.5,
        "width": 4,
    }


def thinned(n: int, at_most: int) -> list[int]:
    """Indices of at most so many of n items, evenly spaced, with the first and the last one."""
    return sorted(set(np.linspace(0, n - 1, min(n, at_most)).astype(int).tolist()))


def score_range(scores: Sequence[float]) -> tuple[float, float] | None:
    """The part of the axis of scores worth showing: without a few very bad ones.

    None if there are no finite scores.
    """
    finite = np.array([s for s in scores if math.isfinite(s)])
    if not len(finite):
        return None
    top, low, middle = finite.max(), finite.min(), float(np.median(finite))
    bottom = max(float(low), middle - 3 * float(top - middle)) if top > middle else float(low)
    room = 0.1 * (float(top) - bottom) or 0.05
    return bottom - room, float(top) + room
