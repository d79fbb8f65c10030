"""The laws of `Executor`, in this process and on Ray."""

import logging
import math
import os
import signal
from collections import deque
from dataclasses import replace

import pytest
from optuna.storages import InMemoryStorage

from fewshot.errors.inputs import InputError
from orchestrator.executors.inline import InlineExecutor, WorkerStates
from orchestrator.executors.kinds import WorkerKind
from orchestrator.search.loop import run_search
from orchestrator.space.search_space import Range, SearchSpace
from orchestrator.space.simplex import Simplex
from tests.orchestrator import toys
from tests.trials.conformance import Story, assert_same_reports, drive, protonet, retried
from tests.trials.double import DOUBLE_MLP, REPORTS
from trials.contract import Component
from trials.errors import WorkerError


def run(executor, specs):
    """Run trials to their ends as a search does; the stories of all, and the turns."""
    waiting, live, turns = deque(specs), {}, []
    stories = {spec.key: Story() for spec in specs}

    def some(n):
        given = [waiting.popleft() for _ in range(min(n, len(waiting)))]
        live.update({spec.key: spec for spec in given})
        return given

    while waiting or live:
        for worker, free in executor.idle().items():
            if given := some(free):
                executor.send_orders(worker, {}, given)
        turn = executor.turn()
        if turn is None:
            continue
        turns.append(turn)
        for result in turn.results:
            stories[result.key].results.append(result)
            del live[result.key]
        for report in turn.reports:
            stories[report.key].reports.append(report)
        release = {r.key: "complete" for r in turn.reports if r.step == live[r.key].rungs[-1]}
        executor.send_orders(turn.worker, release, some(turn.free + len(release)))
    return stories, turns


def wait(executor):
    while (turn := executor.turn()) is None:
        pass
    return turn


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """In float64, because a trial is rounded differently alone and beside another trial."""
    case = protonet(tmp_path_factory.mktemp("data"))
    model = replace(case.recipe.model, name=DOUBLE_MLP)
    return replace(case, recipe=replace(case.recipe, model=model))


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=1,  # so it is told; two workers have to share it
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()


def ray_executor(case, folder, *, workers, lanes):
    from orchestrator.executors.on_ray.ray_actors import RayExecutor

    return RayExecutor(
        [WorkerKind(recipe=case.recipe, count=workers, gpus=1 / workers)],
        lanes=lanes,
        folder=folder,
        cache=case.cache,
    )


def inline_executor(case, folder, *, workers, lanes):
    return InlineExecutor(lambda: case.program(folder, lanes=lanes), workers=workers)


MAKE = {"inline": inline_executor, "ray": ray_executor}
SHAPES = [
    pytest.param((kind, workers), marks=marks, id=f"{kind}-{workers}")
    for kind, marks in (("inline", ()), ("ray", pytest.mark.ray))
    for workers in (1, 2)
]


@pytest.fixture(scope="class", params=SHAPES)
def executor(request, case, tmp_path_factory):
    """One or two workers of two lanes; tests have trials of their own, and end them all."""
    kind, workers = request.param
    if kind == "ray":
        request.getfixturevalue("cluster")
    made = MAKE[kind](case, tmp_path_factory.mktemp(kind), workers=workers, lanes=2)
    yield made
    made.close()


@pytest.fixture
def idle(executor):
    """The workers, all idle before the test and after it."""
    before = executor.idle()
    assert set(before.values()) == {2}
    yield before
    assert executor.idle() == before


