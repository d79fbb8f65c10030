"""The best of a search as a folder that somebody else can use."""

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
from fewshot.models.pretrained import encoder, transformer
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

# A folder with this file in it is an earlier export, which may be written over.
RESULT = "result.json"
TEACHER = "teacher"  # the folder of models that teach whatever the export is adapted to


def export(name: str, home: Home, out: Path) -> Summary:
    """Write the best configuration and model of the search `name` to the folder `out`.

    Raises InputError if the search has not ended, or if `out` holds anything but an export, and
    FewtuneError if the model's checkpoint is gone or damaged.
    """
    summary = summary_of(name, home)
    records = read_records(name, home)
    if summary.best is None or records is None:
        raise input_error("NAME", "this search has not ended yet.", name, "Wait, or --resume it.")
    if out.exists() and any(out.iterdir()) and not (out / RESULT).exists():
        raise input_error("--out", "must be a new or empty folder, or an earlier export.", str(out))
    config = configs.load_config(home.config(name))
    chosen = _best_training(summary.best, records.final.trials())
    recipe, tensors = _trained(home.checkpoints(name), chosen, records)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    untrained = recipe if summary.best.role == "untrained" else None
    base = Path(records.search.notes.get("folder", "."))
    kept = encoders(config, base)
    moved = with_portable_paths(config, base, kept)
    fixed = fixed_config(moved, summary.best, chosen.notes["seed"], untrained)
    write_text(partial / "config.yaml", configs.dump(fixed))
    classes = records.search.notes.get("classes")
    if config.adapts and config.model.name == "transformer":
        assert classes, "an adaptation has noted its classes"
        # Writes model.safetensors too.
        source = with_absolute_paths(config, base).model.options()["encoder"]
        transformer.save_pretrained(source, tensors, classes, partial)
    else:
        metadata = {"format": "pt", "search": name, checkpoint.SPEC: fixed_spec(fixed).to_json()}
        if (scale := _logit_scale(chosen)) is not None:
            metadata[checkpoint.LOGIT_SCALE] = repr(scale)
        save_file(tensors, partial / "model.safetensors", metadata)
    if classes:  # the model's outputs, in their order
        write_text(partial / "labels.json", json.dumps(classes, indent=2))
    for source, place in kept.items():
        encoder.save_pretrained(_found(source, base), partial / place)
    _bring_teacher(with_absolute_paths(config, base), partial)
    result = {
        "score": chosen.score,
        "parameters": sum(t.numel() for t in tensors.values()),
        **summary.to_dict(),
    }
    write_text(partial / RESULT, json.dumps(result, indent=2))
    write_text(partial / "README.md", card(config, summary, result))
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return summary


def _best_training(best: Finalist, finals: list[StudiedTrial]) -> StudiedTrial:
    """Of the finalist's trainings, the one with the best score on the fresh validation episodes."""
    own = [t for t in finals if t.notes["candidate"] == best.number and t.state == "complete"]
    return max(own, key=lambda t: t.score)


def _logit_scale(chosen: StudiedTrial) -> float | None:
    """The geometric mean over the validation tasks that have classes; None if none has."""
    tasks = chosen.notes["tasks"].values()
    found = [math.log(task["logit_scale"]) for task in tasks if "logit_scale" in task]
    return math.exp(sum(found) / len(found)) if found else None


def _trained(folder: Path, chosen: StudiedTrial, records: SearchRecords) -> tuple[Recipe, Params]:
    """Recipe and parameters of a finalist's training.

    Its test has the same ones, as it does not train any further. They are not found by the paths in
    the study: a home may have been moved.
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
        "from a copy; without one, search again under another name, as by `--set name=NAME`."
    )


def encoders(config: Config, base: Path) -> dict[str, str]:
    """The pretrained encoders that an export brings along, each with its folder there.

    Those whose embeddings the model itself reads, and a teacher's that has no name by which it
    can be had elsewhere. base: where the config's paths begin.
    """
    found = {str(e) for part in config.datasets.values() if (e := part.options().get("encoder"))}
    own = sorted(found)
    teacher = config.teacher and config.teacher.options().get("encoder")
    if teacher and teacher not in found and is_folder(str(teacher), base):
        own.append(str(teacher))
    return {name: f"./encoder{'' if i == 0 else f'_{i + 1}'}" for i, name in enumerate(own)}


def _found(source: str, base: Path) -> str:
    """An encoder of a config whose paths begin in `base`."""
    return str(base / source) if is_folder(source, base) and source[0] not in "~$" else source


def _bring_teacher(config: Config, out: Path) -> None:
    """Copy the models that teach what the export is adapted to; it can't learn without them."""
    teacher = config.teacher
    if not config.adapts or teacher is None or teacher.source not in TRAINED:
        return
    own = {name: value for name, value in teacher.options().items() if name != "head"}
    for file in TRAINED[teacher.source](**own):
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
    """The same config with nothing left to search: one trial, with its own seed.

    untrained: the recipe of the untrained model, if that is the best.
    """
    data = configs.data_of(config)
    weights = dict(best.task_weights)
    section = {"search": False, "fixed": weights} if weights else {"search": False}
    data["space"] = {"task_weights": section, **best.hyperparameters}
    if untrained is not None:
        parts = {"model": untrained.model, "learner": untrained.learner}
        data |= {key: {"name": part.name, **part.options} for key, part in parts.items()}
        data["steps"] = 0
        data = {k: v for k, v in data.items() if k not in ("teacher", "distillation")}
    data["trial_seed"] = seed
    if "teacher" in data:
        data["teacher"].pop("trust_code", None)  # which is for others to say
        if config.adapts and data["teacher"]["source"] in TRAINED:
            data["teacher"]["path"] = TEACHER
    return configs.parse(data)


