"""Loading of a search's YAML file as a validated config."""

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from fewshot.errors.inputs import ErrorDetail, InputError, did_you_mean, input_error
from fewshot.models.pretrained.encoder import ENCODERS, names_module
from fewshot.registry import in_untrusted_config, is_import_path
from orchestrator.config.checks.cross_checks import cross_check
from orchestrator.config.sections.config import Config
from orchestrator.config.sections.own_loop import AnyConfig, OwnLoopConfig, config_class
from orchestrator.config.sections.searched import (
    nodes,
    placed,
    representatives,
    resolved,
    searched_options,
    split_off_faulty,
)
from trials.programs.teachers import TRAINED

_TRUST = "It comes from an export. If you trust the author of the export, add `--trust-code`."


class _Loader(yaml.SafeLoader):
    """Reads numbers as in YAML 1.2 (1e-3 is a number), and refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [
            self.construct_object(key, deep=True)
            for key, _ in node.value
            if key.tag != "tag:yaml.org,2002:merge"
        ]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is there twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Puts quotes around text that the loader would read as a number."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Without quotes these characters are read back as line breaks; with quotes they are escaped.
    style = '"' if set(text) & set("\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)

for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
        list("-+.0123456789"),
    )


def loaded(text: str, path: str) -> Any:
    """The value of a YAML text; raises InputError with the `path` if it is not YAML."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise input_error(path, f"is not YAML: {error.problem}{where}.") from None
    except yaml.YAMLError as error:
        raise input_error(path, f"is not YAML: {error}".replace("\n", " ")) from None
    except ValueError as error:  # for example a date that does not exist
        raise input_error(path, f"has a value that can't be read: {error}.") from None


def load_config(
    path: Path, overrides: Sequence[str] = (), *, foreign: bool = False, trust_code: bool = False
) -> AnyConfig:
    """The config at `path` with `key.sub=value` overrides; raises InputError with all errors.

    Relative paths in the file are kept, see `orchestrator.config.paths`; relative paths in
    overrides are relative to the working directory.
    foreign: whether the file may come from an untrusted source. Then code that it names is imported
    only with `trust_code`, which also applies to code named in the file of a teacher's model.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise input_error(
            str(path), f"can't be read: {error.strerror}.", None, "Check the path."
        ) from None
    except UnicodeDecodeError as error:
        raise input_error(str(path), f"is not text in UTF-8: {error}.") from None
    data = loaded(text, str(path))
    if not isinstance(data, dict):
        raise input_error(str(path), "must be a mapping of keys to values.", data)
    if foreign and not trust_code and (details := refused_code(data)):
        raise InputError(details)
    for override in overrides:
        _override(data, override)
    teacher = data.get("teacher")
    if trust_code and isinstance(teacher, dict) and teacher.get("source") in TRAINED:
        teacher["trust_code"] = True
    with in_untrusted_config() if foreign else nullcontext():
        return parse(data)


def refused_code(data: Mapping[str, Any]) -> list[ErrorDetail]:
    """One error for each value of a config that names code to import."""
    options = searched_options(nodes(data))
    details = [
        replace(detail, path=".".join(map(str, placed(detail.path.split("."), options, values))))
        for values in representatives(options)
        for detail in _refused_code(resolved(data, options, values))
    ]
    return list({str(detail): detail for detail in details}.values())


def _refused_code(data: Mapping[str, Any]) -> list[ErrorDetail]:
    sections = [(key, data.get(key)) for key in ("model", "learner", "teacher", "search")]
    if isinstance(datasets := data.get("datasets"), dict):
        sections += [(f"datasets.{name}", part) for name, part in datasets.items()]
    if isinstance(tasks := data.get("tasks"), dict):
        splits = [(split, entries) for split, entries in tasks.items() if isinstance(entries, list)]
        sections += [
            (f"tasks.{split}.{i}", t) for split, entries in splits for i, t in enumerate(entries)
        ]
    program = [data["program"]] if "program" in data else []
    return [ErrorDetail("program", "names code, which is not run.", p, _TRUST) for p in program] + [
        ErrorDetail(f"{place}.{key}", "names code, which is not run.", part[key], _TRUST)
        for place, part in sections
        if isinstance(part, dict)
        for key in ("name", "source", "function", *ENCODERS, "sampler", "trust_code")
        if key in part
        and (
            names_module(part[key])
            if key in ENCODERS
            else part[key] is True
            if key == "trust_code"
            else is_import_path(part[key]) and not (key == "name" and place.startswith("tasks."))
        )
    ]


def _override(data: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not all(path.split(".")):
        raise input_error("--set", "must be key=value, like search.trials=16.", override)
    *parents, last = path.split(".")
    place: Any = data
    for parent in parents:
        place = place.setdefault(parent, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise input_error(
            "--set", f"a part of {path!r} before the last is not a mapping of keys.", override
        )
    value = loaded(text, f"--set {path}")
    if last in ("path", *ENCODERS) and isinstance(value, str) and Path(value).exists():
        value = str(Path(value).absolute())
    place[last] = value


def parse(data: Mapping[str, Any]) -> AnyConfig:
    """Validate the values of a YAML file; raises InputError with all errors."""
    section = config_class(data)
    sound, faulty = split_off_faulty(data)
    config, found = section.validated(sound)
    errors = {(e["loc"], e["msg"]): e for e in found}
    details = [_detail_of(e, section) for e in errors.values()]
    if faulty:
        # Which scalars are read is known only if all searched options are valid.
        rest = [d for d in details if not _touches(d.path, set(faulty))]
        raise InputError([d for those in faulty.values() for d in those] + rest)
    if details:
        places = {f.path for f in details}
        rest = _between_sections(data, list(errors.values()), section)
        raise InputError(details + [f for f in rest if not _touches(f.path, places)])
    assert config is not None, "there was no error"
    details = cross_check(config)
    if details:
        raise InputError(details)
    return config


def few_shot(config: AnyConfig) -> Config:
    """The config, if it is not that of a user's own training loop; raises InputError if it is."""
    if isinstance(config, Config):
        return config
    rule = "is not possible for this command: it needs a model of fewtune."
    remedy = "Call the function, or start a search."
    raise input_error("program", rule, config.program, remedy)


