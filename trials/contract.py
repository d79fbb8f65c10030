"""The plain, frozen, serialisable data that the orchestrator and the trials exchange."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
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
# tf32 rounds each factor to 11 significant bits, a relative error of up to 2^-11 = .0005, and
# accumulates in float32. A CPU always multiplies in full float32.
Precision = Literal["float32", "tf32"]
# Examples that splits share: False refuses them, True allows them, "drop" removes them from the
# earlier split.
Overlap = bool | Literal["drop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A dataset, model, learner or teacher: its name in a registry, with its arguments."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """One task: some rows of a dataset with a column to predict, a family of functions, or a world.

    where: keeps the rows whose value in each named column is one of the listed values.
    label: the column to predict; `kind` says whether it holds classes or numbers.
    query, unlabelled: more rows of the same dataset, for adaptation programs only. `query` rows
        score the model. The labels of `unlabelled` rows are never used.
    """

    name: str
    function: str | None = None  # a family of fewshot.tasks.functions; the fields below are unused
    world: Component | None = None  # see fewshot.worlds; the fields below are unused
    dataset: str = ""
    label: str = ""
    kind: Literal["classification", "regression"] = "classification"
    where: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    within: str | None = None  # all examples of an episode come from one value of this column
    order: str | None = None  # in regression: no query precedes a support example in this column
    corrupt: Literal["shuffle"] | None = None
    noise: float = 0.0  # share of the labels that are replaced by random ones
    query: Mapping[str, tuple[Any, ...]] | None = None
    unlabelled: Mapping[str, tuple[Any, ...]] | None = None
    n_unlabelled: int | None = None

    @property
    def regresses(self) -> bool:
        """Whether the task is a regression task; families of functions always are."""
        return self.function is not None or self.kind == "regression"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFunction:
    """A user's own training loop, see trials.own_loop.

    name: `package.module:function`, a generator function. folder: an absolute path, from which the
    module can be imported and in which the function runs. timeout: the longest time between two
    reports of a trial in seconds; None for no limit.
    """

    name: str
    folder: str
    timeout: float | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that fixes shapes and control flow.

    Trials whose recipes are equal can train side by side in the lanes of one worker.
    """

    program: str  # a name in trials.programs.build.PROGRAMS, or "own_loop"
    datasets: Mapping[str, Component]
    tasks: Mapping[str, tuple[TaskSpec, ...]]  # "train", "validation", "test"
    model: Component
    learner: Component
    way: Count  # classes per episode; 1 where all tasks are regression tasks
    shot: Count  # support examples per class; in regression, per episode and never a range
    query: Count  # query examples per class; in regression, per episode and never a range
    episodes: int  # per training task and outer step
    validation_episodes: int  # per validation task
    test_episodes: int  # per test task
    batch: int = 0  # examples per step; adaptation programs only
    optimizer: str = "adam"  # a name in trials.programs.build.OPTIMIZERS
    precision: Precision = "float32"  # of matrix products and convolutions on a GPU
    teacher: Component | None = None  # see trials.programs.teachers
    distillation: Distillation = HINTON
    weights_as: WeightsAs = "loss"  # task weights multiply losses, or are sampling probabilities
    sampled_episodes: int = 0  # per outer step if tasks are sampled; 0: `episodes` for each task
    seed: int = 0  # for draws that all trials share, such as the scoring episodes
    imbalance: Imbalance | None = None
    fixed_classes: bool = False  # all tasks have the same classes, which keep their order
    overlap: Overlap = False  # how to treat examples that splits share
    function: TrainingFunction | None = None  # of the program "own_loop" only

    @property
    def max_way(self) -> int:
        """The largest number of classes of an episode."""
        return bounds(self.way)[1]

    @property
    def regresses(self) -> bool:
        """Whether every task is a regression task."""
        return all(task.regresses for tasks in self.tasks.values() for task in tasks)

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits of a hash, different for recipes that are not equal."""
        data = asdict(self)
        # Keeps the fingerprints of recipes that are older than these fields.
        if self.function is None:
            del data["function"]
        if not self.fixed_classes:
            del data["fixed_classes"]
        for task in (task for tasks in data["tasks"].values() for task in tasks):
            for later in ("world", "order"):
                if task[later] is None:
                    del task[later]
        text = json.dumps(data, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """Everything that is needed to run a trial, or to repeat it."""

    number: int
    stage: Stage = "search"
    attempt: int = 0
    seed: int
    recipe: Recipe
    hyperparameters: Mapping[str, float]
    task_weights: Mapping[str, float]  # >= 0, sum to 1; empty if the trial has no meta-training
    rungs: tuple[int, ...]  # outer steps at which the trial reports, ascending
    initial: str | None = None  # key of a trial; this one starts from that trial's last checkpoint
    choices: Mapping[str, Any] = field(default_factory=dict)  # the searched options of `recipe`

    @property
    def key(self) -> str:
        """The trial's name within its search, used in files and in MLflow."""
        return f"{self.stage}-{self.number:04d}"

    def to_json(self) -> str:
        return self._json

    @cached_property
    def _json(self) -> str:  # cached, because every checkpoint of the trial contains it
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
        part["world"] = component(part.get("world"))
        return TaskSpec(**part)

    data["datasets"] = {name: Component(**part) for name, part in data["datasets"].items()}
    data["tasks"] = {split: tuple(map(task, parts)) for split, parts in data["tasks"].items()}
    for part in ("model", "learner", "teacher"):
        data[part] = component(data[part])
    for count in ("way", "shot", "query"):
        if isinstance(data[count], list):
            data[count] = tuple(data[count])
    if data.get("function") is not None:
        data["function"] = TrainingFunction(**data["function"])
    soft = data["distillation"]
    soft["decoupled"] = soft["decoupled"] and tuple(soft["decoupled"])
    data["distillation"] = Distillation(**soft)
    return Recipe(**data)


