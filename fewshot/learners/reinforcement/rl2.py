"""A recurrent policy that learns a problem while it acts (RL squared).

A gated recurrent unit reads each observation with the action and the reward before it. It keeps its
memory over `shot` consecutive trajectories of a problem. The whole of them is one long trajectory
of an ordinary policy gradient: L = -sum_t log p(a_t) A_t + (G_t - V_t)^2 / 2 - c H_t. G are
discounted returns. V is their mean over all problems, plus an output of the model. A are
generalised advantages, and H is the entropy of the policy. Adaptation changes the memory, and no
parameter.

Duan, Schulman, Chen, Bartlett, Sutskever and Abbeel, "RL^2: Fast reinforcement learning via slow
reinforcement learning", 2016. Wang et al., "Learning to reinforcement learn", 2016. Both use other
optimisers of the policy.
"""

import torch
from torch import Tensor

from fewshot.errors.inputs import input_error
from fewshot.functional import Hyperparameters, Params, linear_params, one_hot
from fewshot.learners.reinforcement.policy import (
    entropies,
    likeliest,
    log_probabilities,
    sample,
    spread_params,
)
from fewshot.models.base import Model
from fewshot.randomness import fold
from fewshot.worlds.base import Actions, World
from fewshot.worlds.rollout import Before, Rollout, no_action, returns_to_go, rollout

MEMORY = 48  # numbers in the memory by default
_TRACE = 0.3  # lambda of generalised advantages, the paper's
_PROBLEM, _ACT = 0, 1  # random streams of an episode
_INPUT, _HIDDEN, _BIAS = "memory.input", "memory.hidden", "memory.bias"


