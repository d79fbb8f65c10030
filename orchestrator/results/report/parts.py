"""The parts of a report, before they become HTML."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go

from orchestrator.results.report.findings import Findings

_LONGEST = 40  # characters of a name in a sentence


@dataclass(frozen=True)
class Part:
    """A section of the page: figures or a table with their message, or why there are none.

    All texts are plain; the page escapes them.

    key: the id of the section, and the start of the ids of its figures. topic: its entry in the
    list of sections. title: the message. caption: one sentence on how to read it. figures: by name.
    table: a header and rows. notes: further sentences. missing: why there is nothing to show.
    """

    key: str
    topic: str
    title: str
    caption: str = ""
    figures: Mapping[str, go.Figure] = field(default_factory=dict)
    table: Sequence[Sequence[Any]] = ()
    blocks: Mapping[str, str] = field(default_factory=dict)  # preformatted texts by their headings
    notes: Sequence[str] = ()
    missing: str = ""


MakePart = Callable[[Findings], Part]


def absent(key: str, topic: str, why: str) -> Part:
    """A section without figures: this search lacks the data."""
    return Part(key, topic, topic, missing=why)


def count(n: int, what: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{n:,} {what if n == 1 else what + 's'}"


def short(text: str, longest: int) -> str:
    """The text without its middle if it has more than `longest` characters."""
    return text if len(text) <= longest else f"{text[: longest - 8]}…{text[-7:]}"


def listed(names: Sequence[str], at_most: int = 3) -> str:
    """Names as a list in a sentence; those beyond `at_most` are counted."""
    shown = [short(name, _LONGEST) for name in names[:at_most]]
    if len(names) > at_most:
        shown.append(f"{len(names) - at_most} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
