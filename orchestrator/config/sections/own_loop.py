"""The config of a search over a user's own training loop: every config with `program`."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, PositiveInt, WrapValidator, field_validator, model_validator

from fewshot.errors.inputs import ErrorDetail
from orchestrator.config.sections.config import Config, SearchSection
from orchestrator.config.sections.range_rules import errors_of
from orchestrator.config.sections.searched import SearchableConfig
from orchestrator.config.sections.section import Name, Section, TaskName, section_error
from orchestrator.config.sections.space import RangeSection, WeightsSection, parse_scalar
from orchestrator.config.sections.workers import whole_if_above_one
from orchestrator.space.choices import Choice, WholeRange

_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_PARAMETER = re.compile(r"[A-Za-z][\w.-]*(/\w[\w.-]*)*", re.ASCII)
_MAX_NAME = 64
# Names of the columns of `Search.trials` and of the parameters in MLflow.
_RESERVED = ("state", "score", "seconds", "reason", "stage", "seed", "trial_number")


class LoggedRangeSection(RangeSection):
    """A range with its scale."""

    log: bool = False

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if self.log and self.low <= 0:
            raise section_error(ErrorDetail("low", "must be above 0 with `log: true`.", self.low))
        return self


class ChoiceSection(Section):
    """One of several numbers or words; see `range_rules` for the rules."""

    choices: list[str | int | float | bool]

    @property
    def parameter(self) -> Choice:
        return Choice(tuple(self.choices))


class WholeRangeSection(Section):
    """A whole number: low, low + step, .., high; see `range_rules` for the rules."""

    low: int
    high: int
    step: int

    @property
    def parameter(self) -> WholeRange:
        return WholeRange(self.low, self.high, self.step)


Searched = LoggedRangeSection | ChoiceSection | WholeRangeSection


Scalar = Searched | float | int | bool | str


def _scalar(value: Any, usual: object) -> Scalar:
    if isinstance(value, Mapping) and not {"choices", "step"}.isdisjoint(value):
        if details := errors_of(value):
            raise section_error(*details)
        kind = ChoiceSection if "choices" in value else WholeRangeSection
        return kind.model_validate(value)
    if isinstance(value, ChoiceSection | WholeRangeSection | str | bool | int):
        return value
    return parse_scalar(value, LoggedRangeSection)


class OwnSpaceSection(Section):
    """The task weights, and parameters with any names; a number or a word is fixed."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[Scalar, WrapValidator(_scalar)]]

    task_weights: WeightsSection = WeightsSection()

    @model_validator(mode="after")
    def _names(self) -> Self:
        rule = "must be up to 64 letters, digits, '_', '.', '-', or parts of these joined by '/'."
        reserved = "is the name of something else. Names with `lambda` are those of task weights."
        names = self.scalars()
        details = [
            ErrorDetail(name, rule, name, "Begin it with a letter.")
            for name in names
            if len(name) > _MAX_NAME or not _PARAMETER.fullmatch(name)
        ] + [
            ErrorDetail(name, reserved, name, "Choose a different name.")
            for name in names
            if name in _RESERVED or name.startswith(("lambda/", "lambda.", "log10_", "score@"))
        ]
        if details:
            raise section_error(*details)
        return self

    def scalars(self) -> dict[str, Scalar]:
        """All parameters except the task weights, by name."""
        return dict(self.__pydantic_extra__ or {})


class OwnTasksSection(Section):
    """Names of tasks; only the training function knows what they mean.

    train: the tasks that have weights. test: tasks whose scores the last yield of a retrained
    finalist has too; they do not enter the score.
    """

    train: list[TaskName] = Field(default_factory=list)
    validation: list[TaskName] = Field(min_length=1)
    test: list[TaskName] = Field(default_factory=list)

    @model_validator(mode="after")
    def _unique(self) -> Self:
        details = []
        for split in ("train", "validation", "test"):
            names = getattr(self, split)
            duplicates = sorted({name for name in names if names.count(name) > 1})
            if duplicates:
                rule = "must not use a task name twice."
                details.append(ErrorDetail(split, rule, duplicates, "Give each task its own name."))
        both = sorted(set(self.validation) & set(self.test))
        if both:
            rule = "must not contain validation tasks: the scores are yielded in one mapping."
            details.append(ErrorDetail("test", rule, both, "Rename one of each pair."))
        if details:
            raise section_error(*details)
        return self


class OwnSearchSection(SearchSection):
    """trial_timeout: the longest time between two reports of a trial, in seconds."""

    lanes: Literal[1] = 1  # one trial per worker
    gpus_per_worker: Annotated[float, Field(ge=0)] | None = None
    trial_timeout: Annotated[float, Field(gt=0)] | None = None

    _whole = field_validator("gpus_per_worker")(whole_if_above_one)


class OwnLoopConfig(SearchableConfig):
    """The config of a whole search over a user's own training loop."""

    # These keys describe what the training function decides here.
    replaced: ClassVar[frozenset[str]] = frozenset(Config.model_fields) - {
        *("name", "seed", "tasks", "steps", "space", "search")
    }
    trial_seed: ClassVar[None] = None

    name: Name
    seed: int = Field(0, ge=0, lt=2**31)
    program: str
    path: str = "."  # the folder of the module, in which the function runs
    tasks: OwnTasksSection
    steps: PositiveInt
    space: OwnSpaceSection = OwnSpaceSection()
    search: OwnSearchSection = OwnSearchSection()

    @field_validator("program")
    @classmethod
    def _function(cls, value: str) -> str:
        if not _FUNCTION.fullmatch(value):
            rule = "must be the name of a training function: package.module:function."
            raise section_error(ErrorDetail("", rule, value))
        return value

    def train_names(self) -> list[str]:
        return list(self.tasks.train)

    def train_groups(self) -> list[str]:
        """A group name for each training task: each task has its own weight."""
        return [f"task {name}" for name in self.tasks.train]


AnyConfig = Config | OwnLoopConfig


def config_class(data: Mapping[str, Any]) -> type[Config] | type[OwnLoopConfig]:
    """The class of a config with these keys."""
    return OwnLoopConfig if "program" in data else Config
