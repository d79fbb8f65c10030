"""The config of a search, composed of its sections."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveInt,
    WrapValidator,
)

from fewshot.errors.inputs import ErrorDetail, input_error
from fewshot.learners.per_task import OWN
from fewshot.learners.reinforcement.world_learners import scalars_of
from fewshot.models.pretrained.adapters.lora import RANK
from fewshot.registry import resolve
from orchestrator.config.sections.parts import (
    DatasetPart,
    DistillationSection,
    LearnerPart,
    ModelPart,
    TeacherPart,
)
from orchestrator.config.sections.searched import SearchableConfig
from orchestrator.config.sections.section import Name, Section, as_section_error, section_error
from orchestrator.config.sections.space import SpaceSection
from orchestrator.config.sections.tasks import (
    AnyTask,
    EpisodesSection,
    TasksSection,
    WorldSection,
)
from orchestrator.config.sections.workers import Workers, WorkersSection
from trials.contract import Precision
from trials.lanes.objective import soft_hyperparameters
from trials.lanes.optimizers.adam import WEIGHT_DECAY
from trials.programs.adaptation.adaptation import Adaptation
from trials.programs.meta_training.objective import MetaTraining

# Names of samplers; all but the first are Optuna's own.
SAMPLERS = ("fewtune", "gp", "tpe", "cmaes", "random")


def _count(value: Any, usual: object) -> int | Literal["auto"]:
    if value != "auto" and (type(value) is not int or value < 1):
        raise section_error(
            ErrorDetail("", "must be a whole number of at least 1, or auto.", value)
        )
    count: int | Literal["auto"] = value
    return count


Count = Annotated[int | Literal["auto"], WrapValidator(_count)]


def _sampler(value: Any, usual: object) -> str:
    """Check the name of a sampler, or import the user's factory that it names."""
    with as_section_error():
        if not isinstance(value, str):
            remedy = f"Use one of {', '.join(SAMPLERS)}, or your own package.module:factory."
            raise input_error("", "must be a single name.", value, remedy)
        resolve(dict.fromkeys(SAMPLERS, object), value, "")
    return value


class SearchSection(Section):
    trials: PositiveInt = 48
    reference_trials: PositiveInt = 8  # trials that tune the rates of the reference
    rungs: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        default_factory=lambda: [0.3, 0.6]  # as shares of the steps
    )
    eta: float = Field(2.0, gt=1)
    finalists: PositiveInt = 3
    seeds: int = Field(3, ge=2)
    lanes: Count = 4
    sampler: Annotated[str, WrapValidator(_sampler)] = "fewtune"
    stop: Literal["auto"] | None = None  # auto: end early if little more can be expected
    workers: Workers = 1
    cpus_per_worker: PositiveInt = 1
    # None: one whole GPU per worker if the cluster has GPUs when the search starts.
    gpus_per_worker: Annotated[float, Field(ge=0, le=1)] | None = None
    # Seconds without a sign of life after which a worker on Ray is killed and replaced.
    worker_timeout: Annotated[float, Field(ge=10, le=86400)] = 120.0

    @property
    def kinds(self) -> Sequence[WorkersSection]:
        """The kinds of workers; empty if all workers are alike."""
        return self.workers if isinstance(self.workers, list) else ()

    @property
    def n_workers(self) -> int | None:
        """The number of workers; None for as many as the cluster has room for."""
        if isinstance(self.workers, list):
            return sum(kind.count for kind in self.workers)
        return None if self.workers == "auto" else self.workers


class Config(SearchableConfig):
    """The config of a whole search."""

    name: Name
    seed: int = Field(0, ge=0, lt=2**31)
    trial_seed: int | None = Field(None, ge=0, lt=2**31)  # seed of the one trial of `train`
    datasets: dict[str, DatasetPart] = Field(default_factory=dict)
    tasks: TasksSection
    model: ModelPart
    learner: LearnerPart | None = None
    teacher: TeacherPart | None = None
    distillation: DistillationSection | None = None
    episodes: EpisodesSection = EpisodesSection()
    batch: PositiveInt = 128
    optimizer: Literal["adam", "sgd"] = "adam"
    precision: Precision = "float32"  # of matrix products on a GPU
    steps: NonNegativeInt  # 0: the model stays untrained
    space: SpaceSection
    search: SearchSection = SearchSection()

    @property
    def adapts(self) -> bool:
        """Whether the search has only the adaptation stage: one new task, no training tasks."""
        return self.learner is None

    @property
    def kinds(self) -> set[str]:
        """The kinds of the tasks: classification, regression, both, or world."""
        kind = {True: "regression", False: "classification"}
        return {
            "world" if isinstance(task, WorldSection) else kind[task.regresses]
            for task in self.all_tasks().values()
        }

    def all_tasks(self) -> dict[str, AnyTask]:
        """Every task section, by its path in the config."""
        return {
            f"tasks.{split}.{i}": task
            for split in ("train", "validation", "test")
            for i, task in enumerate(getattr(self.tasks, split))
        }

    def hyperparameters(self) -> tuple[str, ...]:
        """The scalars that the trials need. In addition, every search may have a weight decay."""
        if self.learner is None:
            return Adaptation.alone if self.teacher is None else Adaptation.hyperparameters
        extra: tuple[str, ...] = (OWN,) if "per_task" in self.learner.options().values() else ()
        if self.teacher is not None:
            extra += soft_hyperparameters(regresses="classification" not in self.kinds)
        read = scalars_of(self.learner.name) + extra
        # With 0 steps there is no learning rate.
        return read if self.steps else tuple(n for n in read if n != MetaTraining.learning_rate)

    def readable_scalars(self) -> set[str]:
        """The scalars that the trials of the plain config need, or may have."""
        rank = {RANK} if self.model.name == "lora" else set()
        return {*self.hyperparameters(), WEIGHT_DECAY} | rank

    def plain(self) -> "Config":
        unread = dict.fromkeys(self.space.scalars().keys() - self.readable_scalars())
        space = SpaceSection.model_validate(self.space.model_dump(by_alias=True) | unread)
        return self.model_copy(update={"space": space})

    def train_names(self) -> list[str]:
        return [name for task in self.tasks.train for name in task.names()]

    def train_groups(self) -> list[str]:
        """A group name for each training task; a task without a group gets its own."""
        return [
            f"task {name}" if task.group is None else f"group {task.group}"
            for task in self.tasks.train
            for name in task.names()
        ]
