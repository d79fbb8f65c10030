"""The models by name."""

from collections.abc import Callable

from fewshot.models.bag import Bag
from fewshot.models.base import Model
from fewshot.models.convolution.conv import Conv
from fewshot.models.mlp import MLP
from fewshot.models.pretrained.transformer import Transformer
from fewshot.models.residual import Residual
from fewshot.models.untrained import Untrained
from fewshot.registry import resolve

# What the builder supplies to a model that takes it: the root mean square distance of an example
# from the mean of its episode.
SPREAD = "spread"
# Each takes `features` (shape of one example), `n_out` where it can be chosen, and its options.
MODELS: dict[str, Callable[..., Model]] = {
    "bag": Bag,
    "conv": Conv,
    "mlp": MLP,
    "residual": Residual,
    "transformer": Transformer,
    "untrained": Untrained,
}


def fills_processor(name: str) -> bool:
    """Whether the model `name`, of `MODELS` or a user's own, says that it does."""
    return bool(getattr(resolve(MODELS, name, "model.name"), "fills_processor", False))
