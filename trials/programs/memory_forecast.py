"""Forecasts the memory that lanes need.

One training step and one scoring of a single lane run on PyTorch's device `meta`, where tensors
have shapes but no memory. Their peak memory is counted, then multiplied by the number of lanes.
Small models and episodes use real memory instead, because `meta` imports PyTorch's compiler, which
takes seconds.
"""

import logging
import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.func import vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from fewshot.episodes import Episode, hide_query_labels
from fewshot.functional import Hyperparameters, Params
from fewshot.learners.metric.embedding import EmbeddingLearner, compares_embedded, of_embedded
from fewshot.tasks.pool import TaskPool
from fewshot.tasks.regression import RegressionPool
from trials.lanes.objective import Objective
from trials.lanes.optimizers.base import Optimizer
from trials.lanes.step.mapping import over_lanes, same_for_lanes
from trials.programs.adaptation.adaptation import Adaptation
from trials.programs.meta_training.objective import MetaTraining
from trials.programs.meta_training.scoring import EXAMPLES_AT_ONCE, at_once, numbers_of, with_states
from trials.programs.meta_training.task_group import TaskGroup

log = logging.getLogger(__name__)

_META = torch.device("meta")
_SMALL = 1 << 22  # numbers in the parameters, and in the examples of a step or a chunk of episodes
# Operations that make parameters; on `meta` PyTorch would infer their shapes with its compiler.
_RANDOM = {torch.ops.aten.rand, torch.ops.aten.randn}
_POINTWISE = {torch.ops.aten.add, torch.ops.aten.div, torch.ops.aten.mul, torch.ops.aten.sub}

# A unit of scoring work of one lane; afterwards only its return value stays in memory.
Piece = Callable[[Params, Hyperparameters], Any]


@dataclass(frozen=True)
class MemoryNeeds:
    """Bytes in addition to the inputs: `held` for all lanes together, the others for each lane.

    held: examples that are kept for scoring.
    state: the parameters and the state of the optimiser.
    step, scoring: the peak of a training step, and of a scoring, in addition to the state.
    """

    held: float
    state: float
    step: float
    scoring: float

    def of(self, lanes: int, at_once: int) -> float:
        """Peak bytes of `lanes` lanes, of which `at_once` are trained at the same time."""
        return self.held + lanes * self.state + at_once * max(self.step, self.scoring)


def memory_needs(objective: Objective, optimizer: Optimizer, device: torch.device) -> MemoryNeeds:
    """The memory that lanes of `objective` need; its inputs are on `device`."""
    params, hyper, place = _one_lane(objective)
    sizes = [_bytes(value) for value in params.values()]
    slots = tree_leaves(optimizer.zeros_like(params))
    state = sum(sizes) + sum(map(_bytes, slots))
    held, pieces = _scoring(objective, place)
    # The optimiser makes two temporary tensors of the size of the parameter that it updates; a
    # report makes a copy of the state.
    step = _step(objective, params, hyper, device, place) + 2 * max(sizes, default=0.0)
    with torch.no_grad():
        scoring = sum(sizes) + max(_most(partial(piece, params, hyper), place) for piece in pieces)
    return MemoryNeeds(held, state, max(step, state), scoring)


def scoring_needs(objective: Objective) -> float:
    """Bytes in addition to the inputs for scoring one model that is not trained."""
    params, hyper, place = _one_lane(objective)
    held, pieces = _scoring(objective, place)
    with torch.no_grad():
        return held + max(_most(partial(piece, params, hyper), place) for piece in pieces)


def _one_lane(objective: Objective) -> tuple[Params, Hyperparameters, torch.device]:
    """Parameters and hyperparameters of one lane, and the device that they are on."""
    template = _template(objective)
    n = sum(value.numel() for value in template.values())
    if isinstance(objective, MetaTraining):
        n = max(n, *(_examples_at_once(part) for part in objective.parts))
    place = torch.device("cpu") if n <= _SMALL else _META
    params = {name: _empty(value, place, 1, *value.shape) for name, value in template.items()}
    return params, {name: torch.ones(1, device=place) for name in objective.hyperparameters}, place


