"""Two towers: one embeds the image of an example, the other its text, in the same space.

[f(image) | p g(text)],  p = 1 with a text, 0 without

    mlp:       f(x) = relu(x A + a) B + b
    residual:  f(x) = c (x + relu(x A + a) B),  with B = 0 and c = scale / spread at the start

Towers of the kind `residual` start at their inputs. They are for features that are in one space
already, such as those of the two towers of CLIP (Radford et al., "Learning transferable visual
models from natural language supervision", ICML 2021).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fewshot.errors.inputs import ErrorDetail, InputError, input_error
from fewshot.functional import Params
from fewshot.models.base import Model
from fewshot.models.mlp import MLP
from fewshot.models.residual import Residual

_TOWERS = ("image", "text")


class TwoTowers:
    """(b, i + t + 1) = [image | text | presence] -> (b, 2 e): embeddings of image and text.

    The embedding of the text is 0 for examples without a text.

    text: t, the number of text features.
    towers: "mlp", or "residual" if images and texts have the same number of features.
    hidden: >= 1, the hidden width of each tower.
    n_out: e, of "mlp"; the embeddings of "residual" have the width of the features.
    scale: of "residual", see `Residual`. spread: of the inputs, measured by the builder.
    """

    def __init__(
        self,
        *,
        features: Sequence[int],
        text: int,
        towers: Literal["mlp", "residual"] = "mlp",
        hidden: int = 128,
        n_out: int = 64,
        scale: float = 5.0,
        spread: float = 1.0,
    ) -> None:
        self._image, self._text = _widths(features, text)
        _check(towers, hidden, n_out, self._image, self._text)
        made: list[Model]
        if towers == "mlp":
            widths = (self._image, self._text)
            made = [MLP(features=(n,), hidden=(hidden,), n_out=n_out) for n in widths]
        else:
            made = [
                Residual(features=(self._text,), hidden=hidden, scale=scale, spread=spread)
                for _ in _TOWERS
            ]
        self._towers = dict(zip(_TOWERS, made, strict=True))
        self.n_out = sum(tower.n_out for tower in made)
        self.head: tuple[str, ...] = tuple(
            f"{name}.{key}" for name, tower in self._towers.items() for key in tower.head
        )

    def init(self, generator: torch.Generator) -> Params:
        return {
            f"{name}.{key}": value
            for name, tower in self._towers.items()
            for key, value in tower.init(generator).items()
        }

    def apply(self, params: Params, x: Tensor) -> Tensor:
        image, text, presence = x.split([self._image, self._text, 1], -1)
        embedded = self._tower("image", params, image)
        return torch.cat([embedded, presence * self._tower("text", params, text)], -1)

    def _tower(self, name: str, params: Params, x: Tensor) -> Tensor:
        own = {
            key.removeprefix(f"{name}."): value
            for key, value in params.items()
            if key.startswith(f"{name}.")
        }
        return self._towers[name].apply(own, x)


def _widths(features: Sequence[int], text: object) -> tuple[int, int]:
    """The numbers of image and text features of examples with the shape `features`."""
    rule = "must be the number of text features of each example."
    if type(text) is not int or text < 1:
        raise input_error("model.text", rule, text)
    if len(features) != 1 or features[0] < text + 2:
        shape = " x ".join(map(str, features))
        remedy = f"Examples have the shape {shape}; they need image features, {text} and one more."
        raise input_error("model.text", rule, text, remedy)
    return features[0] - text - 1, text


def _check(towers: object, hidden: object, n_out: object, image: int, text: int) -> None:
    details = [
        ErrorDetail(f"model.{name}", "must be a whole number of at least 1.", value)
        for name, value in (("hidden", hidden), ("n_out", n_out))
        if type(value) is not int or value < 1
    ]
    if towers not in ("mlp", "residual"):
        details.append(ErrorDetail("model.towers", "must be mlp or residual.", towers))
    if towers == "residual" and image != text:
        rule = "can be residual only if images and texts have the same number of features."
        remedy = "Use `towers: mlp`, or the two towers of one model, such as CLIP."
        found = f"{image} and {text} features"
        details.append(ErrorDetail("model.towers", rule, found, remedy))
    if details:
        raise InputError(details)
