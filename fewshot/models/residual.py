"""The inputs plus a learned correction that starts at zero.

f(x) = g * (x + relu(x A + a) B),  with B = 0 and g = scale / spread at the start.

Without training, the embedding of an example is the example itself, up to a scale that does not
matter when distances or angles are compared. Training starts from there. The model is made for
features that are already meaningful, such as those of a pretrained encoder.

The zero initialisation follows Goyal et al., "Accurate, large minibatch SGD", 2017 (section 5.1),
and Hu et al., "LoRA", ICLR 2022. The learned scale follows Oreshkin, Rodriguez and Lacoste, "TADAM:
task dependent adaptive metric for improved few-shot learning", NeurIPS 2018. It is needed because a
softmax over distances between features of length 1 is nearly flat and gives small gradients.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fewshot.errors.inputs import check_sizes
from fewshot.functional import Params, linear_params
from fewshot.models.gain import initial_gain


class Residual:
    """(b, *features) -> (b, n_out), where n_out is the product of the features.

    hidden: >= 1, the hidden width of the correction.
    scale: > 0, the initial root mean square distance of an embedded example from the mean of its
        episode.
    spread: > 0, the same distance of the inputs. The builder measures it on training tasks.
    """

    head: tuple[str, ...] = ("gain",)

    def __init__(
        self,
        *,
        features: Sequence[int],
        hidden: int = 32,
        scale: float = 5.0,
        spread: float = 1.0,
    ) -> None:
        check_sizes("model", hidden=hidden)
        self.n_out = math.prod(features)
        self._hidden, self._gain = hidden, initial_gain(scale, spread)

    def init(self, generator: torch.Generator) -> Params:
        weight, bias = linear_params(self.n_out, self._hidden, generator)
        return {
            "down": weight,
            "bias": bias,
            "up": torch.zeros(self._hidden, self.n_out),
            "gain": torch.tensor(self._gain),
        }

    def apply(self, params: Params, x: Tensor) -> Tensor:
        x = x.flatten(1)
        correction = (x @ params["down"] + params["bias"]).relu() @ params["up"]
        return params["gain"] * (x + correction)
