"""The result of a search as plain sentences."""

from collections.abc import Callable

from orchestrator.results.leaderboard import Summary
from orchestrator.results.pooled import pooled_sentences
from orchestrator.results.retrained import Finalist
from orchestrator.search.finals.intervals import Interval
from orchestrator.space.search_space import SOFT_WEIGHT

_VERDICTS = {
    "better": "The best candidate is better than",
    "no better": "The best candidate is no better than",
    "undecided": "It is undecided whether the best candidate is better than",
}


_NO_CANDIDATE = "There is no verdict: no trial other than the references completed."


def sentence(summary: Summary) -> str:
    """The result of the search: the verdict first, then the numbers."""
    pooled = pooled_sentences(summary.pooled)
    return f"{_against_references(summary)} {pooled}".rstrip()


def _against_references(summary: Summary) -> str:
    if summary.best is None:
        ended = summary.state == "complete"
        return "No trial completed." if ended else "The search has not ended yet."
    if summary.best.role == "untrained":
        return _training_did_not_help(summary)
    if summary.candidate is None and summary.best.role == "uniform":
        return _only_references(summary, summary.best)
    if summary.difference is None:
        value = summary.test.get("candidate") or summary.test.get("uniform")
        where = f": {_value(summary, value)} on the test tasks" if value is not None else ""
        return (
            f"Trial {summary.best.number} is the best{where}. "
            "There is no reference to compare it with."
        )
    assert summary.reference is not None, "a difference needs a reference"
    told, name = (
        _VERDICTS[summary.verdict or "undecided"],
        reference_name(summary, summary.reference),
    )
    begin = f"{told} {name}: "
    if not summary.test:
        return begin + _on_validation_tasks(summary, summary.reference, summary.difference)
    ours, theirs = summary.test["candidate"], summary.test[_key(summary.reference)]
    return (
        f"{begin}{_number(summary, ours)} against {_value(summary, theirs)} on the test tasks, "
        f"{difference_text(summary, summary.difference)}."
        + _other(summary)
        + _exported_reference(summary)
    )


def _exported_reference(summary: Summary) -> str:
    if summary.best is None or summary.best.role != "uniform":
        return ""
    name = reference_name(summary, summary.best)
    return f" On the validation tasks the candidate is not clearly better, so {name} are exported."


def _only_references(summary: Summary, best: Finalist) -> str:
    """The result of a search of which no trial but those of the references completed."""
    name = reference_name(summary, best)
    text = f"{_NO_CANDIDATE} {name[0].upper()}{name[1:]} are exported"
    value = summary.test.get("uniform")
    return f"{text}: {_value(summary, value)} on the test tasks." if value else f"{text}."


def _on_validation_tasks(summary: Summary, reference: Finalist, difference: Interval) -> str:
    """The comparison of a search without test tasks."""
    assert summary.candidate is not None, "a difference needs a candidate"
    ours, theirs = summary.candidate.score, reference.score
    searched = sum(finalist.role == "searched" for finalist in summary.finalists)
    chosen = (
        f" The difference is too high on average, because these scores also chose the candidate "
        f"among {searched} finalists; test tasks would correct this."
    )
    return (
        f"{_number(summary, ours)} against {_number(summary, theirs)} on the validation tasks "
        f"after retraining, {difference_text(summary, difference)}."
        + (chosen if searched > 1 else "")
    )


def _training_did_not_help(summary: Summary) -> str:
    untrained = summary.test.get("untrained")
    text = "On the validation tasks, no trained model is clearly better than the untrained model. "
    text += "The untrained model is exported"
    if untrained is not None:
        text += f"; it has {_value(summary, untrained)} on the test tasks"
    text += "."
    if summary.candidate is None:
        return f"{_NO_CANDIDATE} {text}"
    trained = summary.test.get("candidate")
    if trained is None or summary.difference is None:
        return text
    return (
        f"{text} The best candidate has {_number(summary, trained)}, "
        f"{difference_text(summary, summary.difference)}." + _other(summary)
    )


def _other(summary: Summary) -> str:
    """The test results of the references that the verdict does not compare with."""
    both = (summary.uniform, summary.untrained)
    others = [f for f in both if f is not None and f is not summary.reference]
    tested = [(f, summary.test[_key(f)]) for f in others if _key(f) in summary.test]
    return "".join(
        f" {name[0].upper()}{name[1:]}: {_number(summary, value)}."
        for f, value in tested
        for name in [reference_name(summary, f)]
    )


def _key(finalist: Finalist) -> str:
    return "untrained" if finalist.role == "untrained" else "uniform"


def reference_name(summary: Summary, reference: Finalist) -> str:
    """What a reference of an ended search is."""
    if reference.role == "untrained":
        return "the untrained model"
    assert summary.best is not None, "only an ended search has references"
    weights = bool(reference.task_weights)
    what = "uniform task weights" if weights else "labels only"
    if weights and reference.hyperparameters.get(SOFT_WEIGHT) == 0:
        what += " without a teacher,"
    return f"{what} with tuned rates"


def difference_text(summary: Summary, value: Interval) -> str:
    """A difference between two models with its interval."""
    points, unit = _points(summary), "" if summary.measure == "score" else " points"
    mean = f"a difference of {points(value.mean)}{unit}"
    if value.low != value.low:
        return f"{mean} ({value.note})"
    note = f", {value.note}" if value.note else ""
    return f"{mean} (95 % interval {points(value.low)} to {points(value.high)}{note})"


def _points(summary: Summary) -> Callable[[float], str]:
    """How a difference is written; the scores of an own loop have a unit that is not known."""
    if summary.measure == "score":
        return lambda difference: f"{difference:+.4g}"
    return lambda difference: f"{100 * difference:+.1f}"


def _value(summary: Summary, value: Interval) -> str:
    """The value, and the quantity of which it is a share."""
    return _number(summary, value) + (f" of {summary.share}" if summary.share else "")


def _number(summary: Summary, value: Interval) -> str:
    return f"{value.mean:.4g}" if summary.measure == "score" else f"{100 * value.mean:.1f} %"
