"""The options of an export's tables that the training data decided.

Without them a new file would be read in another way: with the categories, medians and means that it
has itself. The scale of the training tasks is one of them.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fewshot.errors.inputs import InputError
from fewshot.tasks.datasets import UNSCALED
from orchestrator.config import loading as configs
from orchestrator.config.sections.config import Config
from trials.contract import Recipe
from trials.data.pools import pools_of, sources_of
from trials.data.scales import SCALE, with_scales

log = logging.getLogger(__name__)

# Options of a table that depend on its rows.
_DECIDED = ("categories", "missing", "means", SCALE)

Options = Mapping[str, Mapping[str, Any]]  # by dataset


def data_options(recipe: Recipe, cache: Path) -> Options:
    """For each table, the options that its training rows decided; empty if there are none.

    recipe: of the search, with absolute paths. Also empty if the data can't be read any more.
    """
    own = [
        name
        for name, part in recipe.datasets.items()
        if part.name in UNSCALED and any(option in part.options for option in _DECIDED)
    ]
    if not own:
        return {}
    try:
        sources = sources_of(recipe, cache)
        assert sources is not None, "the recipe has tables"
        found = {name: dict(sources.dataset(name, "datasets").fixed) for name in own}
        if recipe.program == "meta_training":
            scaled = with_scales(recipe, pools_of(recipe, sources, torch.device("cpu")))
            for name in own:
                if SCALE in (options := scaled.datasets[name].options):
                    found[name][SCALE] = options[SCALE]
    except InputError as error:
        log.warning("export_without_data reason=%s", str(error).partition("\n")[0])
        return {}
    return found


def with_data_options(config: Config, known: Options) -> Config:
    """The config with these options of its datasets."""
    if not known:
        return config
    data = configs.data_of(config)
    for name, options in known.items():
        data["datasets"][name] |= options
    return configs.few_shot(configs.parse(data))


def recipe_with(recipe: Recipe, known: Options) -> Recipe:
    """The recipe with these options of its datasets."""
    datasets = {
        name: replace(part, options={**part.options, **known.get(name, {})})
        for name, part in recipe.datasets.items()
    }
    return replace(recipe, datasets=datasets)
