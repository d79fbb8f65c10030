"""Cases whose data is written once in a process."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest


@pytest.fixture(scope="session")
def case_named(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """The case of a name, which tests only read."""
    from tests.trials.conformance import CASES  # here, as xdist's first process needs no torch

    return cache(lambda name: CASES[name](tmp_path_factory.mktemp(name)))