class TestEveryExecutor:
    def test_a_worker_with_nothing_to_do_stays_idle(self, executor, idle):
        executor.send_orders(0, {}, [])
        assert executor.idle() == idle
        assert executor.turn() is None

    def test_a_busy_worker_takes_no_orders(self, case, executor, idle):
        spec, other = case.spec(10, rungs=(2,)), case.spec(11)
        executor.send_orders(0, {}, [spec])
        assert executor.idle().keys() == idle.keys() - {0}
        with pytest.raises(ValueError, match="Worker 0 is not idle"):
            executor.send_orders(0, {}, [other])
        turn = wait(executor)
        assert (turn.worker, turn.free) == (0, 1)
        assert executor.idle() == {**idle, 0: 1}
        assert [report.key for report in turn.reports] == [spec.key], "the refused one never ran"
        executor.send_orders(0, {spec.key: "pruned"}, [])
        assert [result.key for result in wait(executor).results] == [spec.key]

    def test_there_is_no_worker_beyond_the_last(self, executor, idle):
        with pytest.raises(ValueError, match=f"Worker {len(idle)}"):
            executor.send_orders(len(idle), {}, [])

    def test_trials_are_released_before_others_are_admitted(self, case, executor, idle):
        worker = max(idle)
        first, second, third, fourth = (case.spec(n, rungs=(1, 2)) for n in range(20, 24))
        executor.send_orders(worker, {}, [first, second])
        assert wait(executor).free == 0
        executor.send_orders(worker, {first.key: "pruned", second.key: "failed"}, [third, fourth])
        turn = wait(executor)
        ended = {(result.key, result.outcome) for result in turn.results}
        assert ended == {(first.key, "pruned"), (second.key, "failed")}
        assert {report.key for report in turn.reports} == {third.key, fourth.key}
        executor.send_orders(worker, {third.key: "pruned", fourth.key: "pruned"}, [])
        assert wait(executor).free == 2

    def test_the_same_specs_give_the_same_reports_and_results(self, case, executor, idle, tmp_path):
        specs = [case.spec(n, rungs=(1, 3 + n % 3)) for n in range(30, 37)]
        stories, turns = run(executor, specs)
        expected = drive(case.program(tmp_path / "alone"), specs)
        for spec in specs:
            found, alone = stories[spec.key], expected[spec.key]
            assert_same_reports(found.reports, alone.reports)
            assert (found.result.outcome, found.result.step) == ("complete", alone.result.step)
            assert os.path.exists(found.result.checkpoint)
            for one, other in zip(found.result.adaptations, alone.result.adaptations, strict=True):
                assert (one.task, one.split) == (other.task, other.split)
                assert one.score == pytest.approx(other.score, rel=REPORTS)
        assert {turn.worker for turn in turns} == idle.keys()
        assert sum(turn.lane_steps for turn in turns) == sum(spec.rungs[-1] for spec in specs)
        assert all(turn.capacity_steps >= turn.lane_steps for turn in turns)
        assert not any(turn.lost for turn in turns)


def first_turn(make, case):
    executor = make(case)
    executor.send_orders(0, {}, [case.spec(0)])
    wait(executor)


