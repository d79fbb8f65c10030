"""The learners by name."""

from collections.abc import Callable
from functools import partial

from fewshot.learners.base import ClassLoss, Learner, OwnLoss
from fewshot.learners.baseline import Baseline
from fewshot.learners.maml import MAML
from fewshot.learners.matching import MatchingNet
from fewshot.learners.meta_sgd import MetaSGD
from fewshot.learners.protonet import ProtoNet
from fewshot.learners.reptile import Reptile
from fewshot.learners.ridge import Ridge
from fewshot.learners.simpleshot import SimpleShot


class _Variant(partial[Learner]):
    """A learner with some of its options decided. What it says of itself is what its class says."""

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        found: tuple[str, ...] = self.func.hyperparameters  # type: ignore[attr-defined]
        return found

    @property
    def model_scores_classes(self) -> bool:
        return bool(self.func.model_scores_classes)  # type: ignore[attr-defined]


# Each takes `model`, `way` and its options.
LEARNERS: dict[str, Callable[..., Learner]] = {
    "maml": MAML,
    "fomaml": _Variant(MAML, first_order=True),
    "anil": _Variant(MAML, inner="head"),
    "meta_sgd": MetaSGD,
    "reptile": Reptile,
    "matching": MatchingNet,
    "protonet": ProtoNet,
    "ridge": Ridge,
    "simpleshot": SimpleShot,
    "baseline": Baseline,
    "baseline_pp": _Variant(Baseline, cosine=True),
}
# The hyperparameters that a learner reads are known without building it.
HYPERPARAMETERS: dict[str, tuple[str, ...]] = {
    "maml": MAML.hyperparameters,
    "fomaml": MAML.hyperparameters,
    "anil": MAML.hyperparameters,
    "meta_sgd": MetaSGD.hyperparameters,
    "reptile": Reptile.hyperparameters,
    "matching": MatchingNet.hyperparameters,
    "protonet": ProtoNet.hyperparameters,
    "ridge": Ridge.hyperparameters,
    "simpleshot": SimpleShot.hyperparameters,
    "baseline": Baseline.hyperparameters,
    "baseline_pp": Baseline.hyperparameters,
}
# Those that learn numbers too; they take the `kind` of what is to be learned.
REGRESSORS = frozenset({"maml", "fomaml", "anil", "meta_sgd", "reptile", "ridge"})
# Those that are trained to tell all classes of a training task apart; they take `classes`, the
# number of each task's.
CLASSIFIERS = frozenset({"baseline", "baseline_pp"})


def has_own_loss(name: str) -> bool:
    """Whether it is by a loss of its own that the learner is trained; known without building it."""
    made = LEARNERS[name]
    return isinstance(getattr(made, "func", made), OwnLoss | ClassLoss)
