"""The interface of what a lane minimises."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from fewshot.functional import Hyperparameters, Params
from trials.contract import Stage

NOTHING: Mapping[str, float] = MappingProxyType({})


def soft_hyperparameters(regresses: bool) -> tuple[str, ...]:
    """The extra hyperparameters of training with a teacher; regression has no temperature."""
    return ("distill/soft_weight",) if regresses else ("distill/temperature", "distill/soft_weight")


class TaskScores(NamedTuple):
    """The scores of l models on one held-out task, for n episodes (or n queries of one task).

    of_problems: whether `skill` has one number for each problem of the task instead, such as a goal
    or a school, and problems are a random sample; see `fewshot.metrics.by_group`.
    """

    task: str
    skill: Tensor  # (l, n)
    metrics: dict[str, Tensor]  # each (l,)
    of_problems: bool = False


class Objective(Protocol):
    """The training loss and the scoring of one recipe. An objective has no state.

    `loss` is a function of one lane and is mapped over lanes. `init` makes one lane's parameters.
    The other methods take l lanes at once.
    """

    # Whether steps are recorded once and then replayed, see `trials.lanes.step.capture`. The time
    # of a recording grows faster than the number of operations, so thousands are not recorded.
    captured: bool
    learning_rate: str  # name of the hyperparameter that is the optimiser's learning rate
    hyperparameters: tuple[str, ...]  # all names that are read, including `learning_rate`
    tasks: tuple[str, ...]  # the task of each task weight, in order; may be empty

    def init(self, seed: int, hyperparameters: Mapping[str, float] = NOTHING) -> Params:
        """Fresh parameters of one lane, on the CPU.

        hyperparameters: of the trial; only those that fix which parameters are trained are read.
        """

    def draw(self, seeds: Tensor, steps: Tensor, weights: Tensor) -> Any:
        """Draw the examples of the steps (l,) of trials with seeds (l,).

        The result has tensors whose first dimension is l. They hold row numbers instead of the
        examples themselves, because many steps are drawn in one call.

        weights: (l, t), used if episodes are sampled by task weight.
        """

    def batch(self, drawn: Any) -> Any:
        """The drawn examples themselves, as `loss` needs them; the first dimension is l."""

    def embed(self, params: Params, batch: Any) -> Any:
        """The batch after the part of the model that is computed for all lanes together.

        It is differentiable in `params` (l, ...). Most models have no such part, so that the batch
        is returned unchanged.
        """

    def loss(self, params: Params, batch: Any, hyper: Hyperparameters, weights: Tensor) -> Tensor:
        """The loss of one lane, a scalar, for what `embed` returns; weights (t,) as in `tasks`."""

    def score(self, params: Params, hyper: Hyperparameters, stage: Stage) -> list[TaskScores]:
        """The scores of l models; the first dimension of all tensors is l."""
