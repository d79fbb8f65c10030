"""The config of a search over a training function that is given as a Python object."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fewshot.errors.inputs import input_error


def config_of(train: Callable[..., Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config with `program: train`.

    parts: the other keys of the config; `tasks` may be the list of training tasks, beside
    `validation` and `test`. `name` is the name of the function by default.

    Raises InputError if another process could not import the function.
    """
    data = dict(parts)
    if not isinstance(tasks := data.get("tasks", []), Mapping):
        names = {"train": tasks}
        names |= {split: data.pop(split) for split in ("validation", "test") if split in data}
        data["tasks"] = {
            split: list(found) if isinstance(found, tuple) else found
            for split, found in names.items()
        }
    module, folder = _home_of(train)
    program = f"{module}:{train.__name__}"
    return {"name": train.__name__, **data, "program": program, "path": folder}


def _home_of(train: Callable[..., Any]) -> tuple[str, str]:
    """The module of a function, and the folder from which other processes can import it."""
    module = sys.modules.get(getattr(train, "__module__", ""))
    file, name = getattr(module, "__file__", None), getattr(train, "__qualname__", repr(train))
    if module is None or file is None or name != getattr(train, "__name__", ""):
        rule = "must be a function at the top level of a module, because other processes import it."
        raise input_error(
            "program", rule, name, "Write it to a .py file, and import it from there."
        )
    spec = module.__spec__
    # The module of a script has no spec; other processes import it under the name of its file.
    imported = Path(file).stem if spec is None else spec.name
    package = Path(file).absolute().parent
    if spec is not None and spec.submodule_search_locations is not None:
        package = package.parent  # the file is the `__init__.py` of the package
    return imported, str(package.parents[imported.count(".") - 1] if "." in imported else package)
