"""The result of a search as plain sentences."""

from orchestrator.results.leaderboard import Finalist, Summary
from orchestrator.search.intervals import Interval
from orchestrator.space.search_space import SOFT_WEIGHT

_VERDICTS = {
    "better": "The best candidate is better than",
    "no better": "The best candidate is no better than",
    "undecided": "It is undecided whether the best candidate is better than",
}


def sentence(summary: Summary) -> str:
    """The result of the search: the verdict first, then the numbers."""
    if summary.best is None:
        ended = summary.state == "complete"
        return "No trial completed." if ended else "The search has not ended yet."
    if summary.best.role == "untrained":
        return _training_did_not_help(summary)
    if summary.difference is None:
        value = summary.test.get("candidate") or summary.test.get("uniform")
        where = "" if value is None else f": {_percent(value)}{_share(summary)} on the test tasks"
        return (
            f"Trial {summary.best.number} is the best{where}. "
            "There is no reference to compare it with."
        )
    assert summary.reference is not None, "a difference needs a reference"
    ours, theirs = summary.test["candidate"], summary.test[_key(summary.reference)]
    return (
        f"{_VERDICTS[summary.verdict or 'undecided']} {_name(summary, summary.reference)}: "
        f"{_percent(ours)} against {_percent(theirs)}{_share(summary)} on the test tasks, "
        f"{_difference(summary.difference)}." + _other(summary)
    )


def _training_did_not_help(summary: Summary) -> str:
    untrained = summary.test.get("untrained")
    text = "No trained model is better than the untrained model"
    if untrained is not None:
        text += f", which has {_percent(untrained)}{_share(summary)} on the test tasks"
    text += ". The untrained model is exported."
    trained = summary.test.get("candidate")
    if trained is None or summary.difference is None:
        return text
    return (
        f"{text} The best trained model has {_percent(trained)}, {_difference(summary.difference)}."
    )


def _other(summary: Summary) -> str:
    """The test results of the references that the verdict does not compare with."""
    both = (summary.uniform, summary.untrained)
    others = [f for f in both if f is not None and f is not summary.reference]
    tested = [(f, summary.test[_key(f)]) for f in others if _key(f) in summary.test]
    return "".join(
        f" {name[0].upper()}{name[1:]}: {_percent(value)}."
        for f, value in tested
        for name in [_name(summary, f)]
    )


def _key(finalist: Finalist) -> str:
    return "untrained" if finalist.role == "untrained" else "uniform"


def _name(summary: Summary, reference: Finalist) -> str:
    if reference.role == "untrained":
        return "the untrained model"
    assert summary.best is not None, "only an ended search has references"
    weights = bool(reference.task_weights)
    what = "uniform task weights" if weights else "labels only"
    if weights and reference.hyperparameters.get(SOFT_WEIGHT) == 0:
        what += " without a teacher,"
    return f"{what} with tuned rates"


def _difference(value: Interval) -> str:
    if value.low != value.low:
        return f"a difference of {100 * value.mean:+.1f} points ({value.note})"
    note = f", {value.note}" if value.note else ""
    return (
        f"a difference of {100 * value.mean:+.1f} points (95 % interval {100 * value.low:+.1f} to "
        f"{100 * value.high:+.1f}{note})"
    )


def _share(summary: Summary) -> str:
    return f" of {summary.share}" if summary.share else ""


def _percent(value: Interval) -> str:
    return f"{100 * value.mean:.1f} %"
