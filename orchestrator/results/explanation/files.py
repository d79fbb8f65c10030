"""The explanation of a finished search on its way to MLflow."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fewshot.tasks.files import write_text
from orchestrator.results.explanation.explanation import Explanation
from orchestrator.results.leaderboard import Summary

log = logging.getLogger(__name__)

FILE = "explanation.json"
_LONGEST = 500  # characters of a tag; MLflow's page shows long ones badly, and cuts at 8000


class Written(NamedTuple):
    """The table with the effects of the training tasks, and tags for the run of the search."""

    tables: Sequence[Path]
    tags: dict[str, str]


NOTHING = Written((), {})


def write_explanation(summary: Summary, folder: Path) -> Written:
    """Write the table to `folder`; nothing if the search has no weights to explain.

    A search does not fail at its end because its explanation fails: that is logged.
    """
    try:
        explanation = summary.explanation
    except Exception as error:
        log.warning("no_explanation search=%s error=%s", summary.name, error)
        return NOTHING
    if not explanation.effects:
        return NOTHING
    write_text(folder / FILE, json.dumps(explanation.table()))
    return Written((folder / FILE,), tags_of(explanation))


def tags_of(explanation: Explanation) -> dict[str, str]:
    """`fewtune.helps`, `.harms` and `.not_needed`: training tasks, the largest effect first."""
    return {
        "fewtune.helps": _joined(explanation.named("helps")),
        "fewtune.harms": _joined(explanation.named("harms")),
        "fewtune.not_needed": _joined(explanation.named("not needed")),
    }


def _joined(names: Sequence[str]) -> str:
    """Names with commas; those that do not fit are counted."""
    kept = list(names)
    while kept and len(", ".join(kept)) > _LONGEST:
        kept.pop()
    left = len(names) - len(kept)
    return ", ".join(kept + ([f"and {left} more"] if left else []))
