"""The `space` section of a config."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    AfterValidator,
    Field,
    WrapValidator,
    field_validator,
    model_validator,
)

from fewshot.errors.inputs import ErrorDetail
from fewshot.learners.fine_tuned import STEPS
from fewshot.learners.metric.modal_protonet import MODAL_TEXT
from fewshot.learners.per_task import OWN
from fewshot.models.pretrained.adapters.lora import RANK
from orchestrator.config.sections.section import Section, section_error
from trials.contract import WeightsAs
from trials.lanes.optimizers.adam import WEIGHT_DECAY


class RangeSection(Section):
    low: float
    high: float

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if not self.low < self.high:
            raise section_error(
                ErrorDetail("low", f"must be below high = {self.high:g}.", self.low)
            )
        return self


Kind = TypeVar("Kind", bound=RangeSection)


def parse_scalar(value: Any, section: type[Kind]) -> Kind | float:
    """A number, or a range of the class `section`."""
    if isinstance(value, Mapping | RangeSection):
        return section.model_validate(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise section_error(ErrorDetail("", "must be a number, or {low: .., high: ..}.", value))
    return float(value)


def _scalar(value: Any, usual: object) -> RangeSection | float:
    return parse_scalar(value, RangeSection)


Scalar = Annotated[RangeSection | float, WrapValidator(_scalar)]


def _sums_to_one(value: dict[str, float]) -> dict[str, float]:
    details = [ErrorDetail(k, "must not be negative.", v) for k, v in value.items() if v < 0]
    total = sum(value.values())
    if not details and abs(total - 1.0) > 1e-6:
        rule = f"must sum to 1, but the sum is {total:.6g}."
        details = [ErrorDetail("", rule, None, "Divide each weight by their sum.")]
    if details:
        raise section_error(*details)
    return value


Weights = Annotated[dict[str, float], AfterValidator(_sums_to_one)]


class WeightsSection(Section):
    """Task weights, searched around a prior or fixed.

    half_width: of the box of log-ratios; by default it contains all weights that `zero_below`
    allows. zero_below: as a share of the uniform weight. prior: is averaged within each group; the
    tasks of a group always have equal weights. weights_as: whether a weight multiplies the task's
    loss, or is the task's share of the drawn episodes.
    """

    search: bool = True
    half_width: float | None = Field(None, gt=0, le=10)
    zero_below: float = Field(0.2, ge=0, lt=1)
    prior: Weights | None = None
    fixed: Weights | None = None
    weights_as: WeightsAs = "loss"


class SpaceSection(Section):
    """The searched scalars and weights: a range is searched, a number is fixed."""

    task_weights: WeightsSection = WeightsSection()
    lr_outer: Scalar | None = Field(None, alias="lr/outer")
    lr_inner: Scalar | None = Field(None, alias="lr/inner")
    lr_adapt: Scalar | None = Field(None, alias="lr/adapt")
    temperature: Scalar | None = Field(None, alias="distill/temperature")
    soft_weight: Scalar | None = Field(None, alias="distill/soft_weight")
    own: Scalar | None = Field(None, alias=OWN)
    modal_text: Scalar | None = Field(None, alias=MODAL_TEXT)
    adapt_steps: Scalar | None = Field(None, alias=STEPS)
    rank: Scalar | None = Field(None, alias=RANK)
    weight_decay: Scalar | None = Field(None, alias=WEIGHT_DECAY)

    @field_validator("lr_outer", "lr_inner", "lr_adapt", "temperature")
    @classmethod
    def _positive(cls, value: RangeSection | float | None) -> RangeSection | float | None:
        low = value.low if isinstance(value, RangeSection) else value
        if low is not None and low <= 0:
            raise section_error(ErrorDetail("", "must be above 0.", low))
        return value

    @field_validator("weight_decay")
    @classmethod
    def _not_negative(cls, value: RangeSection | float | None) -> RangeSection | float | None:
        low = value.low if isinstance(value, RangeSection) else value
        if low is not None and low < 0:
            raise section_error(ErrorDetail("", "must not be negative.", low))
        return value

    @field_validator("soft_weight", "own", "modal_text")
    @classmethod
    def _share(cls, value: RangeSection | float | None) -> RangeSection | float | None:
        ends = (value.low, value.high) if isinstance(value, RangeSection) else (value, value)
        outside = [end for end in ends if end is not None and not 0 <= end <= 1]
        if outside:
            raise section_error(ErrorDetail("", "must lie between 0 and 1.", outside[0]))
        return value

    def scalars(self) -> dict[str, RangeSection | float]:
        """The scalars that are set, by their names in YAML."""
        fields = {f.alias: getattr(self, key) for key, f in type(self).model_fields.items()}
        return {name: value for name, value in fields.items() if name and value is not None}
