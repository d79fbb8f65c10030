"""The learners by name."""

from collections.abc import Callable

from fewshot.learners.base import Learner
from fewshot.learners.maml import MAML
from fewshot.learners.matching import MatchingNet
from fewshot.learners.protonet import ProtoNet
from fewshot.learners.ridge import Ridge
from fewshot.learners.simpleshot import SimpleShot

# Each takes `model`, `way` and its options.
LEARNERS: dict[str, Callable[..., Learner]] = {
    "maml": MAML,
    "matching": MatchingNet,
    "protonet": ProtoNet,
    "ridge": Ridge,
    "simpleshot": SimpleShot,
}
# The hyperparameters that a learner reads are known without building it.
HYPERPARAMETERS: dict[str, tuple[str, ...]] = {
    "maml": MAML.hyperparameters,
    "matching": MatchingNet.hyperparameters,
    "protonet": ProtoNet.hyperparameters,
    "ridge": Ridge.hyperparameters,
    "simpleshot": SimpleShot.hyperparameters,
}
