"""What is told of an exception, and kept of it."""

import json

import numpy as np
import pytest
import torch

from fewshot.failures import described, told
from fewshot.faults import InputError, fault
from fewshot.functional import indicators


def failure_of(call):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call()
    return described(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda: 1 / 0,
        lambda: json.loads("{"),  # in Python's own library
        lambda: np.linalg.inv(np.zeros((2, 2))),  # in one that is installed
        lambda: torch.nn.functional.cross_entropy(torch.zeros(2, 3), torch.tensor([0, 9])),
        lambda: indicators(None, 2, None),  # in ours
    ],
)
def test_the_place_is_the_last_line_of_the_user(call):
    line = call.__code__.co_firstlineno
    assert failure_of(call).message.endswith(f" ({__file__}:{line}, in <lambda>)")


def test_without_a_line_of_the_user_it_is_the_last_of_ours():
    error = TypeError("no")
    assert described(error).message == "TypeError: no"  # it was never raised
    with pytest.raises(InputError) as caught:
        raise fault("model", "no") from None
    own = described(caught.value).message
    assert own.startswith("InputError: model: no (")


def test_a_message_of_many_lines_is_told_by_its_first():
    def fail():
        raise ValueError("one\ntwo")

    failure = failure_of(fail)
    assert failure.message.startswith("ValueError: one (")
    assert failure.traceback.endswith("ValueError: one\ntwo")


def test_a_message_may_be_empty():
    def fail():
        raise KeyError

    assert failure_of(fail).message.startswith("KeyError (")


def test_of_a_long_traceback_the_beginning_and_the_end_are_kept():
    def fail():
        raise ValueError("x" * 9000)

    traceback = failure_of(fail).traceback
    assert len(traceback) < 6100
    assert traceback.startswith("Traceback (most recent call last):")
    assert "\n  ...\n" in traceback
    assert traceback.endswith("x" * 4000)


def test_what_a_part_raises_is_one_sentence():
    said = r"^learner: can't be made: KeyError: 'a' \(.*\)\.$"
    with pytest.raises(InputError, match=said), told("learner", "can't be made"):
        {}["a"]


def test_a_fault_that_a_part_finds_stays_as_it_is():
    with pytest.raises(InputError, match=r"^data: is empty"), told("learner", "can't be made"):
        raise fault("data", "is empty")
