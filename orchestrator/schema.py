"""The sections of a search's config, each of which checks itself."""

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from fewshot.episodes import Count
from fewshot.faults import Fault, InputError
from fewshot.learners.learners import LEARNERS, learner_named
from fewshot.learners.per_task import OWN
from fewshot.losses.distillation import Direction
from fewshot.models.models import MODELS
from fewshot.registry import options_of, resolve
from fewshot.tasks.datasets import DATASETS
from fewshot.tasks.functions import FAMILIES
from fewshot.tasks.pool import Imbalance
from trials.adam import WEIGHT_DECAY
from trials.adaptation import Adaptation
from trials.contract import WeightsAs
from trials.objective import soft_hyperparameters
from trials.teachers import HEADS, TRAINED


def refused(*faults: Fault) -> ValidationError:
    """What a section says of itself; a path leads on from the section's own."""
    return ValidationError.from_exception_data(
        "",
        [
            InitErrorDetails(
                type=PydanticCustomError("fault", "{rule}", {"rule": f.rule, "remedy": f.remedy}),
                loc=(f.path,) if f.path else (),
                input=f.found,
            )
            for f in faults
        ],
    )


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value) or ".." in value:
        rule = "must be 1 to 64 letters, digits, '.', '_' or '-', and begin with a letter or digit."
        raise refused(Fault("", rule, value, "It becomes the name of a folder."))
    return value


def _cells(value: Any, usual: object) -> Any:
    """One value of a column, or a list of them."""
    if value == []:
        raise refused(Fault("", "must not be empty.", value))
    listed = isinstance(value, list)
    faults = [
        Fault(
            str(i) if listed else "",
            "must be text or a whole number.",
            cell,
            "Put quotes around words such as yes, no, on, off and null."
            if cell is None or isinstance(cell, bool)
            else "Put quotes around it.",
        )
        for i, cell in enumerate(value if listed else [value])
        if isinstance(cell, bool) or not isinstance(cell, str | int)
    ]
    if faults:
        raise refused(*faults)
    return value


def _listed(value: Any, usual: object) -> Any:
    if not isinstance(value, list):
        raise refused(Fault("", "must be a list.", value, "Put it in brackets: [..]."))
    return _cells(value, usual)


