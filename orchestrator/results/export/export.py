"""Export of the best model of a search to a self-contained folder."""

import json
import logging
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from fewshot.errors.inputs import FewtuneError, input_error
from fewshot.functional import Params
from fewshot.models.pretrained import encoder, text_tower, transformer, vision
from fewshot.models.pretrained.adapters import adapter_files
from fewshot.models.pretrained.adapters.lora import ALPHA
from fewshot.tasks.files import write_text
from orchestrator.config import loading as configs
from orchestrator.config.paths import is_folder, with_absolute_paths, with_portable_paths
from orchestrator.config.plan import plan_of
from orchestrator.config.sections.config import Config
from orchestrator.config.sections.own_loop import AnyConfig, OwnLoopConfig
from orchestrator.record.home import Home
from orchestrator.record.search_records import SearchRecords, read_records
from orchestrator.record.studies.study import StudiedTrial
from orchestrator.results.export.data_options import data_options, recipe_with, with_data_options
from orchestrator.results.export.model_card import model_card
from orchestrator.results.export.own_loop import write_own_loop
from orchestrator.results.export.predictor_files import write_predictor_files
from orchestrator.results.leaderboard import Summary, summary_of
from orchestrator.results.retrained import Finalist
from trials.contract import Recipe, TrialSpec
from trials.lanes import checkpoint
from trials.programs.teachers import TRAINED

log = logging.getLogger(__name__)

# A folder with this file is an earlier export, which may be overwritten.
RESULT = "result.json"
TEACHER = "teacher"  # subfolder with the teacher models that adaptation of the export needs


def export(name: str, home: Home, out: Path, *, merged: bool = False) -> Summary:
    """Write the best configuration and model of the search `name` to the folder `out`.

    merged: also write the trained encoder as a plain transformers model to `out/merged`; LoRA
        weights are added to it.

    Raises InputError if the search has not ended, if `out` is neither empty nor an export, or if
    the model trains no encoder.
    Raises FewtuneError if the model's checkpoint is missing or damaged.
    """
    summary = summary_of(name, home)
    records = read_records(name, home)
    if summary.best is None or records is None:
        remedy = "Wait for it, or continue it with `--resume`."
        raise input_error("NAME", "this search has not ended yet.", name, remedy)
    is_other = out.is_dir() and any(out.iterdir()) and not (out / RESULT).exists()
    if is_other or (out.exists() and not out.is_dir()):
        raise input_error("--out", "must be a new or empty folder, or an earlier export.", str(out))
    config = configs.load_config(home.config(name))
    if merged:
        _check_merged(config.variant(summary.best.choices))
    # A process that is killed leaves only the folder `.partial`; `out` is complete or absent.
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        if isinstance(config, OwnLoopConfig):
            chosen = _best_training(summary.best, records.final.trials())
            place = home.checkpoints(name)
            result = write_own_loop(config, summary, chosen, place, partial)
            write_text(partial / RESULT, json.dumps(result, indent=2))
        else:
            _write_files(config, home, records, summary, partial, merged=merged)
    except BaseException:
        shutil.rmtree(partial)
        raise
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return summary


def _check_merged(config: AnyConfig) -> None:
    """Raises InputError if the model of a plain config is no trained encoder to write alone."""
    if isinstance(config, OwnLoopConfig):
        model = config.program
    elif config.adapts and config.model.name == "transformer":
        rule = "is not needed: transformers loads the export itself."
        raise input_error("--merged", rule, config.model.name)
    elif (model := config.model.name) in ("lora", "transformer"):
        return
    raise input_error("--merged", "is only for a model that trains an encoder.", model)


