"""The rule by which a search stops because its trials fail."""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from math import isfinite

from fewshot.errors.inputs import FewtuneError
from orchestrator.record.studies.study import StudiedTrial, StudyRecord
from orchestrator.search.finals.finalists import UNTRAINED
from trials.contract import Stage

# If this many trials fail for the same reason before any trial has a score, the setup is wrong.
_ENOUGH = 3
_DIVERGED = "diverged"
LOST = "its worker was lost"  # the start of a reason
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?")
_NAMES: Mapping[Stage, str] = {
    "search": "trials",
    "final": "retrainings of finalists",
    "test": "tests",
}


class SearchFailed(FewtuneError):
    """The search can't succeed because its trials fail. All reports are kept."""


class FailureMonitor:
    """Counts failures in the records of some stages until one of their trials has a score."""

    def __init__(self, records: Mapping[Stage, StudyRecord]) -> None:
        self._records = records
        self._scored = any(
            isfinite(score)
            for record in records.values()
            for trial in _trained(record)
            for score in trial.reports.values()
        )
        self._awaited: set[str] | None = None  # running trials that may still report a score

    def reported(self, score: float) -> None:
        """Register the score that a trial has reported."""
        self._scored = self._scored or isfinite(score)

    def check(self, live: Collection[str], ending: Collection[str] = ()) -> None:
        """Raise SearchFailed if enough trials failed for the same reason and none has a score.

        live: keys of the running trials, some of which are `ending`. Trials that are running when
        there are enough failures may still report a score, so the error is raised after they have
        ended.
        """
        if self._scored:
            return
        failed = [
            (stage, trial.number, str(trial.notes.get("reason", "")))
            for stage, record in self._records.items()
            for trial in _trained(record)
            if trial.state == "failed"
        ]
        kinds = Counter(kind_of(reason) for _, _, reason in failed)
        kind, n = next(iter(kinds.most_common(1)), ("", 0))
        if n < _ENOUGH:
            return
        running = set(live) - set(ending)
        self._awaited = running if self._awaited is None else self._awaited & running
        if not self._awaited:
            stage, number, reason = next(each for each in failed if kind_of(each[2]) == kind)
            message = f"{n} trials failed for the same reason, and none has a score: {reason}."
            raise SearchFailed(f"{message} {_where_to_look(stage, number, reason)}")

    def check_end(self) -> None:
        """Raise SearchFailed if every trial of a stage has failed."""
        for stage, record in self._records.items():
            trials = _trained(record)
            if not trials or any(trial.state != "failed" for trial in trials):
                continue
            reasons = [str(trial.notes.get("reason", "")) for trial in trials]
            first = {kind_of(reason): reason for reason in reversed(reasons)}
            counted = Counter(map(kind_of, reasons)).most_common()
            counts = "; ".join(f"{n} of them: {first[kind]}" for kind, n in counted)
            place = [kind_of(reason) for reason in reasons].index(counted[0][0])
            where = _where_to_look(stage, trials[place].number, reasons[place])
            raise SearchFailed(f"All {len(trials)} {_NAMES[stage]} failed. {counts}. {where}")


def _trained(record: StudyRecord) -> list[StudiedTrial]:
    """All trials except the untrained model's, whose score does not depend on training."""
    return [trial for trial in record.trials() if trial.notes.get("role") != UNTRAINED.role]


def kind_of(reason: str) -> str:
    """The kind of a failure: the same for reasons that differ only in numbers, and for all NaNs."""
    return _DIVERGED if reason.startswith(_DIVERGED) else _NUMBER.sub("#", reason)


def _where_to_look(stage: Stage, number: int, reason: str) -> str:
    if reason.startswith(_DIVERGED):
        return (
            "Check for values that are not finite: numbers in the data, a logarithm or a division "
            "in your own code, rates in `space` that are too high."
        )
    if reason.startswith(LOST):
        return "Find out why, then continue with `--resume` or start again under a new name."
    return (
        f"The full traceback is in MLflow, in the description of the run {stage}-{number:04d}. "
        "Fix the cause, then continue with `--resume` or start again under a new name."
    )
