"""Finds parts (learners, models, datasets, ...) by name.

A name is either registered or has the form `package.module:attribute`. The latter is imported in
every process that builds the part, so a config with such a name runs the code that it names. Files
from other people, such as an export's config or the metadata of a model's file, must therefore be
checked with `is_import_path` before any part of them is used.
"""

import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from typing import Any

from fewshot.errors.inputs import InputError, did_you_mean, input_error

Factory = Callable[..., Any]

_FORM = "package.module:factory"
_WHERE = "Install the package that contains it, or add its folder to PYTHONPATH."
_WHERE_FOREIGN = "Install the package that contains it, from the author of this config or model."
_ELSEWHERE = re.compile(r"(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<attribute>[^\W\d]\w*)")
_NAMED = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def resolve(registry: Mapping[str, Factory], name: str, path: str) -> Factory:
    """The factory that is registered under `name`, or that `package.module:factory` names.

    path: the path of the name in the config, for messages. Raises InputError if there is no such
    factory.
    """
    if name in registry:
        return registry[name]
    if ":" not in name:
        rule = f"must be one of {', '.join(sorted(registry))}."
        nearest = did_you_mean(name, registry)
        remedy = f"{nearest}The name of your own part has the form {_FORM}."
        raise input_error(path, rule, name, remedy)
    form = _ELSEWHERE.fullmatch(name)
    if form is None:
        raise input_error(path, f"must be a registered name, or of the form {_FORM}.", name)
    return _imported(form["module"], form["attribute"], name, path)


def is_import_path(name: object) -> bool:
    """Whether the name has the form `package.module:attribute`, so that code is imported."""
    return isinstance(name, str) and ":" in name


@contextmanager
def in_untrusted_config() -> Iterator[None]:
    """Replaces the remedy of missing modules for files from other people.

    Advice to add a folder to PYTHONPATH would let such a file import code from beside it.
    """
    try:
        yield
    except InputError as error:
        raise InputError(
            replace(one, remedy=_WHERE_FOREIGN) if one.remedy == _WHERE else one
            for one in error.details
        ) from error


def _imported(module: str, attribute: str, name: str, path: str) -> Factory:
    try:
        home = import_module(module)
    except ModuleNotFoundError as error:
        own = f"{module}.".startswith(f"{error.name}.")
        rule = (
            "is in a module that is not found"
            if own
            else "is in a module that imports a missing module"
        )
        raise input_error(path, f"{rule}: {error.name}.", name, _WHERE) from error
    except Exception as error:  # importing a user's module can raise anything
        rule = f"is in a module that can't be imported: {type(error).__name__}: {error}."
        raise input_error(path, rule, name) from error
    if not callable(found := getattr(home, attribute, None)):
        why = f"but {module} has none of this name" if found is None else "but this is neither"
        callables = (key for key, value in vars(home).items() if callable(value) and key[0] != "_")
        remedy = f"It has {', '.join(sorted(callables)) or 'none'}."
        raise input_error(path, f"must name a class or a function, {why}.", name, remedy)
    factory: Factory = found
    return factory


def options_of(factory: Factory, supplied: Collection[str]) -> Mapping[str, inspect.Parameter]:
    """The parameters of `factory` that a user can set: all but those `supplied` by the builder."""
    decided = getattr(factory, "keywords", {}).keys()  # already set by a `functools.partial`
    return {
        name: parameter
        for name, parameter in inspect.signature(factory).parameters.items()
        if parameter.kind in _NAMED and name not in supplied and name not in decided
    }
