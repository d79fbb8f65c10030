"""Environments of gymnasium as a world, of varied constructor arguments.

A step of such an environment is a call of Python, not an operation on tensors. Rollouts therefore
leave the vectorised step of all lanes: each lane's policy plays its environments, and only the
trajectories come back. Adaptation and the policy gradient are computed as for all other worlds.
"""

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewshot.errors.inputs import ErrorDetail, InputError, input_error
from fewshot.functional import Params
from fewshot.randomness import fold, uniform
from fewshot.worlds.base import Actions
from fewshot.worlds.outside import outside
from fewshot.worlds.references import References, measured
from fewshot.worlds.rollout import Act, Before, Rollout, no_action

_SEEDS = 1 << 31
_EPISODES = 32  # that measure the references
_INSTALL = "pip install 'fewtune[rl]'"


def _gymnasium() -> Any:
    try:
        import gymnasium  # an extra
    except ImportError as error:
        raise input_error("world", "needs gymnasium.", "gymnasium", _INSTALL) from error
    return gymnasium


class Gymnasium:
    """The world whose problems are environments `gymnasium.make(env, **varied, **fixed)`.

    env: a registered name. vary: (low, high) of each argument that is drawn for a problem.
    fixed: more arguments. horizon: the most steps of a trajectory.
    reference: the mean return that has a skill of 1; random actions have a skill of 0.

    Observations and actions must be boxes of numbers, or actions choices.
    """

    def __init__(
        self,
        *,
        env: str,
        reference: float,
        vary: Mapping[str, Sequence[float]] | None = None,
        fixed: Mapping[str, Any] | None = None,
        horizon: int = 200,
    ) -> None:
        self._env, self._fixed, self.horizon = env, dict(fixed or {}), horizon
        self._vary = {name: (float(low), float(high)) for name, (low, high) in (vary or {}).items()}
        self._reference = reference
        try:
            made = self._made([low for low, _ in self._vary.values()])
        except InputError:
            raise
        except Exception as error:  # a constructor may raise anything
            rule = f"can't be made: {type(error).__name__}: {error}"
            raise input_error("env", rule, env, _arguments_of(env)) from error
        with made:
            self.n_observation, self.actions = _shapes(made)

    def _made(self, values: Sequence[float]) -> Any:
        own = dict(zip(self._vary, map(float, values), strict=True))
        return _gymnasium().make(
            self._env,
            max_episode_steps=self.horizon,
            disable_env_checker=True,
            **self._fixed,
            **own,
        )

    def problem(self, key: Tensor) -> Tensor:
        """The varied arguments (..., p); a single 0 if nothing varies."""
        ranges = list(self._vary.values()) or [(0.0, 0.0)]
        u = uniform(key, len(ranges)).unbind(-1)
        return torch.stack([a + (b - a) * x for x, (a, b) in zip(u, ranges, strict=True)], -1)

    def roll_out(
        self,
        act: Act,
        params: Params,
        memory: Tensor | None,
        problem: Tensor,
        keys: Tensor,
        trajectories: int,
    ) -> Rollout:
        """See `fewshot.worlds.rollout.rollout`; gradients and lanes are none of its business."""
        return outside(self._played, act, params, memory, problem, keys, trajectories)

    def _played(
        self,
        act: Act,
        params: Params,
        memory: Tensor | None,
        problem: Tensor,
        keys: Tensor,
        trajectories: int,
    ) -> Rollout:
        """The trajectories of one lane."""
        wanted = problem.flatten(0, -2).tolist()
        made = [self._made(values[: len(self._vary)]) for values in wanted]
        try:
            return self._steps(made, act, params, memory, keys, trajectories)
        finally:
            for one in made:
                one.close()

    def _steps(
        self,
        made: list[Any],
        act: Act,
        params: Params,
        memory: Tensor | None,
        keys: Tensor,
        trajectories: int,
    ) -> Rollout:
        steps: list[list[Tensor]] = [[], [], [], []]
        before = Before(
            no_action(self.actions, keys),
            torch.zeros(keys.shape, device=keys.device),
            torch.ones(keys.shape, device=keys.device),
        )
        for trajectory in range(trajectories):
            seeds = (fold(fold(keys, 0), trajectory) % _SEEDS).flatten().tolist()
            seen = np.stack(
                [_flat(one.reset(seed=seed)[0]) for one, seed in zip(made, seeds, strict=True)]
            )
            alive = np.ones(len(made), dtype=np.float32)
            for t in range(self.horizon):
                # A copy: the environments write their next observations into `seen`.
                observed = torch.from_numpy(seen.copy()).to(keys.device).unflatten(0, keys.shape)
                lived = torch.from_numpy(alive.copy()).to(keys.device).view(keys.shape)
                choice = fold(fold(keys, 1), trajectory * self.horizon + t)
                action, new = act(params, memory, observed, before, choice)
                if memory is not None and new is not None:
                    memory = torch.where(lived[..., None] > 0, new, memory)
                rewards = self._step(made, action, seen, alive)
                reward = torch.from_numpy(rewards).to(keys.device).view(keys.shape)
                for kept, value in zip(steps, (observed, action, reward, lived), strict=True):
                    kept.append(value)
                before = Before(action, reward, torch.zeros_like(reward))
            before = before._replace(started=torch.ones_like(before.started))
        return Rollout(*(torch.stack(values) for values in steps))

    def _step(
        self, made: list[Any], action: Tensor, seen: np.ndarray, alive: np.ndarray
    ) -> np.ndarray:
        """The rewards of one step; `seen` and `alive` are brought up to date in place."""
        numbers = action.reshape(len(made), -1).cpu().numpy()
        rewards = np.zeros(len(made), dtype=np.float32)
        for i, one in enumerate(made):
            if not alive[i]:
                continue
            found, rewards[i], terminated, truncated, _ = one.step(self.theirs(one, numbers[i]))
            seen[i] = _flat(found)
            alive[i] = not (terminated or truncated)
        return rewards

    def theirs(self, made: Any, action: np.ndarray) -> Any:
        """An action in the units of the environment, from one of the policy (n,)."""
        space = made.action_space
        if self.actions.discrete:
            return int(action[0]) + int(space.start)
        low, high = space.low.reshape(-1), space.high.reshape(-1)
        scaled = low + (np.clip(action, -1, 1) + 1) / 2 * (high - low)
        return scaled.reshape(space.shape).astype(space.dtype)

    def references(self) -> References:
        """Random actions as they are played, and the given reference."""
        keys = fold(torch.tensor(0), torch.arange(_EPISODES))
        pairs = fold(keys[:, None], torch.arange(2))
        problem = self.problem(keys)[:, None].expand(-1, 2, -1)
        return measured(self, problem, pairs, self._reference)