Name = Annotated[str, AfterValidator(_name)]
Where = dict[str, Annotated[str | int | list[str | int], WrapValidator(_cells)]]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class _Part(BaseModel):
    """A part of fewshot.registry: its name, and its own options beside it."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    def options(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


@contextmanager
def _refused() -> Iterator[None]:
    """Faults found by those who know nothing of sections."""
    try:
        yield
    except InputError as error:
        raise refused(*error.faults) from error


def _check_options(
    registry: Mapping[str, Callable[..., Any]],
    key: str,
    part: _Part,
    given: set[str],
    found_elsewhere: str | None = None,
) -> None:
    """Every unknown and missing option; those in `given` the builder supplies itself."""
    name, options = getattr(part, key), dict(part.__pydantic_extra__ or {})
    with _refused():
        known = options_of(resolve(registry, name, key), given)
    remedy = f"Its options are {', '.join(known)}." if known else "It has none: take it out."
    faults = [
        Fault(option, f"is not an option of {name}.", value, remedy)
        for option, value in options.items()
        if option not in known
    ] + [
        Fault(option, f"is needed by {name}.", None, remedy)
        for option, p in known.items()
        if p.default is inspect.Parameter.empty
        and option not in options
        and option != found_elsewhere
    ]
    if faults:
        raise refused(*faults)


class DatasetPart(_Part):
    source: str

    @model_validator(mode="after")
    def _known(self) -> Self:
        _check_options(DATASETS, "source", self, {"cache"})
        return self


class ModelPart(_Part):
    name: str

    @model_validator(mode="after")
    def _known(self) -> Self:
        _check_options(MODELS, "name", self, {"features"})
        return self


class LearnerPart(_Part):
    name: str

    @model_validator(mode="after")
    def _known(self) -> Self:
        with _refused():
            learner_named(self.name, "name")
        _check_options(LEARNERS, "name", self, {"model", "way", "kind", "classes"})
        return self


class NoiseSection(_Section):
    """A share of the labels that is drawn anew."""

    noise: float = Field(gt=0, le=1)


def _corruption(value: Any, usual: object) -> Literal["shuffle"] | NoiseSection | None:
    if isinstance(value, Mapping | NoiseSection):
        return NoiseSection.model_validate(value)
    if value != "shuffle":
        raise refused(Fault("", "must be 'shuffle', or {noise: ..}.", value))
    return "shuffle"


class TeacherPart(_Part):
    """Frozen features, by the name of a dataset, with a `head` on them; or what was trained before.

    The features are of the student's own `path` unless they have another.
    """

    source: str
    head: str | None = None

    @model_validator(mode="after")
    def _known(self) -> Self:
        trained = self.source in TRAINED
        elsewhere = None if trained else "path"
        _check_options({**TRAINED, **DATASETS}, "source", self, {"cache"}, elsewhere)
        if self.head is not None and trained:
            rule = f"does not go with {self.source}, which has learned how to answer."
            raise refused(Fault("head", rule, self.head, "Take it out."))
        if self.head is not None and self.head not in HEADS:
            raise refused(Fault("head", f"must be one of {', '.join(HEADS)}.", self.head))
        return self

    def options(self) -> dict[str, Any]:
        return super().options() | ({} if self.head is None else {"head": self.head})


class DecoupledSection(_Section):
    """Weights of the target class against the others, and of the others among themselves."""

    target: float = Field(1.0, ge=0)
    non_target: float = Field(1.0, ge=0)


class DistillationSection(_Section):
    """Which soft loss, see fewshot.losses.distillation."""

    direction: Direction = "forward"
    standardise: bool = False
    decoupled: DecoupledSection | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.decoupled is not None and self.direction == "reverse":
            rule = "parts the forward divergence: it does not go with direction: reverse."
            raise refused(Fault("decoupled", rule, None, "Take one of them out."))
        return self


class TaskSection(_Section):
    """One task by `name`, or one for `each` value of a column, named after the value."""

    name: Name | None = None
    each: dict[str, Annotated[list[str | int], WrapValidator(_listed)]] | None = None
    dataset: str
    label: str
    kind: Literal["classification", "regression"] = "classification"
    group: Name | None = None
    where: Where = {}
    within: str | None = None
    corrupt: Annotated[Literal["shuffle"] | NoiseSection, WrapValidator(_corruption)] | None = None
    query: Where | None = None
    unlabelled: Where | None = None
    n_unlabelled: PositiveInt | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.name is None) == (self.each is None):
            raise refused(Fault("", "needs either `name` or `each`."))
        if self.each is not None and len(self.each) != 1:
            raise refused(Fault("each", "must name one column, with its values.", list(self.each)))
        if self.regresses and self.within is not None:
            raise refused(Fault("within", "is for classes, not for numbers.", self.within))
        return self

    @property
    def regresses(self) -> bool:
        """Whether the label is a number."""
        return self.kind == "regression"

    def names(self) -> list[str]:
        if self.each is None:
            return [self.name or ""]
        ((_, values),) = self.each.items()
        return [re.sub(r"[^A-Za-z0-9._-]+", "_", str(value)) for value in values]


class FunctionSection(_Section):
    """A task that is a family of functions, named after it unless it has another `name`."""

    function: str
    name: Name | None = None
    group: Name | None = None

    @model_validator(mode="before")
    @classmethod
    def _nothing_else(cls, data: Any) -> Any:
        rule = "does not go with `function`, which has no rows and no labels."
        others = data.keys() - cls.model_fields.keys()
        if others:
            raise refused(*(Fault(str(key), rule, data[key], "Take it out.") for key in others))
        return data

    @field_validator("function")
    @classmethod
    def _known(cls, value: str) -> str:
        with _refused():
            resolve(FAMILIES, value, "")
        return value

    @property
    def regresses(self) -> bool:
        """Functions have numbers, no classes."""
        return True

    def names(self) -> list[str]:
        return [self.name or self.function.rpartition(":")[2]]


# In place of pydantic's usual checks of a union, which complain once for each of its members.
def _task(value: Any, usual: object) -> TaskSection | FunctionSection:
    if isinstance(value, Mapping) and "function" in value:
        return FunctionSection.model_validate(value)
    return TaskSection.model_validate(value)


Task = Annotated[TaskSection | FunctionSection, WrapValidator(_task)]


class TasksSection(_Section):
    train: list[Task] = []
    validation: list[Task] = Field(min_length=1)
    test: list[Task] = Field(min_length=1)
    overlap: bool = False  # whether tasks of different splits may share examples

    @model_validator(mode="after")
    def _unique(self) -> Self:
        faults = []
        for split in ("train", "validation", "test"):
            names = [name for task in getattr(self, split) for name in task.names()]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                faults.append(Fault(split, "names tasks twice.", twice, "Give each its own name."))
            faults += [
                Fault(
                    f"{split}.{i}.group", "is for training tasks, which have weights.", task.group
                )
                for i, task in enumerate(getattr(self, split))
                if split != "train" and task.group is not None
            ]
        if faults:
            raise refused(*faults)
        return self


def _count(least: int) -> WrapValidator:
    """A whole number that is at least this, or two of them of which the first is lower."""

    def check(value: Any, usual: object) -> Count:
        ranges = isinstance(value, list | tuple) and len(value) == 2
        low, high = value if ranges else (value, value)
        if not all(isinstance(end, int) and not isinstance(end, bool) for end in (low, high)):
            raise refused(Fault("", "must be a whole number, or two: [low, high].", value))
        if min(low, high) < least:
            rule = f"must be at least {least}." if least > 1 else "must be above 0."
            raise refused(Fault("", rule, value))
        if ranges and low >= high:
            raise refused(Fault("", "must have its lower end first: [low, high].", value))
        return (int(low), int(high)) if ranges else int(low)

    return WrapValidator(check)


class EpisodesSection(_Section):
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
            raise refused(Fault("imbalance", rule, self.imbalance))
        return self

    def ways(self) -> Count:
        """Of episodes of classes."""
        return 5 if self.way is None else self.way


class RangeSection(_Section):
    low: float
    high: float

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if not self.low < self.high:
            raise refused(Fault("low", f"must be below high = {self.high:g}.", self.low))
        return self


def _scalar(value: Any, usual: object) -> RangeSection | float:
    if isinstance(value, Mapping | RangeSection):
        return RangeSection.model_validate(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise refused(Fault("", "must be a number, or {low: .., high: ..}.", value))
    return float(value)


Scalar = Annotated[RangeSection | float, WrapValidator(_scalar)]


def _sums_to_one(value: dict[str, float]) -> dict[str, float]:
    faults = [Fault(k, "must not be negative.", v) for k, v in value.items() if v < 0]
    total = sum(value.values())
    if not faults and abs(total - 1.0) > 1e-6:
        rule = f"must sum to 1, the sum is {total:.6g}."
        faults = [Fault("", rule, None, "Divide each weight by their sum.")]
    if faults:
        raise refused(*faults)
    return value


Weights = Annotated[dict[str, float], AfterValidator(_sums_to_one)]


class WeightsSection(_Section):
    """Searched around a prior, or fixed. `off_below` is a share of the uniform weight.

    The tasks of a group share its weight equally, and in the prior the mean of what they have.
    weights_as: a task's weight is that of its loss, or its share of the episodes that are drawn.
    """

    search: bool = True
    half_width: float = Field(3.5, gt=0, le=10)
    off_below: float = Field(0.2, ge=0, lt=1)
    prior: Weights | None = None
    fixed: Weights | None = None
    weights_as: WeightsAs = "loss"


class SpaceSection(_Section):
    """What is searched: a range, or a number to fix it."""

    task_weights: WeightsSection = WeightsSection()
    lr_outer: Scalar | None = Field(None, alias="lr/outer")
    lr_inner: Scalar | None = Field(None, alias="lr/inner")
    lr_adapt: Scalar | None = Field(None, alias="lr/adapt")
    temperature: Scalar | None = Field(None, alias="distill/temperature")
    soft_weight: Scalar | None = Field(None, alias="distill/soft_weight")
    own: Scalar | None = Field(None, alias=OWN)
    weight_decay: Scalar | None = Field(None, alias=WEIGHT_DECAY)

    @field_validator("lr_outer", "lr_inner", "lr_adapt", "temperature")
    @classmethod
    def _positive(cls, value: RangeSection | float | None) -> RangeSection | float | None:
        low = value.low if isinstance(value, RangeSection) else value
        if low is not None and low <= 0:
            raise refused(Fault("", "must be above 0.", low))
        return value

    @field_validator("weight_decay")
    @classmethod
    def _not_negative(cls, value: RangeSection | float | None) -> RangeSection | float | None:
        low = value.low if isinstance(value, RangeSection) else value
        if low is not None and low < 0:
            raise refused(Fault("", "must not be negative.", low))
        return value

    @field_validator("soft_weight", "own")
    @classmethod
    def _share(cls, value: RangeSection | float | None) -> RangeSection | float | None:
        ends = (value.low, value.high) if isinstance(value, RangeSection) else (value, value)
        outside = [end for end in ends if end is not None and not 0 <= end <= 1]
        if outside:
            raise refused(Fault("", "must lie between 0 and 1.", outside[0]))
        return value

    def scalars(self) -> dict[str, RangeSection | float]:
        """What was given, under the names that users know."""
        fields = {f.alias: getattr(self, key) for key, f in type(self).model_fields.items()}
        return {name: value for name, value in fields.items() if name and value is not None}


def _lanes(value: Any, usual: object) -> int | Literal["auto"]:
    if value != "auto" and (type(value) is not int or value < 1):
        raise refused(Fault("", "must be a whole number of at least 1, or auto.", value))
    found: int | Literal["auto"] = value
    return found


class SearchSection(_Section):
    trials: PositiveInt = 48
    reference_trials: PositiveInt = 8  # of the reference (uniform weights), to tune its rates
    rungs: list[Annotated[float, Field(gt=0, lt=1)]] = [0.3, 0.6]  # shares of the steps
    eta: float = Field(2.0, gt=1)
    finalists: PositiveInt = 3
    seeds: int = Field(3, ge=2)
    lanes: Annotated[int | Literal["auto"], WrapValidator(_lanes)] = 8
    workers: PositiveInt = 1


class Config(_Section):
    """A whole search."""

    name: Name
    seed: int = Field(0, ge=0, lt=2**31)
    trial_seed: int | None = Field(None, ge=0, lt=2**31)  # of the one trial that `train` runs
    datasets: dict[str, DatasetPart] = {}
    tasks: TasksSection
    model: ModelPart
    learner: LearnerPart | None = None
    teacher: TeacherPart | None = None
    distillation: DistillationSection | None = None
    episodes: EpisodesSection = EpisodesSection()
    batch: PositiveInt = 128
    optimizer: Literal["adam", "sgd"] = "adam"
    steps: PositiveInt
    space: SpaceSection
    search: SearchSection = SearchSection()

    @property
    def adapts(self) -> bool:
        """Whether there is the adaptation stage alone: one new task, and none to learn before."""
        return self.learner is None

    @property
    def kinds(self) -> set[str]:
        """What is predicted: classification, regression, or both."""
        tasks = self.all_tasks().values()
        return {"regression" if task.regresses else "classification" for task in tasks}

    def all_tasks(self) -> dict[str, TaskSection | FunctionSection]:
        """Every task section, by its place in the config."""
        return {
            f"tasks.{split}.{i}": task
            for split in ("train", "validation", "test")
            for i, task in enumerate(getattr(self.tasks, split))
        }

    def hyperparameters(self) -> tuple[str, ...]:
        """The scalars that the trials need. Each may have a weight decay besides."""
        if self.learner is None:
            return Adaptation.alone if self.teacher is None else Adaptation.hyperparameters
        own: tuple[str, ...] = (OWN,) if "per_task" in self.learner.options().values() else ()
        if self.teacher is not None:
            own += soft_hyperparameters(regresses="classification" not in self.kinds)
        return learner_named(self.learner.name).hyperparameters + own

    def train_names(self) -> list[str]:
        return [name for task in self.tasks.train for name in task.names()]

    def train_groups(self) -> list[str]:
        """Of each training task what tells its group from others: tasks without one are alone."""
        return [
            f"task {name}" if task.group is None else f"group {task.group}"
            for task in self.tasks.train
            for name in task.names()
        ]
