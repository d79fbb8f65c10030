"""The program of one lane around a user's training function."""

import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewshot.errors.inputs import InputError, input_error
from trials.contract import Outcome, Recipe, RungReport, TrainingFunction, TrialResult, TrialSpec
from trials.own_loop.process import ChildProcess, Interrupted, Task, TrialFailed
from trials.own_loop.reports import StoredReport, TrialFolder, adaptations_of, report_of
from trials.own_loop.trial import Trial


def check_function(recipe: Recipe) -> None:
    """Import the training function in a child process; raises InputError if that fails."""
    function = _function(recipe)
    if not Path(function.folder).is_dir():
        raise input_error("path", "must be an existing folder.", function.folder)
    with tempfile.TemporaryDirectory(prefix="fewtune-") as folder:
        process = ChildProcess(Task(function=function), Path(folder) / "log.txt")
        try:
            process.receive(None)
        except TrialFailed as failure:
            raise _import_error(function, failure) from None
        finally:
            process.kill()


class OwnLoop:
    """A `TrialProgram` of one lane; each trial has a child process.

    folder: of all trials of the search. threads: number of threads for OpenMP.
    """

    lanes = 1

    def __init__(self, recipe: Recipe, *, folder: Path, threads: int = 1) -> None:
        self.lane_steps = self.capacity_steps = 0
        self._recipe, self._folder, self._threads = recipe, folder, threads
        self._queue: list[TrialSpec] = []
        self._live: _LiveTrial | None = None
        self._ended: list[TrialResult] = []
        self._interrupted = threading.Event()

    @property
    def free(self) -> int:
        return max(0, 1 - len(self._queue) - (self._live is not None))

    def admit(self, spec: TrialSpec) -> None:
        self._queue.append(spec)

    def advance(self) -> list[RungReport]:
        if self._interrupted.is_set():
            if self._live is not None:
                self._live.kill()
            return []
        if self._live is None and self._queue:
            spec = self._queue.pop(0)
            self._live = _LiveTrial(spec, self._folder, self._threads, self._interrupted)
        if self._live is None:
            return []
        live, before = self._live, self._live.step
        try:
            reports = live.advance()
        except (TrialFailed, InputError) as failure:
            self._live = None
            live.kill()
            self._ended.append(live.failed(failure))
            return []
        except Interrupted:
            live.kill()
            return []
        except BaseException:  # a full disk, or Ctrl-C
            live.kill()
            raise
        if live.trained:
            self.lane_steps += live.step - before
            self.capacity_steps += live.step - before
        return reports

    def interrupt(self) -> None:
        """The process of the trial is killed; the function continues from its last report."""
        self._interrupted.set()

    def ended(self) -> list[TrialResult]:
        ended, self._ended = self._ended, []
        return ended

    def release(self, key: str, outcome: Outcome) -> TrialResult:
        for spec in self._queue:
            if spec.key == key:
                self._queue.remove(spec)
                waiting = _LiveTrial(spec, self._folder, self._threads, self._interrupted)
                return waiting.end(outcome)
        if self._live is None or self._live.spec.key != key:
            raise ValueError(f"No live trial {key!r}.")
        live, self._live = self._live, None
        return live.end(outcome)


