"""The rules of `{choices: [..]}` and `{low: .., high: .., step: ..}`, wherever they stand.

They have the same meaning in options of the recipe and in the space of an own loop: one of several
options; with `step`, the whole numbers low, low + step, .., high. A range without `step` has real
numbers, which an option of the recipe can't be.
"""

from collections.abc import Mapping
from typing import Any

from fewshot.errors.inputs import ErrorDetail

_KEYS = ("low", "high", "step")


def errors_of(node: Mapping[str, Any], place: str = "") -> list[ErrorDetail]:
    """The errors of choices, or of a range of whole numbers. place: the path of `node`."""
    known = ("choices",) if "choices" in node else _KEYS
    details = [
        ErrorDetail(_at(place, str(key)), f"can't be beside {known[0]}.", None, "Remove it.")
        for key in node
        if key not in known
    ]
    rules = _errors_of_choices if "choices" in node else _errors_of_range
    return details + rules(node, place)


def _at(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _errors_of_choices(node: Mapping[str, Any], place: str) -> list[ErrorDetail]:
    options, path = node["choices"], _at(place, "choices")
    if not isinstance(options, list) or len(options) < 2:
        return [ErrorDetail(path, "must be a list of at least two options.", options)]
    details = []
    if any(option in options[:i] for i, option in enumerate(options)):
        rule = "must not have an option twice."
        details.append(ErrorDetail(path, rule, options, "1, 1.0 and true are the same option."))
    if any(option is None for option in options):
        details.append(ErrorDetail(path, "must not have an empty option.", None))
    return details


def _errors_of_range(node: Mapping[str, Any], place: str) -> list[ErrorDetail]:
    low, high, step = (node.get(key) for key in _KEYS)
    if not (type(low) is int and type(high) is int and type(step) is int):
        rule = "must have whole numbers as `low`, `high` and `step`."
        remedy = "For other numbers give {choices: [..]}."
        if step is None and type(low) is int and type(high) is int:
            remedy = f"Write {{low: {low}, high: {high}, step: 1}} for all numbers of the range."
        return [ErrorDetail(place, rule, [low, high, step], remedy)]
    if low >= high or step < 1 or (high - low) % step:
        rule = "must have low < high, and a step that divides high - low."
        return [ErrorDetail(place, rule, [low, high, step])]
    return []
