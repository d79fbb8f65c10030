"""Kinds of workers, for a cluster whose nodes differ or whose trials need different resources."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, TypeAdapter, WrapValidator, field_validator

from fewshot.errors.inputs import ErrorDetail
from orchestrator.config.sections.section import Section, section_error
from orchestrator.space.choices import Condition, Option


def whole_if_above_one(value: float | None) -> float | None:
    """Check a number of GPUs: several workers may share one, and one may have several."""
    if value is not None and value > 1 and value != int(value):
        raise section_error(ErrorDetail("", "must be a whole number if it is above 1.", value))
    return value


class WorkersSection(Section):
    """Workers of one kind.

    cpus, gpus, resources: what each of them needs. `resources` are names that nodes have in Ray,
    such as `{"accelerator_type:A100": 0.01}`. only: the trials that they train, by the searched
    options of these: `{model: [conv]}`; by default all trials.
    """

    count: PositiveInt
    cpus: PositiveInt = 1
    gpus: Annotated[float, Field(ge=0)] = 0.0
    resources: dict[str, Annotated[float, Field(gt=0)]] | None = None
    only: dict[str, Annotated[list[Option], Field(min_length=1)]] | None = None

    _whole = field_validator("gpus")(whole_if_above_one)

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What must hold of the options of a trial."""
        return tuple(Condition(name, tuple(values)) for name, values in (self.only or {}).items())

    @property
    def needs(self) -> dict[str, float]:
        """The resources of one worker, by their names in Ray."""
        return {"CPU": self.cpus, "GPU": self.gpus, **(self.resources or {})}

    def __str__(self) -> str:
        listed = ", ".join(f"{amount:g} {name}" for name, amount in self.needs.items() if amount)
        text = f"{self.count} with {listed} each"
        only = "; ".join(f"{c.of}: {', '.join(map(str, c.values))}" for c in self.conditions)
        return f"{text}, only for trials with {only}" if only else text


def needed(kinds: Iterable[WorkersSection]) -> dict[str, float]:
    """The resources of all workers together, by their names in Ray."""
    total: defaultdict[str, float] = defaultdict(float)
    for kind in kinds:
        for name, amount in kind.needs.items():
            total[name] += kind.count * amount
    return dict(total)


def _workers(value: Any, usual: object) -> Any:
    if isinstance(value, list):
        if not value:
            raise section_error(ErrorDetail("", "must not be empty.", value))
        return TypeAdapter(list[WorkersSection]).validate_python(value)
    if value != "auto" and (type(value) is not int or value < 1):
        rule = "must be a whole number of at least 1, auto, or a list of kinds of workers."
        raise section_error(ErrorDetail("", rule, value))
    return value


# auto: as many as the cluster has room for, also when it grows or shrinks.
Workers = Annotated[int | Literal["auto"] | list[WorkersSection], WrapValidator(_workers)]
