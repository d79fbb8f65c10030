"""What passes between the orchestrator and the trials: plain, frozen, and able to be run again."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

from fewshot.episodes import Count, bounds
from fewshot.losses.distillation import HINTON, Distillation
from fewshot.metrics import Estimate
from fewshot.tasks.pool import Imbalance

Outcome = Literal["complete", "pruned", "failed"]
Stage = Literal["search", "final", "test"]
WeightsAs = Literal["loss", "sampling"]
# tf32 rounds factors to 11 significant binary digits, an error of up to 2^-11 = .0005 of each, and
# sums in float32. A CPU multiplies exactly in any case.
Precision = Literal["float32", "tf32"]
# Of examples by splits: refused, meant, or left out of the earlier split.
Overlap = bool | Literal["drop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A part (dataset, model, learner) by a name of fewshot.registry, with its arguments."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """Which rows of a dataset are a task, and what is to be told of them; or a family of functions.

    `where` keeps the rows whose column has one of the values; `label` is the column to predict, a
    class or, where the task says so, a number.
    `query` and `unlabelled` (adaptation programs only) are other rows of the same dataset:
    those that score, and those whose labels nobody may see.
    """

    name: str
    function: str | None = None  # a family of fewshot.tasks.functions; then nothing below
    dataset: str = ""
    label: str = ""
    kind: Literal["classification", "regression"] = "classification"
    where: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    within: str | None = None  # column inside whose values the classes of an episode are drawn
    corrupt: Literal["shuffle"] | None = None
    noise: float = 0.0  # share of the labels that is drawn anew
    query: Mapping[str, tuple[Any, ...]] | None = None
    unlabelled: Mapping[str, tuple[Any, ...]] | None = None
    n_unlabelled: int | None = None

    @property
    def regresses(self) -> bool:
        """Whether numbers are to be told, as functions always have them."""
        return self.function is not None or self.kind == "regression"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that fixes shapes and control flow. Trials of equal recipes can share a worker."""

    program: str  # a name in trials.programs.build.PROGRAMS
    datasets: Mapping[str, Component]
    tasks: Mapping[str, tuple[TaskSpec, ...]]  # "train", "validation", "test"
    model: Component
    learner: Component
    way: Count  # 1, the number that is predicted, where no task has classes
    shot: Count  # one number each where tasks have numbers
    query: Count
    episodes: int  # per training task and outer step
    validation_episodes: int  # per validation task
    test_episodes: int  # per test task
    batch: int = 0  # examples per step, of adaptation programs
    optimizer: str = "adam"  # a name in trials.programs.build.OPTIMIZERS
    precision: Precision = "float32"  # of products on a GPU
    teacher: Component | None = None  # see trials.programs.teachers
    distillation: Distillation = HINTON
    weights_as: WeightsAs = "loss"  # what the task weights weigh, losses or draws of episodes
    seed: int = 0  # of the episodes that score: the same for every trial
    imbalance: Imbalance | None = None
    overlap: Overlap = False  # what is done about examples that splits share

    @property
    def max_way(self) -> int:
        """The most classes that an episode can have."""
        return bounds(self.way)[1]

    @property
    def regresses(self) -> bool:
        """Whether no task has classes."""
        return all(task.regresses for tasks in self.tasks.values() for task in tasks)

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that tell unequal recipes apart."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """All that is needed to run a trial, and to run it again."""

    number: int
    stage: Stage = "search"
    attempt: int = 0
    seed: int
    recipe: Recipe
    hyperparameters: Mapping[str, float]
    task_weights: Mapping[str, float]  # >= 0, sums to 1; empty where nothing is meta-trained
    rungs: tuple[int, ...]  # outer steps at which a report is due, ascending
    initial: str | None = None  # key of the trial from whose last rung this one starts

    @property
    def key(self) -> str:
        """Names the trial within its search, in files and in MLflow."""
        return f"{self.stage}-{self.number:04d}"

    def to_json(self) -> str:
        return self._json

    @cached_property
    def _json(self) -> str:  # which every checkpoint of the trial tells
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "TrialSpec":
        data = json.loads(text)
        data["recipe"] = _recipe(data["recipe"])
        data["rungs"] = tuple(data["rungs"])
        return cls(**data)


def _recipe(data: dict[str, Any]) -> Recipe:
    def component(part: dict[str, Any] | None) -> Component | None:
        return None if part is None else Component(**part)

    def task(part: dict[str, Any]) -> TaskSpec:
        for rows in ("where", "query", "unlabelled"):
            if part[rows] is not None:
                part[rows] = {column: tuple(values) for column, values in part[rows].items()}
        return TaskSpec(**part)

    data["datasets"] = {name: Component(**part) for name, part in data["datasets"].items()}
    data["tasks"] = {split: tuple(map(task, parts)) for split, parts in data["tasks"].items()}
    for part in ("model", "learner", "teacher"):
        data[part] = component(data[part])
    for count in ("way", "shot", "query"):
        if isinstance(data[count], list):
            data[count] = tuple(data[count])
    soft = data["distillation"]
    soft["decoupled"] = soft["decoupled"] and tuple(soft["decoupled"])
    data["distillation"] = Distillation(**soft)
    return Recipe(**data)


@dataclass(frozen=True, slots=True, kw_only=True)
class RungReport:
    """How a live trial stands at a rung. A score of NaN says that it diverged."""

    key: str
    step: int
    score: Estimate  # mean skill over the validation tasks; higher is better
    per_task: Mapping[str, Estimate]  # skill
    metrics: Mapping[str, float]  # "val/<task>/accuracy" (or "mse"), "train/loss", ...
    time: float  # seconds since 1970 when it was made; a repeated report repeats it
    seconds: float  # of training since the trial was admitted
    lane_seconds: float  # the same, divided by the lanes that shared the step


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptationResult:
    """One trial's model adapted to one held-out task."""

    task: str
    split: Literal["validation", "test"]
    score: Estimate  # skill
    metrics: Mapping[str, float]  # "accuracy", "f1"; of functions "mse", "skill"
    time: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """How a trial ended. Every admitted trial ends exactly once.

    error: of one that failed, why, in a line.
    traceback: of one that failed by an exception, at most some kilobytes of text.
    """

    key: str
    outcome: Outcome
    step: int
    adaptations: tuple[AdaptationResult, ...] = ()
    checkpoint: str | None = None
    error: str | None = None
    traceback: str | None = None
    time: float = 0.0