def _examples_at_once(part: TaskGroup) -> int:
    """Numbers in the examples of the largest chunk of episodes that is scored at once."""
    found = [0]
    for pool, n_episodes, key in part.held_out.values():
        drawn = pool.by_row().draw(key, 1) if isinstance(pool, TaskPool | RegressionPool) else None
        episode = pool.draw(key, 1) if drawn is None else drawn
        width = episode.support_y.shape[2] + episode.query_y.shape[2]
        numbers = width * numbers_of(pool.features, part.frozen)
        found.append(numbers * at_once(len(pool.names) * n_episodes, numbers))
        if drawn is not None:
            found.append(sum(pool.sizes.values()) * math.prod(pool.features))
    return max(found)


def _template(objective: Objective) -> Params:
    try:
        with _Counter(_META):
            return objective.init(0)
    except (RuntimeError, NotImplementedError, TypeError):  # a user's model may not run on `meta`
        return objective.init(0)


def _step(
    objective: Objective,
    params: Params,
    hyper: Hyperparameters,
    device: torch.device,
    place: torch.device,
) -> float:
    """Bytes of a gradient of one lane, including its batch."""
    one = torch.zeros(1, dtype=torch.int64, device=device)
    weights = torch.ones(1, len(objective.tasks), device=device)
    drawn = objective.draw(one, one, weights)
    if isinstance(objective, MetaTraining):
        for part in objective.parts:
            _ = part.null_losses  # computed now and cached, because it needs values, not shapes
    batch = _made(lambda: objective.batch(drawn), place)
    held = sum(_bytes(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor))

    def gradient() -> Any:
        own = {name: value.requires_grad_() for name, value in params.items()}
        losses = over_lanes(objective.loss)(own, objective.embed(own, batch), hyper, weights)
        return torch.autograd.grad(losses.sum(), list(own.values()), materialize_grads=True)

    with torch.enable_grad():
        return held + _most(gradient, place)


def _scoring(objective: Objective, place: torch.device) -> tuple[float, list[Piece]]:
    """Bytes of the examples that are kept for scoring, and the pieces of work of a scoring."""
    if isinstance(objective, Adaptation):
        answer, x = (
            same_for_lanes(objective.model),
            _made(objective.some_queries, place),
        )
        return _bytes(x), [lambda params, hyper: answer(params, x)]
    assert isinstance(objective, MetaTraining), "there is no other objective"
    found = [_scoring_of(part, place) for part in objective.parts]
    return sum(held for held, _ in found), [piece for _, pieces in found for piece in pieces]


def _scoring_of(part: TaskGroup, place: torch.device) -> tuple[float, list[Piece]]:
    """`_scoring` for one group of tasks, for all stages."""
    held, pieces = 0.0, list[Piece]()
    for pool, n_episodes, key in part.held_out.values():
        by_row = isinstance(pool, TaskPool | RegressionPool)
        rows = pool.by_row() if isinstance(pool, TaskPool | RegressionPool) else pool
        one = Episode(*(drawn[:1, 0] for drawn in rows.draw(key, 1)))
        n, width = len(pool.names) * n_episodes, one.support_x.shape[1] + one.query_x.shape[1]
        like = pool.inputs if isinstance(pool, TaskPool | RegressionPool) else one.support_x
        if by_row and compares_embedded(part.learner):
            used = min(sum(pool.sizes.values()), n * width)
            examples = _empty(like, place, used, *pool.features)
            pieces.append(partial(_compare, part.learner, one, n, examples))
            held += _bytes(examples)
            continue
        held += n * _bytes(_empty(like, _META, width, *pool.features))
        chunk = at_once(n, numbers_of(pool.features, part.frozen) * width)
        episodes = _filled(one, like, chunk, pool.features, place)
        pieces.append(partial(_answer, part, episodes))
    return held, pieces


