"""Runs a function on the rows of stacked tensors in several passes."""

import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch

from fewshot.errors.disk import disk_problem
from fewshot.errors.parts import Failure, failure_of
from trials.lanes.memory import is_shortage

log = logging.getLogger(__name__)

Found = TypeVar("Found")


class Passes:
    """Splits rows into passes of at most `rows` rows; `rows` shrinks if memory is short."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def run(self, n: int, run: Callable[[slice], Found]) -> list[Found]:
        """The results of `run` for rows 0..n-1; passes are halved until memory suffices."""
        while True:
            size = min(n, self.rows)
            try:
                return [run(slice(at, min(at + size, n))) for at in range(0, n, size)]
            except RuntimeError as error:
                if size == 1 or not is_shortage(error):
                    raise
            # Outside the handler, because there the error keeps the failed pass's tensors alive.
            self.rows = size // 2
            log.warning("out of memory lanes=%d rows_per_pass=%d", n, self.rows)

    def failing_rows(
        self, n: int, run: Callable[[slice], object], failure: Failure
    ) -> dict[int, Failure]:
        """The rows of 0..n-1 that cause the `failure` of a pass, with their failures.

        Each row runs in a pass of its own; the rows that fail there are returned. If none fails,
        the rows fail only together. The result is then empty, and each row has its own pass from
        now on. If each row already had its own pass, all rows are returned as failed.
        """
        if n == 1:
            return {0: failure}
        failures = {}
        for row in range(n):
            own = call_or_failure(partial(run, slice(row, row + 1)))
            if isinstance(own, Failure):
                failures[row] = own
        if failures:
            return failures
        if self.rows == 1:
            return dict.fromkeys(range(n), failure)
        self.rows = 1
        log.warning("one lane at a time, because lanes fail together error=%s", failure.message)
        return {}


def call_or_failure(call: Callable[[], Found]) -> Found | Failure:
    """The result of `call`, or a `Failure` that describes the exception that it raises.

    A `Failure` does not keep the local variables of the exception's frames alive. An exception of
    the accelerator itself is raised, because nothing more can succeed on that device; so is one of
    a disk that is full, read-only or broken, because the next trials would fail too.
    """
    try:
        return call()
    except torch.AcceleratorError:
        raise
    except Exception as error:  # a user's learner, model or data can raise anything
        if (problem := disk_problem(error)) and problem.of_machine:
            raise
        return failure_of(error)