@dataclass
class _LiveTrial:
    """A trial with its stored reports, and with its child process while one runs."""

    spec: TrialSpec
    folder: Path
    threads: int
    interrupted: threading.Event
    trained: bool = False  # whether the last call of `advance` trained
    _process: ChildProcess | None = None
    _reports: list[StoredReport] = field(default_factory=list)
    _started: bool = False

    def __post_init__(self) -> None:
        self._own = TrialFolder(self.folder, self.spec.key)

    @property
    def step(self) -> int:
        """The step of the last report; 0 before the first."""
        return self._reports[-1].step if self._reports else 0

    def advance(self) -> list[RungReport]:
        """Repeat the reports of an earlier attempt, or train to the next rung."""
        if self.spec.stage == "test":
            self._reports = [self._tested()]
            return [report_of(self.spec, self._reports[-1])]
        if not self._started:
            self._started = True
            self._reports = self._own.begin(self.spec)
            if self._reports:
                return [report_of(self.spec, stored) for stored in self._reports]
        self.trained = True
        self._reports = [*self._reports, self._trained()]
        self._own.write(self.spec, self._reports)  # before the report is sent, so that none is lost
        return [report_of(self.spec, self._reports[-1])]

    def _tested(self) -> StoredReport:
        """The scores on the test tasks that the retraining of this finalist has yielded."""
        stored = TrialFolder(self.folder, self.spec.initial or "").read()
        if not stored or not stored[-1].test:
            raise TrialFailed(f"the scores of {self.spec.initial} on the test tasks are lost")
        return stored[-1]

    def _trained(self) -> StoredReport:
        """Train to the next rung. At the last rung, also wait until the function has ended."""
        began, before = time.monotonic(), self._reports[-1].seconds if self._reports else 0.0
        timeout = _function(self.spec.recipe).timeout
        if self._process is None:
            self._process = ChildProcess(self._task(), self._own.log, threads=self.threads)
        else:
            self._process.order("go")
        message = self._process.receive(timeout, self.interrupted)
        if message["step"] == self.spec.rungs[-1]:
            self._process.order("go")
            self._process.receive(timeout, self.interrupted)
            self._process.close()
        scores, names = message["scores"], _names(self.spec.recipe)
        final = self.spec.stage == "final"
        return StoredReport(
            step=message["step"],
            scores={task: scores[task] for task in names["validation"]},
            test={task: scores[task] for task in names["test"]} if final else {},
            time=time.time(),
            seconds=before + time.monotonic() - began,
        )

    def _task(self) -> Task:
        spec, names = self.spec, _names(self.spec.recipe)
        assert spec.stage != "test", "tests do not train"
        at_end = [*names["validation"], *(names["test"] if spec.stage == "final" else [])]
        return Task(
            function=_function(spec.recipe),
            trial=Trial(
                number=spec.number,
                stage=spec.stage,
                seed=spec.seed,
                hyperparameters={**spec.hyperparameters, **_of_space(spec)},
                weights=dict(spec.task_weights),
                rungs=spec.rungs,
                steps=spec.rungs[-1],
                folder=self._own.files,
                last_step=self.step,
            ),
            needed=names["validation"],
            needed_at_end=at_end,
            known=names["test"],
        )

    def end(self, outcome: Outcome) -> TrialResult:
        """End the trial: the function is asked to clean up, and killed if it does not."""
        if self._process is not None:
            self._process.order("end")
            self._process.close()
        last = report_of(self.spec, self._reports[-1]) if self._reports else None
        complete = outcome == "complete" and last is not None
        return TrialResult(
            key=self.spec.key,
            outcome=outcome,
            step=self.step,
            adaptations=adaptations_of(self.spec, last) if complete and last else (),
            checkpoint=str(self._own.files),
            time=last.time if last else time.time(),
        )

    def failed(self, failure: TrialFailed | InputError) -> TrialResult:
        """The result of a trial that failed by itself."""
        traceback = failure.traceback if isinstance(failure, TrialFailed) else None
        error = " ".join(str(failure).split())
        return TrialResult(
            key=self.spec.key,
            outcome="failed",
            step=self.step,
            checkpoint=str(self._own.files),
            error=error.rstrip("."),
            traceback=traceback,
            time=time.time(),
        )

    def kill(self) -> None:
        """End the child process at once."""
        if self._process is not None:
            self._process.kill()


def _of_space(spec: TrialSpec) -> dict[str, Any]:
    """The chosen options, without the steps: these are a field of their own."""
    return {name: value for name, value in spec.choices.items() if name != "steps"}


def _function(recipe: Recipe) -> TrainingFunction:
    assert recipe.function is not None, "the recipe is that of an own loop"
    return recipe.function


def _names(recipe: Recipe) -> dict[str, list[str]]:
    return {split: [task.name for task in tasks] for split, tasks in recipe.tasks.items()}


def _import_error(function: TrainingFunction, failure: TrialFailed) -> InputError:
    rule = f"can't be imported: {failure.error}."
    return input_error("program", rule, function.name, failure.traceback or "")
