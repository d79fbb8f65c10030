"""Rows of stacked tensors in passes of some at a time, and which of them make a pass fail."""

import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch

from fewshot.errors.parts import Failure, failure_of
from trials.lanes.memory import is_shortage

log = logging.getLogger(__name__)

Found = TypeVar("Found")


class Passes:
    """`rows`: how many a pass has at most, which becomes less where memory does not suffice."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def run(self, n: int, run: Callable[[slice], Found]) -> list[Found]:
        """What `run` finds for rows 0..n-1, in passes that are halved until memory suffices."""
        while True:
            size = min(n, self.rows)
            try:
                return [run(slice(at, min(at + size, n))) for at in range(0, n, size)]
            except RuntimeError as error:
                if size == 1 or not is_shortage(error):
                    raise
            # Not in the handler, where the error still holds the tensors of the failed pass.
            self.rows = size // 2
            log.warning("out of memory lanes=%d rows_per_pass=%d", n, self.rows)

    def failing_rows(
        self, n: int, run: Callable[[slice], object], failure: Failure
    ) -> dict[int, Failure]:
        """Which of rows 0..n-1 fail in a pass of their own, after `failure` in one of several.

        If none does, they fail only side by side, and from now on each has a pass of its own; they
        all have failed if each had one before.
        """
        if n == 1:
            return {0: failure}
        found = {}
        for row in range(n):
            own = call_or_failure(partial(run, slice(row, row + 1)))
            if isinstance(own, Failure):
                found[row] = own
        if found:
            return found
        if self.rows == 1:
            return dict.fromkeys(range(n), failure)
        self.rows = 1
        log.warning("one lane at a time, as side by side they fail error=%s", failure.message)
        return {}


def call_or_failure(call: Callable[[], Found]) -> Found | Failure:
    """What `call` returns, or the exception that it raises, without what its frames hold.

    An exception of the device itself is raised: nothing that follows on that device can succeed.
    """
    try:
        return call()
    except torch.AcceleratorError:
        raise
    except Exception as error:  # whatever a user's learner, model or data do
        return failure_of(error)
