"""The door: a search's YAML, checked, as plain values that the rest of fewtune understands."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from fewshot.faults import Fault, InputError, fault
from orchestrator.schema import Config


def _cross_faults(config: Config) -> list[Fault]:
    """What no section can see alone."""
    faults: list[Fault] = []

    def say(path: str, rule: str, found: Any = None, remedy: str = "") -> None:
        faults.append(Fault(path, rule, found, remedy))

    if (config.learner is None) == (config.teacher is None):
        say("learner", "give either a `learner` (task learning) or a `teacher` (distillation).")
        return faults
    if config.distils and (config.tasks.train or len(config.tasks.validation) != 1):
        say("tasks", "with a `teacher` there is one new task, and nothing to train on before.")
    if not config.distils and not config.tasks.train:
        say("tasks.train", "needs at least one task to learn from.")
    for split in ("train", "validation", "test"):
        for i, task in enumerate(getattr(config.tasks, split)):
            if task.dataset not in config.datasets:
                known = ", ".join(config.datasets)
                say(f"tasks.{split}.{i}.dataset", f"must be one of {known}.", task.dataset)
    read, given = set(config.hyperparameters()), set(config.space.scalars())
    for name in sorted(read - given):
        say(f"space.{name}", "is needed.", None, "Give a number, or {low: .., high: ..}.")
    for name in sorted(given - read):
        say(f"space.{name}", "is not read by any part of this search.", None, "Take it out.")
    weights, names = config.space.task_weights, set(config.train_names())
    for key in ("prior", "fixed"):
        table = getattr(weights, key)
        if table is not None and set(table) - names:
            say(f"space.task_weights.{key}", "names no training task.", sorted(set(table) - names))
        if key == "prior" and table is not None and names - {k for k, v in table.items() if v > 0}:
            say("space.task_weights.prior", "must give every training task a weight above 0.")
    if config.search.reference_trials > config.search.trials:
        say(
            "search.reference_trials",
            f"must not exceed search.trials = {config.search.trials}.",
            config.search.reference_trials,
        )
    return faults


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers (1e-3 is one), and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1 and key != "<<":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The config at `path`, with `key.sub=value` overrides; raises InputError with every fault."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 (a SafeLoader)
    except OSError as error:
        raise fault(
            str(path), f"can't be read: {error.strerror}.", None, "Check the path."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise fault(str(path), f"is not YAML: {error}".replace("\n", " ")) from None
    if not isinstance(data, dict):
        raise fault(str(path), "must be a mapping of keys to values.", data)
    for override in overrides:
        _override(data, override)
    return parse(data)


def _override(data: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise fault("--set", "must be key=value, such as search.trials=16.", override)
    *parents, last = path.split(".")
    place: Any = data
    for parent in parents:
        place = place.setdefault(parent, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise fault("--set", f"{path!r} leads through something that is not a mapping.", override)
    place[last] = yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)


def parse(data: Mapping[str, Any]) -> Config:
    """Check what YAML gave."""
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise InputError(_fault_of(dict(e)) for e in error.errors()) from None
    faults = _cross_faults(config)
    if faults:
        raise InputError(faults)
    return config


_RULES = {
    "extra_forbidden": ("is not a known key.", "Check its spelling, or take it out."),
    "missing": ("is needed.", ""),
}


def _fault_of(error: dict[str, Any]) -> Fault:
    path = ".".join(str(part) for part in error["loc"] if part not in ("RangeSection", "float"))
    rule, remedy = _RULES.get(error["type"], (_sentence(error["msg"]), ""))
    found = error["input"]
    return Fault(
        path or "config", rule, None if isinstance(found, (dict, BaseModel)) else found, remedy
    )


def _sentence(message: str) -> str:
    message = message.removeprefix("Value error, ").removeprefix("Input ")
    return message if message.endswith(".") else f"{message}."


def dump(config: Config) -> str:
    """YAML that `load_config` reads back to the same config, but for defaults spelled out."""
    data = config.model_dump(by_alias=True, exclude_none=True, mode="json")
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
