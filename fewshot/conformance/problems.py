"""Few-shot problems that test a learner, in float64."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fewshot.episodes import Episode

WAY, SHOT, QUERY, WIDTH = 3, 2, 4, 6
HUGE = 1e6


def classes(
    b: int = 4,
    seed: int = 0,
    spread: float = 1.0,
    noise: float = 1.0,
    *,
    way: int = WAY,
    shot: int = SHOT,
) -> Episode:
    """b problems of Gaussian classes with deviation `noise`; the means have deviation `spread`."""
    rng = torch.Generator().manual_seed(seed)
    means = torch.randn(b, way, WIDTH, generator=rng, dtype=torch.float64) * spread

    def draw(n: int) -> tuple[Tensor, Tensor]:
        y = torch.arange(way).repeat_interleave(n).expand(b, -1)
        x = torch.randn(b, way * n, WIDTH, generator=rng, dtype=torch.float64) * noise
        return means.repeat_interleave(n, 1) + x, y

    return Episode(*draw(shot), *draw(QUERY))


def numbers(b: int = 4, seed: int = 0, noise: float = 0.1) -> Episode:
    """b problems y = x . w with noise, with the same number of examples as those of `classes`."""
    rng = torch.Generator().manual_seed(seed)
    w = torch.randn(b, WIDTH, 1, generator=rng, dtype=torch.float64)

    def draw(n: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(b, n, WIDTH, generator=rng, dtype=torch.float64)
        return x, x @ w + noise * torch.randn(b, n, 1, generator=rng, dtype=torch.float64)

    return Episode(*draw(WAY * SHOT), *draw(WAY * QUERY))


def counted(problems: Episode) -> bool:
    """Whether the problems are classification problems."""
    return not problems.support_y.is_floating_point()


def mislabelled(problems: Episode) -> Episode:
    """The problems with every support label wrong: the next class, or the negated number."""
    y = problems.support_y
    return problems._replace(support_y=(y + 1) % WAY if counted(problems) else -y)


def _one_example(problems: Episode) -> Episode:
    """One support example per class, or only one in regression."""
    step = SHOT if counted(problems) else problems.support_y.shape[1]
    x, y = problems.support_x[:, ::step], problems.support_y[:, ::step]
    return problems._replace(support_x=x, support_y=y)


def _uneven(problems: Episode) -> Episode:
    """Nearly all support examples have the same class, or the same number."""
    y = torch.tensor([0, 1] + [2] * (WAY * SHOT - 2))
    shaped = y if counted(problems) else y.double().unsqueeze(-1)
    return problems._replace(support_y=shaped.expand_as(problems.support_y))


def _duplicates(problems: Episode) -> Episode:
    """The same few examples occur with different labels, and also as queries."""
    support, query = (
        problems.support_x[:, torch.arange(part.shape[1]) % SHOT]
        for part in (problems.support_x, problems.query_x)
    )
    return problems._replace(support_x=support, query_x=query)


def _of_inputs(change: Callable[[Tensor], Tensor]) -> Callable[[Episode], Episode]:
    def changed(problems: Episode) -> Episode:
        support, query = change(problems.support_x), change(problems.query_x)
        return problems._replace(support_x=support, query_x=query)

    return changed


_constant, _huge = _of_inputs(torch.ones_like), _of_inputs(lambda x: HUGE * x)
NASTY: Mapping[str, Callable[[Episode], Episode]] = {
    "one example": _one_example,
    "uneven answers": _uneven,
    "constant features": _constant,
    "no features": _of_inputs(torch.zeros_like),  # like an empty text
    "duplicates": _duplicates,
    "huge": _huge,
    "huge constant": lambda problems: _huge(_constant(problems)),
    "huge duplicates": lambda problems: _huge(_duplicates(problems)),
}