def _write_files(
    config: Config,
    home: Home,
    records: SearchRecords,
    summary: Summary,
    folder: Path,
    *,
    merged: bool,
) -> None:
    """Write all files of the export to `folder`."""
    assert summary.best is not None, "only an ended search is exported"
    config = config.variant(summary.best.choices)
    chosen = _best_training(summary.best, records.final.trials())
    recipe, tensors = _trained(home.checkpoints(config.name), chosen, records)
    base = Path(records.search.notes.get("folder", "."))
    copied = encoders(config, base)
    texts = text_encoders(config)
    portable = with_portable_paths(config, base, copied, texts)
    untrained = recipe if summary.best.role == "untrained" else None
    absolute = with_absolute_paths(config, base)
    known = data_options(plan_of(absolute).recipe, home.cache)
    portable, recipe = with_data_options(portable, known), recipe_with(recipe, known)
    fixed = fixed_config(portable, summary.best, chosen.notes["seed"], untrained)
    write_text(folder / "config.yaml", configs.dump(fixed))
    classes = records.search.notes.get("classes")
    if config.adapts and config.model.name == "transformer":
        assert classes, "a search of adaptations records its classes"
        # Writes model.safetensors too.
        source = absolute.model.options()["encoder"]
        transformer.save_pretrained(source, tensors, classes, folder)
    else:
        save_file(tensors, folder / "model.safetensors", _metadata(config.name, fixed, chosen))
    if classes:  # the names of the model's outputs, in output order
        write_text(folder / "labels.json", json.dumps(classes, indent=2))
    if merged and config.model.name == "transformer":
        transformer.save_embedding(absolute.model.options()["encoder"], tensors, folder / "merged")
    if config.model.name == "lora":
        adapted = str(config.model.options()["encoder"])
        loaded_from = adapted if encoder.is_hub_id(adapted) else copied[adapted]
        _write_adapter(absolute, tensors, loaded_from, folder, merged=merged)
    _write_encoders(copied, base, folder)
    for source, place in texts.items():
        text_tower.save_pretrained(_found(source, base), folder / place)
    _bring_teacher(absolute, folder)
    # The recipe of the untrained model has no training tasks.
    trained_on = plan_of(absolute).recipe.tasks.get("train", ())
    write_predictor_files(
        config.name,
        replace(recipe, tasks={**recipe.tasks, "train": trained_on}),
        summary.best.hyperparameters,
        tensors,
        classes or (),
        copied,
        cache=home.cache,
        folder=folder,
    )
    result = {
        "score": chosen.score,
        "parameters": sum(t.numel() for t in tensors.values()),
        **summary.to_dict(),
    }
    write_text(folder / RESULT, json.dumps(result, indent=2))
    write_text(folder / "README.md", model_card(config, summary, result))


def _write_encoders(copied: Mapping[str, str], base: Path, folder: Path) -> None:
    """Copy the encoders to their folders in the export."""
    for source, place in copied.items():
        named = _found(source, base)
        saved = vision if vision.reads_images(named) else encoder
        saved.save_pretrained(named, folder / place)


def _write_adapter(
    config: Config, params: Params, base: str, folder: Path, *, merged: bool
) -> None:
    """Write the files that PEFT loads and, if `merged`, a plain transformers model.

    config: with absolute paths. base: what PEFT loads the encoder from.
    """
    options = config.model.options()
    alpha = options.get("alpha", ALPHA)
    adapter_files.save_adapter(params, alpha, base, folder)
    if merged:
        adapter_files.save_merged(params, alpha, options["encoder"], folder / "merged")


def _metadata(name: str, fixed: Config, chosen: StudiedTrial) -> dict[str, str]:
    """The metadata of `model.safetensors`: the search, the trial and the scale of the logits."""
    metadata = {"format": "pt", "search": name, checkpoint.SPEC: fixed_spec(fixed).to_json()}
    if (scale := _logit_scale(chosen)) is not None:
        metadata[checkpoint.LOGIT_SCALE] = repr(scale)
    return metadata


def _best_training(best: Finalist, finals: list[StudiedTrial]) -> StudiedTrial:
    """The finalist's retraining with the best score on the fresh validation episodes."""
    complete = [t for t in finals if best.is_of(t) and t.state == "complete"]
    return max(complete, key=lambda t: t.score)


def _logit_scale(chosen: StudiedTrial) -> float | None:
    """The geometric mean of the scales of the validation tasks; None if no task has a scale."""
    tasks = chosen.notes["tasks"].values()
    logs = [math.log(task["logit_scale"]) for task in tasks if "logit_scale" in task]
    return math.exp(sum(logs) / len(logs)) if logs else None


