"""The rule of `search.stop: auto`: a search ends if more trials are not worth their cost."""

import math

from orchestrator.config.plan import Plan
from orchestrator.record.identity import STOPPED_EARLY, WHOLE
from orchestrator.record.studies.study import StudyRecord
from orchestrator.sampling.optuna_samplers import OptunaSampler
from orchestrator.sampling.ranked_trials import RankedTrials
from orchestrator.sampling.sampler import Sampler

# The rule is applied after this share of the planned trials, and after this many.
_SHARE, _LEAST = 0.5, 16


class EarlyStopping:
    """Ends a search when the gain that its remaining trials promise is below the standard error
    of its best score: such a gain could not be told from noise.

    The decision is a note of the study, so a resumed search keeps it. The rule is not applied to a
    search that stopped early and was then told to run all of its planned trials.

    n_last: the number of trials that still follow the decision.
    """

    def __init__(self, plan: Plan, sampler: Sampler | OptunaSampler, n_last: int) -> None:
        self._plan, self._sampler, self._n_last = plan, sampler, n_last
        self._checked = 0

    def check(self, record: StudyRecord, trials: RankedTrials) -> None:
        """Apply the rule, and note the decision to stop.

        It is applied once for each number of trials; of many trials, once for each hundredth more.
        """
        n, planned = len(record), self._plan.trials
        if n - self._checked < max(1, n // 100) or n < max(_LEAST, math.ceil(_SHARE * planned)):
            return
        if n + self._n_last >= planned or trials_before_stop(record):
            return
        if record.notes.get(WHOLE) == planned:
            return
        assert isinstance(self._sampler, Sampler), "the config allows no other sampler"
        self._checked = n
        found = self._sampler.expected_gain(trials, planned - n)
        if found is not None and found[0] < found[1]:
            gain, error = found
            note = {"trials": n + self._n_last, "planned": planned, "further": planned - n}
            record.note(STOPPED_EARLY, {**note, "gain": gain, "error": error})


def trials_before_stop(record: StudyRecord) -> int | None:
    """The number of trials of a search that stopped early; None for other searches."""
    note = record.notes.get(STOPPED_EARLY)
    return None if note is None else int(note["trials"])


def reason_for_stop(record: StudyRecord) -> str:
    """Why the search stopped early, as a sentence; empty for other searches."""
    note = record.notes.get(STOPPED_EARLY)
    if note is None:
        return ""
    return (
        f"The search ended after {note['trials']} of {note['planned']} trials: the expected gain "
        f"of {note['further']} more, {note['gain']:.4f}, is below the standard error of the best "
        f"score, {note['error']:.4f}."
    )


def what_is_waited_for(record: StudyRecord, planned: int) -> str:
    """What starts another trial of a search whose trials have all started; else empty."""
    n = len(record)
    if n >= planned:
        return (
            f"All {planned} trials of the search have started. It runs when the search gets more: "
            f"--resume --trials {planned + 1}"
        )
    if n >= (trials_before_stop(record) or planned):
        return (
            f"The search stopped early, after {n} of {planned} trials. It runs when the search "
            f"goes on: --resume --trials {planned}"
        )
    return ""