def fixed_spec(config: Config) -> TrialSpec:
    """The trial of a config with nothing left to search, by which its model can teach others."""
    plan = plan_of(config)
    return plan.spec(0, *plan.space.decode({}), stage="final", seed=plan.trial_seed)


def card(config: Config, summary: Summary, result: Mapping[str, Any]) -> str:
    """The model card, in Markdown."""
    best = summary.best
    assert best is not None, "only an ended search is exported"
    shapes = config.episodes
    problem = (
        f"{shapes.shot} labelled examples a class of one new task"
        if config.adapts
        else f"{shapes.shot} examples of new tasks, whose numbers it tells"
        if config.kinds == {"regression"}
        else f"{_count(shapes.ways())}-way {_count(shapes.shot)}-shot episodes of new tasks"
    )
    model = "the untrained features" if best.role == "untrained" else config.model.name
    lines = [
        f"# {config.name}",
        "",
        sentence(summary),
        "",
        f"- Learns from: {problem}.",
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
        "## Use",
        "",
        "```sh",
        "fewtune adapt . --data new.csv --shots 5   # learn a new task, write predictions",
        "fewtune train config.yaml                  # train the same model again",
        "```",
        "",
        "`model.safetensors` holds the weights under their names; `encoder/`, where there is one, "
        "is a transformers model that `AutoModel.from_pretrained` loads, and `labels.json`, where "
        "there is one, names the outputs in their order. Where there is a `config.json`, this "
        "folder is a model that `AutoModelForSequenceClassification.from_pretrained` loads.",
        "",
        "## Versions",
        "",
        f"Python {platform.python_version()}, "
        + ", ".join(f"{p} {version(p)}" for p in ("fewtune", "torch", "optuna", "transformers"))
        + f"; seed of the search {config.seed}.",
        "",
    ]
    return "\n".join(lines)


def _choice(config: Config, summary: Summary, best: Finalist) -> str:
    """How the exported model was chosen."""
    trained = sum(f.role != "untrained" for f in summary.finalists)
    told = (
        f"Of {sum(summary.trials.values())} trials ({_counts(summary.trials)}), {trained} "
        "candidates, the best with uniform task weights among them, were trained again with "
        f"{config.search.seeds} new seeds each and scored on fresh validation episodes."
    )
    chosen = (
        "None was better than the untrained model by more than the standard error of the "
        "difference, so this is the untrained model."
        if best.role == "untrained"
        else f"Trial {best.number} had the best mean. These weights are of the seed with the best "
        "validation score."
    )
    return (
        f"{told} {chosen} Only then were the test tasks looked at. The intervals treat both seeds "
        "and tasks as random samples."
    )


def _count(count: Count) -> str:
    return str(count) if isinstance(count, int) else f"{count[0]} to {count[1]}"


def _divisors(config: Config, null_losses: Mapping[str, float]) -> list[str]:
    """What the weights weigh: without it they mean nothing."""
    if not null_losses:
        return []
    sampled = config.space.task_weights.weights_as == "sampling"
    what = "shares of the episodes drawn" if sampled else "weights of the losses"
    divisors = ", ".join(f"`{task}` {value:.4g}" for task, value in null_losses.items())
    return [
        "",
        f"The lambda are {what}. Before, each loss is divided by that of the best constant answer: "
        f"{divisors}.",
    ]


def _interval(value: Interval, scale: float = 1.0) -> str:
    digits = 1 if scale == 100 else 3
    mean, low, high = (scale * x for x in (value.mean, value.low, value.high))
    note = f"; {value.note}" if value.note else ""
    ends = "no interval" if math.isnan(low) else f"{low:.{digits}f} to {high:.{digits}f}"
    return f"{mean:.{digits}f} ({ends}{note})"


def _counts(trials: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {state}" for state, n in trials.items() if n)
