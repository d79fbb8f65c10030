"""The worlds by name."""

from collections.abc import Callable, Mapping
from typing import Any

from fewshot.errors.inputs import ErrorDetail, InputError
from fewshot.registry import options_of, resolve
from fewshot.worlds.base import World
from fewshot.worlds.environments import Gymnasium
from fewshot.worlds.families.bandit import Bandit
from fewshot.worlds.families.cartpole import CartPole
from fewshot.worlds.families.navigation import Navigation
from fewshot.worlds.families.pendulum import Pendulum
from fewshot.worlds.families.tabular import Tabular
from fewshot.worlds.variants import varied

# Each takes its options.
WORLDS: dict[str, Callable[..., World]] = {
    "bandit": Bandit,
    "cartpole": CartPole,
    "gymnasium": Gymnasium,  # type: ignore[dict-item]  # it rolls out by itself
    "navigation": Navigation,
    "pendulum": Pendulum,
    "tabular": Tabular,
}
VARIANTS = ("reward", "actions")  # options that every world has


def world_of(name: str, options: Mapping[str, Any], path: str = "world") -> World:
    """The world `name`, from `WORLDS` or of a user, with its options; see `varied` for variants.

    Raises InputError if there is none, or for a wrong option.
    """
    factory = resolve(WORLDS, name, path)
    known = options_of(factory, ())
    own = {key: value for key, value in options.items() if key not in VARIANTS}
    details = [
        ErrorDetail(
            key,
            f"is not an option of {name}.",
            value,
            f"Its options are {', '.join((*known, *VARIANTS))}.",
        )
        for key, value in own.items()
        if key not in known
    ]
    if details:
        raise InputError(details)
    return varied(factory(**own), **{key: options[key] for key in VARIANTS if key in options})
