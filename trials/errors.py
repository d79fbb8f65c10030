"""Exceptions that end a run as a whole instead of one of its trials."""

from fewshot.errors.inputs import FewtuneError
from trials.contract import RungReport, TrialProgram


class TrialError(FewtuneError):
    """A trial outside a search failed; the cause is in the trial (model, learner or data)."""


class WorkerError(FewtuneError):
    """A worker can't continue, for a reason that no trial caused."""


def advance_or_raise(program: TrialProgram) -> list[RungReport]:
    """The next reports of a program outside a search; raises TrialError if a trial failed."""
    reports = program.advance()
    for result in program.ended():
        raise TrialError(f"Trial {result.key} failed: {result.error}.")
    return reports
