"""How a trained model compares with pooled models, which learn from all groups and do not adapt."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.record.studies.study import StudiedTrial
from orchestrator.results.retrained import Finalist
from orchestrator.search.finals.intervals import Interval

# The metrics of a test task: the mean difference from the pooled model, with its standard error.
_METRICS: Mapping[str, str] = {
    "over_pooled": "the pooled model without adaptation",
    "over_pooled_offset": "the pooled model with a group offset",
}
_NAMED = 4  # tasks


@dataclass(frozen=True)
class PooledComparison:
    """A trained model minus a pooled model, on the same episodes of one test task.

    The difference is in accuracy, or for numbers in skill. Its interval is over training seeds and
    groups, which are random samples; for tasks without groups over seeds and episodes.
    """

    reference: str
    task: str
    difference: Interval

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def pooled_comparisons(
    tests: Sequence[StudiedTrial], finalist: Finalist | None
) -> list[PooledComparison]:
    """The comparisons of a finalist on the test tasks; empty if there are no pooled models."""
    own = [t for t in tests if finalist and finalist.is_of(t) and t.state == "complete"]
    if not own:
        return []
    tasks = own[0].notes["tasks"]
    return [
        PooledComparison(name, task, gain_interval([t.notes["tasks"][task] for t in own], metric))
        for metric, name in _METRICS.items()
        for task, scores in tasks.items()
        if metric in scores
    ]


def gain_interval(by_seed: Sequence[Mapping[str, float]], metric: str) -> Interval:
    """The mean of a difference from a pooled model, with its interval over groups and seeds.

    Without groups it is over episodes and seeds.

    by_seed: for each training seed the metrics of a test task.
    """
    gains = [scores[metric] for scores in by_seed]
    n, mean = len(gains), sum(gains) / len(gains)
    over_seeds = sum((gain - mean) ** 2 for gain in gains) / (n - 1) / n if n > 1 else 0.0
    # All seeds have the same groups, so more seeds do not make this part smaller.
    over_groups = sum(scores[f"{metric}_se"] ** 2 for scores in by_seed) / n
    half = 1.96 * math.sqrt(over_seeds + over_groups)
    return Interval(mean, mean - half, mean + half)


def pooled_sentences(compared: Sequence[PooledComparison]) -> str:
    """Where adaptation beats each pooled model, and where it does not, in sentences."""
    sentences = []
    for name in dict.fromkeys(each.reference for each in compared):
        own = [each for each in compared if each.reference == name]
        better = [each for each in own if each.difference.low > 0]
        rest = [each for each in own if not each.difference.low > 0]
        if better:
            sentences.append(f"Adaptation beats {name} on {_listed(better)}.")
        if rest:
            sentences.append(f"Adaptation does not beat {name} on {_listed(rest)}.")
    return " ".join(sentences)


def _listed(compared: Sequence[PooledComparison]) -> str:
    shown = [
        f"{each.task} ({100 * d.mean:+.1f} points, 95 % interval {100 * d.low:+.1f} to "
        f"{100 * d.high:+.1f})"
        for each in compared[:_NAMED]
        for d in [each.difference]
    ]
    more = [f"{len(compared) - _NAMED} more tasks"] if len(compared) > _NAMED else []
    *first, last = shown + more
    return f"{', '.join(first)} and {last}" if first else last
