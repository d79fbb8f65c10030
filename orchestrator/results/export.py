"""Export of the best model of a search to a self-contained folder."""

import json
import logging
import math
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from fewshot.episodes import Count
from fewshot.errors.inputs import FewtuneError, input_error
from fewshot.functional import Params
from fewshot.models.pretrained import adapter_files, encoder, transformer, vision
from fewshot.models.pretrained.lora import ALPHA
from fewshot.tasks.files import write_text
from orchestrator.config import loading as configs
from orchestrator.config.paths import is_folder, with_absolute_paths, with_portable_paths
from orchestrator.config.plan import plan_of
from orchestrator.config.sections.config import Config
from orchestrator.record.home import Home
from orchestrator.record.search_records import SearchRecords, read_records
from orchestrator.record.study import StudiedTrial
from orchestrator.results.leaderboard import Finalist, Summary, summary_of
from orchestrator.results.sentences import sentence
from orchestrator.search.intervals import Interval
from trials.contract import Recipe, TrialSpec
from trials.lanes import checkpoint
from trials.programs.teachers import TRAINED

log = logging.getLogger(__name__)

# A folder with this file is an earlier export, which may be overwritten.
RESULT = "result.json"
TEACHER = "teacher"  # subfolder with the teacher models that adaptation of the export needs
# The section of the model card about the files.
_USE = (
    "## Use",
    "",
    "```sh",
    "fewtune adapt . --data new.csv --shots 5   # learn a new task, write predictions",
    "fewtune train config.yaml                  # train the same model again",
    "```",
    "",
    "`model.safetensors` holds the weights under their names; `encoder/`, where there is one, "
    "is a transformers model that `AutoModel.from_pretrained` loads. `labels.json`, where "
    "there is one, names the outputs in order. Where there is a `config.json`, this "
    "folder is a model that `AutoModelForSequenceClassification.from_pretrained` loads. Where "
    "there is an `adapter_config.json`, this folder is an adapter of PEFT: "
    "`PeftModel.from_pretrained(AutoModel.from_pretrained('encoder'), '.')`. The embedding of a "
    "text is the mean of its last hidden states, scaled to length 1.",
)


def export(name: str, home: Home, out: Path, *, merged: bool = False) -> Summary:
    """Write the best configuration and model of the search `name` to the folder `out`.

    merged: also write the model with its LoRA weights added to the encoder, to `out/merged`.

    Raises InputError if the search has not ended, if `out` is neither empty nor an export, or if
    the model has no LoRA weights to merge.
    Raises FewtuneError if the model's checkpoint is missing or damaged.
    """
    summary = summary_of(name, home)
    records = read_records(name, home)
    if summary.best is None or records is None:
        remedy = "Wait for it, or continue it with `--resume`."
        raise input_error("NAME", "this search has not ended yet.", name, remedy)
    if out.exists() and any(out.iterdir()) and not (out / RESULT).exists():
        raise input_error("--out", "must be a new or empty folder, or an earlier export.", str(out))
    # A process that is killed leaves only the folder `.partial`; `out` is complete or absent.
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write_files(name, home, records, summary, partial, merged=merged)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return summary


