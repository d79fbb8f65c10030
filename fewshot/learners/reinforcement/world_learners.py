"""The learners of worlds by name."""

from collections.abc import Callable, Mapping
from typing import Any

from fewshot.learners.learners import learner_named
from fewshot.learners.reinforcement.base import WorldLearner
from fewshot.learners.reinforcement.maml_pg import MamlPolicyGradient, PolicyGradient
from fewshot.learners.reinforcement.rl2 import MEMORY, RL2
from fewshot.worlds.base import Actions

# Each takes its options, and those of `SUPPLIED` that it has.
WORLD_LEARNERS: dict[str, Callable[..., WorldLearner]] = {
    "maml_pg": MamlPolicyGradient,
    "policy_gradient": PolicyGradient,
    "rl2": RL2,
}

# Arguments that the builder supplies, as far as a learner has them.
SUPPLIED = ("model", "actions", "n_observation", "shot", "query")


def scalars_of(name: str) -> tuple[str, ...]:
    """The hyperparameters of the learner `name`, of worlds or of other tasks."""
    made = WORLD_LEARNERS[name] if name in WORLD_LEARNERS else learner_named(name)
    names: tuple[str, ...] = made.hyperparameters  # type: ignore[union-attr]
    return names


def model_shape(
    name: str, options: Mapping[str, Any], actions: Actions, n_observation: int
) -> tuple[tuple[int, ...], int]:
    """The shape of one input of the model of the learner `name`, and the width of its output."""
    if name == "rl2":  # the model reads the memory, and also predicts returns
        return (int(options.get("memory", MEMORY)),), actions.n + 1
    return (n_observation,), actions.n
