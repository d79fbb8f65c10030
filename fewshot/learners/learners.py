"""The learners by name."""

from collections.abc import Callable

from fewshot.learners.base import Learner
from fewshot.learners.maml import MAML
from fewshot.learners.protonet import ProtoNet

# Each takes `model`, `way` and its options.
LEARNERS: dict[str, Callable[..., Learner]] = {"maml": MAML, "protonet": ProtoNet}
# The hyperparameters that a learner reads are known without building it.
HYPERPARAMETERS: dict[str, tuple[str, ...]] = {
    "maml": MAML.hyperparameters,
    "protonet": ProtoNet.hyperparameters,
}
