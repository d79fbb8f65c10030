"""The `tasks` section of a config, with the `episodes` that are drawn from the tasks."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    PositiveInt,
    WrapValidator,
    field_validator,
    model_validator,
)

from fewshot.episodes import Count
from fewshot.errors.inputs import ErrorDetail
from fewshot.registry import resolve
from fewshot.tasks.functions import FAMILIES
from fewshot.tasks.pool import Imbalance
from fewshot.worlds.worlds import world_of
from orchestrator.config.sections.section import (
    Section,
    TaskName,
    Where,
    as_section_error,
    listed,
    section_error,
    task_name_from,
)
from trials.contract import Overlap


class NoiseSection(Section):
    """The share of labels that is replaced by random labels."""

    noise: float = Field(gt=0, le=1)


def _corruption(value: Any, usual: object) -> Literal["shuffle"] | NoiseSection | None:
    if isinstance(value, Mapping | NoiseSection):
        return NoiseSection.model_validate(value)
    if value != "shuffle":
        raise section_error(ErrorDetail("", "must be 'shuffle', or {noise: ..}.", value))
    return "shuffle"


class TaskSection(Section):
    """One task with a `name`, or one task for `each` value of a column, named after the value."""

    name: TaskName | None = None
    each: dict[str, Annotated[list[str | int], WrapValidator(listed)]] | None = None
    dataset: str
    label: str
    kind: Literal["classification", "regression"] = "classification"
    group: TaskName | None = None
    where: Where = Field(default_factory=dict)
    within: str | None = None
    order: str | None = None
    corrupt: Annotated[Literal["shuffle"] | NoiseSection, WrapValidator(_corruption)] | None = None
    query: Where | None = None
    unlabelled: Where | None = None
    n_unlabelled: PositiveInt | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.name is None) == (self.each is None):
            raise section_error(ErrorDetail("", "needs either `name` or `each`."))
        if self.each is not None and len(self.each) != 1:
            raise section_error(
                ErrorDetail("each", "must be one column with its values.", list(self.each))
            )
        if not self.regresses and self.order is not None:
            rule = "can be used for numbers only: with classes, each has its own support."
            raise section_error(ErrorDetail("order", rule, self.order, "Remove it."))
        return self

    @property
    def regresses(self) -> bool:
        """Whether this is a regression task: its label is a number."""
        return self.kind == "regression"

    def names(self) -> list[str]:
        if self.each is None:
            return [self.name or ""]
        ((_, values),) = self.each.items()
        return [task_name_from(str(value)) for value in values]

    def values(self) -> list[str]:
        """The text from which the name of each task was made."""
        if self.each is None:
            return self.names()
        ((_, values),) = self.each.items()
        return [str(value) for value in values]


class FunctionSection(Section):
    """A task that is a family of functions; its default `name` is that of the family."""

    function: str
    name: TaskName | None = None
    group: TaskName | None = None

    @model_validator(mode="before")
    @classmethod
    def _nothing_else(cls, data: Any) -> Any:
        rule = "can't be used with `function`, which has no rows and no labels."
        others = data.keys() - cls.model_fields.keys()
        if others:
            raise section_error(
                *(ErrorDetail(str(key), rule, data[key], "Remove it.") for key in others)
            )
        return data

    @field_validator("function")
    @classmethod
    def _known(cls, value: str) -> str:
        with as_section_error():
            resolve(FAMILIES, value, "")
        return value

    @property
    def regresses(self) -> bool:
        """True: the values of functions are numbers."""
        return True

    def names(self) -> list[str]:
        return [self.name or self.function.rpartition(":")[2]]

    def values(self) -> list[str]:
        """The text from which the name of the task was made."""
        return self.names()


class WorldSection(Section):
    """A task that is a world; its default `name` is that of the world.

    All other keys are options of the world.
    """

    model_config = ConfigDict(extra="allow")

    world: str
    name: TaskName | None = None
    group: TaskName | None = None

    @model_validator(mode="after")
    def _known(self) -> Self:
        with as_section_error():
            world_of(self.world, self.options())
        return self

    def options(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})

    @property
    def regresses(self) -> bool:
        """False: there are no numbers to predict."""
        return False

    def names(self) -> list[str]:
        return [self.name or self.world.rpartition(":")[2]]

    def values(self) -> list[str]:
        """The text from which the name of the task was made."""
        return self.names()


# Replaces pydantic's check of a union, which reports one error for each member of the union.
def _task(value: Any, usual: object) -> TaskSection | FunctionSection | WorldSection:
    if isinstance(value, Mapping) and "world" in value:
        return WorldSection.model_validate(value)
    if isinstance(value, Mapping) and "function" in value:
        return FunctionSection.model_validate(value)
    return TaskSection.model_validate(value)


AnyTask = TaskSection | FunctionSection | WorldSection
Task = Annotated[AnyTask, WrapValidator(_task)]


def _overlap(value: Any, usual: object) -> Overlap:
    if not isinstance(value, bool) and value != "drop":
        raise section_error(ErrorDetail("", "must be true, false or drop.", value))
    return value  # type: ignore[no-any-return]


_OWN_NAMES = "Give each task its own name: use `name` and `where` instead of `each`."


def _duplicates(tasks: Sequence[AnyTask]) -> list[str]:
    """Names that several tasks have, with the texts from which the names were made."""
    values: dict[str, list[str]] = {}
    for task in tasks:
        for name, value in zip(task.names(), task.values(), strict=True):
            values.setdefault(name, []).append(value)
    return [
        f"{name} ({', '.join(map(repr, texts))})" if set(texts) != {name} else name
        for name, texts in sorted(values.items())
        if len(texts) > 1
    ]


class TasksSection(Section):
    train: list[Task] = Field(default_factory=list)
    validation: list[Task] = Field(min_length=1)
    test: list[Task] = Field(min_length=1)
    # Examples that tasks of different splits share: refused (false), allowed (true), or dropped.
    overlap: Annotated[Overlap, WrapValidator(_overlap)] = False

    @model_validator(mode="after")
    def _unique(self) -> Self:
        details = []
        for split in ("train", "validation", "test"):
            duplicates = _duplicates(getattr(self, split))
            if duplicates:
                rule = "must not use a task name twice."
                details.append(ErrorDetail(split, rule, duplicates, _OWN_NAMES))
            details += [
                ErrorDetail(
                    f"{split}.{i}.group",
                    "can be used for training tasks only, because only they have weights.",
                    task.group,
                )
                for i, task in enumerate(getattr(self, split))
                if split != "train" and task.group is not None
            ]
        if details:
            raise section_error(*details)
        return self


def _count(least: int) -> WrapValidator:
    """Checks for a whole number >= `least`, or a pair [low, high] of them with low < high."""

    def check(value: Any, usual: object) -> Count:
        ranges = isinstance(value, list | tuple) and len(value) == 2
        low, high = value if ranges else (value, value)
        if not all(isinstance(end, int) and not isinstance(end, bool) for end in (low, high)):
            raise section_error(
                ErrorDetail("", "must be a whole number, or two: [low, high].", value)
            )
        if min(low, high) < least:
            rule = f"must be at least {least}." if least > 1 else "must be above 0."
            raise section_error(ErrorDetail("", rule, value))
        if ranges and low >= high:
            raise section_error(
                ErrorDetail("", "must have the lower number first: [low, high].", value)
            )
        return (int(low), int(high)) if ranges else int(low)

    return WrapValidator(check)


class EpisodesSection(Section):
    """Shapes of the episodes, and how many are drawn.

    `way`, `shot` and `query` are a number, or a range [low, high] from which each episode draws;
    with imbalance the shots are drawn for each class of an episode. For functions, shots are
    points, and there is no `way`.
    """

    way: Annotated[Count, _count(2)] | None = None  # None: 5 if there are classes
    shot: Annotated[Count, _count(1)] = 1
    query: Annotated[Count, _count(1)] = 5
    imbalance: Imbalance | None = None
    fixed_classes: bool = False  # all tasks have the same `way` classes, and these keep their order
    per_task: PositiveInt = 4
    per_step: PositiveInt | None = None  # if tasks are sampled: the total, instead of `per_task`
    validation: PositiveInt = 60
    test: PositiveInt = 200

    @model_validator(mode="after")
    def _something_to_draw(self) -> Self:
        if self.imbalance and isinstance(self.shot, int):
            rule = "needs a range of shots: `shot: [low, high]`."
            raise section_error(ErrorDetail("imbalance", rule, self.imbalance))
        if self.fixed_classes and not isinstance(self.ways(), int):
            rule = "needs a single number as `way`: every episode has all classes."
            raise section_error(ErrorDetail("fixed_classes", rule, None, "Set `way`."))
        return self

    def ways(self) -> Count:
        """The way of classification episodes."""
        return 5 if self.way is None else self.way
