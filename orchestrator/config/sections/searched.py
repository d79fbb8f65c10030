"""Options of a recipe that are searched: `{choices: [..]}` and `{low: .., high: .., step: ..}`.

They stand in the sections `model`, `learner` and `episodes`, in place of a section or an option,
and in place of `batch`, `optimizer` and `steps`. An option that is a section can have searched
options of its own, which are read only if it is chosen.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

from pydantic import PrivateAttr, ValidationError

from fewshot.errors.inputs import ErrorDetail, InputError
from orchestrator.config.sections.range_rules import errors_of
from orchestrator.config.sections.section import Section
from orchestrator.space.choices import Choice, Condition, Option, WholeRange

SECTIONS = ("model", "learner", "episodes", "batch", "optimizer", "steps")
_PARTS = ("model", "learner")  # a name can stand for a section of these


@dataclass(frozen=True)
class Searched:
    """A searched option.

    name: its path in the config. In an option that is a section, the path has the option's label:
        `learner.maml.inner_steps`.
    parameter: its values; for sections and lists these are labels.
    values: what stands in the config for each label; empty for ranges.
    conditions: the choices that contain it.
    """

    name: str
    parameter: Choice | WholeRange
    values: Mapping[Option, Any] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()

    @property
    def first(self) -> Option:
        """The value of the plain config: the first option, or the highest number."""
        is_choice = isinstance(self.parameter, Choice)
        return next(iter(self.values)) if is_choice else self.parameter.at(1.0)


def nodes(data: Mapping[str, Any]) -> dict[str, Any]:
    """The outermost searched options of a config as they were written, by path."""
    return dict(_nodes({key: data[key] for key in SECTIONS if key in data}, ""))


def _nodes(section: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        place = f"{path}.{key}" if path else str(key)
        if _is_searched(value):
            yield place, value
        elif isinstance(value, Mapping):
            yield from _nodes(value, place)


def _is_searched(value: Any) -> bool:
    return isinstance(value, Mapping) and not {"choices", "low", "high"}.isdisjoint(value)


def searched_options(written: Mapping[str, Any]) -> list[Searched]:
    """The searched options, outer ones first; raises InputError with all errors.

    written: the outermost ones by path, see `nodes`.
    """
    details: list[ErrorDetail] = []
    found = [
        one for path, node in written.items() for one in _in_node(path, path, node, (), details)
    ]
    if details:
        raise InputError(details)
    return found


def split_off_faulty(
    data: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, list[ErrorDetail]]]:
    """The config without its faulty outermost searched options, and their errors by path."""
    faulty: dict[str, list[ErrorDetail]] = {}
    for path, node in nodes(data).items():
        try:
            searched_options({path: node})
        except InputError as error:
            faulty[path] = list(error.details)
    return _without(data, faulty, ""), faulty


def _without(section: Mapping[str, Any], paths: Container[str], place: str) -> dict[str, Any]:
    named = {
        key: (f"{place}.{key}" if place else str(key), value) for key, value in section.items()
    }
    return {
        key: _without(value, paths, at) if isinstance(value, Mapping) else value
        for key, (at, value) in named.items()
        if at not in paths
    }


def _in_node(
    name: str,
    place: str,
    node: Mapping[str, Any],
    conditions: tuple[Condition, ...],
    details: list[ErrorDetail],
) -> Iterator[Searched]:
    """The option `node`, then those inside of it. name: see `Searched`; place: in the file."""
    errors = errors_of(node, place)
    details += errors
    if errors:
        return
    if "choices" not in node:
        numbers = WholeRange(node["low"], node["high"], node["step"])
        yield Searched(name, numbers, {}, conditions)
        return
    values = _labelled(node["choices"])
    yield Searched(name, Choice(tuple(values)), values, conditions)
    for i, (label, value) in enumerate(values.items()):
        if isinstance(value, Mapping):
            own = (*conditions, Condition(name, (label,)))
            for path, inner in _nodes(value, ""):
                where = f"{place}.choices.{i}.{path}"
                yield from _in_node(f"{name}.{label}.{path}", where, inner, own, details)


def _labelled(options: list[Any]) -> dict[Option, Any]:
    """The options by label: numbers and words themselves, sections by name."""
    names = [o.get("name") if isinstance(o, Mapping) else None for o in options]
    found: dict[Option, Any] = {}
    for option, name in zip(options, names, strict=True):
        if isinstance(option, str | int | float | bool):
            label: Option = option
        elif isinstance(option, list):
            label = ", ".join(map(str, option))
        else:
            label = str(name)
            if name is None or names.count(name) > 1:
                rest = {k: v for k, v in option.items() if k != "name" and not _is_searched(v)}
                own = " ".join(f"{k}={v}" for k, v in rest.items())
                label = f"{name} {own}" if name and own else own or str(name)
        number = 2
        while label in found:
            label, number = f"{label} ({number})", number + 1
        found[label] = option
    return found


def resolved(
    data: Mapping[str, Any], options: list[Searched], values: Mapping[str, Any]
) -> dict[str, Any]:
    """The config with a value in place of each searched option; by default its `first`."""
    by_name = {one.name: one for one in options}

    def fill(name: str, node: Any) -> Any:
        """name: that of the option if `node` is one."""
        if name in by_name and _is_searched(node):
            one = by_name[name]
            value = values.get(name, one.first)
            if not one.values:
                return value
            chosen = one.values[value]
            if isinstance(chosen, str) and name in _PARTS:
                return {"name": chosen}
            return inside(f"{name}.{value}", chosen)
        return inside(name, node)

    def inside(name: str, node: Any) -> Any:
        if isinstance(node, Mapping):
            return {key: fill(f"{name}.{key}", value) for key, value in node.items()}
        return node

    return {key: fill(key, value) if key in SECTIONS else value for key, value in data.items()}


def placed(
    path: Sequence[str | int], options: list[Searched], values: Mapping[str, Any]
) -> tuple[str | int, ...]:
    """The path in the file of what is at `path` in the config `resolved(.., options, values)`."""
    by_name = {one.name: one for one in options}
    name, place = "", list[str | int]()
    for part in path:
        name = f"{name}.{part}" if name else str(part)
        place.append(part)
        if name in by_name:
            one = by_name[name]
            value = values.get(name, one.first)
            if one.values:
                place += ["choices", list(one.values).index(value)]
            else:
                place.append("high" if value == one.first else "low")
            name = f"{name}.{value}"
    return tuple(place)


def representatives(options: list[Searched]) -> list[dict[str, Any]]:
    """Values of the searched options, such that each option and each end of a range occurs once.

    The first has the `first` of each; each other one differs from it in one option, and in the
    choices that contain this option.
    """
    found: list[dict[str, Any]] = [{}]
    for one in options:
        outer = {c.of: c.values[0] for c in one.conditions}
        ends = [one.parameter.at(0.0), one.parameter.at(1.0)]
        every = list(one.values) if one.values else ends
        found += [outer | {one.name: value} for value in every if value != one.first or outer]
    return found


def _key(values: Mapping[str, Any]) -> str:
    """A key of values, in which 1 and true differ."""
    return repr(sorted(values.items()))


class SearchableConfig(Section):
    """A config of which options may be searched.

    The fields are those of the plain config, which has the first of several options, or the highest
    number; see `variant`. Do not copy it with other values (`model_copy`): the copy would have the
    variants of the original.
    """

    _written: dict[str, Any] = PrivateAttr(default_factory=dict)  # see `searched.nodes`

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """The config of values from YAML; raises ValidationError, or InputError of choices."""
        written = nodes(data)
        config = cls.model_validate(resolved(data, searched_options(written), {}))
        config._written = written
        return config

    @classmethod
    def validated(cls, data: Mapping[str, Any]) -> tuple[Self | None, list[dict[str, Any]]]:
        """The config if each of its searched options is valid, else Pydantic's errors of all.

        Each error has its `loc` in the file. Raises InputError of choices, as `of`.
        """
        written = nodes(data)
        options = searched_options(written)
        variants: dict[str, Self] = {}
        errors: list[dict[str, Any]] = []
        for values in representatives(options):
            try:
                variants[_key(values)] = cls.model_validate(resolved(data, options, values))
            except ValidationError as failed:
                errors += [
                    {**error, "loc": placed(error["loc"], options, values)}
                    for error in failed.errors()
                ]
        if errors:
            return None, errors
        if not written:
            return variants[_key({})], []
        config = cls.of(data)
        config._variants.update({key: each.plain() for key, each in variants.items()})
        return config, []

    @cached_property
    def _variants(self) -> dict[str, Self]:
        """The variants that were validated, by their values; a validation takes a millisecond."""
        return {}

    def data(self) -> dict[str, Any]:
        """Plain values under their names in YAML, with defaults filled in; the inverse of `of`."""
        data: dict[str, Any] = self.model_dump(by_alias=True, exclude_none=True, mode="json")
        for path, node in self._written.items():
            *parents, last = path.split(".")
            place = data
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = node
        return data

    @cached_property
    def searched(self) -> list[Searched]:
        """The options of the recipe that are searched."""
        return searched_options(self._written)

    def variant(self, values: Mapping[str, Any]) -> Self:
        """The config with these values of the searched options; by default the plain config."""
        if not self._written:
            return self
        key = _key(values)
        if key not in self._variants:
            data = resolved(self.data(), self.searched, values)
            self._variants[key] = type(self).model_validate(data).plain()
        return self._variants[key]

    def plain(self) -> Self:
        """This variant of a config without what only other variants use."""
        return self

    def placed(self, path: str, values: Mapping[str, Any]) -> str:
        """The path in the file of what is at `path` in the variant of `values`."""
        return ".".join(map(str, placed(path.split("."), self.searched, values)))

    @contextmanager
    def placing(self, values: Mapping[str, Any]) -> Iterator[None]:
        """Errors of the body about the variant of `values` get their places in the file."""
        try:
            yield
        except InputError as error:
            details = [replace(d, path=self.placed(d.path, values)) for d in error.details]
            raise InputError(details) from error

    def representatives(self) -> list[dict[str, Any]]:
        """Values of the searched options, for which `variant` gives each option once."""
        return representatives(self.searched)
