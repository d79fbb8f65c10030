"""The sections of a search's config, each of which checks itself."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    field_validator,
    model_validator,
)

from fewshot.learners.learners import HYPERPARAMETERS, LEARNERS
from fewshot.models.models import MODELS
from fewshot.tasks.datasets import DATASETS
from trials.adaptation import Adaptation

_GIVEN = {"cache", "features", "model", "way"}  # arguments that the builder supplies itself


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value) or ".." in value:
        raise ValueError(
            "must be 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit: "
            "it becomes the name of a folder"
        )
    return value


Name = Annotated[str, AfterValidator(_name)]
Where = dict[str, str | int | list[str | int]]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Part(BaseModel):
    """A registered part: its name, and its own options beside it."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    def options(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


def _check_options(registry: Mapping[str, Callable[..., Any]], name: str, part: _Part) -> None:
    """Unknown and missing options, all of them in one message."""
    if name not in registry:
        raise ValueError(f"there is no {name!r}: known are {', '.join(sorted(registry))}")
    known = {
        key: p
        for key, p in inspect.signature(registry[name]).parameters.items()
        if key not in _GIVEN
    }
    unknown = sorted(set(part.options()) - set(known))
    needed = {key for key, p in known.items() if p.default is inspect.Parameter.empty}
    missing = sorted(needed - set(part.options()))
    if unknown or missing:
        said = [f"does not know {key!r}" for key in unknown] + [f"needs {key!r}" for key in missing]
        raise ValueError(f"{name} {', '.join(said)}: its options are {', '.join(known) or 'none'}")


class DatasetPart(_Part):
    source: str

    @model_validator(mode="after")
    def _known(self) -> Self:
        _check_options(DATASETS, self.source, self)
        return self


class ModelPart(_Part):
    name: str

    @model_validator(mode="after")
    def _known(self) -> Self:
        _check_options(MODELS, self.name, self)
        return self


class LearnerPart(_Part):
    name: str

    @model_validator(mode="after")
    def _known(self) -> Self:
        _check_options(LEARNERS, self.name, self)
        return self


class TaskSection(_Section):
    """One task by `name`, or one for `each` value of a column, named after the value."""

    name: Name | None = None
    each: dict[str, list[str | int]] | None = None
    dataset: str
    label: str
    where: Where = {}
    within: str | None = None
    corrupt: Literal["shuffle"] | None = None
    query: Where | None = None
    unlabelled: Where | None = None
    n_unlabelled: PositiveInt | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.name is None) == (self.each is None):
            raise ValueError("needs either `name` or `each`")
        if self.each is not None and len(self.each) != 1:
            raise ValueError("`each` names one column and its values")
        return self

    def names(self) -> list[str]:
        if self.each is None:
            return [self.name or ""]
        ((_, values),) = self.each.items()
        return [re.sub(r"[^A-Za-z0-9._-]+", "_", str(value)) for value in values]


class TasksSection(_Section):
    train: list[TaskSection] = []
    validation: list[TaskSection] = Field(min_length=1)
    test: list[TaskSection] = Field(min_length=1)

    @model_validator(mode="after")
    def _unique(self) -> Self:
        for split in ("train", "validation", "test"):
            names = [name for task in getattr(self, split) for name in task.names()]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{split} names tasks twice: {', '.join(twice)}")
        return self


class EpisodesSection(_Section):
    """Shapes of the episodes, and how many are drawn."""

    way: int = Field(5, ge=2)
    shot: PositiveInt = 1
    query: PositiveInt = 5
    per_task: PositiveInt = 4
    validation: PositiveInt = 60
    test: PositiveInt = 200


class RangeSection(_Section):
    low: float
    high: float

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"`low` must be below `high`, got low={self.low}, high={self.high}")
        return self


def _sums_to_one(value: dict[str, float] | None) -> dict[str, float] | None:
    if value is not None:
        if min(value.values(), default=0.0) < 0:
            raise ValueError("weights must not be negative")
        if abs(sum(value.values()) - 1.0) > 1e-6:
            raise ValueError(f"weights must sum to 1, they sum to {sum(value.values()):.6g}")
    return value


Weights = Annotated[dict[str, float], AfterValidator(_sums_to_one)]


class WeightsSection(_Section):
    """Searched around a prior, or fixed. `off_below` is a share of the uniform weight."""

    search: bool = True
    half_width: float = Field(3.5, gt=0, le=10)
    off_below: float = Field(0.2, ge=0, lt=1)
    prior: Weights | None = None
    fixed: Weights | None = None


class SpaceSection(_Section):
    """What is searched: a range, or a number to fix it."""

    task_weights: WeightsSection = WeightsSection()
    lr_outer: RangeSection | float | None = Field(None, alias="lr/outer")
    lr_inner: RangeSection | float | None = Field(None, alias="lr/inner")
    lr_adapt: RangeSection | float | None = Field(None, alias="lr/adapt")
    temperature: RangeSection | float | None = Field(None, alias="distill/temperature")
    soft_weight: RangeSection | float | None = Field(None, alias="distill/soft_weight")

    @field_validator("lr_outer", "lr_inner", "lr_adapt", "temperature")
    @classmethod
    def _positive(cls, value: RangeSection | float | None) -> RangeSection | float | None:
        low = value.low if isinstance(value, RangeSection) else value
        if low is not None and low <= 0:
            raise ValueError(f"must be above 0, got {low}")
        return value

    @field_validator("soft_weight")
    @classmethod
    def _share(cls, value: RangeSection | float | None) -> RangeSection | float | None:
        ends = (value.low, value.high) if isinstance(value, RangeSection) else (value, value)
        if any(end is not None and not 0 <= end <= 1 for end in ends):
            raise ValueError(f"must lie in [0, 1], got {ends[0]} to {ends[1]}")
        return value

    def scalars(self) -> dict[str, RangeSection | float]:
        """What was given, under the names that users know."""
        fields = {f.alias: getattr(self, key) for key, f in type(self).model_fields.items()}
        return {name: value for name, value in fields.items() if name and value is not None}


class SearchSection(_Section):
    trials: PositiveInt = 48
    reference_trials: PositiveInt = 8  # of the reference (uniform weights), to tune its rates
    rungs: list[Annotated[float, Field(gt=0, lt=1)]] = [0.3, 0.6]  # shares of the steps
    eta: float = Field(2.0, gt=1)
    finalists: PositiveInt = 3
    seeds: int = Field(3, ge=2)
    lanes: PositiveInt = 8
    workers: PositiveInt = 1


class Config(_Section):
    """A whole search."""

    name: Name
    seed: int = Field(0, ge=0, lt=2**31)
    trial_seed: int | None = Field(None, ge=0, lt=2**31)  # of the one trial that `train` runs
    datasets: dict[str, DatasetPart] = Field(min_length=1)
    tasks: TasksSection
    model: ModelPart
    learner: LearnerPart | None = None
    teacher: DatasetPart | None = None
    episodes: EpisodesSection = EpisodesSection()
    batch: PositiveInt = 128
    steps: PositiveInt
    space: SpaceSection
    search: SearchSection = SearchSection()

    @property
    def distils(self) -> bool:
        """Whether there is a teacher, and so only the adaptation stage."""
        return self.teacher is not None

    def hyperparameters(self) -> tuple[str, ...]:
        """The scalars that the trials read."""
        if self.learner is None:
            return Adaptation.hyperparameters
        return HYPERPARAMETERS[self.learner.name]

    def train_names(self) -> list[str]:
        return [name for task in self.tasks.train for name in task.names()]
