"""What is told of an exception, and kept of it."""

import json

import numpy as np
import pytest
import torch

from fewshot.errors.inputs import InputError, input_error
from fewshot.errors.parts import as_input_error, failure_of
from fewshot.functional import one_hot


def failed(call):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call()
    return failure_of(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda: 1 / 0,
        lambda: json.loads("{"),  # in Python's own library
        lambda: np.linalg.inv(np.zeros((2, 2))),  # in one that is installed
        lambda: torch.nn.functional.cross_entropy(torch.zeros(2, 3), torch.tensor([0, 9])),
        lambda: one_hot(None, 2, None),  # in ours
    ],
)
def test_the_place_is_the_last_line_of_the_user(call):
    line = call.__code__.co_firstlineno
    assert failed(call).message.endswith(f" ({__file__}:{line}, in <lambda>)")


def test_without_a_line_of_the_user_it_is_the_last_of_ours():
    error = TypeError("no")
    assert failure_of(error).message == "TypeError: no"  # it was never raised
    with pytest.raises(InputError) as caught:
        raise input_error("model", "no") from None
    own = failure_of(caught.value).message
    assert own.startswith("InputError: model: no (")


def test_a_message_of_many_lines_is_told_by_its_first():
    def fail():
        raise ValueError("one\ntwo")

    failure = failed(fail)
    assert failure.message.startswith("ValueError: one (")
    assert failure.traceback.endswith("ValueError: one\ntwo")


def test_a_message_may_be_empty():
    def fail():
        raise KeyError

    assert failed(fail).message.startswith("KeyError (")


def test_of_a_long_traceback_the_beginning_and_the_end_are_kept():
    def fail():
        raise ValueError("x" * 9000)

    traceback = failed(fail).traceback
    assert len(traceback) < 6100
    assert traceback.startswith("Traceback (most recent call last):")
    assert "\n  ...\n" in traceback
    assert traceback.endswith("x" * 4000)


def test_what_a_part_raises_is_one_sentence():
    said = r"^learner: can't be made: KeyError: 'a' \(.*\)\.$"
    with pytest.raises(InputError, match=said), as_input_error("learner", "can't be made"):
        {}["a"]


def test_a_fault_that_a_part_finds_stays_as_it_is():
    with (
        pytest.raises(InputError, match=r"^data: is empty"),
        as_input_error("learner", "can't be made"),
    ):
        raise input_error("data", "is empty")
