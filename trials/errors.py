"""Failures that nobody isolates: of a trial that is run for itself, of a worker."""

from fewshot.errors.inputs import FewtuneError
from trials.contract import RungReport, TrialProgram


class TrialError(FewtuneError):
    """A trial failed of itself, and there is nothing to be had without it."""


class WorkerError(FewtuneError):
    """A worker can't go on, for a reason that no trial has to answer for."""


def advanced(program: TrialProgram) -> list[RungReport]:
    """The next reports of a program that runs no search; raises TrialError if a trial failed."""
    reports = program.advance()
    for result in program.ended():
        raise TrialError(f"Trial {result.key} failed: {result.error}.")
    return reports