@pytest.mark.parametrize("kind", ["inline", pytest.param("ray", marks=pytest.mark.ray)])
class TestAWorkerThatCanNotGoOn:
    """It says why, in the same words wherever it is."""

    @pytest.fixture
    def make(self, kind, request, case, tmp_path):
        made = []
        if kind == "ray":
            request.getfixturevalue("cluster")

        def make(case):
            made.append(MAKE[kind](case, tmp_path / "runs", workers=1, lanes=2))
            return made[-1]

        yield make
        for executor in made:
            executor.close()

    def test_as_it_can_not_be_made(self, case, make):
        nowhere = replace(case.recipe, model=Component(name="nowhere.at:all"))
        broken = replace(case, recipe=nowhere)
        with pytest.raises(InputError, match=r"model.name: is in a module that is not found: now"):
            first_turn(make, broken)

    def test_as_its_folder_is_gone(self, case, make, tmp_path):
        executor = make(case)
        executor.send_orders(0, {}, [case.spec(0, rungs=(1, 2))])
        wait(executor)
        for path in (tmp_path / "runs").iterdir():
            path.unlink()
        (tmp_path / "runs").rmdir()
        executor.send_orders(0, {}, [])
        with pytest.raises(WorkerError, match=r"^Worker 0 can't continue: \w+: .*$") as caught:
            wait(executor)
        assert "checkpoint.py:" in str(caught.value)


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_worker_finds_out_how_many_lanes_there_are_to_be(case, tmp_path):
    found = tmp_path / "process"
    executor = ray_executor(
        case, tmp_path, workers=2, lanes=lambda: found.write_text(str(os.getpid())) and 3
    )
    try:
        assert executor.lanes == 3
        assert executor.idle() == {0: 3, 1: 3}
        assert int(found.read_text()) != os.getpid()
    finally:
        executor.close()


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
class TestLostWorkers:
    @pytest.fixture
    def executor(self, case, tmp_path):
        executor = ray_executor(case, tmp_path, workers=1, lanes=2)
        yield executor
        executor.close()

    @staticmethod
    def process_of(executor, worker):
        import ray

        return ray.get(executor._actors[worker].__ray_call__.remote(lambda self: os.getpid()))

    def test_trials_of_a_killed_worker_go_on_from_their_checkpoints(self, case, executor, tmp_path):
        specs = [case.spec(n, rungs=(4, 400)) for n in range(2)]
        process = self.process_of(executor, 0)
        executor.send_orders(0, {}, specs)
        before = {report.key: report for report in wait(executor).reports}
        executor.send_orders(0, {}, [])
        os.kill(process, signal.SIGKILL)
        turn = wait(executor)
        assert turn.lost == tuple(sorted(spec.key for spec in specs))
        assert (turn.reports, turn.results, turn.free) == ((), (), 2)
        assert executor.idle() == {0: 2}

        executor.send_orders(0, {}, [retried(spec) for spec in specs])
        turn = wait(executor)
        assert {report.key: report for report in turn.reports} == before, "repeated, with times"
        assert turn.lane_steps == 0
        assert self.process_of(executor, 0) != process
        executor.send_orders(0, {}, [])
        turn = wait(executor)
        assert turn.lane_steps == 2 * 396
        assert [report.step for report in turn.reports] == [400, 400]
        assert all(math.isfinite(report.score.mean) for report in turn.reports)

    def test_a_trial_that_was_about_to_end_is_lost_too(self, case, executor):
        ending, going_on, new = (case.spec(n, rungs=(1, 2)) for n in range(3))
        executor.send_orders(0, {}, [ending, going_on])
        wait(executor)
        os.kill(self.process_of(executor, 0), signal.SIGKILL)
        executor.send_orders(0, {ending.key: "pruned"}, [new])
        assert wait(executor).lost == (ending.key, going_on.key, new.key)
        stories, _ = run(executor, [replace(spec, attempt=1) for spec in (ending, going_on, new)])
        assert [story.result.outcome for story in stories.values()] == ["complete"] * 3
        assert [report.step for report in stories[going_on.key].reports] == [1, 2]


def test_a_worker_that_dies_before_it_can_take_orders_loses_nothing():
    states = WorkerStates(1, 2)
    assert states.lost(1, {}, "its node has died").lost == ()
    states.remove(1)
    assert states.idle == {0: 2}
    states.add(1)
    assert states.idle == {0: 2, 1: 2}


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_whole_search_is_the_same_inline_and_on_ray(case, tmp_path):
    """With the real sampler, whose suggestions are made ahead while a worker trains or waits."""
    rates = {case.rate: Range(1e-3, 1e-1, log=True)}
    fixed = {name: value for name, value in case.hyperparameters.items() if name != case.rate}
    simplex = Simplex(case.tasks, (1 / len(case.tasks),) * len(case.tasks))
    plan = toys.plan(
        recipe=case.recipe,
        space=SearchSpace(rates, fixed, simplex),
        rungs=(1, 2, 4),
        trials=24,
    )
    found = []
    for kind in ("inline", "ray"):
        records = toys.records(InMemoryStorage(), plan)
        executor = MAKE[kind](case, tmp_path / kind, workers=1, lanes=3)
        sizes = dict.fromkeys(case.tasks, 10)
        told = toys.Told()
        run_search(plan, records, executor, told, task_sizes=sizes)
        executor.close()
        worker, load = told.loads[0]
        assert worker == 0
        assert load["memory_gib"] > 0.01
        assert "cpu_percent" in load
        found.append([_facts(t) for r in vars(records).values() for t in r.trials()])
    inline, on_ray = found
    assert len(inline) > 24
    for one, other in zip(inline, on_ray, strict=True):
        assert one[:2] == other[:2]
        assert one[2] == pytest.approx(other[2])


def _facts(trial):
    return trial.state, trial.notes["seed"], {**trial.params, **trial.reports}
