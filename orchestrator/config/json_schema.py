"""The JSON schema of a config, for completion and checks in editors."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from fewshot.learners.learners import LEARNERS
from fewshot.learners.reinforcement.world_learners import WORLD_LEARNERS
from fewshot.models.models import MODELS
from fewshot.tasks.datasets import DATASETS
from orchestrator.config.sections.config import SAMPLERS, Config
from orchestrator.config.sections.own_loop import OwnLoopConfig
from orchestrator.config.sections.searched import SECTIONS
from trials.programs.teachers import TRAINED

_OWN = "[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*"  # package.module:factory


def json_schema() -> dict[str, Any]:
    """The schema; it lists the names of models, learners, datasets, teachers and samplers."""
    kinds: list[tuple[type[BaseModel], JsonSchemaMode]]
    kinds = [(Config, "validation"), (OwnLoopConfig, "validation")]
    schema = models_json_schema(kinds, by_alias=True)[1]
    schema |= {
        "if": {"required": ["program"]},
        "then": {"$ref": "#/$defs/OwnLoopConfig"},
        "else": {"$ref": "#/$defs/Config"},
    }
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "fewtune search"
    for section, key, names in (
        ("ModelPart", "name", MODELS),
        ("LearnerPart", "name", {**LEARNERS, **WORLD_LEARNERS}),
        ("DatasetPart", "source", DATASETS),
        ("TeacherPart", "source", {**TRAINED, **DATASETS}),
        ("SearchSection", "sampler", SAMPLERS),
    ):
        field = schema["$defs"][section]["properties"][key]
        field["anyOf"] = [{"enum": sorted(names)}, {"pattern": f"^{_OWN}$"}]
    plain, own = (schema["$defs"][name]["properties"] for name in ("Config", "OwnLoopConfig"))
    plain |= {key: _searchable(plain[key]) for key in SECTIONS}
    own["steps"] = _searchable(own["steps"])
    shapes = schema["$defs"]["EpisodesSection"]["properties"]
    shapes |= {key: _searchable(field) for key, field in shapes.items()}
    return schema


def _searchable(field: dict[str, Any]) -> dict[str, Any]:
    """The schema of an option that may be searched, see `orchestrator.config.sections.searched`."""
    whole = {"type": "integer"}
    choices = {"type": "array", "minItems": 2}
    numbers = {"low": whole, "high": whole, "step": whole}
    searched: list[dict[str, Any]] = [
        {"type": "object", "required": ["choices"], "properties": {"choices": choices}},
        {"type": "object", "required": ["low", "high", "step"], "properties": numbers},
    ]
    return {"anyOf": [field, *searched]} | (
        {"default": field["default"]} if "default" in field else {}
    )
