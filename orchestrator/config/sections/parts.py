"""Config sections for registered parts with their options."""

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from fewshot.errors.inputs import ErrorDetail, did_you_mean
from fewshot.learners.learners import LEARNERS, learner_named
from fewshot.learners.reinforcement.world_learners import SUPPLIED, WORLD_LEARNERS
from fewshot.losses.distillation import Direction
from fewshot.models.models import MODELS, SPREAD
from fewshot.registry import options_of, resolve
from fewshot.tasks.datasets import DATASETS
from orchestrator.config.sections.section import Section, as_section_error, section_error
from trials.programs.teachers import HEADS, TRAINED


class _Part(BaseModel):
    """A registered part (see fewshot.registry): its name and, in the same section, its options."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    def options(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


def _check_options(
    registry: Mapping[str, Callable[..., Any]],
    key: str,
    part: _Part,
    given: set[str],
    found_elsewhere: str | None = None,
) -> None:
    """Refuse unknown and missing options; the builder supplies the options in `given` itself."""
    name, options = getattr(part, key), dict(part.__pydantic_extra__ or {})
    with as_section_error():
        known = options_of(resolve(registry, name, key), given)
    remedy = f"Its options are {', '.join(known)}." if known else "It has no options: remove it."
    details = [
        ErrorDetail(
            option, f"is not an option of {name}.", value, did_you_mean(option, known) + remedy
        )
        for option, value in options.items()
        if option not in known
    ] + [
        ErrorDetail(option, f"is needed by {name}.", None, remedy)
        for option, p in known.items()
        if p.default is inspect.Parameter.empty
        and option not in options
        and option != found_elsewhere
    ]
    if details:
        raise section_error(*details)


def _name_of(*registries: Mapping[str, Any]) -> BeforeValidator:
    """Checks that the value is one name: of a registered part, or of a user's part."""
    known = ", ".join(sorted(name for registry in registries for name in registry))

    def check(value: Any) -> str:
        if not isinstance(value, str):
            remedy = f"Use one of {known}, or your own package.module:factory."
            raise section_error(ErrorDetail("", "must be a single name.", value, remedy))
        return value

    return BeforeValidator(check)


class DatasetPart(_Part):
    source: Annotated[str, _name_of(DATASETS)]

    @model_validator(mode="after")
    def _known(self) -> Self:
        _check_options(DATASETS, "source", self, {"cache"})
        return self


class ModelPart(_Part):
    name: Annotated[str, _name_of(MODELS)]

    @model_validator(mode="after")
    def _known(self) -> Self:
        _check_options(MODELS, "name", self, {"features", SPREAD})
        return self


class LearnerPart(_Part):
    name: Annotated[str, _name_of(LEARNERS, WORLD_LEARNERS)]

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.name in WORLD_LEARNERS:
            _check_options(WORLD_LEARNERS, "name", self, set(SUPPLIED))
            return self
        with as_section_error():
            learner_named(self.name, "name")
        _check_options(LEARNERS, "name", self, {"model", "way", "kind", "classes"})
        return self


class TeacherPart(_Part):
    """A teacher: frozen features of a dataset with a `head` on them, or already trained models.

    The features are computed for the student's `path`, unless the teacher has its own `path`.
    """

    source: Annotated[str, _name_of(TRAINED, DATASETS)]
    head: str | None = None

    @model_validator(mode="after")
    def _known(self) -> Self:
        trained = self.source in TRAINED
        elsewhere = None if trained else "path"
        _check_options({**TRAINED, **DATASETS}, "source", self, {"cache"}, elsewhere)
        if self.head is not None and trained:
            rule = f"can't be used with {self.source}, whose models have a trained head."
            raise section_error(ErrorDetail("head", rule, self.head, "Remove it."))
        if self.head is not None and self.head not in HEADS:
            raise section_error(
                ErrorDetail("head", f"must be one of {', '.join(HEADS)}.", self.head)
            )
        return self

    def options(self) -> dict[str, Any]:
        return super().options() | ({} if self.head is None else {"head": self.head})


class DecoupledSection(Section):
    """Weights of two terms: the target class against the rest, and the classes in the rest."""

    target: float = Field(1.0, ge=0)
    non_target: float = Field(1.0, ge=0)


class DistillationSection(Section):
    """The choice of the soft loss, see fewshot.losses.distillation."""

    direction: Direction = "forward"
    standardise: bool = False
    decoupled: DecoupledSection | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.decoupled is not None and self.direction == "reverse":
            rule = "splits the forward divergence: it can't be used with `direction: reverse`."
            raise section_error(ErrorDetail("decoupled", rule, None, "Remove one of the two."))
        return self
