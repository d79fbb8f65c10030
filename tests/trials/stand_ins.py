"""What a GPU, or a machine of little memory, would refuse or do otherwise."""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from trials.lanes.objective import NOTHING

_aten = torch.ops.aten
_WAITS = {
    _aten._local_scalar_dense,
    _aten.equal,
    _aten.is_nonzero,
    _aten.lift_fresh,
    _aten.masked_select,
    _aten.nonzero,
    _aten.repeat_interleave,
    _aten._unique2,
}


class _Mode(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # importing the compiler takes seconds, and asking it takes half of each call


class NoWaiting(_Mode):
    """Refuses what would make a device wait for the host, or the host for a device.

    Values that Python looks at, shapes that hang on values, and tensors made from Python's numbers.
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        masked = function.overloadpacket == _aten.index and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if masked or function.overloadpacket in _WAITS:
            raise AssertionError(f"{function} waits")
        return function(*args, **(kwargs or {}))


# ---- a graph ----------------------------------------------------------------------------------


class _Tape(_Mode):
    """Notes each operation with the very tensors that it read and made."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        self.noted.append((function, args, kwargs or {}, found))
        return found

    def play(self) -> None:
        """Do all again, and leave what comes of it in the same tensors."""
        for function, args, kwargs, places in self.noted:
            found = function(*args, **kwargs)
            for place, value in zip(tree_leaves(places), tree_leaves(found), strict=True):
                if isinstance(place, Tensor) and place.data_ptr() != value.data_ptr():
                    place.copy_(value)


def taped(plays: list[int]) -> Callable[..., Callable[[list[Any]], Any]]:
    """What makes replays as a CUDA graph's are: nothing of Python, and every tensor in its place.

    plays: one is appended at each replay.
    """

    def of_call(step: Callable[..., Any], arguments: tuple[Any, ...]) -> Callable[..., Any]:
        leaves, structure = tree_flatten(arguments)
        own = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        tape, noted = _Tape(), []

        def replay(given: list[Any]) -> Any:
            if noted:  # a CPU does what is noted, so the first time it is done
                for place, leaf in zip(own, given, strict=True):
                    if isinstance(place, Tensor):
                        place.copy_(leaf)
                tape.play()
                plays.append(1)
            noted.append(1)
            return found

        with NoWaiting(), tape:
            found = step(*tree_unflatten(own, structure))
        return replay

    return of_call


# ---- a device ---------------------------------------------------------------------------------

# A device that is none, whose name PyTorch takes for another place than the CPU.
ELSEWHERE = torch.device("meta")


class _There(Tensor):
    """A tensor that says it lies elsewhere, and has its numbers in one on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, own: Tensor) -> "_There":
        made = Tensor._make_wrapper_subclass(
            cls,
            own.shape,
            strides=own.stride(),
            storage_offset=own.storage_offset(),
            dtype=own.dtype,
            device=ELSEWHERE,
        )
        made.own = own
        return made

    def tolist(self) -> Any:
        return self.own.tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} outside of `TwoPlaces`")


class TwoPlaces(_Mode):
    """Has tensors elsewhere, with numbers, and refuses operations of which some are and some not.

    settled: whether it refuses to move tensors from one place to the other, too.
    """

    settled = False

    def __enter__(self) -> "TwoPlaces":
        # Made of Python's numbers, a tensor would come there without them.
        made = torch.tensor

        def tensor(data: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
            found = made(data, dtype=dtype)
            return found if device is None else found.to(device)

        self._patch = patch("torch.tensor", tensor)
        self._patch.start()
        return super().__enter__()

    def __exit__(self, *reason: Any) -> None:
        self._patch.stop()
        super().__exit__(*reason)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors: list[Tensor] = []
        _mapped(tensors.append, (args, kwargs))
        here = [t for t in tensors if not isinstance(t, _There)]
        there = any(isinstance(t, _There) for t in tensors)
        to = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        moves = function in (_aten._to_copy.default, _aten.copy_.default)
        mixed = there and any(t.dim() for t in here)
        if mixed and (self.settled or not moves):
            raise AssertionError(f"{function} of tensors in two places")
        if self.settled and to is not None and tensors and there != (to == ELSEWHERE):
            raise AssertionError(f"{function} to another place")
        if to is not None:
            kwargs["device"] = torch.device("cpu")
        own_args, own_kwargs = _mapped(_own, (args, kwargs))
        found = function(*own_args, **own_kwargs)
        lies_there = there if to is None else to == ELSEWHERE
        if function is _aten.copy_.default:
            lies_there = isinstance(args[0], _There)
        known = {id(t.own): t for t in tensors if isinstance(t, _There)}
        return _mapped(lambda t: _placed(t, known, lies_there), found)


def _mapped(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Like `tree_map` over tensors, which takes longer than the operations themselves."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple | list):
        return type(value)([_mapped(function, part) for part in value])
    if isinstance(value, dict):
        return {key: _mapped(function, part) for key, part in value.items()}
    return value


def _own(value: Tensor) -> Tensor:
    return value.own if isinstance(value, _There) else value


def _placed(value: Tensor, known: dict[int, _There], there: bool) -> Tensor:
    if id(value) in known:
        return known[id(value)]
    return _There(value) if there else value


# ---- little memory ----------------------------------------------------------------------------

ON_CUDA = torch.OutOfMemoryError("CUDA out of memory.")
ON_CPU = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")


class Cramped:
    """An objective that has no memory for more than `rows` lanes, or at the `shortages`-th steps.

    A step looks its examples up once in each pass.
    """

    def __init__(self, objective, error, *, rows=99, shortages=()):
        self._objective, self._error, self._rows = objective, error, rows
        self._shortages, self.passes = shortages, 0

    def __getattr__(self, name):
        return getattr(self._objective, name)

    def batch(self, drawn):
        self.passes += 1
        if len(drawn[0].task) > self._rows or self.passes in self._shortages:
            raise self._error
        return self._objective.batch(drawn)

    def score(self, params, hyper, stage):
        if len(next(iter(params.values()))) > self._rows:
            raise self._error
        return self._objective.score(params, hyper, stage)


# ---- a part that raises -----------------------------------------------------------------------


class Broken(Exception):
    """What a user's part may raise."""


class Raising:
    """An objective that raises for the trial of one seed, as soon as it is at `step`.

    where: the method that raises. `loss` does as matrices do that have no factors: it is mapped
    over lanes, so it can't look at numbers.
    """

    def __init__(self, objective, where, *, seed=-1, rate=-1.0, step=0):
        self._objective, self._where = objective, where
        self._seed, self._rate, self._step = seed, rate, step

    def __getattr__(self, name):
        return getattr(self._objective, name)

    def _look(self, where, seeds, steps):
        own = steps[seeds == self._seed]
        if where == self._where and len(own) and own.min() >= self._step:
            raise Broken(f"in {where}\nof one trial")

    def init(self, seed, hyperparameters=NOTHING):
        self._look("init", torch.tensor([seed]), torch.tensor([self._step]))
        return self._objective.init(seed, hyperparameters)

    def draw(self, seeds, steps, weights):
        self._look("draw", seeds, steps)
        return seeds, steps, self._objective.draw(seeds, steps, weights)

    def batch(self, drawn):
        seeds, steps, own = drawn
        self._look("batch", seeds, steps)
        return steps, self._objective.batch(own)

    def embed(self, params, batch):
        steps, own = batch
        return steps, self._objective.embed(params, own)

    def loss(self, params, batch, hyper, weights):
        step, own = batch
        loss = self._objective.loss(params, own, hyper, weights)
        rate = hyper[self._objective.learning_rate]
        fails = ((rate - self._rate).abs() < 1e-9) & (step >= self._step)
        sound = 1.0 - 2.0 * (fails & (self._where == "loss"))
        return loss * torch.linalg.cholesky(sound.reshape(1, 1)).squeeze()

    def score(self, params, hyper, stage):
        rates = hyper[self._objective.learning_rate]
        own = (rates - self._rate).abs() < 1e-9
        self._look("score", torch.where(own, self._seed, -2), torch.full_like(rates, self._step))
        return self._objective.score(params, hyper, stage)
