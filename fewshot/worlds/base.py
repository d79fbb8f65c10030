"""The interface of a world, a family of reinforcement learning problems."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Actions:
    """What a policy decides: one of `n` choices, or `n` numbers.

    A choice is an int64 in [0, n), of shape (...). Numbers have shape (..., n) and the range
    [-1, 1]: a world clips larger ones and scales them to its own units.
    """

    n: int
    discrete: bool


class World(Protocol):
    """Pure functions of tensors, named as in gymnasium's functional API.

    A task is a world. An episode is one problem of it: a goal, some arms, the length of a pole. All
    shapes have the same leading dimensions (...), of lanes, problems and trajectories. Random
    numbers are functions of keys (...) int64, see `fewshot.randomness`. A trajectory has at most
    `horizon` steps. It always takes `horizon` steps in memory: after a terminal state, a mask marks
    the rest as dead.
    """

    horizon: int  # >= 1
    n_observation: int  # numbers in an observation
    actions: Actions

    def problem(self, key: Tensor) -> Tensor:
        """The numbers (..., p) that define the problem of each key."""

    def initial(self, key: Tensor, problem: Tensor) -> Tensor:
        """The first state (..., s) of a trajectory."""

    def transition(self, state: Tensor, action: Tensor, key: Tensor, problem: Tensor) -> Tensor:
        """The state (..., s) after an action."""

    def observation(self, state: Tensor, problem: Tensor) -> Tensor:
        """What the policy sees of a state, (..., n_observation)."""

    def reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, key: Tensor, problem: Tensor
    ) -> Tensor:
        """The reward (...) of an action."""

    def terminal(self, state: Tensor, problem: Tensor) -> Tensor:
        """Whether a trajectory ends when it reaches the state, (...) bool."""

    def expert(self, state: Tensor, problem: Tensor) -> Tensor:
        """A good action for a state by somebody who knows the problem.

        Its mean return is the reference of the world: it has a skill of 1.
        """
