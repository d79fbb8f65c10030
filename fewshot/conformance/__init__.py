"""Laws that any learner, model or source of tasks has to keep, as tests to run on one's own.

    @pytest.mark.parametrize("make", [MyLearner])
    class TestMyLearner(LearnerLaws): ...

Needs pytest, which nothing else here does.
"""

import pytest

pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in ("learners", "models", "tasks")))
