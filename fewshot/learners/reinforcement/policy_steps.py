"""Policy-gradient steps on trajectories of b problems at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, vmap

from fewshot.functional import Params
from fewshot.learners.reinforcement.advantages import linear_baseline, standardised
from fewshot.learners.reinforcement.policy import log_probabilities, sample
from fewshot.models.base import Model
from fewshot.randomness import fold
from fewshot.worlds.base import Actions, World
from fewshot.worlds.rollout import Before, Rollout, returns_to_go, rollout

_PROBLEM, _TRIES = 0, 1  # random streams of an episode


@dataclass(frozen=True)
class PolicySteps:
    """theta <- theta + rate * grad J(theta) for each problem.

    J is the mean of log p_theta(action) * advantage over the steps of `shot` trajectories.
    first_order: treat the gradients as constants, so that no graph for second derivatives is built.
    query: the trajectories after the last step. discount: of future rewards.
    """

    model: Model
    actions: Actions
    shot: int
    query: int
    discount: float
    first_order: bool = False

    def problem(self, world: World, keys: Tensor) -> Tensor:
        """The problems (b, p) of the episodes."""
        return world.problem(fold(keys, _PROBLEM))

    def tried(
        self, world: World, problem: Tensor, params: Params, keys: Tensor, step: int, *, last: bool
    ) -> Rollout:
        """Trajectories (h, b, n) after `step` steps: `query` of them if it was the last, or `shot`.

        params: of each problem (b, ...), or shared.
        """
        n = self.query if last else self.shot
        streams = fold(fold(keys, _TRIES), step)
        own = fold(streams[:, None], torch.arange(n, device=keys.device))
        return rollout(
            world,
            self._act if step else self._act_shared,
            {name: value.detach() for name, value in params.items()},
            None,
            problem[:, None].expand(-1, n, -1),
            own,
        )

    def _act_shared(
        self, params: Params, memory: Tensor | None, seen: Tensor, before: Before, keys: Tensor
    ) -> tuple[Tensor, None]:
        outputs = self.model.apply(params, seen.flatten(0, 1)).unflatten(0, seen.shape[:2])
        return sample(self.actions, params, outputs, keys), None

    def _act(
        self, params: Params, memory: Tensor | None, seen: Tensor, before: Before, keys: Tensor
    ) -> tuple[Tensor, None]:
        outputs = vmap(self.model.apply)(params, seen)
        wide = {name: value.unsqueeze(1) for name, value in params.items()}
        return sample(self.actions, wide, outputs, keys), None

    def _weighted(self, found: Rollout, spread: float | None) -> tuple[Tensor, Tensor, Tensor]:
        """Observations, actions and weights (b, h * n, ...) of a policy gradient.

        spread: what advantages are divided by; None to standardise those of each problem.
        """
        returns = returns_to_go(found.rewards, self.discount)
        gains = (returns - linear_baseline(found, returns)) * found.alive
        gains = standardised(gains, found.alive) if spread is None else gains / spread
        weights = gains / found.alive.sum((0, 2), keepdim=True)
        parts = (found.observations, found.actions, weights)
        seen, chosen, by = (part.transpose(0, 1).flatten(1, 2) for part in parts)
        return seen, chosen, by

    def _loss(self, params: Params, seen: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """-J for the steps (n, ...) of one problem."""
        outputs = self.model.apply(params, seen)
        return -(log_probabilities(self.actions, params, outputs, chosen) * weights).sum()

    def losses(self, params: Params, found: Rollout, spread: float, *, shared: bool) -> Tensor:
        """-J (b,) for trajectories of b problems, with advantages in units of `spread`."""
        of_each = vmap(self._loss, in_dims=(None if shared else 0, 0, 0, 0))
        losses: Tensor = of_each(params, *self._weighted(found, spread))
        return losses

    def stepped(self, params: Params, found: Rollout, rate: Tensor, *, shared: bool) -> Params:
        """The parameters (b, ...) after a step on trajectories of b problems."""
        at = {k: v.detach() for k, v in params.items()} if self.first_order else params
        of_each = vmap(grad(self._loss), in_dims=(None if shared else 0, 0, 0, 0))
        slope = of_each(at, *self._weighted(found, None))
        return {name: params[name] - rate * slope[name] for name in params}

    def adapted(
        self, params: Params, world: World, keys: Tensor, rates: Sequence[Tensor]
    ) -> tuple[Params, Tensor]:
        """Parameters (b, ...) after a step with each rate, and returns (b, k + 1) of each stage."""
        problem, found, own = self.problem(world, keys), [], params
        for step in range(len(rates) + 1):
            tried = self.tried(world, problem, own, keys, step, last=step == len(rates))
            found.append(tried.rewards.sum(0).mean(-1))
            if step < len(rates):
                own = self.stepped(own, tried, rates[step], shared=step == 0)
        return own, torch.stack(found, -1)
