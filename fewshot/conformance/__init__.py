"""Conformance tests for learners, models and sources of tasks, including a user's own parts.

    @pytest.mark.parametrize("make", [MyLearner])
    class TestMyLearner(LearnerLaws): ...

This package needs pytest; the rest of `fewshot` does not.
"""

import pytest

pytest.register_assert_rewrite(
    *(f"{__name__}.{part}" for part in ("learners", "models", "tasks", "two_modalities", "worlds"))
)
