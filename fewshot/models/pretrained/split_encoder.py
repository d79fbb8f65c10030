"""A pretrained encoder that is split below its highest layers, to which LoRA weights are added.

The lower part is never trained, so its output can be computed once for each example.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fewshot.errors.inputs import input_error
from fewshot.models.pretrained.encoder import folder
from fewshot.models.pretrained.modalities import attention_mask, load

# Names of the query and value projections in the transformers library, by family of models.
_QUERY_VALUE = (("query", "value"), ("q_proj", "v_proj"), ("q_lin", "v_lin"))
# A layer that follows the stack of layers in some families.
_LAST = ("layernorm", "post_layernorm", "norm", "final_layer_norm")
_TOLERANCE = 1e-4  # of the self-check, in units of the largest hidden state


class _Reached(Exception):
    """Ends a forward pass at the first layer of the upper part, with the input of that layer."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class _LoraLinear(nn.Module):
    """y = base(x) + up down x for `down` (..., rank, n_in) and `up` (..., n_out, rank)."""

    down: Tensor
    up: Tensor

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.register_buffer("down", torch.zeros(1, base.in_features), persistent=False)
        self.register_buffer("up", torch.zeros(base.out_features, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = (x @ self.down.mT) @ self.up.mT
        return self.base_layer(x) + added  # type: ignore[no-any-return]


class _Upper(nn.Module):
    """The highest layers of `model`, as a module that `functional_call` can call."""

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module], last: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._layers = [*layers, last]  # a list, because `model` has registered them

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        *layers, last = self._layers
        for layer in layers:
            out = layer(hidden, mask)
            hidden = out[0] if isinstance(out, tuple) else out
        found: Tensor = last(hidden)
        return found


class SplitEncoder:
    """An encoder of the transformers library, whose `layers` highest layers get LoRA weights.

    encoder: see `fewshot.models.pretrained.encoder.folder`.
    layers: from 1 to the number of layers of the encoder.
    targets: the last parts of the names of the linear maps that get LoRA weights; None for the
        query and value projections.

    Raises InputError if there are fewer layers, if a target does not exist, or if the encoder does
    not consist of a plain stack of layers.
    """

    def __init__(self, encoder: str, layers: int, targets: Sequence[str] | None) -> None:
        place = folder(encoder)
        model, self.reads = load(place)
        self.width: int = model.config.hidden_size
        name, stack = _stack(model, encoder)
        if type(layers) is not int or not 1 <= layers <= len(stack):
            rule = f"must be a whole number from 1 to {len(stack)}, the layers of the encoder."
            raise input_error("model.layers", rule, layers)
        cut = len(stack) - layers
        self._first = f"{name}.{cut}"
        self.shapes = _shapes(list(stack)[cut:], f"{name}.", cut, targets)
        for path in self.shapes:
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, _LoraLinear(model.get_submodule(path)))
        last = next((model.get_submodule(n) for n in _LAST if hasattr(model, n)), nn.Identity())
        upper = _Upper(model, list(model.get_submodule(name))[cut:], last)
        self._upper: Any = upper.requires_grad_(False)
        self._check(encoder)

    def below(self, x: Tensor) -> Tensor:
        """The input (b, length, width) of the upper part for b examples."""
        model = self._upper.model
        first = model.get_submodule(self._first)
        handle = first.register_forward_pre_hook(_stop, with_kwargs=True)
        try:
            model(**self.reads.arguments(x))
        except _Reached as reached:
            return reached.hidden
        finally:
            handle.remove()
        raise AssertionError("the upper part is always reached")

    def above(self, hidden: Tensor, real: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """The encoder's output (b, length, width) for what `below` returns.

        real: (b, length) bool, False for padding.
        weights: LoRA matrices with the names PATH.down and PATH.up: shared, or with a dimension b.
        """
        named = {f"model.{path}": value for path, value in weights.items()}
        if next(self._upper.parameters()).dtype != hidden.dtype:
            own = self._upper.named_parameters()  # not by `to`, which changes the module
            named = {name: value.to(hidden.dtype) for name, value in own} | named
        arguments = (hidden, attention_mask(real, hidden.dtype))
        found: Tensor = functional_call(self._upper, named, arguments)
        return found

    def to(self, device: torch.device) -> None:
        """Move all weights; not to be called under a function transform."""
        self._upper.to(device)

    def _check(self, encoder: str) -> None:
        """Check that both parts together are the encoder."""
        x = self.reads.sample()
        with torch.no_grad():
            whole = self._upper.model(**self.reads.arguments(x)).last_hidden_state
            parts = self.above(self.below(x), self.reads.real(x), {})
        if not (whole - parts).abs().max() <= _TOLERANCE * whole.abs().max():
            rule = (
                "must be a plain stack of layers, as in BERT, RoBERTa, MiniLM, DistilBERT or ViT."
            )
            raise input_error("model.encoder", rule, encoder)


def _stack(model: nn.Module, encoder: str) -> tuple[str, nn.ModuleList]:
    """The name of the list of the encoder's layers, and the list."""
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == model.config.num_hidden_layers:  # type: ignore[union-attr]
            return name, module
    raise input_error("model.encoder", "must have a list of equal layers.", encoder)


def _shapes(
    layers: Sequence[nn.Module], prefix: str, start: int, targets: Sequence[str] | None
) -> dict[str, tuple[int, int]]:
    """(n_out, n_in) of each linear map that gets LoRA weights, by its path."""
    linear = {
        f"{prefix}{start + i}.{path}": module
        for i, layer in enumerate(layers)
        for path, module in layer.named_modules()
        if isinstance(module, nn.Linear)
    }
    known = {path.rpartition(".")[2] for path in linear}
    if targets is None:
        targets = next((pair for pair in _QUERY_VALUE if known.issuperset(pair)), ())
    missing = [target for target in targets if target not in known]
    if missing or not targets:
        rule = f"must name linear maps of the encoder: {', '.join(sorted(known))}."
        raise input_error("model.targets", rule, list(missing))
    return {
        path: (module.out_features, module.in_features)
        for path, module in linear.items()
        if path.rpartition(".")[2] in targets
    }


def _stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    del module
    raise _Reached(args[0] if args else kwargs["hidden_states"])