class TrialProgram(Protocol):
    """Runs up to `lanes` trials of one recipe side by side.

    Laws (one conformance suite, run over every program and every executor):
    - alone: a trial's reports do not depend on its lane, on its neighbours, or on when it was
      admitted (to rounding; seeds hang on the spec, never on the place);
    - one report per live trial per rung, in order; every admitted trial ends exactly once;
    - isolation: a trial that diverges (NaN/inf), or whose model, learner or data raise an
      exception, fails alone. The reports of its neighbours are to the bit what they are beside a
      trial that is stopped at the same step;
    - resume: admitted again after a crash, it goes on from its last rung and repeats the reports
      that it made before, with their times;
    - the searched weights never enter the score.
    """

    lanes: int
    lane_steps: int  # steps of live lanes so far
    capacity_steps: int  # the same, had every lane been live

    @property
    def free(self) -> int:
        """Lanes that neither hold a trial nor will take one that is queued."""

    def admit(self, spec: TrialSpec) -> None:
        """Queue a trial; it starts at the next `advance` that finds a lane free."""

    def advance(self) -> list[RungReport]:
        """Train all lanes until at least one is at a rung or has failed.

        No reports if nothing is live, or if it only failed.
        """

    def ended(self) -> list[TrialResult]:
        """The trials that raised an exception since this was last asked; their lanes are free."""

    def release(self, key: str, outcome: Outcome) -> TrialResult:
        """End a trial and free its lane. A complete one is adapted to every held-out task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A worker's say: what it found since its last orders. It now waits for the next ones."""

    worker: int
    reports: tuple[RungReport, ...] = ()
    results: tuple[TrialResult, ...] = ()
    free: int = 0  # lanes that could take a trial
    lost: tuple[str, ...] = ()  # keys of the trials that were on a worker that died
    lane_steps: int = 0  # steps of live lanes since the last turn
    capacity_steps: int = 0  # the same, had every lane been live


class Executor(Protocol):
    """Places workers and carries orders to them.

    Inline and Ray can't be told apart by their results. A worker that has had its turn is idle
    until `exchange` gives it orders, and stays idle if it has no trial and is given none.
    """

    lanes: int  # of each worker

    def idle(self) -> Mapping[int, int]:
        """The workers that wait for orders, each with the number of its lanes that are free."""

    def send_orders(
        self, worker: int, release: Mapping[str, Outcome], admit: Sequence[TrialSpec]
    ) -> None:
        """Give a waiting worker its orders: trials to end, then trials to take in."""

    def turn(self) -> Turn | None:
        """Wait for the next worker that has something to say; None if none has for a second."""

    def close(self) -> None:
        """End all workers."""
