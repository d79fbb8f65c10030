"""The main loop of a search.

It starts trials, trains them, decides at rungs, and records the results. The order is: the searched
trials, the retrained finalists, and last the test tasks.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress

from fewshot.errors.disk import disk_problem
from fewshot.errors.inputs import FewtuneError
from orchestrator.config.plan import Plan
from orchestrator.record.enqueued import EnqueuedTrials
from orchestrator.record.search_records import SearchRecords
from orchestrator.record.studies.study import StudyRecord
from orchestrator.search.decisions.trial_sources import SearchTrials
from orchestrator.search.finals.finalists import UNTRAINED
from orchestrator.search.finals.retrainings import (
    Retraining,
    RetrainTrials,
    finalist_retrainings,
    matched_retrainings,
    test_runs,
)
from orchestrator.search.scheduler import Scheduler
from orchestrator.tracking.recorder import Recorder
from trials.contract import Executor, Recipe, Stage


class Stopped(Exception):
    """The user asked the search to stop. All reports are kept; the search can be resumed."""


def run_search(
    plan: Plan,
    records: SearchRecords,
    executor: Executor,
    recorder: Recorder,
    *,
    task_sizes: Mapping[str, int],
    enqueued: EnqueuedTrials | None = None,
    observe: Callable[[str], None] = lambda stage: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Run the search to its end; a search that was interrupted continues.

    task_sizes: number of examples of each training task, for the trial with size-proportional
    weights. enqueued: configurations that a user adds. observe: called with the stage whenever the
    records have changed. should_stop: called between turns; if it returns true, Stopped is raised.

    Raises SearchFailed if no trial of a stage succeeds.
    """
    searched = SearchTrials(plan, records.search, task_sizes, enqueued)
    # Retraining starts on lanes that the search no longer needs.
    final = RetrainTrials(
        plan, "final", records.final, lambda: finalist_retrainings(plan, searched.ranked_trials)
    )
    scheduler = Scheduler({"search": searched, "final": final}, recorder, executor)
    _run_all(scheduler, executor, observe, should_stop)
    matched = matched_retrainings(plan, searched.ranked_trials, records.final.trials())
    final = RetrainTrials(plan, "final", records.final, lambda: matched)
    _run_all(Scheduler({"final": final}, recorder, executor), executor, observe, should_stop)
    tested = test_runs(plan, searched.ranked_trials, records.final.trials())
    tested = tested if plan.has_test else []
    test = RetrainTrials(plan, "test", records.test, lambda: tested)
    _run_all(Scheduler({"test": test}, recorder, executor), executor, observe, should_stop)


def score_untrained(
    plan: Plan,
    recipe: Recipe,
    stage: Stage,
    record: StudyRecord,
    executor: Executor,
    recorder: Recorder,
) -> None:
    """Score the untrained model once on the episodes of a stage, `final` or `test`.

    recipe: the recipe of the untrained model, see `trials.programs.untrained`; executor: an
    executor for this recipe.
    """
    only = [Retraining(UNTRAINED, 0, untrained=recipe)]
    source = RetrainTrials(plan, stage, record, lambda: only)
    scheduler = Scheduler({stage: source}, recorder, executor)
    _run_all(scheduler, executor, lambda _: None, lambda: False)


def _run_all(
    scheduler: Scheduler,
    executor: Executor,
    observe: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> None:
    """Pass trials to the workers and their turns to the scheduler until all trials have ended."""
    workers: set[int] = set()  # a cluster may grow
    try:
        while True:
            for worker, free in executor.idle().items():
                workers.add(worker)
                if specs := scheduler.admit(free, worker):
                    executor.send_orders(worker, {}, specs)
            if not scheduler.has_trials:
                scheduler.failures.check_end()
                return
            if should_stop():
                raise Stopped
            # All workers are training now, so suggestions can be computed without delaying any.
            scheduler.look_ahead(len(workers) * executor.lanes)
            turn = executor.turn()
            if turn is not None:
                release = scheduler.handle_turn(turn)
                specs = scheduler.admit(turn.free + len(release), turn.worker)
                executor.send_orders(turn.worker, release, specs)
                observe(scheduler.stage)
    except (Stopped, KeyboardInterrupt, FewtuneError):
        scheduler.interrupt_trials()
        raise
    except Exception as error:
        if disk_problem(error):  # perhaps of a node: the disk of the record may have space
            with suppress(OSError):
                scheduler.interrupt_trials()
        raise
