"""The tasks of a config, and the episodes that are drawn from them."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
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
from orchestrator.config.sections.section import (
    Section,
    TaskName,
    Where,
    listed,
    plain,
    refused,
    refusing,
)
from trials.contract import Overlap


class NoiseSection(Section):
    """A share of the labels that is drawn anew."""

    noise: float = Field(gt=0, le=1)


def _corruption(value: Any, usual: object) -> Literal["shuffle"] | NoiseSection | None:
    if isinstance(value, Mapping | NoiseSection):
        return NoiseSection.model_validate(value)
    if value != "shuffle":
        raise refused(ErrorDetail("", "must be 'shuffle', or {noise: ..}.", value))
    return "shuffle"


class TaskSection(Section):
    """One task by `name`, or one for `each` value of a column, named after the value."""

    name: TaskName | None = None
    each: dict[str, Annotated[list[str | int], WrapValidator(listed)]] | None = None
    dataset: str
    label: str
    kind: Literal["classification", "regression"] = "classification"
    group: TaskName | None = None
    where: Where = Field(default_factory=dict)
    within: str | None = None
    corrupt: Annotated[Literal["shuffle"] | NoiseSection, WrapValidator(_corruption)] | None = None
    query: Where | None = None
    unlabelled: Where | None = None
    n_unlabelled: PositiveInt | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.name is None) == (self.each is None):
            raise refused(ErrorDetail("", "needs either `name` or `each`."))
        if self.each is not None and len(self.each) != 1:
            raise refused(
                ErrorDetail("each", "must name one column, with its values.", list(self.each))
            )
        if self.regresses and self.within is not None:
            raise refused(ErrorDetail("within", "is for classes, not for numbers.", self.within))
        return self

    @property
    def regresses(self) -> bool:
        """Whether the label is a number."""
        return self.kind == "regression"

    def names(self) -> list[str]:
        if self.each is None:
            return [self.name or ""]
        ((_, values),) = self.each.items()
        return [plain(str(value)) for value in values]

    def values(self) -> list[str]:
        """What each of the tasks is named after."""
        if self.each is None:
            return self.names()
        ((_, values),) = self.each.items()
        return [str(value) for value in values]


class FunctionSection(Section):
    """A task that is a family of functions, named after it unless it has another `name`."""

    function: str
    name: TaskName | None = None
    group: TaskName | None = None

    @model_validator(mode="before")
    @classmethod
    def _nothing_else(cls, data: Any) -> Any:
        rule = "does not go with `function`, which has no rows and no labels."
        others = data.keys() - cls.model_fields.keys()
        if others:
            raise refused(
                *(ErrorDetail(str(key), rule, data[key], "Take it out.") for key in others)
            )
        return data

    @field_validator("function")
    @classmethod
    def _known(cls, value: str) -> str:
        with refusing():
            resolve(FAMILIES, value, "")
        return value

    @property
    def regresses(self) -> bool:
        """Functions have numbers, no classes."""
        return True

    def names(self) -> list[str]:
        return [self.name or self.function.rpartition(":")[2]]

    def values(self) -> list[str]:
        """What the task is named after."""
        return self.names()


# In place of pydantic's usual checks of a union, which complain once for each of its members.
def _task(value: Any, usual: object) -> TaskSection | FunctionSection:
    if isinstance(value, Mapping) and "function" in value:
        return FunctionSection.model_validate(value)
    return TaskSection.model_validate(value)


Task = Annotated[TaskSection | FunctionSection, WrapValidator(_task)]


def _overlap(value: Any, usual: object) -> Overlap:
    if not isinstance(value, bool) and value != "drop":
        raise refused(ErrorDetail("", "must be true or false, or drop.", value))
    return value  # type: ignore[no-any-return]


_OWN_NAMES = "Give each its own name: by `name` and `where` instead of `each`."


def _twice(tasks: Sequence[TaskSection | FunctionSection]) -> list[str]:
    """Names that several of the tasks have, with what these are named after."""
    values: dict[str, list[str]] = {}
    for task in tasks:
        for name, value in zip(task.names(), task.values(), strict=True):
            values.setdefault(name, []).append(value)
    return [
        f"{name} ({', '.join(map(repr, own))})" if set(own) != {name} else name
        for name, own in sorted(values.items())
        if len(own) > 1
    ]


class TasksSection(Section):
    train: list[Task] = Field(default_factory=list)
    validation: list[Task] = Field(min_length=1)
    test: list[Task] = Field(min_length=1)
    # What is done about examples that tasks of different splits share.
    overlap: Annotated[Overlap, WrapValidator(_overlap)] = False

    @model_validator(mode="after")
    def _unique(self) -> Self:
        details = []
        for split in ("train", "validation", "test"):
            twice = _twice(getattr(self, split))
            if twice:
                details.append(ErrorDetail(split, "names tasks twice.", twice, _OWN_NAMES))
            details += [
                ErrorDetail(
                    f"{split}.{i}.group", "is for training tasks, which have weights.", task.group
                )
                for i, task in enumerate(getattr(self, split))
                if split != "train" and task.group is not None
            ]
        if details:
            raise refused(*details)
        return self


def _count(least: int) -> WrapValidator:
    """A whole number that is at least this, or two of them of which the first is lower."""

    def check(value: Any, usual: object) -> Count:
        ranges = isinstance(value, list | tuple) and len(value) == 2
        low, high = value if ranges else (value, value)
        if not all(isinstance(end, int) and not isinstance(end, bool) for end in (low, high)):
            raise refused(ErrorDetail("", "must be a whole number, or two: [low, high].", value))
        if min(low, high) < least:
            rule = f"must be at least {least}." if least > 1 else "must be above 0."
            raise refused(ErrorDetail("", rule, value))
        if ranges and low >= high:
            raise refused(ErrorDetail("", "must have its lower end first: [low, high].", value))
        return (int(low), int(high)) if ranges else int(low)

    return WrapValidator(check)


class EpisodesSection(Section):
    """Shapes of the episodes, and how many are drawn. Functions have points for shots, no `way`.

    A shape is a number, or is drawn for each episode from [low, high]; with imbalance the shots are
    drawn for each class of an episode.
    """

    way: Annotated[Count, _count(2)] | None = None  # 5 where there are classes
    shot: Annotated[Count, _count(1)] = 1
    query: Annotated[Count, _count(1)] = 5
    imbalance: Imbalance | None = None
    per_task: PositiveInt = 4
    validation: PositiveInt = 60
    test: PositiveInt = 200

    @model_validator(mode="after")
    def _something_to_draw(self) -> Self:
        if self.imbalance and isinstance(self.shot, int):
            rule = "needs shots to draw: `shot: [low, high]`."
            raise refused(ErrorDetail("imbalance", rule, self.imbalance))
        return self

    def ways(self) -> Count:
        """Of episodes of classes."""
        return 5 if self.way is None else self.way
