"""The transfer set: from how many unlabelled examples a student has to learn.

A search that adapts to one new task with a teacher uses all unlabelled examples that its config
names. Here the best finalist is trained again with fewer of them: with the same parameters, seeds,
steps and scoring examples, so the differences are paired. It is the only way to know, because a
stored student has learned from all of them.
"""

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from fewshot.errors.inputs import input_error
from orchestrator.config.loading import load_config
from orchestrator.config.sections.config import Config
from orchestrator.executors.inline import InlineExecutor
from orchestrator.record.home import Home
from orchestrator.record.search_records import read_records
from orchestrator.results.leaderboard import Summary, summary_of
from orchestrator.results.retrained import Finalist
from orchestrator.search.finals.intervals import standard_error
from trials.contract import TrialSpec
from trials.data.pools import sources_of
from trials.data.sources import Sources
from trials.lanes import checkpoint
from trials.programs.adaptation.new_task import distilled_task
from trials.programs.build import build

# Shares of the unlabelled examples. With none of them, the teacher labels the support only.
SHARES = (0.0, 1 / 16, 1 / 4, 1 / 2)


@dataclass(frozen=True)
class TransferSize:
    """The students of one size of the transfer set.

    unlabelled: the examples beside the support. skills: those of the seeds. seconds: of training
    one student; a step that several lanes share counts in equal parts.
    """

    unlabelled: int
    skills: tuple[float, ...]
    seconds: float

    @property
    def score(self) -> float:
        """The mean skill."""
        return float(np.mean(self.skills))

    @property
    def error(self) -> float:
        """The standard error of the score over seeds; NaN with one seed."""
        return standard_error(np.array([self.skills]).T, of_tasks=False)[0]


@dataclass(frozen=True)
class TransferSizes:
    """sizes: in increasing order; the last is the search's own. seconds: of CPU time, for all."""

    name: str
    sizes: Sequence[TransferSize]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a NaN becomes null."""
        sizes = [_plain(size) for size in self.sizes]
        enough = smallest(self.sizes).unlabelled
        return {
            "name": self.name,
            "sizes": sizes,
            "smallest": enough,
            "measuring_seconds": self.seconds,
        }


def _plain(size: TransferSize) -> dict[str, Any]:
    skills = [skill if math.isfinite(skill) else None for skill in size.skills]
    score = None if None in skills else size.score
    return {
        "unlabelled": size.unlabelled,
        "score": score,
        "skills": skills,
        "seconds": size.seconds if math.isfinite(size.seconds) else None,
    }


def smallest(sizes: Sequence[TransferSize]) -> TransferSize:
    """The smallest size whose score is within one standard error of the best size's.

    The differences are paired by seeds. With one seed the noise is unknown and counts as 0. Sizes
    with a student that diverged do not count.
    """
    known = [size for size in sizes if math.isfinite(size.score)]
    best = max(known, key=lambda size: size.score)
    return min(
        (size for size in known if best.score - size.score <= _noise(best, size)),
        key=lambda size: size.unlabelled,
    )


def _noise(best: TransferSize, other: TransferSize) -> float:
    gains = np.array([best.skills]).T - np.array([other.skills]).T
    error, _ = standard_error(gains, of_tasks=False)
    return 0.0 if math.isnan(error) else error


def has_teacher(name: str, home: Home) -> bool:
    """Whether the search trains students on one new task, which a teacher labels."""
    if name not in home.searches():
        raise home.unknown(name)
    config = load_config(home.config(name))
    return isinstance(config, Config) and config.adapts and config.teacher is not None


def transfer_sizes_of(name: str, home: Home) -> TransferSizes:
    """Train the best finalist of a search with smaller transfer sets.

    Raises InputError if the search has not ended. Raises Unreadable if a checkpoint is missing or
    damaged.
    """
    start = time.process_time()
    summary, records = summary_of(name, home), read_records(name, home)
    finalist = _best(summary)
    if finalist is None or records is None:
        remedy = "Wait for it, or continue it with `--resume`."
        raise input_error("NAME", "this search has not ended yet.", name, remedy)
    trained = [t for t in records.final.trials() if finalist.is_of(t) and t.state == "complete"]
    paths = [checkpoint.path_of(home.checkpoints(name), f"final-{t.number:04d}") for t in trained]
    specs = [checkpoint.spec_of(path) for path in paths]
    recipe = specs[0].recipe
    sources = sources_of(recipe, home.cache)
    assert sources is not None, "a student learns from rows"
    task = distilled_task(recipe, sources, home.cache).task
    whole = len(task.transfer) - len(task.support)
    smaller = sorted({int(share * whole) for share in SHARES} - {whole})
    sizes = [_trained(specs, n, sources, home.cache) for n in smaller]
    seconds = float(np.mean([checkpoint.load(path)[2][-1].lane_seconds for path in paths]))
    sizes.append(TransferSize(whole, tuple(t.score for t in trained), seconds))
    return TransferSizes(name, sizes, time.process_time() - start)


def _best(summary: Summary) -> Finalist | None:
    best = summary.best
    return best if best is not None and best.role != "untrained" else summary.candidate


def _trained(specs: Sequence[TrialSpec], n: int, sources: Sources, cache: Path) -> TransferSize:
    """Students that learn from `n` unlabelled examples, side by side in lanes."""
    (validation,) = specs[0].recipe.tasks["validation"]
    tasks = {**specs[0].recipe.tasks, "validation": (replace(validation, n_unlabelled=n),)}
    recipe = replace(specs[0].recipe, tasks=tasks)
    asked = [replace(spec, recipe=recipe, rungs=spec.rungs[-1:], attempt=0) for spec in specs]
    with tempfile.TemporaryDirectory(prefix="fewtune-") as folder:
        executor = InlineExecutor(
            lambda: build(
                recipe,
                lanes=len(asked),
                folder=Path(folder),
                cache=cache,
                load=lambda datasets, where: sources,
            )
        )
        executor.send_orders(0, {}, asked)
        turn = executor.turn()
        executor.close()
    assert turn is not None, "orders were sent"
    reports = {report.key: report for report in turn.reports}
    # A student that diverged has no report.
    skills = tuple(
        reports[spec.key].score.mean if spec.key in reports else math.nan for spec in asked
    )
    seconds = float(np.mean([report.lane_seconds for report in turn.reports] or [math.nan]))
    return TransferSize(n, skills, seconds)


def figure(found: TransferSizes) -> go.Figure:
    """The scores over the sizes, with standard errors over seeds."""
    made = go.Figure(
        go.Scatter(
            x=[size.unlabelled for size in found.sizes],
            y=[size.score for size in found.sizes],
            error_y={"array": [size.error for size in found.sizes]},
            text=[f"{size.seconds:.1f} s of training" for size in found.sizes],
            mode="lines+markers",
            hovertemplate="%{x} unlabelled examples: %{y:.3f}, %{text}<extra></extra>",
        )
    )
    made.update_xaxes(title="unlabelled examples that the teacher labels", rangemode="tozero")
    made.update_yaxes(title="score")
    made.update_layout(template="plotly_white", title=f"{found.name}: size of the transfer set")
    return made