class RL2:
    """Learns to explore and to use what was found. The model reads the memory.

    shot: consecutive trajectories of a problem. memory: numbers in the memory, >= 1.
    discount: of future rewards, in (0, 1]. entropy: >= 0, the weight c.
    """

    hyperparameters: tuple[str, ...] = ("lr/outer",)
    model_scores_classes = True

    def __init__(
        self,
        *,
        model: Model,
        actions: Actions,
        n_observation: int,
        shot: int,
        memory: int = MEMORY,
        discount: float = 0.99,
        entropy: float = 0.01,
    ) -> None:
        if memory < 1:
            raise input_error("learner.memory", "must be at least 1.", memory)
        self._model, self._actions, self._shot, self._size = model, actions, shot, memory
        self._n_in = n_observation + actions.n + 2
        self._discount, self._entropy = discount, entropy

    def init(self, generator: torch.Generator) -> Params:
        inward, bias = linear_params(self._n_in, 3 * self._size, generator)
        hidden, _ = linear_params(self._size, 3 * self._size, generator)
        own = {_INPUT: inward, _HIDDEN: hidden, _BIAS: bias}
        return self._model.init(generator) | own | spread_params(self._actions)

    def meta_losses(
        self, params: Params, world: World, spread: float, keys: Tensor, hyper: Hyperparameters
    ) -> Tensor:
        del hyper
        found = self._roll_out(params, world, keys)
        outputs = self._outputs(params, found)
        logits, values = outputs[..., :-1], outputs[..., -1]
        unit = spread * self._shot**0.5  # about the spread of the rewards of all trajectories
        returns = returns_to_go(found.rewards, self._discount)
        expected = returns.mean(1, keepdim=True) + unit * values
        gains = self._advantages(found.rewards, expected.detach()) / spread
        chances = log_probabilities(self._actions, params, logits, found.actions)
        losses = -chances * gains + 0.5 * ((returns - expected) / unit).square()
        losses = losses - self._entropy * entropies(self._actions, params, logits)
        means: Tensor = (losses * found.alive).sum(0) / found.alive.sum(0)
        return means

    def _advantages(self, rewards: Tensor, expected: Tensor) -> Tensor:
        """Generalised advantages (h, b), from the expected returns (h, b) before each step.

        Schulman, Moritz, Levine, Jordan and Abbeel, "High-dimensional continuous control using
        generalized advantage estimation", ICLR 2016.
        """
        after = torch.cat([expected[1:], torch.zeros_like(expected[:1])])
        surprises = rewards + self._discount * after - expected
        return returns_to_go(surprises, self._discount * _TRACE)

    def adapt(
        self, params: Params, world: World, keys: Tensor, hyper: Hyperparameters
    ) -> tuple[Params, Tensor]:
        """The same parameters, and mean returns (b, 1) over all `shot` trajectories."""
        del hyper
        returns = self._roll_out(params, world, keys).rewards.sum(0) / self._shot
        same = {name: value.expand(len(keys), *value.shape) for name, value in params.items()}
        return same, returns.unsqueeze(-1)

    def memory(self) -> Tensor:
        """Zeros (m,)."""
        return torch.zeros(self._size)

    def act(
        self, params: Params, memory: Tensor | None, seen: Tensor, before: Before
    ) -> tuple[Tensor, Tensor]:
        outputs, new = self._seen(params, memory, seen[None], Before(*(x[None] for x in before)))
        return likeliest(self._actions, outputs)[0], new[0]

    def _roll_out(self, params: Params, world: World, keys: Tensor) -> Rollout:
        """(h * shot, b) steps."""
        problem = world.problem(fold(keys, _PROBLEM))
        memory = torch.zeros((*keys.shape, self._size), device=keys.device)
        own = fold(keys, _ACT)
        return rollout(world, self._act, params, memory, problem, own, self._shot)

    def _act(
        self, params: Params, memory: Tensor | None, seen: Tensor, before: Before, keys: Tensor
    ) -> tuple[Tensor, Tensor]:
        outputs, new = self._seen(params, memory, seen, before)
        return sample(self._actions, params, outputs, keys), new

    def _seen(
        self, params: Params, memory: Tensor | None, seen: Tensor, before: Before
    ) -> tuple[Tensor, Tensor]:
        """The policy's outputs (b, n) and the memory (b, m) after an observation."""
        assert memory is not None, "it is given at the start"
        read = self._read(seen, before) @ params[_INPUT] + params[_BIAS]
        new = self._next(params, memory, read)
        return self._model.apply(params, new)[..., :-1], new

    def _read(self, seen: Tensor, before: Before) -> Tensor:
        """What the memory takes in, (..., n_in)."""
        own = before.action
        if self._actions.discrete:
            own = one_hot(own, self._actions.n, seen)  # zeros before the first action
        return torch.cat([seen, own, before.reward[..., None], before.started[..., None]], -1)

    def _next(self, params: Params, memory: Tensor, read: Tensor) -> Tensor:
        """The memory (b, m) after an input (b, 3 * m): a gated recurrent unit."""
        kept = memory @ params[_HIDDEN]
        forget, renew, new = read.split(self._size, -1)
        forget_kept, renew_kept, new_kept = kept.split(self._size, -1)
        share = (forget + forget_kept).sigmoid()
        fresh = (new + (renew + renew_kept).sigmoid() * new_kept).tanh()
        mixed: Tensor = share * memory + (1 - share) * fresh
        return mixed

    def _outputs(self, params: Params, found: Rollout) -> Tensor:
        """The outputs (h, b, n + 1) of the model, with gradients, for steps that were taken."""
        h, b = found.rewards.shape
        every = h // self._shot
        first = (torch.arange(h, device=found.rewards.device) % every == 0).to(found.rewards.dtype)
        first_action = no_action(
            self._actions, torch.zeros_like(found.rewards[0], dtype=torch.int64)
        )
        before = Before(
            torch.cat([first_action.expand_as(found.actions[:1]), found.actions[:-1]]),
            torch.cat([torch.zeros_like(found.rewards[:1]), found.rewards[:-1]]),
            first[:, None].expand(h, b),
        )
        read = self._read(found.observations, before) @ params[_INPUT] + params[_BIAS]
        memory = torch.zeros((b, self._size), device=found.rewards.device)
        memories = []
        for t in range(h):
            new = self._next(params, memory, read[t])
            memory = torch.where(found.alive[t][:, None] > 0, new, memory)
            memories.append(memory)
        outputs: Tensor = self._model.apply(params, torch.cat(memories)).unflatten(0, (h, b))
        return outputs
