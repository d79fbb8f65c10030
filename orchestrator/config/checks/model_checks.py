"""Checks that the model fits the datasets and the learner."""

from fewshot.errors.inputs import ErrorDetail
from fewshot.learners.learners import learner_named
from fewshot.learners.reinforcement.world_learners import WORLD_LEARNERS
from fewshot.models.models import MODELS
from fewshot.models.pretrained.adapters.lora import MAX_RANK, RANK
from fewshot.registry import options_of
from orchestrator.config.sections.config import Config
from orchestrator.config.sections.parts import DatasetPart
from orchestrator.config.sections.space import RangeSection

_PRETRAINED = ("lora", "transformer")
# What the other models read; vectors and pixels are both read as vectors by most of them.
_IDS, _VECTORS, _PIXELS = "token or n-gram ids", "vectors", "pixels"
_READS = {
    "bag": (_IDS,),
    "conv": (_PIXELS,),
    "resnet12": (_PIXELS,),
    "mlp": (_VECTORS, _PIXELS),
    "residual": (_VECTORS, _PIXELS),
}
_REMEDIES = {
    _IDS: "Use text with `features: ngrams` or `features: tokens`.",
    _VECTORS: "Use `features: encoder`, or another model: `lora` for tokens, `bag` for any ids.",
    _PIXELS: "Use images with `features: pixels`, or the model `mlp` or `residual`.",
}


def check_model(config: Config) -> list[ErrorDetail]:
    """The errors of the model of a plain config."""
    return _check_inputs(config) + _check_last_layer(config) + _check_rank(config)


def _check_inputs(config: Config) -> list[ErrorDetail]:
    model = config.model.name
    if model in _PRETRAINED:
        return _check_tokens(config)
    reads = _READS.get(model, ())
    return [
        ErrorDetail(
            f"datasets.{name}",
            f"must have {' or '.join(reads)} for the model {model}.",
            given,
            _REMEDIES[reads[0]],
        )
        for name, part in config.datasets.items()
        if reads and (given := _given_by(part)) is not None and given not in reads
    ]


def _given_by(part: DatasetPart) -> str | None:
    """What a dataset gives; None if only the data say it."""
    options = part.options()
    if part.source == "text":
        return _VECTORS if options.get("features", "encoder") == "encoder" else _IDS
    if part.source == "images" and "text" in options:
        return None  # images with titles
    if part.source in ("images", "glyphs"):
        return _VECTORS if "encoder" in options else _PIXELS
    return _VECTORS if part.source == "table" else None


def _check_tokens(config: Config) -> list[ErrorDetail]:
    """Check that a transformer gets the tokens of its own tokenizer."""
    encoder = config.model.options()["encoder"]
    wanted = {"features": "tokens", "encoder": encoder}
    rule = f"must be text with `features: tokens` and `encoder: {encoder}`, like the model"
    images = config.model.name == "lora"
    return [
        ErrorDetail(
            f"datasets.{name}",
            f"{rule}, or images with `features: pixels`." if images else f"{rule}.",
            {key: part.options().get(key) for key in wanted},
        )
        for name, part in config.datasets.items()
        if not (part.source == "text" and wanted.items() <= part.options().items())
        and not (images and part.source == "images" and "encoder" not in part.options())
    ]


def _check_last_layer(config: Config) -> list[ErrorDetail]:
    """Check that the model has a last layer for classes if it must score them."""
    learner = None if config.learner is None else config.learner.name
    if learner in WORLD_LEARNERS:
        return []
    if learner is not None and not learner_named(learner).model_scores_classes:
        return []
    factory = MODELS.get(config.model.name)
    if factory is None or "n_out" in options_of(factory, ()):
        return []
    who = "one new task" if learner is None else f"the learner {learner}"
    rule = f"must have a last layer for the classes of {who}."
    remedy = "Use the model `mlp`, or a learner that compares embeddings, such as `protonet`."
    return [ErrorDetail("model.name", rule, config.model.name, remedy)]


def _check_rank(config: Config) -> list[ErrorDetail]:
    """Check that a searched rank is at most the model's rank, the size of its matrices."""
    value, most = config.space.scalars().get(RANK), config.model.options().get("rank", MAX_RANK)
    if value is None or config.model.name != "lora":
        return []
    low, high = (value.low, value.high) if isinstance(value, RangeSection) else (value, value)
    if low >= 1 and high <= most:
        return []
    rule = f"must be from 1 to model.rank = {most}."
    return [ErrorDetail(f"space.{RANK}", rule, [low, high], "Raise `model.rank`.")]