@dataclass(frozen=True, slots=True, kw_only=True)
class RungReport:
    """The scores of a live trial at a rung. A score of NaN means that the trial diverged."""

    key: str
    step: int
    score: Estimate  # mean skill over the validation tasks; higher is better
    per_task: Mapping[str, Estimate]  # skill
    metrics: Mapping[str, float]  # "val/<task>/accuracy" (or "mse"), "train/loss", ...
    time: float  # of the report, in seconds since 1970; a repeated report keeps its time
    seconds: float  # of training since the trial was admitted
    lane_seconds: float  # like `seconds`, but each step's time is divided by its live lanes
    # Skill on each problem of the tasks that are a sample of problems, such as goals or schools;
    # of the last rung only.
    by_problem: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptationResult:
    """The score of one trial's model after adaptation to one held-out task."""

    task: str
    split: Literal["validation", "test"]
    score: Estimate  # skill
    metrics: Mapping[str, float]  # "accuracy", "f1"; for regression tasks "mse", "skill"
    time: float
    seconds: float
    by_problem: Sequence[float] = ()  # skill, see `RungReport.by_problem`


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """How a trial ended. Every admitted trial ends exactly once.

    error: the reason in one line, if the trial failed.
    traceback: at most some kilobytes of text, if the trial failed with an exception; the end of its
        log, if its process ended.
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
    """Trains up to `lanes` trials of one recipe side by side.

    Every program obeys these laws. One conformance suite tests them on all programs and executors.

    - Alone: the reports of a trial do not depend on its lane, on its neighbours, or on the time
      of its admission, except for rounding. Random numbers depend only on the trial's spec.
    - One report per rung: each live trial reports once at each of its rungs, in ascending order.
      Every admitted trial ends exactly once.
    - Isolation: a trial fails alone if it diverges (NaN or infinity), or if its model, learner or
      data raise an exception. The reports of its neighbours are then bit-identical to those beside
      a trial that is pruned at the same step.
    - Resume: a trial that is admitted again after a crash resumes from its last rung. It first
      repeats the reports that it made before the crash, with their original times.
    - The searched task weights never enter the score.
    """

    lanes: int
    lane_steps: int  # training steps so far, each counted once per live lane
    capacity_steps: int  # training steps so far, each counted once per lane, live or free

    @property
    def free(self) -> int:
        """Number of lanes that no live or queued trial needs."""

    def admit(self, spec: TrialSpec) -> None:
        """Queue a trial. It starts at the next `advance` that has a free lane."""

    def advance(self) -> list[RungReport]:
        """Train all live lanes until at least one trial reaches a rung or fails.

        Returns the new reports: none if no trial is live, or if trials only failed.
        """

    def ended(self) -> list[TrialResult]:
        """The trials that failed with an exception since the last call. Their lanes are free."""

    def release(self, key: str, outcome: Outcome) -> TrialResult:
        """End a trial and free its lane.

        The result of a complete trial has its scores after adaptation to every held-out task.
        """

    def interrupt(self) -> None:
        """Make `advance` return after the current step, now and later; another thread may call it.

        Live trials are saved first: each resumes elsewhere from its step, or from its last rung.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What a worker returns after one round of training. It then waits for its next orders."""

    worker: int
    reports: tuple[RungReport, ...] = ()
    results: tuple[TrialResult, ...] = ()  # of trials that ended in this round
    free: int = 0  # lanes that can take a trial
    lost: tuple[str, ...] = ()  # keys of the live trials of a worker that died
    loss: str = ""  # why it died, in one line
    returned: tuple[str, ...] = ()  # keys of the live trials of a worker that had to stop
    lane_steps: int = 0  # since the last turn, see `TrialProgram.lane_steps`
    capacity_steps: int = 0  # since the last turn, see `TrialProgram.capacity_steps`
    # What the worker used of its machine, by metric; empty in most turns.
    load: Mapping[str, float] = field(default_factory=dict, compare=False)


class Executor(Protocol):
    """Starts workers, sends them orders, and collects their turns.

    All executors give the same results for the same orders. A worker that has returned its turn is
    idle until `send_orders` gives it orders. It stays idle if it then has no trial.
    """

    lanes: int  # of each worker

    def idle(self) -> Mapping[int, int]:
        """The number of free lanes of each worker that waits for orders."""

    def workers_for(self, spec: TrialSpec) -> Collection[int]:
        """The workers that may train a trial, idle or not; at least one."""

    def send_orders(
        self, worker: int, release: Mapping[str, Outcome], admit: Sequence[TrialSpec]
    ) -> None:
        """Send an idle worker its orders: the trials to end, then the trials to admit."""

    def turn(self) -> Turn | None:
        """Wait for the next turn of any worker; None if no turn arrives within a second."""

    def close(self) -> None:
        """Stop all workers."""
