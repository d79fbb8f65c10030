"""The first screen of a report: the answer, and the verdict against each reference."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.results.report.figures.finalists import Difference, differences
from orchestrator.results.report.findings import Findings
from orchestrator.results.report.parts import count
from orchestrator.results.sentences import reference_name
from orchestrator.search.finals.finalists import Role
from orchestrator.search.finals.intervals import NEGLIGIBLE, Verdict, verdict


@dataclass(frozen=True)
class Against:
    """The verdict against one reference. value: the difference with its interval, as text.

    verdict: None if it is not known; then `detail` says why.
    """

    name: str
    verdict: Verdict | None
    value: str
    detail: str


@dataclass(frozen=True)
class Answer:
    """headline: one line. text: the paragraph. exported: the model that the search chose.

    terms: what the words mean.
    """

    headline: str
    text: str
    exported: str
    against: Sequence[Against]
    terms: str


_TERMS = (
    "No training: the model before it learned from any training task. Uniform weights: all "
    "training tasks count the same, or only labels are learned from, at rates that were tuned too. "
    "A point is one per cent of {share}."
)
_OWN_TERMS = (
    "Uniform weights: all training tasks count the same, at rates that were tuned too. Scores are "
    "in the unit of the training loop."
)


def answer(found: Findings) -> Answer:
    """The answer of the search so far."""
    every = [d for d in differences(found) if d.finalist is found.summary.candidate]
    against = [_against(found, every, "untrained"), _against(found, every, "uniform")]
    share = found.summary.share or "the accuracy"
    terms = _TERMS.format(share=share) if found.has_points else _OWN_TERMS
    return Answer(_headline(found, against), _text(found), _exported(found), against, terms)


def _against(found: Findings, every: Sequence[Difference], role: Role) -> Against:
    summary = found.summary
    reference = summary.untrained if role == "untrained" else summary.uniform
    name = "no training at all" if role == "untrained" else "uniform weights, tuned rates"
    if reference is not None and role == "uniform" and summary.best is not None:
        name = reference_name(summary, reference)
    own = {d.split: d for d in every if d.reference is reference}
    compared = own.get("test") or own.get("validation")
    if compared is None:
        return Against(name, None, "not compared", _why_not(found, role))
    negligible = NEGLIGIBLE if found.has_points else 0.0
    told = verdict(compared.overall, negligible)
    if reference is summary.reference and summary.verdict is not None:
        told = summary.verdict  # also accounts for the choice of the model to export
    detail = f"on the {compared.split} tasks"
    if summary.best is not summary.candidate:
        detail = f"of the best candidate, which is not exported, {detail}"
    if not math.isnan(compared.overall.low):  # else the value has the note
        note = compared.overall.note
        detail += ", 95 % interval in parentheses" + (f"; {note}" if note else "")
    return Against(name, told, found.interval(compared.overall), detail)


def _why_not(found: Findings, role: Role) -> str:
    if found.summary.state != "complete":
        return "the finalists are compared when the search has ended"
    if found.summary.candidate is None:
        return "no searched candidate was retrained completely"
    if role == "untrained":
        return (
            "there is no untrained model to score: raw numbers, adaptation to one task and own "
            "training loops have none"
        )
    return "the search has no such reference, or its retraining failed"


def _headline(found: Findings, against: Sequence[Against]) -> str:
    summary = found.summary
    if summary.best is None:
        done, planned = sum(summary.trials.values()), found.plan.trials
        ended = summary.state == "complete"
        failed = summary.trials["failed"]
        if ended or (failed and failed == done):
            return f"No trial completed: {failed} of {count(done, 'trial')} failed"
        return f"The search has not ended: {done} of {planned} trials have started"
    if summary.best.role == "untrained":
        return "Training did not help: use the untrained model"
    compared = {a.name: a.verdict for a in against if a.verdict is not None}
    if not compared or summary.candidate is None:
        return "A best model, but nothing to compare it with"
    if all(v == "better" for v in compared.values()):
        both = "both references" if len(compared) == 2 else next(iter(compared))
        return f"The search found a better model than {both}"
    if summary.verdict == "no better" or "no better" in compared.values():
        worse = next((name for name, v in compared.items() if v == "no better"), "the reference")
        return f"The search found nothing better than {worse}"
    open_ = [name for name, v in compared.items() if v == "undecided"]
    return f"Not decided: the gain over {' and over '.join(open_)} may be chance"


def _text(found: Findings) -> str:
    """The sentences that `fewtune show` prints."""
    return str(found.summary)


def _exported(found: Findings) -> str:
    best = found.summary.best
    if best is None:
        return "No model is exported yet."
    if best.role == "untrained":
        return "The exported model is the untrained one."
    kind = "with uniform task weights" if best.role == "uniform" else "with searched parameters"
    if best.role == "uniform" and not best.task_weights:
        kind = "without a teacher"
    if best.role == "uniform" and math.isnan(best.search_score):
        return f"The exported model has the rates of trial {best.number}, {kind}."
    return f"The exported model is trial {best.number}, {kind}, retrained."
