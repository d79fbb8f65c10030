"""The models by name."""

from collections.abc import Callable

from fewshot.models.bag import Bag
from fewshot.models.base import Model
from fewshot.models.convolution.conv import Conv
from fewshot.models.convolution.resnet12 import ResNet12
from fewshot.models.mlp import MLP
from fewshot.models.pretrained.adapters.lora import Lora
from fewshot.models.pretrained.transformer import Transformer
from fewshot.models.residual import Residual
from fewshot.models.two_towers import TwoTowers
from fewshot.models.untrained import Untrained
from fewshot.registry import resolve

# An optional argument that the builder supplies: the root mean square distance of an example from
# the mean of its episode.
SPREAD = "spread"
# Each takes `features` (the shape of one example), `n_out` if it is not fixed, and its options.
MODELS: dict[str, Callable[..., Model]] = {
    "bag": Bag,
    "conv": Conv,
    "lora": Lora,
    "mlp": MLP,
    "residual": Residual,
    "resnet12": ResNet12,
    "transformer": Transformer,
    "two_towers": TwoTowers,
    "untrained": Untrained,
}


def is_pretrained(name: str) -> bool:
    """Whether the model `name`, from `MODELS` or of a user, sets `pretrained`."""
    return bool(getattr(resolve(MODELS, name, "model.name"), "pretrained", False))


def fills_processor(name: str) -> bool:
    """Whether the model `name`, from `MODELS` or of a user, sets `fills_processor`."""
    return bool(getattr(resolve(MODELS, name, "model.name"), "fills_processor", False))
