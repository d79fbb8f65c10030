"""Datasets by name."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fewshot.errors.inputs import ErrorDetail, InputError, did_you_mean
from fewshot.errors.parts import as_input_error
from fewshot.registry import options_of, resolve
from fewshot.tasks import glyphs, table, text
from fewshot.tasks.base import Dataset
from fewshot.tasks.pictures import images
from fewshot.tasks.two_modalities import named_glyphs

DATASETS: Mapping[str, Callable[..., Dataset]] = MappingProxyType(
    {
        "glyphs": glyphs.load,
        "images": images.load,
        "named_glyphs": named_glyphs.load,
        "table": table.load,
        "text": text.load,
    }
)
# Datasets whose features have units, and are therefore scaled by each support set.
UNSCALED = frozenset({"table"})


def load_dataset(name: str, options: Mapping[str, Any], cache: Path) -> Dataset:
    """The dataset `name`, from `DATASETS` or of a user; `cache` is the folder for its cached files.

    Raises InputError if there is no such dataset, if options are unknown or missing, or if it can't
    be loaded.
    """
    load = resolve(DATASETS, name, "dataset")
    known = options_of(load, {"cache"})
    remedy = f"It has {', '.join(known)}."
    details = [
        ErrorDetail(
            f"{name}.{option}",
            "is not an option of this dataset.",
            None,
            did_you_mean(option, known) + remedy,
        )
        for option in options
        if option not in known
    ]
    details += [
        ErrorDetail(f"{name}.{option}", "must be given.")
        for option, parameter in known.items()
        if parameter.default is parameter.empty and option not in options
    ]
    if details:
        raise InputError(details)
    with as_input_error("dataset", f"{name} can't be loaded"):
        dataset: Dataset = load(cache=cache, **options)
    return dataset
