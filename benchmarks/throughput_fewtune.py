"""Runs fewtune as its command line does, up to the end of the searched trials."""

import time
from contextlib import suppress
from pathlib import Path

from throughput_course import Course, Limits, Report

from orchestrator.config.plan import plan_of
from orchestrator.config.sections.config import Config
from orchestrator.launch import run
from orchestrator.record.home import Home
from orchestrator.record.identity import identity_of
from orchestrator.record.search_records import SearchRecords
from orchestrator.results.leaderboard import summary_of
from orchestrator.search.loop import Stopped
from orchestrator.tracking import mlflow_client
from orchestrator.tracking.sending import mlflow_sender as tracking
from trials.lanes import checkpoint


def fewtune(config: Config, folder: Path, cache: Path, limits: Limits) -> Course:
    """A search without its finalists, which the other variants do not have.

    Finalists that start on lanes that the last trials have left take time, but are not counted.
    """
    home = Home(folder)
    folder.mkdir(parents=True, exist_ok=True)
    home.cache.symlink_to(cache)
    mlflow_client.connect(home.tracking_uri)
    course = Course(plan_of(config).rungs[-1], config.search.trials)
    seen: set[tuple[int, int]] = set()
    n_told = 0

    def observe(stage: str, records: SearchRecords) -> None:
        nonlocal n_told
        if stage == "data":  # the records do not exist yet
            return
        now, trials = time.time(), records.search.trials()
        for trial in trials:
            for step, score in trial.reports.items():
                if (trial.number, step) not in seen:
                    seen.add((trial.number, step))
                    course.reports.append(Report(now, trial.number, step, score))
            # A worker reports the end of a trial with its next turn; the last rung is earlier.
            if trial.state != "running" or course.last_step in trial.reports:
                course.ended.setdefault(trial.number, now)
        n_told = sum(trial.state != "running" for trial in trials)

    def should_stop() -> bool:
        return n_told == course.planned or course.is_late(limits.seconds)

    with suppress(Stopped):
        run(config, home, observe=observe, should_stop=should_stop)
    own = identity_of(home, config.name)
    assert own is not None, "the search has started"
    recorder = tracking.recorder(home.search(config.name), home.tracking_uri, own.id)
    if recorder.drain(limits.patience):
        course.recorded = time.time()
    recorder.close()
    course.close(limits.seconds)
    course.begin = _begin(home.checkpoints(config.name))
    course.occupancy = summary_of(config.name, home).occupancy
    return course


def _begin(checkpoints: Path) -> float:
    """The start of training: the time of the first report minus its seconds of training.

    The time between the first two reports that was not training is subtracted too. It is at least
    the time of the scoring, so the error of this estimate makes fewtune slower, not faster.
    """
    begun = []
    for path in checkpoints.glob("search-*.safetensors"):
        first, *others = checkpoint.load(path)[2]
        begun.append(first.time - first.seconds)
        for second in others[:1]:  # if there is a second report
            begun[-1] -= second.time - first.time - (second.seconds - first.seconds)
    return min(begun)
