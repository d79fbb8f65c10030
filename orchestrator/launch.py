"""Puts a search together from its parts: checks, data, studies, workers, loop, summary."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from fewshot.errors.inputs import ErrorDetail, InputError, input_error
from orchestrator.config.paths import with_absolute_paths
from orchestrator.config.plan import Plan, plan_of
from orchestrator.config.sections.own_loop import AnyConfig
from orchestrator.config.sections.workers import WorkersSection, needed
from orchestrator.executors.inline import InlineExecutor, as_worker_error
from orchestrator.executors.kinds import WorkerKind
from orchestrator.executors.on_ray.local_ray import restrict_ray_to_localhost
from orchestrator.mlflow_record import drained, recorded, recorder_of
from orchestrator.record import identity
from orchestrator.record.enqueued import EnqueuedTrials
from orchestrator.record.heartbeat import Heartbeat
from orchestrator.record.home import Home
from orchestrator.record.search_records import SearchRecords, open_records, read_records
from orchestrator.record.starts import note_start, note_versions
from orchestrator.record.studies.study import StudyRecord, open_storage, read_study
from orchestrator.results.explanation.explanation import explained
from orchestrator.results.leaderboard import Summary, summarise
from orchestrator.sampling.optuna_samplers import sampler_of
from orchestrator.search.advice import Advice, Adviser, advice_on_config
from orchestrator.search.decisions.own_trials import FROM, trials_from
from orchestrator.search.forecast import (
    checked_data,
    lanes_of,
    workers_of,
    workers_per_gpu,
)
from orchestrator.search.loop import Stopped, run_search, score_untrained
from orchestrator.space.simplex import Simplex
from orchestrator.tracking.recorder import Recorder
from trials.contract import Executor, Recipe
from trials.programs.build import build
from trials.programs.data_summary import DataSummary
from trials.programs.several_recipes import build_for_all
from trials.programs.similarity.affinity import affinities

Placement = Literal["inline", "ray"]

_USE_LESS = "Use less, or connect to a cluster with RAY_ADDRESS."


@dataclass(frozen=True)
class SearchResult:
    """The result of a search that has ended."""

    summary: Summary
    drained: bool  # whether MLflow has received all events


def run(
    config: AnyConfig,
    home: Home,
    *,
    folder: Path | None = None,
    resume: bool = False,
    whole: bool = False,
    from_search: str | None = None,
    placement: Placement = "ray",
    observe: Callable[[str, SearchRecords], None] = lambda stage, records: None,
    advise: Callable[[Advice], None] = lambda advice: None,
    should_stop: Callable[[], bool] = lambda: False,
    waiting: Callable[[int], None] = lambda runs_left: None,
) -> SearchResult:
    """Run the search that `config` describes; a search that was interrupted continues.

    folder: the start of relative paths in the config; the working directory by default.
    whole: whether a search that stopped early goes on to all of its planned trials.
    from_search: the search whose best trials are run after the reference trials.
    observe: called with the stage and the records after every change of the records.
    advise: called once for each warning that the result may be poor.
    waiting: called with the number of runs that MLflow does not have yet, after the last trial.

    Raises InputError before anything is written, and Stopped if `should_stop` returned true.
    """
    began = time.time()
    if placement not in get_args(Placement):
        rule = f"must be {' or '.join(get_args(Placement))}."
        raise input_error("executor", rule, placement)
    folder = (folder or Path.cwd()).absolute()
    plan = plan_of(with_absolute_paths(config, folder))
    sampler_of(plan)  # finds the errors of a user's sampler before anything is written
    before = _before(config, home, resume, whole)
    earlier = None if from_search is None else trials_from(from_search, plan, home)
    if before is not None and before.state == "complete":
        return SearchResult(before, _send_rest(config, home, plan, resume, should_stop))
    if placement == "ray" and not os.environ.get("RAY_ADDRESS"):
        check_room(config)
    observe("data", None)  # type: ignore[arg-type]
    data = checked_data(with_absolute_paths(config, folder), home)
    heartbeat = Heartbeat(home.search(plan.name), stopped=(Stopped, KeyboardInterrupt))
    observe, should_stop = heartbeat.observing(observe), heartbeat.looping(should_stop)
    with home.owned(plan.name), heartbeat, open_storage(home.storage(plan.name)) as storage:
        records = open_records(plan, storage)
        own = identity.assign_id(config, home, records, resume=resume, whole=whole)
        if earlier is not None:
            records.search.note(FROM, earlier)
        _store_facts(data, folder, records.search)
        note_versions(records.search)
        _store_affinity(plan, data, home, records.search)
        adviser = Adviser(plan, records, advise)
        adviser.report(advice_on_config(config, data.features))
        recorder = recorder_of(home, plan, own)
        recorder.send_after_first_report()
        with recorded(recorder, plan, records, home):
            observe("start", records)
            untrained = _untrained_scorer(plan, data.untrained, records, home, recorder)
            untrained("final")  # first, so that trials can be compared with it while they run
            with _open_executor(plan, config, home, placement, data, records) as executor:
                note_start(records.search, began)
                run_search(
                    plan,
                    records,
                    executor,
                    recorder,
                    task_sizes=data.task_sizes,
                    enqueued=EnqueuedTrials(home.enqueued(plan.name)),
                    observe=adviser.wrap_observer(observe),
                    should_stop=should_stop,
                )
            untrained("test")
            records.search.note("state", "complete")
        observe("record", records)
        summary = explained(
            summarise(plan.name, records), lambda: plan, records, home.search(plan.name)
        )

        def wait() -> None:
            waiting(recorder.runs_left())
            observe("record", records)

        sent = drained(recorder, should_stop, wait)
        observe("end", records)
        return SearchResult(summary, sent)


def _send_rest(
    config: AnyConfig, home: Home, plan: Plan, resume: bool, should_stop: Callable[[], bool]
) -> bool:
    """Send to MLflow what a complete search left in its outbox; as `mlflow_record.drained`."""
    with home.owned(plan.name), open_storage(home.storage(plan.name)) as storage:
        own = identity.assign_id(config, home, open_records(plan, storage), resume=resume)
        return drained(recorder_of(home, plan, own), should_stop)


def _store_facts(data: DataSummary, folder: Path, record: StudyRecord) -> None:
    """Store the facts about the data that the summary and the export need."""
    record.note("folder", str(folder))
    record.note("figures", dict(data.figures))
    record.note("classes", list(data.classes))
    record.note("null_losses", dict(data.null_losses))
    record.note("measure", data.measure)


def _store_affinity(plan: Plan, data: DataSummary, home: Home, record: StudyRecord) -> None:
    """Measure, before the first trial, how much each training task is expected to help."""
    searched = isinstance(plan.space.weights, Simplex) and data.untrained is not None
    if searched and "affinity" not in record.notes:
        record.note("affinity", affinities(plan.recipe, home.cache))


def check_room(config: AnyConfig) -> None:
    """Raise InputError if this machine lacks resources: Ray would wait for them for ever."""
    workers, cores, gpus = workers_of(config), os.cpu_count() or 1, torch.cuda.device_count()
    if config.search.kinds:
        _check_room_for(config.search.kinds, {"CPU": cores, "GPU": gpus})
        return
    details, asked = [], workers * min(cores, config.search.cpus_per_worker)
    if asked > cores:
        rule = f"needs {asked} cores, and this machine has {cores}."
        details.append(ErrorDetail("search.workers", rule, workers, _USE_LESS))
    share = config.search.gpus_per_worker or 0.0
    at_once = gpus // share if share > 1 else gpus * workers_per_gpu(config)
    if share and workers > at_once:
        rule = f"is too much for {workers} workers on {gpus} GPUs."
        details.append(ErrorDetail("search.gpus_per_worker", rule, share, _USE_LESS))
    if details:
        raise InputError(details)


def _check_room_for(kinds: Sequence[WorkersSection], machine: Mapping[str, int]) -> None:
    """Raise InputError if kinds of workers need more than this machine has."""
    details = [
        ErrorDetail(
            "search.workers",
            f"need {amount:g} {name}, and this machine has {machine.get(name, 0)}.",
            None,
            _USE_LESS,
        )
        for name, amount in needed(kinds).items()
        if amount > machine.get(name, 0)
    ]
    if details:
        raise InputError(details)


def _before(config: AnyConfig, home: Home, resume: bool, whole: bool) -> Summary | None:
    """The summary of an earlier run of this search, if there is one and no trials were added.

    whole: as in `run`.

    Raises InputError if a different search has this name, or if it was interrupted and `resume` is
    false.
    """
    study = read_study(home.storage(config.name), config.name)
    identity.check(config, home, study, resume=resume)
    planned = identity.planned_trials(home, config.name, study)
    if planned is not None and planned < config.search.trials:
        return None  # it is resumed with more trials
    if whole and identity.stopped_early(study):
        return None  # it goes on to all of its trials
    records = read_records(config.name, home)
    if records is None or not records.search.notes:
        return None
    folder = home.search(config.name)
    summary = explained(summarise(config.name, records), lambda: plan_of(config), records, folder)
    if summary.state != "complete" and not resume:
        done = sum(summary.trials.values())
        raise input_error(
            "name",
            f"this search was started before and has {done} of {config.search.trials} trials.",
            config.name,
            "Add `--resume` (`resume=True`) to continue it, or use a different name.",
        )
    return summary


def _untrained_scorer(
    plan: Plan, recipe: Recipe | None, records: SearchRecords, home: Home, recorder: Recorder
) -> Callable[[Literal["final", "test"]], None]:
    """A function that scores the untrained model in this process; it takes seconds."""

    def score(stage: Literal["final", "test"]) -> None:
        if recipe is None:
            return
        executor = InlineExecutor(
            lambda: build(
                recipe, lanes=1, folder=home.checkpoints(plan.name), cache=home.cache, device="cpu"
            )
        )
        score_untrained(plan, recipe, stage, getattr(records, stage), executor, recorder)

    return score


@contextmanager
def _open_executor(
    plan: Plan,
    config: AnyConfig,
    home: Home,
    placement: Placement,
    data: DataSummary,
    records: SearchRecords,
) -> Iterator[Executor]:
    """The executor of the search; a resumed search keeps the number of lanes of its first run."""
    lanes = records.search.notes.get("lanes") or lanes_of(config, plan, data, home)
    with closing(_executor(plan, config, home, placement, lanes)) as executor:
        records.search.note("lanes", executor.lanes)
        yield executor


def _executor(
    plan: Plan,
    config: AnyConfig,
    home: Home,
    placement: Placement,
    lanes: int | Callable[[], int],
) -> Executor:
    folder = home.checkpoints(plan.name)
    threads = config.search.cpus_per_worker
    if placement == "inline":
        try:
            found = lanes if isinstance(lanes, int) else lanes()
        except Exception as error:
            raise as_worker_error(error, 0) from error
        return InlineExecutor(
            lambda: build_for_all(
                plan.recipe, lanes=found, folder=folder, cache=home.cache, threads=threads
            )
        )
    if not os.environ.get("RAY_ADDRESS"):
        restrict_ray_to_localhost()
    from orchestrator.executors.on_ray.ray_actors import RayExecutor  # Ray takes seconds to import

    return RayExecutor(
        _worker_kinds(plan, config),
        lanes=lanes,
        folder=folder,
        cache=home.cache,
        worker_timeout=config.search.worker_timeout,
    )


def _worker_kinds(plan: Plan, config: AnyConfig) -> list[WorkerKind]:
    """What the workers need and train; one kind if all workers are alike."""
    search = config.search
    if not search.kinds:
        cpus, gpus = search.cpus_per_worker, search.gpus_per_worker
        return [WorkerKind(recipe=plan.recipe, count=search.n_workers, cpus=cpus, gpus=gpus)]
    return [
        WorkerKind(
            recipe=plan.spec(0, {}, {}, {c.of: c.values[0] for c in kind.conditions}).recipe,
            count=kind.count,
            cpus=kind.cpus,
            gpus=kind.gpus,
            resources=kind.resources or {},
            only=kind.conditions,
        )
        for kind in search.kinds
    ]