def _trained(folder: Path, chosen: StudiedTrial, records: SearchRecords) -> tuple[Recipe, Params]:
    """Recipe and parameters of a finalist's retraining, from its checkpoint.

    The checkpoint of its test run is a second copy, because a test does not train. The checkpoint
    paths in the study are not used, because the home folder may have been moved.
    """
    same = ("candidate", "role", "seed_index")
    tests = [
        t for t in records.test.trials() if all(t.notes.get(k) == chosen.notes.get(k) for k in same)
    ]
    keys = [f"final-{chosen.number:04d}", *(f"test-{t.number:04d}" for t in tests)]
    reasons = []
    for key in keys:
        path = checkpoint.path_of(folder, key)
        try:
            return checkpoint.spec_of(path).recipe, checkpoint.parameters(path)
        except checkpoint.Unreadable as error:
            log.warning("checkpoint_unreadable error=%s", error)
            reasons.append(str(error))
    raise FewtuneError(
        f"The model of the best finalist is lost: {' '.join(reasons)} Restore one of the files "
        "from a backup. Without a backup, search again under a new name: `--set name=NAME`."
    )


def encoders(config: Config, base: Path) -> dict[str, str]:
    """The pretrained encoders that an export contains, each with its folder in the export.

    These are the encoders that the model adapts or whose embeddings it reads, and the teacher's
    encoder if it is a local folder, which other machines do not have. base: the folder that the
    config's relative paths start from.
    """
    parts = [*config.datasets.values(), config.model]
    read = {str(e) for part in parts if (e := part.options().get("encoder"))}
    kept = sorted(read)
    teacher = config.teacher and config.teacher.options().get("encoder")
    if teacher and teacher not in read and is_folder(str(teacher), base):
        kept.append(str(teacher))
    return {name: f"./encoder{'' if i == 0 else f'_{i + 1}'}" for i, name in enumerate(kept)}


def text_encoders(config: Config) -> dict[str, str]:
    """The encoders of texts beside images, each with its folder in the export."""
    named = {str(e) for p in config.datasets.values() if (e := p.options().get("text_encoder"))}
    ends = ["", *(f"_{i}" for i in range(2, len(named) + 1))]
    return {name: f"./text_encoder{end}" for name, end in zip(sorted(named), ends, strict=False)}


def _found(source: str, base: Path) -> str:
    """The path or name of an encoder; a relative path is taken from `base`."""
    return str(base / source) if is_folder(source, base) and source[0] not in "~$" else source


def _bring_teacher(config: Config, out: Path) -> None:
    """Copy the teacher models into the export; its adaptation needs them."""
    teacher = config.teacher
    if not config.adapts or teacher is None or teacher.source not in TRAINED:
        return
    options = {name: value for name, value in teacher.options().items() if name != "head"}
    for file in TRAINED[teacher.source](**options):
        place = out / TEACHER / ("checkpoints" if teacher.source == "finalists" else "")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, place)
        for beside in ("encoder", "labels.json"):
            if (source := file.parent / beside).is_dir():
                shutil.copytree(source, place / beside, dirs_exist_ok=True)
            elif source.exists():
                shutil.copy2(source, place)


def fixed_config(
    config: Config, best: Finalist, seed: int, untrained: Recipe | None = None
) -> Config:
    """The config with nothing left to search: the one best trial with its seed.

    untrained: the recipe of the untrained model if that is the best model, else None.
    """
    data = configs.data_of(config)
    weights = dict(best.task_weights)
    section: dict[str, Any] = {"search": False}
    section["weights_as"] = config.space.task_weights.weights_as
    if weights:
        section["fixed"] = weights
    data["space"] = {"task_weights": section, **best.hyperparameters}
    if untrained is not None:
        parts = {"learner": untrained.learner}
        if untrained.model.name != config.model.name:  # else a pretrained model, not trained
            parts["model"] = untrained.model
        data |= {key: {"name": part.name, **part.options} for key, part in parts.items()}
        data["steps"] = 0
        data = {k: v for k, v in data.items() if k not in ("teacher", "distillation")}
    data["trial_seed"] = seed
    if config.search.kinds:
        del data["search"]["workers"]  # they are for options that are not searched any more
    data["search"].pop("sampler")  # nothing is left to search, and its code may not be there
    if "teacher" in data:
        data["teacher"].pop("trust_code", None)  # each user of the export decides this
        if config.adapts and data["teacher"]["source"] in TRAINED:
            data["teacher"]["path"] = TEACHER
    return configs.few_shot(configs.parse(data))


def fixed_spec(config: Config) -> TrialSpec:
    """The trial of a config with nothing left to search; needed to use its model as a teacher."""
    plan = plan_of(config)
    return plan.spec(0, *plan.space.decode({}), stage="final", seed=plan.trial_seed)
