"""Parts by name: the registered ones, and a user's own by the module that has them.

A name of the form `package.module:attribute` is imported, in every process that builds the part, so
that a config with such a name runs the code it names. What others have made, an export's config or
the metadata of a model's file, is therefore asked with `names_code` before anything of it is used.
"""

import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from typing import Any

from fewshot.errors.inputs import InputError, input_error

Factory = Callable[..., Any]

_FORM = "package.module:factory"
_WHERE = "Install the package that has it, or name its folder in PYTHONPATH."
_WHERE_FOREIGN = "Install the package that has it, from whoever made this."
_ELSEWHERE = re.compile(r"(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<attribute>[^\W\d]\w*)")
_NAMED = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def resolve(registry: Mapping[str, Factory], name: str, path: str) -> Factory:
    """What `registry` has under `name`, or else what `package.module:factory` leads to.

    path: where the name stands, for messages. Raises InputError where the name leads nowhere.
    """
    if name in registry:
        return registry[name]
    if ":" not in name:
        rule = f"must be one of {', '.join(sorted(registry))}."
        raise input_error(path, rule, name, f"One of your own is named {_FORM}.")
    form = _ELSEWHERE.fullmatch(name)
    if form is None:
        raise input_error(path, f"must be a registered name, or of the form {_FORM}.", name)
    return _imported(form["module"], form["attribute"], name, path)


def names_code(name: object) -> bool:
    """Whether a part of this name is no registered one, but code that is imported by its name."""
    return isinstance(name, str) and ":" in name


@contextmanager
def in_untrusted_config() -> Iterator[None]:
    """What somebody else has made and is trusted: a folder beside it is not to be imported from."""
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
        rule = "is in a module that is not found" if own else "is in a module that needs another"
        raise input_error(path, f"{rule}: {error.name}.", name, _WHERE) from error
    except Exception as error:  # whatever a user's module does when it is imported
        rule = f"is in a module that can't be imported: {type(error).__name__}: {error}."
        raise input_error(path, rule, name) from error
    if not callable(found := getattr(home, attribute, None)):
        said = f"which {module} does not have." if found is None else "which can't be called."
        callables = (key for key, value in vars(home).items() if callable(value) and key[0] != "_")
        remedy = f"It has {', '.join(sorted(callables)) or 'none'}."
        raise input_error(path, f"must name a class or a function, {said}", name, remedy)
    factory: Factory = found
    return factory


def options_of(factory: Factory, supplied: Collection[str]) -> Mapping[str, inspect.Parameter]:
    """The parameters of `factory` that are the user's to give, and not among those `supplied`."""
    decided = getattr(factory, "keywords", {}).keys()  # of a `functools.partial`
    return {
        name: parameter
        for name, parameter in inspect.signature(factory).parameters.items()
        if parameter.kind in _NAMED and name not in supplied and name not in decided
    }
