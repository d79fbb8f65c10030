"""The model card of an export, in Markdown."""

import math
import platform
import shlex
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from fewshot.episodes import Count
from orchestrator.config.sections.config import Config
from orchestrator.config.sections.tasks import TaskSection
from orchestrator.results.leaderboard import Summary
from orchestrator.results.new_tasks.policy import policy_card
from orchestrator.results.retrained import Finalist
from orchestrator.results.sentences import sentence
from orchestrator.search.finals.intervals import Interval


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
        *(f"- `{name}`: {value}" for name, value in best.choices.items()),
        *(f"- `{name}`: {value:.4g}" for name, value in best.hyperparameters.items()),
        *(f"- `lambda/{task}`: {weight:.3f}" for task, weight in best.task_weights.items()),
        *_divisors(config, summary.null_losses),
        "",
        *_usage(config),
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
    if "world" in config.kinds:
        return f"{shapes.shot} trajectories for each step of adaptation to a new problem of a world"
    if config.adapts:
        return f"{shapes.shot} labelled examples per class of one new task"
    if config.kinds == {"regression"}:
        return f"{shapes.shot} examples of new regression tasks"
    return f"{_count(shapes.ways())}-way {_count(shapes.shot)}-shot episodes of new tasks"


def _usage(config: Config) -> list[str]:
    """The section of the model card about the commands and the files."""
    if "world" in config.kinds:
        return policy_card(config.episodes.shot)
    like = min(config.tasks.validation, key=lambda task: task.regresses)  # as in `adapt`
    data, more = "new.csv", "more.csv"
    if isinstance(like, TaskSection):
        if config.datasets[like.dataset].source in ("glyphs", "images"):
            data, more = "new_images", "more_images"  # the names of the folders are the labels
        elif like.label != "label":
            data += f" --label {shlex.quote(like.label)}"
    return [
        "## Use",
        "",
        "```sh",
        "# Learn a new task, write predictions, and keep the adapted model:",
        f"fewtune adapt . --data {data} --shots 5 --out mine",
        "# Predict with it later, without the examples:",
        f"fewtune predict mine --data {more}",
        "# Train the same model again:",
        "fewtune train config.yaml",
        "```",
        "",
        "`model.safetensors` holds the weights under their names; `encoder/`, where there is one, "
        "is a transformers model that `AutoModel.from_pretrained` loads. `labels.json`, where "
        "there is one, names the outputs in order. Where there is a `config.json`, this "
        "folder is a model that `AutoModelForSequenceClassification.from_pretrained` loads. "
        "Where there is an `adapter_config.json`, this folder is an adapter of PEFT: "
        "`PeftModel.from_pretrained(AutoModel.from_pretrained('encoder'), '.')`, and `merged/`, "
        "where there is one, is the trained encoder for `AutoModel.from_pretrained`. A text's "
        "embedding is the mean of its last hidden states, an image's is the state of its first "
        "token; both are scaled to length 1.",
    ]


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
        else "No candidate was better than the reference by more than two standard errors of the "
        "difference, so the reference was chosen. The exported weights are from the seed with the "
        "best validation score."
        if best.role == "uniform"
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
