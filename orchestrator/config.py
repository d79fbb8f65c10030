"""The door: a search's YAML, checked, as plain values that the rest of fewtune understands."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from fewshot.faults import Fault, InputError, fault
from fewshot.learners.learners import REGRESSORS, has_own_loss, learner_named, learns_numbers
from orchestrator.plan import space_of
from orchestrator.schema.config import Config
from orchestrator.schema.tasks import TaskSection
from trials.adam import WEIGHT_DECAY
from trials.teachers import EPISODIC_HEADS, TRAINED


def _cross_faults(config: Config) -> list[Fault]:
    """What no section can see alone."""
    if config.adapts and config.teacher is None and config.tasks.train:
        return [Fault("learner", "is needed to learn from `tasks.train`.")]
    faults = (
        _task_faults(config)
        + _model_faults(config)
        + _teacher_faults(config)
        + _space_faults(config)
        + _weight_faults(config)
    )
    trials, references = config.search.trials, config.search.reference_trials
    if references > trials:
        rule = f"must not exceed search.trials = {trials}."
        faults.append(Fault("search.reference_trials", rule, references))
    if not faults:
        try:
            space_of(config).reference()
        except ValueError as error:  # the prior is too far from uniform weights for the box
            width = config.space.task_weights.half_width
            faults.append(Fault("space.task_weights.half_width", f"is too small: {error}", width))
    return faults


def _task_faults(config: Config) -> list[Fault]:
    faults = []
    if config.adapts and (config.tasks.train or len(config.tasks.validation) != 1):
        rule = "without a `learner` there is one new task, and nothing to train on before."
        faults.append(Fault("tasks", rule))
    if not config.adapts and not config.tasks.train:
        faults.append(Fault("tasks.train", "needs at least one task to learn from."))
    faults += _number_faults(config) + _shape_faults(config)
    tasks = config.all_tasks()
    of_rows = any(isinstance(task, TaskSection) for task in tasks.values())
    if of_rows and not config.datasets:
        return [*faults, Fault("datasets", "must not be empty.")]
    if config.datasets and not of_rows and not faults:
        rule = "are not read where the tasks are functions."
        faults.append(Fault("datasets", rule, None, "Take them out."))
    for place, task in tasks.items():
        if isinstance(task, TaskSection) and task.dataset not in config.datasets:
            rule = f"must be one of {', '.join(config.datasets)}."
            faults.append(Fault(f"{place}.dataset", rule, task.dataset))
    return faults


def _shape_faults(config: Config) -> list[Fault]:
    """Of what is learned from problems that are all of one shape."""
    shapes, numbers = config.episodes, "regression" in config.kinds
    taught = config.adapts or config.teacher is not None
    where = "tasks have numbers" if numbers else "there is a teacher, or one new task alone"
    faults = [
        Fault(f"episodes.{name}", f"must be one number where {where}.", list(count))
        for name in ("shot", "query", *(() if numbers else ("way",)))
        if (numbers or taught) and isinstance(count := getattr(shapes, name), tuple)
    ]
    if config.kinds == {"regression"} and shapes.way is not None:
        rule = "is not read where no task has classes."
        faults.append(Fault("episodes.way", rule, shapes.way, "Take it out."))
    return faults


def _number_faults(config: Config) -> list[Fault]:
    """Numbers are learned by those that can, or beside the classes of those that embed."""
    if "regression" not in config.kinds:
        return []
    if config.learner is None:
        return [Fault("teacher", "can't be learned from where the tasks have numbers.")]
    name = config.learner.name
    learner = learner_named(name)
    embeds = not learner.model_scores_classes
    if learns_numbers(learner) or (len(config.kinds) > 1 and embeds):
        return []
    rule = f"must be one of {', '.join(sorted(REGRESSORS))} to learn numbers."
    return [Fault("learner.name", rule, name)]


def _teacher_faults(config: Config) -> list[Fault]:
    teacher, learner = config.teacher, config.learner
    if teacher is None:
        rule = "is not read without a `teacher`."
        return [Fault("distillation", rule, None, "Take it out.")] if config.distillation else []
    faults = []
    if learner is not None and has_own_loss(learner_named(learner.name)):
        rule = "must have a loss that a teacher can be part of; this one has a rule of its own."
        faults.append(Fault("learner.name", rule, learner.name))
    if learner is not None and teacher.head not in (None, *EPISODIC_HEADS):
        rule = f"must be one of {', '.join(EPISODIC_HEADS)} beside a `learner`."
        remedy = "A logistic regression is fitted to one task at a time."
        faults.append(Fault("teacher.head", rule, teacher.head, remedy))
    if learner is not None and "regression" in config.kinds and teacher.source not in TRAINED:
        rule = f"must be one of {', '.join(TRAINED)} where numbers are learned."
        faults.append(Fault("teacher.source", rule, teacher.source))
    if config.kinds == {"regression"} and config.distillation:
        rule = "is not read where numbers are learned: they are compared by their squared error."
        faults.append(Fault("distillation", rule, None, "Take it out."))
    return faults


def _model_faults(config: Config) -> list[Fault]:
    """A transformer reads the tokens of its own tokenizer."""
    if config.model.name != "transformer":
        return []
    encoder = config.model.options()["encoder"]
    wanted = {"features": "tokens", "encoder": encoder}
    return [
        Fault(
            f"datasets.{name}",
            f"must be text with `features: tokens` and `encoder: {encoder}`, as the model's.",
            {key: part.options().get(key) for key in wanted},
        )
        for name, part in config.datasets.items()
        if part.source != "text" or wanted.items() - part.options().items()
    ]


def _space_faults(config: Config) -> list[Fault]:
    read, given = set(config.hyperparameters()), config.space.scalars()
    return [
        Fault(f"space.{name}", "is needed.", None, "Give a number, or {low: .., high: ..}.")
        for name in sorted(read - given.keys())
    ] + [
        Fault(f"space.{name}", "is not read by any part of this search.", None, "Take it out.")
        for name in sorted(given.keys() - read - {WEIGHT_DECAY})
    ]


def _weight_faults(config: Config) -> list[Fault]:
    faults = []
    weights, names = config.space.task_weights, config.train_names()
    options = {} if config.learner is None else config.learner.options()
    if weights.weights_as == "sampling" and "per_task" in options.values():
        rule = "must be loss where tasks have parameters of their own, which are trained together."
        place = "space.task_weights.weights_as"
        faults.append(Fault(place, rule, weights.weights_as))
    for key in ("prior", "fixed"):
        for name in sorted((getattr(weights, key) or {}).keys() - set(names)):
            remedy = f"There are {', '.join(names) or 'none'}."
            place = f"space.task_weights.{key}.{name}"
            faults.append(Fault(place, "is no training task.", None, remedy))
    if weights.prior is not None:
        rule = "must be above 0: a prior gives every training task a weight."
        for name in names:
            if not weights.prior.get(name):
                place = f"space.task_weights.prior.{name}"
                faults.append(Fault(place, rule, weights.prior.get(name)))
    return faults


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers (1e-3 is one), and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [
            self.construct_object(key, deep=True)
            for key, _ in node.value
            if key.tag != "tag:yaml.org,2002:merge"
        ]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Puts quotes around text that the loader would take for a number."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Plain, these would be read back as line breaks; quoted, they are written as escapes.
    style = '"' if set(text) & set("\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)

for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
        list("-+.0123456789"),
    )


def _loaded(text: str, path: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise fault(path, f"is not YAML: {error.problem}{where}.") from None
    except yaml.YAMLError as error:
        raise fault(path, f"is not YAML: {error}".replace("\n", " ")) from None
    except ValueError as error:  # such as a date that does not exist
        raise fault(path, f"has a value that can't be read: {error}.") from None


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The config at `path`, with `key.sub=value` overrides; raises InputError with every fault."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise fault(
            str(path), f"can't be read: {error.strerror}.", None, "Check the path."
        ) from None
    except UnicodeDecodeError as error:
        raise fault(str(path), f"is not text in UTF-8: {error}.") from None
    data = _loaded(text, str(path))
    if not isinstance(data, dict):
        raise fault(str(path), "must be a mapping of keys to values.", data)
    for override in overrides:
        _override(data, override)
    return parse(data)


def _override(data: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not all(path.split(".")):
        raise fault("--set", "must be key=value, such as search.trials=16.", override)
    *parents, last = path.split(".")
    place: Any = data
    for parent in parents:
        place = place.setdefault(parent, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise fault("--set", f"{path!r} leads through something that is not a mapping.", override)
    place[last] = _loaded(text, f"--set {path}")


def parse(data: Mapping[str, Any]) -> Config:
    """Check what YAML gave."""
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        errors = [dict(e) for e in error.errors()]
        faults = [_fault_of(e) for e in errors]
        places = {f.path for f in faults}
        rest = _between_sections(data, errors)
        raise InputError(faults + [f for f in rest if not _touches(f.path, places)]) from None
    faults = _cross_faults(config)
    if faults:
        raise InputError(faults)
    return config


def _between_sections(data: Mapping[str, Any], errors: Sequence[dict[str, Any]]) -> list[Fault]:
    """The cross faults of a config with faulty sections, as far as the sound ones show them."""
    pruned = {key: dict(part) if isinstance(part, dict) else part for key, part in data.items()}
    for top, key, *_ in ([*error["loc"], None] for error in errors):
        if top in ("space", "search", "episodes") and isinstance(pruned.get(top), dict):
            pruned[top].pop(key, None)
        elif top not in ("datasets", "tasks", "model", "learner", "teacher"):
            pruned.pop(top, None)
    # What the trials need, but no other section depends on.
    pruned.setdefault("name", "unnamed")
    pruned.setdefault("steps", 1)
    pruned.setdefault("space", {})
    try:
        return _cross_faults(Config.model_validate(pruned))
    except ValidationError:
        return []


def _touches(path: str, places: set[str]) -> bool:
    return any(f"{p}.".startswith(f"{path}.") or f"{path}.".startswith(f"{p}.") for p in places)


_RULES = {
    "missing": "is needed.",
    "model_type": "must be a mapping of keys to values.",
    "dict_type": "must be a mapping of keys to values.",
    "list_type": "must be a list.",
    "string_type": "must be text.",
    "int_type": "must be a whole number.",
    "int_from_float": "must be a whole number.",
    "float_type": "must be a number.",
    "finite_number": "must be a finite number.",
    "bool_type": "must be true or false.",
    "literal_error": "must be {expected}.",
    "too_short": "must not be empty.",
    "greater_than": "must be above {gt:g}.",
    "greater_than_equal": "must be at least {ge:g}.",
    "less_than": "must be below {lt:g}.",
    "less_than_equal": "must be at most {le:g}.",
    "invalid_key": "is a key that is not text.",
    "fault": "{rule}",
}
_REMEDIES = {
    "missing": "Add it.",
    "list_type": "Put it in brackets: [..].",
    "string_type": "Put quotes around it.",
    "invalid_key": "Put quotes around it.",
}


def _fault_of(error: dict[str, Any]) -> Fault:
    kind, said, found = error["type"], error.get("ctx", {}), error["input"]
    path = ".".join(str(part) for part in error["loc"] if part != "[key]")
    remedy = said.get("remedy", _REMEDIES.get(kind, ""))
    if kind == "extra_forbidden":
        known = ", ".join(_known_at(error["loc"][:-1]))
        return Fault(path, "is not a known key.", _short(found), f"Known are {known}.")
    if found is None and kind != "fault":
        return Fault(path, "must not be empty.", None, "Give it a value, or take it out.")
    rule = _RULES[kind].format(**said) if kind in _RULES else f"{error['msg']}."
    return Fault(path or "config", rule, _short(found), remedy)


def _short(found: Any) -> Any:
    """What was found, if it says more than the path does."""
    return None if isinstance(found, dict | BaseModel) else found


def _known_at(place: Sequence[str | int]) -> list[str]:
    """The keys of the section at `place`."""
    section: type[BaseModel] = Config
    for part in place:
        fields = {f.alias or key: f.annotation for key, f in section.model_fields.items()}
        section = _section_in(fields.get(str(part))) or section  # an index leads no further
    return [f.alias or key for key, f in section.model_fields.items()]


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((s for arg in get_args(annotation) if (s := _section_in(arg))), None)


def dump(config: Config) -> str:
    """YAML that `load_config` reads back to the same config, but for defaults spelled out."""
    data = config.model_dump(by_alias=True, exclude_none=True, mode="json")
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