def _between_sections(
    data: Mapping[str, Any],
    errors: Sequence[dict[str, Any]],
    section: type[Config] | type[OwnLoopConfig],
) -> list[ErrorDetail]:
    """The errors between sections that can be found although some sections have errors."""
    pruned = {key: dict(part) if isinstance(part, dict) else part for key, part in data.items()}
    for top, key, *_ in ([*error["loc"], None] for error in errors):
        if top in ("space", "search", "episodes") and isinstance(pruned.get(top), dict):
            pruned[top].pop(key, None)
        elif top not in ("datasets", "tasks", "model", "learner", "teacher"):
            pruned.pop(top, None)
    # Required keys on which no other section depends.
    pruned.setdefault("name", "unnamed")
    pruned.setdefault("steps", 1)
    pruned.setdefault("space", {})
    config, _ = section.validated(pruned)
    return [] if config is None else cross_check(config)


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


def _detail_of(error: dict[str, Any], section: type[Config] | type[OwnLoopConfig]) -> ErrorDetail:
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    path = ".".join(str(part) for part in error["loc"] if part != "[key]")
    remedy = context.get("remedy", _REMEDIES.get(kind, ""))
    if kind == "string_type" and isinstance(value, list | dict):
        remedy = "Give a single text."
    if kind == "extra_forbidden" and section is OwnLoopConfig and path in OwnLoopConfig.replaced:
        rule = "can't be used with `program`: the training function decides it."
        return ErrorDetail(path, rule, _short(value), "Remove it.")
    if kind == "extra_forbidden":
        known = _known_at(error["loc"][:-1], section)
        remedy = f"{did_you_mean(str(error['loc'][-1]), known)}Known keys: {', '.join(known)}."
        return ErrorDetail(path, "is not a known key.", _short(value), remedy)
    if value is None and kind != "fault":
        return ErrorDetail(path, "must not be empty.", None, "Give it a value, or remove it.")
    rule = _RULES[kind].format(**context) if kind in _RULES else f"{error['msg']}."
    return ErrorDetail(path or "config", rule, _short(value), remedy)


def _short(value: Any) -> Any:
    """The value for an error message; None for a whole section, which would be too long."""
    return None if isinstance(value, dict | BaseModel) else value


def _known_at(place: Sequence[str | int], section: type[BaseModel]) -> list[str]:
    """The keys of the section at `place` in the config `section`."""
    for part in place:
        fields = {f.alias or key: f.annotation for key, f in section.model_fields.items()}
        section = _section_in(fields.get(str(part))) or section  # an index stays in the section
    return [f.alias or key for key, f in section.model_fields.items()]


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((s for arg in get_args(annotation) if (s := _section_in(arg))), None)


def data_of(config: AnyConfig) -> dict[str, Any]:
    """The config as plain values under its YAML names, with defaults filled in."""
    return config.data()


def dump(config: AnyConfig) -> str:
    """The config as YAML, with defaults filled in; `load_config` reads back an equal config."""
    return yaml.dump(data_of(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