def _compare(
    learner: EmbeddingLearner,
    one: Episode,
    n: int,
    inputs: Tensor,
    params: Params,
    hyper: Hyperparameters,
) -> None:
    """The work of `TaskGroup.score`: embed all examples, then compare one chunk of episodes."""
    embed = same_for_lanes(learner.embedding)
    parts = [embed(params, part) for part in inputs.split(EXAMPLES_AT_ONCE)]
    found = torch.cat(parts, 1)
    del parts
    d = found.shape[-1]
    shown = at_once(n, d * (one.support_x.shape[1] + one.query_x.shape[1]))
    part = _filled(one, found, shown, (d,), found.device)
    mapped = Episode._make((0, None, 0, None))
    own = part._replace(support_x=part.support_x[None], query_x=part.query_x[None])
    vmap(of_embedded(learner).logits, in_dims=(0, mapped, 0))(params, hide_query_labels(own), hyper)


def _answer(part: TaskGroup, episodes: Episode, params: Params, hyper: Hyperparameters) -> None:
    own = with_states(part.frozen, hide_query_labels(episodes), dims=2)
    over_lanes(part.learner.logits, shared=1)(params, own, hyper)


def _filled(
    one: Episode, like: Tensor, n: int, features: tuple[int, ...], place: torch.device
) -> Episode:
    """n episodes of the shape of `one` (1, ...), with examples of the dtype of `like`."""
    return Episode(
        _empty(like, place, n, one.support_x.shape[1], *features),
        _empty(one.support_y, place, n, *one.support_y.shape[1:]),
        _empty(like, place, n, one.query_x.shape[1], *features),
        _empty(one.query_y, place, n, *one.query_y.shape[1:]),
    )


def _empty(like: Tensor, place: torch.device, *shape: int) -> Tensor:
    """Zeros of the dtype of `like`; on `meta` without memory."""
    return torch.zeros(shape, dtype=like.dtype, device=place)


def _bytes(tensor: Tensor) -> float:
    return float(tensor.numel() * tensor.element_size())


def _made(make: Callable[[], Any], place: torch.device) -> Any:
    """The result of `make`, on `place` if possible; else, for example for token ids, in full."""
    try:
        with _Counter(place):
            return make()
    except (RuntimeError, NotImplementedError):
        return make()


def _most(run: Callable[[], Any], place: torch.device = _META) -> float:
    """Peak bytes of `run`; only those counted so far if `run` needs values, not just shapes."""
    counter = _Counter(place)
    try:
        with counter:
            run()
    except (RuntimeError, NotImplementedError) as error:  # it needs values
        log.info("not rehearsed reason=%s", str(error).partition("\n")[0])
    return counter.most


class _Counter(TorchDispatchMode):
    """Runs operations on a device, `meta` or `cpu`, and counts the bytes that they hold."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True would import the compiler, which takes a second and is not used here

    def __init__(self, place: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._place = place
        self.most = self._held = 0.0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        options = dict(kwargs or {})
        if self._place == _META:
            args, options = tree_map(_without_memory, (args, options))
            found = _on_meta(func, args, options)
        else:
            found = func(*args, **options)
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return found

    def _count(self, storage: Any) -> None:
        place = id(storage)
        if place not in self._known:
            size = float(storage.nbytes())
            self._held += size
            self.most = max(self.most, self._held)
            self._known[place] = weakref.finalize(storage, self._freed, place, size)

    def _freed(self, place: int, size: float) -> None:
        self._held -= size
        del self._known[place]


def _on_meta(func: OpOverload, args: Any, kwargs: dict[str, Any]) -> Any:
    if func.overloadpacket in _RANDOM:
        return torch.empty(args[0], dtype=kwargs.get("dtype"), device=_META)
    if func.overloadpacket in _POINTWISE and not kwargs and isinstance(args[0], Tensor):
        shapes = [value.shape for value in args if isinstance(value, Tensor)]
        dtype = torch.result_type(*args)
        return torch.empty(torch.broadcast_shapes(*shapes), dtype=dtype, device=_META)
    return func(*args, **kwargs)


def _without_memory(value: Any) -> Any:
    """A tensor or a device, moved to `meta`; other values unchanged."""
    if isinstance(value, Tensor) and value.device.type != "meta":
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return torch.device("meta") if isinstance(value, torch.device) else value