def _arguments_of(env: str) -> str:
    """A remedy: which arguments the environment takes; empty if it can't be made without any."""
    try:
        with _gymnasium().make(env) as made:
            kind = type(made.unwrapped)
    except Exception:  # a constructor may raise anything
        return ""
    takes = [name for name in signature(kind).parameters if name != "render_mode"]
    return (
        f"{kind.__name__} takes {', '.join(takes) or 'no arguments'}. To vary anything else, "
        "register an environment of your own with an argument for it."
    )


def _flat(observation: Any) -> np.ndarray:
    return np.asarray(observation, dtype=np.float32).reshape(-1)


def _shapes(made: Any) -> tuple[int, Actions]:
    """The numbers in an observation, and the actions. Raises InputError for other spaces."""
    spaces = _gymnasium().spaces
    seen, acts = made.observation_space, made.action_space
    details = []
    if not isinstance(seen, spaces.Box):
        rule = "must have a box of numbers as its observation."
        details.append(ErrorDetail("env", rule, str(seen)))
    bounded = isinstance(acts, spaces.Box) and np.isfinite([acts.low, acts.high]).all()
    if not bounded and not isinstance(acts, spaces.Discrete):
        rule = "must have choices, or a bounded box of numbers, as its actions."
        details.append(ErrorDetail("env", rule, str(acts)))
    if details:
        raise InputError(details)
    numbers = int(np.prod(seen.shape))
    if bounded:
        return numbers, Actions(int(np.prod(acts.shape)), discrete=False)
    return numbers, Actions(int(acts.n), discrete=True)
