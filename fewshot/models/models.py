"""The models by name."""

from collections.abc import Callable

from fewshot.models.bag import Bag
from fewshot.models.base import Model
from fewshot.models.conv import Conv
from fewshot.models.mlp import MLP
from fewshot.models.transformer import Transformer
from fewshot.registry import resolve

# Each takes `features` (shape of one example), `n_out` where it can be chosen, and its options.
MODELS: dict[str, Callable[..., Model]] = {
    "bag": Bag,
    "conv": Conv,
    "mlp": MLP,
    "transformer": Transformer,
}


def fills_processor(name: str) -> bool:
    """Whether the model `name`, of `MODELS` or a user's own, says that it does."""
    return bool(getattr(resolve(MODELS, name, "model.name"), "fills_processor", False))
