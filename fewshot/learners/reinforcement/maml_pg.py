"""MAML with a policy gradient as the inner step, and the policy gradient alone.

theta' = theta + a * grad J(theta), J(theta) = mean of log p_theta(action) * advantage over the
steps of trajectories of the problem. The inner step standardises the advantages of each problem, as
the code of the paper does. Meta-training maximises J of new trajectories of theta', whose
advantages are divided by a fixed number for each world. It differentiates through the inner step
(second order), or not (first order). Both leave out how theta changes the trajectories that the
inner step learns from, as the paper's code does.

The policy gradient alone maximises J(theta) in meta-training, for all problems at once: the
"pretrained" policy of the paper.

Finn, Abbeel and Levine, "Model-agnostic meta-learning for fast adaptation of deep networks", ICML
2017.
"""

import torch
from torch import Tensor

from fewshot.errors.inputs import ErrorDetail, InputError
from fewshot.functional import Hyperparameters, Params
from fewshot.learners.reinforcement.policy import likeliest, spread_params
from fewshot.learners.reinforcement.policy_steps import PolicySteps
from fewshot.models.base import Model
from fewshot.worlds.base import Actions, World
from fewshot.worlds.rollout import Before

RATE = 0.5  # the paper's, for a policy that has no searched rate
_LATER = 0.5  # the rate of the second and later steps, relative to that of the first


class _Adapts:
    """What both learners share: a policy without a memory that adapts by `PolicySteps`."""

    model_scores_classes = True  # the model's outputs are those of the policy

    def __init__(self, steps: PolicySteps, adapt_steps: int) -> None:
        wrong = [
            ErrorDetail(f"learner.{name}", rule, value)
            for name, value, rule, right in (
                ("adapt_steps", adapt_steps, "must be at least 1.", adapt_steps >= 1),
                ("discount", steps.discount, "must be in (0, 1].", 0 < steps.discount <= 1),
            )
            if not right
        ]
        if wrong:
            raise InputError(wrong)
        self._steps, self._adapt_steps = steps, adapt_steps

    def init(self, generator: torch.Generator) -> Params:
        return self._steps.model.init(generator) | spread_params(self._steps.actions)

    def _adapted(
        self, params: Params, world: World, keys: Tensor, rate: Tensor
    ) -> tuple[Params, Tensor]:
        rates = [rate, *[_LATER * rate] * (self._adapt_steps - 1)]
        return self._steps.adapted(params, world, keys, rates)

    def memory(self) -> None:
        """None."""
        return

    def act(
        self, params: Params, memory: Tensor | None, seen: Tensor, before: Before
    ) -> tuple[Tensor, None]:
        outputs = self._steps.model.apply(params, seen[None])[0]
        return likeliest(self._steps.actions, outputs), None


class MamlPolicyGradient(_Adapts):
    """Learns a policy that a few policy-gradient steps adapt to a new problem.

    shot: trajectories that a step learns from; query: trajectories after the last step.
    adapt_steps: >= 1, the steps on a held-out problem: the first with the rate `lr/adapt`, the
    others with half of it. Meta-training takes one step, with the rate `lr/inner`.
    discount: of future rewards, in (0, 1].
    """

    hyperparameters: tuple[str, ...] = ("lr/outer", "lr/inner", "lr/adapt")

    def __init__(
        self,
        *,
        model: Model,
        actions: Actions,
        shot: int,
        query: int,
        adapt_steps: int = 3,
        first_order: bool = False,
        discount: float = 0.99,
    ) -> None:
        own = PolicySteps(model, actions, shot, query, discount, first_order)
        super().__init__(own, adapt_steps)

    def meta_losses(
        self, params: Params, world: World, spread: float, keys: Tensor, hyper: Hyperparameters
    ) -> Tensor:
        problem = self._steps.problem(world, keys)
        before = self._steps.tried(world, problem, params, keys, 0, last=False)
        adapted = self._steps.stepped(params, before, hyper["lr/inner"], shared=True)
        after = self._steps.tried(world, problem, adapted, keys, 1, last=True)
        return self._steps.losses(adapted, after, spread, shared=False)

    def adapt(
        self, params: Params, world: World, keys: Tensor, hyper: Hyperparameters
    ) -> tuple[Params, Tensor]:
        return self._adapted(params, world, keys, hyper["lr/adapt"])


class PolicyGradient(_Adapts):
    """Learns one policy for all problems; a new problem is learned with MAML's rate of 0.5.

    shot, query, adapt_steps, discount: as for MAML. Without meta-training, it is the untrained
    policy that adapts: a reference of a search.
    """

    hyperparameters: tuple[str, ...] = ("lr/outer",)

    def __init__(
        self,
        *,
        model: Model,
        actions: Actions,
        shot: int,
        query: int,
        adapt_steps: int = 3,
        discount: float = 0.99,
    ) -> None:
        super().__init__(PolicySteps(model, actions, shot, query, discount), adapt_steps)

    def meta_losses(
        self, params: Params, world: World, spread: float, keys: Tensor, hyper: Hyperparameters
    ) -> Tensor:
        del hyper
        problem = self._steps.problem(world, keys)
        found = self._steps.tried(world, problem, params, keys, 0, last=True)
        return self._steps.losses(params, found, spread, shared=True)

    def adapt(
        self, params: Params, world: World, keys: Tensor, hyper: Hyperparameters
    ) -> tuple[Params, Tensor]:
        del hyper
        return self._adapted(params, world, keys, torch.tensor(RATE, device=keys.device))
