"""A frozen pretrained encoder with trained low-rank additions to its highest layers.

W x becomes W x + (alpha / rank) B A x for each target W, with B = 0 at the start. The embedding
is the mean over the tokens of a text, or the class token of an image, scaled to the length `gain`.
Without training it is therefore the embedding of the encoder.

Hu et al., "LoRA: low-rank adaptation of large language models", ICLR 2022. The learned scale is
that of `fewshot.models.residual`.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.errors.inputs import ErrorDetail, InputError, input_error
from fewshot.functional import Params, class_means, linear_params
from fewshot.models.gain import initial_gain
from fewshot.models.pretrained.encoder import digest_of_model, folder
from fewshot.models.pretrained.hidden_states import HiddenStates
from fewshot.models.pretrained.modalities import TokenIds
from fewshot.models.pretrained.split_encoder import SplitEncoder
from fewshot.models.pretrained.token_batches import similar_lengths

DOWN, UP = ".lora_A.weight", ".lora_B.weight"  # the names that PEFT gives the two matrices
MAX_RANK, ALPHA = 8, 16.0
_AT_ONCE = 256  # examples whose embeddings are computed together
RANK = "lora/rank"  # the hyperparameter; the option `rank` is the maximum


class Lora:
    """Token ids (b, length) int64, or pixels (b, 3, h, w) or (b, h, w) in [0, 1] -> (b, n_out).

    encoder: see `fewshot.models.pretrained.encoder.folder`. Its tokenizer must have made the ids.
        An encoder of images must have a class token, as ViT or DINOv2.
    layers: how many of the highest layers are adapted.
    rank: >= 1, the maximum rank, see `with_rank`. alpha: > 0.
    targets: the last parts of the names of the adapted linear maps, as in PEFT; by default the
        query and the value projections.
    scale: > 0, the initial root mean square distance of an embedding from the mean of its episode.
    spread: > 0, the same distance of embeddings of length 1. The builder measures it.
    n_out: the number of outputs of a new last layer; None to return embeddings.
    """

    pretrained = True

    def __init__(
        self,
        *,
        features: Sequence[int],
        encoder: str,
        layers: int = 2,
        rank: int = MAX_RANK,
        alpha: float = ALPHA,
        targets: Sequence[str] | None = None,
        scale: float = 2.5,
        spread: float = 1.0,
        n_out: int | None = None,
    ) -> None:
        _check(rank, alpha, targets)
        self._frozen = _frozen(encoder, layers, None if targets is None else tuple(targets))
        self._encoder, self._states = self._frozen.encoder, self._frozen.states
        most = min(min(shape) for shape in self._encoder.shapes.values())
        if rank > most:
            rule = f"must be at most {most}, the smaller side of the adapted matrices."
            raise input_error("model.rank", rule, rank)
        texts = isinstance(self._encoder.reads, TokenIds)
        if texts != (len(features) == 1):
            needed = "token ids: texts with `features: tokens`" if texts else "pixels: images"
            raise input_error("model", f"this encoder reads {needed}.", tuple(features))
        self._rank, self._alpha, self._scale = rank, alpha, scale
        self._gain = initial_gain(scale, spread)
        self._classes = n_out
        self.n_out = self._encoder.width if n_out is None else n_out
        self.head: tuple[str, ...] = ("gain",) if n_out is None else ("head.weight", "head.bias")

    def init(self, generator: torch.Generator) -> Params:
        params: Params = {}
        for path, (n_out, n_in) in self._encoder.shapes.items():
            down, _ = linear_params(n_in, self._rank, generator)
            params[f"{path}{DOWN}"] = down.T.contiguous()
            params[f"{path}{UP}"] = torch.zeros(n_out, self._rank)
        if self._classes is None:
            return params | {"gain": torch.tensor(self._gain)}
        weight = torch.zeros(self._encoder.width, self._classes)
        return params | {"head.weight": weight, "head.bias": torch.zeros(self._classes)}

    def head_at_means(self, params: Params, x: Tensor, labels: Tensor) -> Params:
        """A last layer that predicts the class whose mean embedding is nearest.

        x: examples (n, ...), with all classes; labels: (n,) int64. `apply` then returns the
        negative squared distances, up to a constant: see `fewshot.learners.fine_tuned`.
        """
        assert self._classes is not None, "embeddings have no such layer"
        with torch.no_grad():
            parts = [self._embedded(params, self.states(part)) for part in x.split(_AT_ONCE)]
        means = class_means(self._scale * torch.cat(parts), labels, self._classes)
        return {"head.weight": 2 * means.mT, "head.bias": -means.square().sum(-1)}

    def cache_states(self, inputs: Tensor, cache: Path) -> None:
        """Compute the hidden states of all inputs (n, length), or read them from `cache`.

        The frozen weights are moved to the device of the inputs.
        """
        self._encoder.to(inputs.device)
        self._states.to(inputs.device)
        self._states.fill(inputs, cache, self._frozen.source)

    def apply(self, params: Params, x: Tensor) -> Tensor:
        hidden = self._encoder.below(x).detach().to(params[self.head[0]].dtype)
        return self._outputs(params, hidden, self._encoder.reads.real(x))

    def states(self, x: Tensor) -> Tensor:
        """The hidden states (n, length, width + 1) of x (n, ...), as long as the longest example.

        The last number of a state is 1, or 0 for padding.
        """
        if x.is_meta:  # a forecast of memory, for the longest texts
            shape = len(x), self._states.longest or x.shape[-1], self._encoder.width + 1
            return torch.empty(shape, device=x.device)
        starts, lengths = self._states.find(x)
        hidden, real = self._states.gather(starts, lengths, int(lengths.max()))
        return torch.cat([hidden, real.unsqueeze(-1).to(hidden)], -1)

    def apply_states(self, params: Params, states: Tensor) -> Tensor:
        hidden = states[..., :-1].to(params[self.head[0]].dtype)
        return self._outputs(params, hidden, states[..., -1] > 0)

    def apply_to_lanes(self, params: Params, x: Tensor) -> Tensor:
        """Outputs (l, b, n_out) of l lanes for x (l, b, ...), or (1, b, ...) for all lanes.

        Texts of similar length form a batch, whatever their lane. Products with the frozen weights
        are therefore large, and no lane computes the padding of another lane's texts.
        """
        lanes, (shared, b), length = len(params[self.head[0]]), x.shape[:2], x.shape[-1]
        lane = torch.arange(lanes, device=x.device).repeat_interleave(b)
        if x.is_meta:  # a forecast of memory, for the longest texts
            length = self._states.longest or length
            hidden = torch.empty(lanes * b, length, self._encoder.width, device=x.device)
            real = torch.ones(lanes * b, length, dtype=torch.bool, device=x.device)
            return self._outputs(_of(params, lane), hidden, real).view(lanes, b, -1)
        starts, lengths = self._states.find(x.flatten(0, 1))
        starts, lengths = (v.repeat(lanes // shared) for v in (starts, lengths))
        batches = similar_lengths(lengths)
        found = []
        for rows in batches:
            n = int(lengths[rows].max())
            hidden, real = self._states.gather(starts[rows], lengths[rows], n)
            own = _of(params, lane[rows])
            found.append(self._outputs(own, hidden.to(own[self.head[0]].dtype), real))
        order = torch.cat(batches).argsort()
        return torch.cat(found).index_select(0, order).view(lanes, b, -1)

    def _embedded(self, params: Params, states: Tensor) -> Tensor:
        """Embeddings (b, width) of length 1 for the results of `states`."""
        hidden = states[..., :-1].to(params[self.head[0]].dtype)
        return self._pooled(params, hidden, states[..., -1] > 0)

    def _outputs(self, params: Params, hidden: Tensor, real: Tensor) -> Tensor:
        """Outputs (b, n_out) for hidden states; parameters are shared, or have a dimension b."""
        embedded = self._pooled(params, hidden, real)
        if self._classes is None:
            return params["gain"].unsqueeze(-1) * embedded
        logits = (self._scale * embedded).unsqueeze(1) @ params["head.weight"]
        return logits.squeeze(1) + params["head.bias"]

    def _pooled(self, params: Params, hidden: Tensor, real: Tensor) -> Tensor:
        weights = {}
        for path in self._encoder.shapes:
            down = weights[f"{path}.down"] = params[f"{path}{DOWN}"]
            times = (self._alpha / active_rank(down))[..., None, None]
            weights[f"{path}.up"] = times * params[f"{path}{UP}"]
        out = self._encoder.above(hidden, real, weights)
        return self._encoder.reads.pooled(out, real)


def _check(rank: object, alpha: object, targets: Sequence[object] | None) -> None:
    details = []
    if type(rank) is not int or rank < 1:
        details.append(ErrorDetail("model.rank", "must be a whole number of at least 1.", rank))
    if not (isinstance(alpha, int | float) and 0 < alpha < math.inf):
        details.append(ErrorDetail("model.alpha", "must be a number above 0.", alpha))
    if isinstance(targets, str) or not all(isinstance(name, str) for name in targets or ()):
        rule = "must be a list of names, such as [query, value]."
        details.append(ErrorDetail("model.targets", rule, targets))
    if details:
        raise InputError(details)


def with_rank(params: Params, hyperparameters: Mapping[str, float]) -> Params:
    """Initial parameters of which only those up to the rank of a trial will be trained.

    The other rows and columns are zero in both matrices, so that their gradients are zero too. The
    rank is rounded to a whole number, at least 1. Without a rank, all parameters are trained.
    """
    if RANK not in hyperparameters:
        return params
    n = max(1, round(hyperparameters[RANK]))
    return {
        name: torch.cat([value[:n], torch.zeros_like(value[n:])]) if name.endswith(DOWN) else value
        for name, value in params.items()
    }


def active_rank(down: Tensor) -> Tensor:
    """The number of rows of `down` (..., rank, n_in) that are not zero; at least 1."""
    return (down != 0).any(-1).sum(-1).clamp(min=1)


class _Frozen(NamedTuple):
    """The frozen weights and the hidden states; `source` identifies the encoder and the layer."""

    encoder: SplitEncoder
    states: HiddenStates
    source: str


@lru_cache(maxsize=4)
def _frozen(encoder: str, layers: int, targets: tuple[str, ...] | None) -> _Frozen:
    """The frozen part, which all models of a process share."""
    split = SplitEncoder(encoder, layers, targets)
    states = HiddenStates(split.below, split.reads.counts, split.width)
    source = digest_of_model(folder(encoder), f"hidden {layers}").hexdigest()
    return _Frozen(split, states, source)


def _of(params: Params, lane: Tensor) -> Params:
    """The parameters of the lane (b,) of each row."""
    return {name: value.index_select(0, lane) for name, value in params.items()}
