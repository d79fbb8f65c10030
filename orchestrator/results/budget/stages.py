"""The split between the stages: how many meta-training steps, and how many adaptation steps.

For the best finalist, each split is a number of meta-training steps, a number of adaptation steps,
its skills, and its cost: seconds of meta-training once, and of adaptation for each new task. No
split is trained. Its skills come from one of these sources:

- scored: the retrained checkpoints, or the same models before training (0 steps), are scored after
  0, 1, 2, 5, 10, 20 and 50 adaptation steps, if the learner adapts by steps;
- record: the scores of the trial in the search at its rungs, whose checkpoints are not kept. The
  difference from its last rung is added to the skill of the retrained checkpoints;
- untrained: the reference without meta-training, which is scored at the end of a search.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fewshot.errors.inputs import input_error
from fewshot.functional import Params
from orchestrator.config.loading import load_config
from orchestrator.config.paths import with_absolute_paths
from orchestrator.config.plan import plan_of
from orchestrator.config.sections.config import Config
from orchestrator.record.home import Home
from orchestrator.record.search_records import SearchRecords, read_records
from orchestrator.record.studies.study import StudiedTrial
from orchestrator.results.leaderboard import Summary, summary_of
from orchestrator.results.retrained import Finalist
from orchestrator.search.finals.intervals import MIN_TASKS, standard_error
from trials.contract import TrialSpec
from trials.lanes import checkpoint
from trials.programs.new_tasks.adaptation_steps import (
    StepScores,
    adapt_steps_of,
    initial_models,
    scores_by_steps,
)

Source = Literal["scored", "record", "untrained"]
# Numbers of adaptation steps that are scored, besides the trial's own.
STEPS = (0, 1, 2, 5, 10, 20, 50)
_SYMBOLS: Mapping[Source, str] = {
    "scored": "circle",
    "record": "square-open",
    "untrained": "x",
}
_LEAST_SECONDS = 1e-3  # shown


@dataclass(frozen=True)
class Split:
    """One split between the stages.

    adapt_steps: None if adaptation takes no gradient steps. skills: those of the retrainings
    (seeds) on the validation tasks, (seeds, tasks). meta_seconds: of the meta-training of one
    model, as its trial recorded them. adapt_seconds: of CPU time, for the adaptation to one new
    task and the prediction of its queries.
    """

    meta_steps: int
    adapt_steps: int | None
    skills: tuple[tuple[float, ...], ...]
    meta_seconds: float
    adapt_seconds: float
    source: Source

    @property
    def score(self) -> float:
        """The mean skill."""
        return float(np.mean(self.skills))

    def seconds(self, new_tasks: int) -> float:
        """The cost of meta-training and of adaptation to `new_tasks` tasks, in seconds."""
        return self.meta_seconds + new_tasks * self.adapt_seconds

    @property
    def title(self) -> str:
        """The split in words."""
        if self.source == "untrained":
            return "the untrained model"
        steps = "" if self.adapt_steps is None else f", {self.adapt_steps} adaptation steps"
        return f"{self.meta_steps} meta-training steps{steps}"


@dataclass(frozen=True)
class Cheapest:
    """split: the cheapest split within noise of `best`, the one with the highest mean score.

    loss: the score of `best` minus that of `split`. noise: the standard error of this difference.
    """

    split: Split
    best: Split
    loss: float
    noise: float


@dataclass(frozen=True)
class Stages:
    """The splits of a search.

    own: the split that the search used. seconds: of CPU time, to score the splits.
    """

    name: str
    splits: Sequence[Split]
    own: Split
    seconds: float

    def to_dict(self, new_tasks: int) -> dict[str, Any]:
        """Plain values for JSON; a NaN becomes null."""
        found = cheapest(self.splits, new_tasks)
        return {
            "name": self.name,
            "new_tasks": new_tasks,
            "splits": [_plain(split, new_tasks) for split in self.splits],
            "own": _plain(self.own, new_tasks),
            "best": _plain(found.best, new_tasks),
            "cheapest": _plain(found.split, new_tasks),
            "loss": found.loss,
            "noise": found.noise,
            "measuring_seconds": self.seconds,
        }


def _plain(split: Split, new_tasks: int) -> dict[str, Any]:
    numbers = {
        "score": split.score,
        "meta_seconds": split.meta_seconds,
        "adapt_seconds": split.adapt_seconds,
        "seconds": split.seconds(new_tasks),
    }
    return {
        "meta_steps": split.meta_steps,
        "adapt_steps": split.adapt_steps,
        "source": split.source,
        **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
    }


def cheapest(splits: Sequence[Split], new_tasks: int) -> Cheapest:
    """The cheapest split whose score is within one standard error of the best split's.

    The differences are paired: all splits have the same seeds and validation tasks. Splits with an
    unknown score or cost do not count. With one seed and fewer than three validation tasks the
    noise is unknown and counts as 0.

    Raises ValueError if no split counts.
    """
    known = [
        split
        for split in splits
        if math.isfinite(split.score) and math.isfinite(split.seconds(new_tasks))
    ]
    if not known:
        raise ValueError("No split has a score and a cost.")
    best = max(known, key=lambda split: (split.score, -split.seconds(new_tasks)))
    within = [
        Cheapest(split, best, best.score - split.score, noise)
        for split in known
        if best.score - split.score <= (noise := _noise(best, split))
    ]
    return min(within, key=lambda found: found.split.seconds(new_tasks))


def _noise(best: Split, other: Split) -> float:
    """The standard error of the difference of two splits."""
    gain = np.array(best.skills) - np.array(other.skills)
    error, _ = standard_error(gain, of_tasks=gain.shape[1] >= MIN_TASKS)
    return 0.0 if math.isnan(error) else error


def stages_of(name: str, home: Home) -> Stages:
    """Score the splits of the best trained finalist of a search; trains nothing.

    Raises InputError if the search has not ended, or if it has no meta-training.
    Raises Unreadable if a checkpoint is missing or damaged.
    """
    start = time.process_time()
    summary, records = summary_of(name, home), read_records(name, home)
    config = load_config(home.config(name))
    if not isinstance(config, Config) or config.adapts:
        rule = "this search has no meta-training of a learner, so it has no stages to compare."
        raise input_error("NAME", rule, name)
    finalist = _best_trained(summary)
    if finalist is None or records is None:
        remedy = "Wait for it, or continue it with `--resume`."
        raise input_error("NAME", "this search has not ended yet.", name, remedy)
    plan = plan_of(with_absolute_paths(config, Path(records.search.notes.get("folder", "."))))
    trained = [t for t in records.final.trials() if finalist.is_of(t) and t.state == "complete"]
    paths = [
        checkpoint.path_of(home.checkpoints(name), f"final-{trial.number:04d}") for trial in trained
    ]
    models = [checkpoint.parameters(path) for path in paths]
    seconds = float(np.mean([checkpoint.load(path)[2][-1].lane_seconds for path in paths]))
    params = records.search[finalist.number or 0].params
    reference = plan.space.reference() if finalist.role == "uniform" else {}
    spec = plan.trial(finalist.number or 0, plan.space.active({**params, **reference}))
    own = adapt_steps_of(spec.recipe, spec.hyperparameters)
    seeds = [checkpoint.spec_of(path).seed for path in paths]
    before = initial_models(spec.recipe, home.cache, seeds, spec.hyperparameters)
    splits = _scored(spec, home, before, own, 0, 0.0)
    last = _scored(spec, home, models, own, spec.rungs[-1], seconds)
    used = next(split for split in last if split.adapt_steps == own)
    between = _recorded(records.search[finalist.number or 0], finalist, spec, used)
    splits = [*splits, *between, *last, *_untrained(records, summary, used)]
    return Stages(name, splits, used, time.process_time() - start)


def _best_trained(summary: Summary) -> Finalist | None:
    best = summary.best
    return best if best is not None and best.role != "untrained" else summary.candidate


def _scored(
    spec: TrialSpec,
    home: Home,
    models: Sequence[Params],
    own: int | None,
    meta_steps: int,
    meta_seconds: float,
) -> list[Split]:
    """Splits of models that are scored here."""
    numbers: Sequence[int | None] = [None] if own is None else sorted({*STEPS, own})
    found: Sequence[StepScores] = list(
        scores_by_steps(spec.recipe, home.cache, models, spec.hyperparameters, numbers)
    )
    return [
        Split(
            meta_steps, one.steps, _rows(one.skills.tolist()), meta_seconds, one.seconds, "scored"
        )
        for one in found
    ]


def _recorded(trial: StudiedTrial, finalist: Finalist, spec: TrialSpec, used: Split) -> list[Split]:
    """Splits at the rungs of the trial in the search, before its last."""
    skills: Mapping[str, Sequence[float | None]] = trial.notes.get("rung_skills", {})
    complete = skills and all(len(row) == len(spec.rungs) for row in skills.values())
    if not complete or math.isnan(finalist.search_score) or len(skills) != len(used.skills[0]):
        return []
    table = np.array(
        [[math.nan if x is None else x for x in row] for row in skills.values()]
    )  # (tasks, rungs)
    found = []
    for i, step in enumerate(spec.rungs[:-1]):
        moved = np.array(used.skills) + (table[:, i] - table[:, -1])
        part = used.meta_seconds * step / spec.rungs[-1]
        rows = _rows(moved.tolist())
        found.append(Split(step, used.adapt_steps, rows, part, used.adapt_seconds, "record"))
    return found


def _untrained(records: SearchRecords, summary: Summary, used: Split) -> list[Split]:
    """The untrained model; it adapts by class means or ridge regression, at hardly any cost."""
    reference = summary.untrained
    if reference is None:
        return []
    trial = next((t for t in records.final.trials() if reference.is_of(t)), None)
    if trial is None or trial.state != "complete":
        return []
    skills = [float(task["skill"][0]) for task in trial.notes["tasks"].values()]
    rows = _rows([skills] * len(used.skills))
    seconds = used.adapt_seconds if used.adapt_steps is None else 0.0
    return [Split(0, None, rows, 0.0, seconds, "untrained")]


def _rows(table: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in table)


def figure(found: Stages, new_tasks: int) -> go.Figure:
    """Scores over the steps of both stages, and over the cost for a number of new tasks."""
    chosen = cheapest(found.splits, new_tasks)
    made = make_subplots(
        rows=1,
        cols=2,
        subplot_titles=["score", f"score and seconds for {new_tasks} new tasks"],
        column_widths=[0.5, 0.5],
    )
    grid = [split for split in found.splits if split.source != "untrained"]
    made.add_trace(
        go.Heatmap(
            name="score",
            x=["none" if split.adapt_steps is None else str(split.adapt_steps) for split in grid],
            y=[str(split.meta_steps) for split in grid],
            z=[split.score for split in grid],
            texttemplate="%{z:.3f}",
            colorscale="Cividis",
            showscale=False,
        ),
        row=1,
        col=1,
    )
    for source, symbol in _SYMBOLS.items():
        own = [split for split in found.splits if split.source == source]
        made.add_trace(_costs(source, own, symbol, new_tasks), row=1, col=2)
    made.add_trace(_costs("cheapest within noise", [chosen.split], "star", new_tasks), row=1, col=2)
    made.update_xaxes(title="adaptation steps", type="category", row=1, col=1)
    made.update_yaxes(title="meta-training steps", type="category", row=1, col=1)
    made.update_xaxes(title="seconds", type="log", row=1, col=2)
    made.update_layout(template="plotly_white")
    return made


def _costs(name: str, splits: Sequence[Split], symbol: str, new_tasks: int) -> go.Scatter:
    # A cost of 0 has no place on a logarithmic axis.
    return go.Scatter(
        name=name,
        x=[max(split.seconds(new_tasks), _LEAST_SECONDS) for split in splits],
        y=[split.score for split in splits],
        text=[split.title for split in splits],
        mode="markers",
        marker={"symbol": symbol, "size": 16 if symbol == "star" else 9},
        hovertemplate="%{text}: %{y:.3f}, %{x:.3g} s<extra></extra>",
    )