def _write_files(
    name: str,
    home: Home,
    records: SearchRecords,
    summary: Summary,
    folder: Path,
    *,
    merged: bool,
) -> None:
    """Write all files of the export to `folder`."""
    assert summary.best is not None, "only an ended search is exported"
    config = configs.load_config(home.config(name))
    chosen = _best_training(summary.best, records.final.trials())
    recipe, tensors = _trained(home.checkpoints(name), chosen, records)
    base = Path(records.search.notes.get("folder", "."))
    copied = encoders(config, base)
    portable = with_portable_paths(config, base, copied)
    untrained = recipe if summary.best.role == "untrained" else None
    fixed = fixed_config(portable, summary.best, chosen.notes["seed"], untrained)
    write_text(folder / "config.yaml", configs.dump(fixed))
    absolute = with_absolute_paths(config, base)
    classes = records.search.notes.get("classes")
    if config.adapts and config.model.name == "transformer":
        assert classes, "a search of adaptations records its classes"
        # Writes model.safetensors too.
        source = absolute.model.options()["encoder"]
        transformer.save_pretrained(source, tensors, classes, folder)
    else:
        save_file(tensors, folder / "model.safetensors", _metadata(name, fixed, chosen))
    if classes:  # the names of the model's outputs, in output order
        write_text(folder / "labels.json", json.dumps(classes, indent=2))
    if config.model.name == "lora":
        adapted = str(config.model.options()["encoder"])
        loaded_from = adapted if encoder.is_hub_id(adapted) else copied[adapted]
        _write_adapter(absolute, tensors, loaded_from, folder, merged=merged)
    elif merged:
        rule = "is only for a model with LoRA weights."
        raise input_error("--merged", rule, config.model.name)
    for source, place in copied.items():
        named = _found(source, base)
        saved = vision if vision.reads_images(named) else encoder
        saved.save_pretrained(named, folder / place)
    _bring_teacher(absolute, folder)
    result = {
        "score": chosen.score,
        "parameters": sum(t.numel() for t in tensors.values()),
        **summary.to_dict(),
    }
    write_text(folder / RESULT, json.dumps(result, indent=2))
    write_text(folder / "README.md", model_card(config, summary, result))


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
    complete = [t for t in finals if t.notes["candidate"] == best.number and t.state == "complete"]
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
    same = ("candidate", "seed_index")
    tests = [t for t in records.test.trials() if all(t.notes[k] == chosen.notes[k] for k in same)]
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

    These are the encoders whose embeddings the model reads, and the teacher's encoder if it is a
    local folder, which other machines do not have. base: the folder that the config's relative
    paths start from.
    """
    read = {str(e) for part in config.datasets.values() if (e := part.options().get("encoder"))}
    kept = sorted(read)
    teacher = config.teacher and config.teacher.options().get("encoder")
    if teacher and teacher not in read and is_folder(str(teacher), base):
        kept.append(str(teacher))
    return {name: f"./encoder{'' if i == 0 else f'_{i + 1}'}" for i, name in enumerate(kept)}


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
    if "teacher" in data:
        data["teacher"].pop("trust_code", None)  # each user of the export decides this
        if config.adapts and data["teacher"]["source"] in TRAINED:
            data["teacher"]["path"] = TEACHER
    return configs.parse(data)


def fixed_spec(config: Config) -> TrialSpec:
    """The trial of a config with nothing left to search; needed to use its model as a teacher."""
    plan = plan_of(config)
    return plan.spec(0, *plan.space.decode({}), stage="final", seed=plan.trial_seed)


def model_card(config: Config, summary: Summary, result: Mapping[str, Any]) -> str:
    """The model card, in Markdown."""
    best = summary.best
    assert best is not None, "only an ended search is exported"
    model = "the untrained features" if best.role == "untrained" else config.model.name
    lines = [
        f"# {config.name}",
        "",
        sentence(summary),
        "",
        f"- Learns from: {_problem(config)}.",
        f"- Model: {model}, {result['parameters']:,} parameters.",
        f"- Score on fresh validation episodes (skill, 95 % interval): {_interval(best.score)}.",
        *(
            f"- {summary.measure.capitalize()} on the test tasks, {who}: {_interval(value, 100)} %."
            for who, value in summary.test.items()
        ),
        *(f"- For comparison, {who}: {100 * v:.1f} %." for who, v in summary.figures.items()),
        "",
        "## How it was chosen",
        "",
        _choice(config, summary, best),
        "",
        "## Hyperparameters",
        "",
        *(f"- `{name}`: {value:.4g}" for name, value in best.hyperparameters.items()),
        *(f"- `lambda/{task}`: {weight:.3f}" for task, weight in best.task_weights.items()),
        *_divisors(config, summary.null_losses),
        "",
        *_USE,
        "",
        "## Versions",
        "",
        f"Python {platform.python_version()}, "
        + ", ".join(f"{p} {version(p)}" for p in ("fewtune", "torch", "optuna", "transformers"))
        + f"; seed of the search {config.seed}.",
        "",
    ]
    return "\n".join(lines)


def _problem(config: Config) -> str:
    """What the model learns a new task from."""
    shapes = config.episodes
    if config.adapts:
        return f"{shapes.shot} labelled examples per class of one new task"
    if config.kinds == {"regression"}:
        return f"{shapes.shot} examples of new regression tasks"
    return f"{_count(shapes.ways())}-way {_count(shapes.shot)}-shot episodes of new tasks"


def _choice(config: Config, summary: Summary, best: Finalist) -> str:
    """How the exported model was chosen."""
    trained = sum(f.role != "untrained" for f in summary.finalists)
    finals = (
        f"The search ran {sum(summary.trials.values())} trials ({_counts(summary.trials)}). "
        f"{trained} candidates, including the best trial with uniform task weights, were retrained "
        f"with {config.search.seeds} new seeds each and scored on fresh validation episodes."
    )
    chosen = (
        "No candidate was better than the untrained model by more than the standard error of the "
        "difference, so the untrained model was chosen."
        if best.role == "untrained"
        else f"Trial {best.number} had the best mean. The exported weights are from the seed with "
        "the best validation score."
    )
    return (
        f"{finals} {chosen} The test tasks were used only after this choice. The intervals treat "
        "both seeds and tasks as random samples."
    )


def _count(count: Count) -> str:
    return str(count) if isinstance(count, int) else f"{count[0]} to {count[1]}"


def _divisors(config: Config, null_losses: Mapping[str, float]) -> list[str]:
    """Lines that say what the task weights multiply, without which they have no meaning."""
    if not null_losses:
        return []
    sampled = config.space.task_weights.weights_as == "sampling"
    what = "the shares of the drawn episodes" if sampled else "the weights of the losses"
    divisors = ", ".join(f"`{task}` {value:.4g}" for task, value in null_losses.items())
    return [
        "",
        f"The lambda values are {what}. Each loss is first divided by the loss of the best "
        f"constant prediction: {divisors}.",
    ]


def _interval(value: Interval, scale: float = 1.0) -> str:
    digits = 1 if scale == 100 else 3
    mean, low, high = (scale * x for x in (value.mean, value.low, value.high))
    note = f"; {value.note}" if value.note else ""
    ends = "no interval" if math.isnan(low) else f"{low:.{digits}f} to {high:.{digits}f}"
    return f"{mean:.{digits}f} ({ends}{note})"


def _counts(trials: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {state}" for state, n in trials.items() if n)
