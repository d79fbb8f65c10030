"""What a lane minimises, and how its trial is scored."""

from typing import Any, NamedTuple, Protocol

from torch import Tensor

from fewshot.functional import Hyperparameters, Params
from trials.contract import Stage


def soft_hyperparameters(regresses: bool) -> tuple[str, ...]:
    """What is read besides where there is a teacher: of numbers it has no temperature."""
    return ("distill/soft_weight",) if regresses else ("distill/temperature", "distill/soft_weight")


class TaskScores(NamedTuple):
    """How l models did on one held-out task, over n episodes (or n queries of a single one)."""

    task: str
    skill: Tensor  # (l, n)
    metrics: dict[str, Tensor]  # each (l,)


class Objective(Protocol):
    """One recipe's training loss and its scoring, without any state.

    `loss` sees one lane and is mapped over lanes; the other methods see l of them at once.
    """

    learning_rate: str  # the hyperparameter that is the optimiser's rate
    hyperparameters: tuple[str, ...]  # all that are read, `learning_rate` among them
    tasks: tuple[str, ...]  # what the task weights weigh, in this order; may be empty

    def init(self, seed: int) -> Params:
        """Fresh parameters of one lane, on the CPU."""

    def draw(self, seeds: Tensor, steps: Tensor, weights: Tensor) -> Any:
        """What there is to learn from at steps (l,) of trials with seeds (l,).

        Tensors that lead with l, and say which examples rather than hold them: many steps are drawn
        at once. weights: (l, t), for those who draw by them.
        """

    def batch(self, drawn: Any) -> Any:
        """What `loss` needs of that, the examples themselves; it leads with l too."""

    def loss(self, params: Params, batch: Any, hyper: Hyperparameters, weights: Tensor) -> Tensor:
        """The loss of one lane, a scalar; weights (t,) as in `tasks`."""

    def score(self, params: Params, hyper: Hyperparameters, stage: Stage) -> list[TaskScores]:
        """Scores of l models; every tensor in `params` and `hyper` leads with l."""
