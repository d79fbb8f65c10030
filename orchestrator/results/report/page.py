"""Writes parts as one HTML page that opens without a network.

Plotly's JavaScript is in the page. Every text is escaped, and the page's content security policy
forbids all requests.
"""

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from plotly.offline import get_plotlyjs

from orchestrator.results.report.answer import Answer
from orchestrator.results.report.parts import Part

_MARKS = {"better": "▲", "no better": "▼", "undecided": "?", None: "–"}
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)
_STYLE = """
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; background: #fff; color: #222; line-height: 1.5; overflow-wrap: anywhere;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; }
main { max-width: 980px; margin: 0 auto; padding: 0 16px 48px; }
header p, .caption, .note, .missing, footer { color: #555; }
header p { margin: 20px 0 0; }
h1 { font-size: 30px; line-height: 1.2; margin: 4px 0 12px; }
h2 { font-size: 20px; line-height: 1.3; margin: 0 0 4px; }
h3 { font-size: 16px; margin: 16px 0 4px; }
.answer { font-size: 18px; margin: 0 0 12px; }
.tiles, .grid { display: grid; gap: 12px; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); margin: 16px 0; }
.grid { grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); }
.tile { border: 1px solid #bbb; border-left: 8px solid #767676; border-radius: 4px;
  padding: 10px 14px; }
.tile.better { border-left-color: #0072B2; }
.tile.no-better { border-left-color: #D55E00; }
.tile b { display: block; font-size: 19px; }
.tile small { color: #555; }
nav { font-size: 14px; margin: 20px 0 0; }
nav a { display: inline-block; margin: 0 14px 4px 0; }
a { color: #005a8c; }
section { border-top: 1px solid #ddd; padding-top: 20px; margin-top: 28px; }
.topic { font-size: 13px; color: #555; margin: 0; }
.caption { margin: 0 0 8px; }
.note { font-size: 14px; margin: 4px 0; }
.plot { width: 100%; }
.scroll { overflow: auto; max-height: 560px; }
table { border-collapse: collapse; font-size: 14px; margin: 8px 0; min-width: 60%; }
th, td { text-align: left; vertical-align: top; padding: 4px 12px 4px 0;
  border-bottom: 1px solid #e5e5e5; }
th { font-weight: 600; overflow-wrap: normal; }
td { overflow-wrap: normal; }
pre { background: #f6f6f6; border: 1px solid #e5e5e5; border-radius: 4px; padding: 10px;
  overflow: auto; max-height: 420px; font-size: 13px; overflow-wrap: normal; }
footer { font-size: 13px; border-top: 1px solid #ddd; margin-top: 32px; padding-top: 8px; }
.pair { display: grid; gap: 0 28px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr)); }
@media (max-width: 500px) { h1 { font-size: 24px; } .answer { font-size: 16px; } }
@media print { nav { display: none; } section { break-inside: avoid; } pre { max-height: none; } }
"""
_SCRIPT = """
const figures = JSON.parse(document.getElementById("figures").textContent);
const options = {displaylogo: false, responsive: true,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoom2d", "pan2d", "zoomIn2d",
    "zoomOut2d"]};
for (const [id, figure] of Object.entries(figures)) {
  Plotly.newPlot(id, figure.data, figure.layout, options);
}
"""


def page(
    title: str,
    intro: str,
    answers: Sequence[tuple[str, Answer]],
    parts: Sequence[Part],
    data: Mapping[str, Any],
    footer: str,
    lead: str = "",
) -> str:
    """The page as HTML.

    intro: a line above the answers. lead: a headline above several answers. answers: with the name
    of their search; one answer, or two side by side. data: plain values that programs can read from
    the page.
    """
    shown = "".join(_answer(name if len(answers) > 1 else "", a) for name, a in answers)
    told = dict.fromkeys(a.terms for _, a in answers)
    terms = "".join(f'<p class="note">{_text(text)}</p>' for text in told)
    if len(answers) > 1:
        shown = f'<h1>{_text(lead)}</h1><div class="pair">{shown}</div>'
    links = "".join(f'<a href="#{part.key}">{_text(part.topic)}</a>' for part in parts)
    figures = {
        _id(part, name): json.loads(drawn.to_json())
        for part in parts
        for name, drawn in part.figures.items()
    }
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{_text(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<header><p>{_text(intro)}</p>{shown}{terms}<nav>{links}</nav></header>
{"".join(map(_section, parts))}
<footer>{_text(footer)}</footer>
</main>
<script type="application/json" id="search">{_json(data)}</script>
<script type="application/json" id="figures">{_json(figures)}</script>
<script>{get_plotlyjs()}</script>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _id(part: Part, name: str) -> str:
    return f"plot-{part.key}-{name}" if name else f"plot-{part.key}"


def _answer(name: str, answer: Answer) -> str:
    tiles = "".join(
        f'<div class="tile {(a.verdict or "unknown").replace(" ", "-")}">'
        f"against {_text(a.name)}"
        f"<b>{_MARKS[a.verdict]} {_text(a.verdict or a.value)}</b>"
        f"{_text(a.value) if a.verdict else ''} <small>{_text(a.detail)}</small></div>"
        for a in answer.against
    )
    head = f"<h1>{_text(answer.headline)}</h1>"
    if name:
        head = f'<p class="topic">{_text(name)}</p><h2>{_text(answer.headline)}</h2>'
    return (
        f"<div>{head}"
        f'<p class="answer">{_text(answer.text)} {_text(answer.exported)}</p>'
        f'<div class="tiles">{tiles}</div></div>'
    )


def _section(part: Part) -> str:
    if part.missing:
        inner = f'<p class="missing">{_text(part.missing)}</p>'
        return f'<section id="{part.key}"><h2>{_text(part.topic)}</h2>{inner}</section>\n'
    plots = "".join(f'<div class="plot" id="{_id(part, name)}"></div>' for name in part.figures)
    if len(part.figures) > 1:
        plots = f'<div class="grid">{plots}</div>'
    return (
        f'<section id="{part.key}"><p class="topic">{_text(part.topic)}</p>'
        f"<h2>{_text(part.title)}</h2>"
        + (f'<p class="caption">{_text(part.caption)}</p>' if part.caption else "")
        + plots
        + _table(part.table)
        + "".join(f"<h3>{_text(h)}</h3><pre>{_text(t)}</pre>" for h, t in part.blocks.items())
        + "".join(f'<p class="note">{_text(note)}</p>' for note in part.notes)
        + "</section>\n"
    )


def _table(rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return ""
    header, *body = rows
    head = "".join(f"<th>{_text(cell)}</th>" for cell in header)
    cells = "".join(
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in body
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{cells}</tbody></table></div>"
    )


def _text(value: object) -> str:
    return html.escape(str(value))


def _json(value: Any) -> str:
    """JSON that cannot end the script element in which it stands."""
    return json.dumps(value).replace("<", "\\u003c")
