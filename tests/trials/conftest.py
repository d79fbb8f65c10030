"""Cases whose data is written once in a process."""

from collections.abc import Callable
from functools import cache

import pytest

from tests.trials.conformance import CASES, Case


@pytest.fixture(scope="session")
def case_named(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    """The case of a name, which tests only read."""
    return cache(lambda name: CASES[name](tmp_path_factory.mktemp(name)))
