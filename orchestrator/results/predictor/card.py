"""The README of a predictor, in Markdown."""

from collections.abc import Mapping, Sequence

from orchestrator.results.predictor.folder import PredictorParts

_DATA = {"text": "more.csv", "images": "more_images", "table": "more.csv"}
_SHOWN = 20  # classes


def predictor_card(parts: PredictorParts, metrics: Mapping[str, float]) -> str:
    """What the predictor predicts, how well, and how it is used.

    metrics: on labelled rows that it did not learn from; may be empty.
    """
    data = _DATA.get(parts.data.name, "MORE")
    names = ", ".join(f"`{name}`" for name in parts.classes[:_SHOWN])
    more = len(parts.classes) - _SHOWN
    what = f"one of {len(parts.classes)} classes" if parts.classes else "a number"
    lines = [
        f"# {parts.name}",
        "",
        f"Predicts `{parts.label}`, {what}. It learned from {parts.examples} labelled examples.",
        "",
        f"- Model: {parts.recipe.model.name}, learner: {parts.recipe.learner.name}.",
        *([f"- Classes: {names}{f' and {more} more' if more > 0 else ''}."] if names else []),
        *(f"- {name} on labelled examples that it did not learn from: {value:.4g}."
          for name, value in metrics.items()),
        *_kept(parts),
        "",
        "## Use",
        "",
        "```sh",
        f"fewtune predict . --data {data} --out predictions.csv",
        "```",
        "",
        "```python",
        "from orchestrator import Predictor",
        "",
        f'Predictor.load(".").predict({_example(parts)})',
        "```",
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def section(title: str, lines: Sequence[str]) -> str:
    """A section that is added to a card."""
    return "\n".join(["", f"## {title}", "", *lines, ""])


def _kept(parts: PredictorParts) -> list[str]:
    if parts.model.support is None:
        return []
    return [
        "- `model.safetensors` contains the examples that the model learned from, because its "
        "predictions depend on them."
    ]


def _example(parts: PredictorParts) -> str:
    if parts.data.name == "text":
        return '["a text"]'
    return "images" if parts.data.name == "images" else "table"
