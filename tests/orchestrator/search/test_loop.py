import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot.metrics import Estimate
from orchestrator.config.plan import Plan
from orchestrator.executors.inline import InlineExecutor
from orchestrator.record.search_records import SearchRecords
from orchestrator.record.studies.study import StudiedTrial, open_storage
from orchestrator.sampling.optuna_samplers import mean_of_best
from orchestrator.sampling.ranked_trials import RankedTrials
from orchestrator.sampling.sampler import Sampler
from orchestrator.search.decisions.trial_sources import SearchTrials, first_trials
from orchestrator.search.failures import SearchFailed
from orchestrator.search.finals.finalists import best_candidate, candidates, mean_score
from orchestrator.search.finals.retrainings import finalist_retrainings
from orchestrator.search.loop import Stopped, run_search
from orchestrator.space.search_space import Range, SearchSpace, Values
from orchestrator.space.simplex import Simplex
from tests.orchestrator import toys
from tests.orchestrator.toys import SIZES, Crash, Crashing, Losing, Told, Toy, skill
from trials.contract import Executor, RungReport, TrialSpec, Turn


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    toys.quick_sampler(monkeypatch)
    monkeypatch.setattr("os.fsync", lambda file: None)  # these processes do not really die


def memory() -> optuna.storages.BaseStorage:
    return optuna.storages.InMemoryStorage()


def run(
    plan: Plan,
    storage: object = None,
    executor: Executor | None = None,
    recorder: Told | None = None,
    **more: object,
) -> SearchRecords:
    records = toys.records(storage or memory(), plan)
    run_search(
        plan,
        records,
        executor or InlineExecutor(Toy),
        recorder or Told(),
        task_sizes=SIZES,
        **more,  # type: ignore[arg-type]
    )
    return records


def ranked_trials(trials: Sequence[StudiedTrial]) -> RankedTrials:
    return RankedTrials(toys.plan().space, toys.plan().rungs, trials)


def states(trials: list[StudiedTrial]) -> Counter[str]:
    return Counter(t.state for t in trials)


def score_with_nan(numbers: set[int], stage: str = "search") -> Callable[[TrialSpec, int], float]:
    def score(spec: TrialSpec, step: int) -> float:
        diverged = spec.stage == stage and spec.number in numbers
        return math.nan if diverged else skill(spec, step)

    return score


# ---- a whole search ---------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "lanes"), [(1, 1), (1, 4), (3, 2), (1, 50)])
def test_every_trial_runs_and_ends_once(workers: int, lanes: int) -> None:
    told = Told()
    executor = InlineExecutor(lambda: Toy(lanes), workers=workers)
    records = run(toys.plan(), executor=executor, recorder=told)
    trials = records.search.trials()
    assert len(trials) == 12
    assert set(states(trials)) <= {"complete", "pruned"}
    # Three finalists, and uniform weights with the rates of the best one.
    assert states(records.final.trials()) == {"complete": 4 * 2}
    assert states(records.test.trials()) == {"complete": 2 * 2}
    assert len(told.starts) == len(set(told.starts)) == 12 + 8 + 4
    assert told.ends().keys() == {key for key, _ in told.starts}


def test_the_first_trials_are_the_reference_then_sizes_and_are_never_stopped() -> None:
    plan = toys.plan(eta=50.0)  # stops all that it can
    records = run(plan, executor=InlineExecutor(lambda: Toy(1)))
    trials = records.search.trials()
    assert [plan.space.is_reference(t.params) for t in trials[:4]] == [True] * 3 + [False]
    weights = plan.space.decode(trials[3].params)[1]
    assert weights == pytest.approx({task: n / 600 for task, n in SIZES.items()})
    assert {t.state for t in trials[:4]} == {"complete"}
    assert "pruned" in {t.state for t in trials[4:]}


def test_tasks_without_sizes_have_no_trial_in_proportion_to_them() -> None:
    made = toys.plan()
    assert first_trials(made, {}) == made.space.rate_design(made.reference_trials, made.seed)


def test_stopped_trials_are_pruned_in_optuna_at_their_last_rung() -> None:
    storage = memory()
    plan = toys.plan()
    records = run(plan, storage)
    study = optuna.load_study(study_name="toy", storage=storage)
    for trial, ours in zip(study.trials, records.search.trials(), strict=True):
        assert (trial.state.name == "PRUNED") == (ours.state == "pruned")
        assert trial.value == ours.reports[max(ours.reports)]
    stopped = [t for t in records.search.trials() if t.state == "pruned"]
    assert stopped
    assert all(max(t.reports) < plan.rungs[-1] for t in stopped)
    assert all("continue" in t.notes["reason"] for t in stopped)


def test_a_trial_that_diverges_fails_alone() -> None:
    storage, told = memory(), Told()
    score = score_with_nan({1, 7})
    records = run(toys.plan(), storage, InlineExecutor(lambda: Toy(4, score)), recorder=told)
    failed = [t for t in records.search.trials() if t.state == "failed"]
    assert [t.number for t in failed] == [1, 7]
    assert {len(t.reports) for t in failed} == {1}
    assert told.ends()["search-0007"] == ("failed", "diverged")
    study = optuna.load_study(study_name="toy", storage=storage)
    assert [t.number for t in study.trials if t.state.name == "FAIL"] == [1, 7]
    assert len(records.search.trials()) == 12
    assert states(records.final.trials()) == {"complete": 8}


def test_what_is_noted_of_a_trial_is_enough_to_run_it_again() -> None:
    plan = toys.plan()
    for trial in run(plan).search.trials():
        hyperparameters, weights = plan.space.decode(trial.params)
        assert trial.notes["hyperparameters"] == hyperparameters
        assert trial.notes["task_weights"] == weights
        assert trial.notes["seed"] == plan.spec(trial.number, hyperparameters, weights).seed
        if trial.state == "complete":
            assert trial.notes["tasks"].keys() == set(toys.HELD_OUT)


def test_the_recorder_hears_what_the_record_keeps() -> None:
    told = Told()
    records = run(toys.plan(), recorder=told)
    for trial in records.search.trials():
        key = f"search-{trial.number:04d}"
        assert told.ends()[key][0] == trial.state
        heard = {k[2]: v for k, v in told.events.items() if k[:2] == ("reported", key)}
        assert heard == trial.reports


def test_occupancy_is_the_share_of_lane_steps() -> None:
    toy = Toy(4)
    records = run(toys.plan(), executor=InlineExecutor(lambda: toy))
    every = (records.search, records.final, records.test)
    steps = [r.notes["steps"] for r in every if "steps" in r.notes]
    assert sum(s[0] for s in steps) == toy.lane_steps
    assert sum(s[1] for s in steps) == toy.capacity_steps
    assert 0 < toy.lane_steps < toy.capacity_steps


def test_the_observer_is_called_in_every_stage() -> None:
    seen: list[str] = []
    run(toys.plan(), observe=seen.append)
    assert list(dict.fromkeys(seen)) == ["search", "final", "test"]


def test_with_the_sampler_itself_the_good_weights_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    plan = toys.plan(trials=20, finalists=1)
    records = run(plan)
    best = records.test.trials()[0]
    assert best.notes["role"] == "searched"
    assert best.notes["task_weights"]["clean"] > 0.6
    assert best.notes["task_weights"]["noise"] < 0.15


# ---- failures ---------------------------------------------------------------------------------


def raising(
    why: Callable[[TrialSpec, int], str | None], then: Callable[[TrialSpec, int], float] = skill
) -> Callable[[TrialSpec, int], float]:
    """A score that raises with the message of `why`, if that has one for a trial at a step."""

    def score(spec: TrialSpec, step: int) -> float:
        if message := why(spec, step):
            raise ArithmeticError(message)
        return then(spec, step)

    return score


def given_up(
    score: Callable[[TrialSpec, int], float], lanes: int = 4, workers: int = 1, **changes: object
) -> tuple[str, SearchRecords, Told]:
    """What a search says that gives up, and what it leaves."""
    plan, told = toys.plan(**changes), Told()
    records = toys.records(memory(), plan)
    executor = InlineExecutor(lambda: Toy(lanes, score), workers=workers)
    with pytest.raises(SearchFailed) as caught:
        run_search(plan, records, executor, told, task_sizes=SIZES)
    return str(caught.value), records, told


def test_a_trial_that_raises_fails_alone_and_keeps_its_reason() -> None:
    told = Told()
    broken = {"search-0001", "search-0007"}
    score = raising(lambda spec, step: "boom" if spec.key in broken else None)
    records = run(toys.plan(), executor=InlineExecutor(lambda: Toy(4, score)), recorder=told)
    failed = [t for t in records.search.trials() if t.state == "failed"]
    assert [t.number for t in failed] == [1, 7]
    for trial in failed:
        assert trial.notes["reason"].startswith(f"ArithmeticError: boom ({__file__}:")
        assert trial.reports == {}
    assert told.ends()["search-0007"] == ("failed", failed[1].notes["reason"])
    assert "Traceback" in told.tracebacks["search-0007"]
    assert len(records.search.trials()) == 12
    assert states(records.final.trials()) == {"complete": 8}


@pytest.mark.parametrize(("workers", "lanes", "n"), [(1, 1, 3), (1, 4, 4), (1, 2, 4), (2, 3, 6)])
def test_a_search_gives_up_after_three_failures_of_one_kind(
    workers: int, lanes: int, n: int
) -> None:
    score = raising(lambda spec, step: f"singular at {spec.number / 7}")
    said, records, told = given_up(score, lanes, workers)
    assert states(records.search.trials())["failed"] == n
    assert f"{n} trials failed for the same reason" in said
    assert f"ArithmeticError: singular at 0.0 ({__file__}:" in said
    assert "description of the run search-0000" in said
    assert "\n" not in said
    running = {t.number for t in records.search.trials() if t.state == "running"}
    left = {int(key[1][-4:]) for key in told.events if key[0] == "interrupted"}
    assert left == running


def test_the_untrained_models_score_is_no_success_of_a_trial() -> None:
    records = toys.records(memory(), toys.plan())
    records.final.ask({}, {"candidate": None, "role": "untrained", "seed_index": 0})
    records.final.report(0, 0, 0.5)
    records.final.finish(0, "complete", 0.5, {})
    executor = InlineExecutor(lambda: Toy(4, raising(lambda spec, step: "boom")))
    with pytest.raises(SearchFailed, match="4 trials failed"):
        run_search(toys.plan(), records, executor, Told(), task_sizes=SIZES)


def test_a_search_gives_up_where_the_first_three_diverge() -> None:
    said, records, _ = given_up(score_with_nan({*range(12)}), lanes=1)
    assert states(records.search.trials()) == {"failed": 3, "running": 1}
    assert "3 trials failed for the same reason, and none has a score: diverged." in said
    assert "not finite" in said


def test_a_search_goes_on_after_three_failures_if_one_trial_has_a_score() -> None:
    score = raising(lambda spec, step: "boom" if spec.number < 11 and step > 3 else None)
    records = run(toys.plan(), executor=InlineExecutor(lambda: Toy(1, score)))
    assert states(records.search.trials())["failed"] >= 3
    score = raising(lambda spec, step: "boom" if spec.number < 3 else None)
    records = run(toys.plan(), executor=InlineExecutor(lambda: Toy(4, score)))
    assert states(records.search.trials())["failed"] == 3


def test_a_search_waits_for_the_trials_that_still_run() -> None:
    """Three fail on the first of two workers, before the second has said anything."""
    score = raising(lambda spec, step: "boom" if spec.number < 3 else None)
    records = run(toys.plan(), executor=InlineExecutor(lambda: Toy(3, score), workers=2))
    assert states(records.search.trials())["failed"] == 3


def test_a_search_in_which_all_trials_fail_counts_the_reasons() -> None:
    reasons = ("boom", "bang", None)
    score = raising(lambda spec, step: reasons[spec.number % 3], score_with_nan({*range(12)}))
    said, records, _ = given_up(score, trials=6, lanes=6)
    assert states(records.search.trials()) == {"failed": 6}
    assert said.startswith("All 6 trials failed. 2 of them: ArithmeticError: boom")
    assert "; 2 of them: ArithmeticError: bang" in said
    assert "; 2 of them: diverged." in said
    assert records.final.trials() == records.test.trials() == []


@pytest.mark.parametrize(("stage", "what"), [("final", "retrainings of f"), ("test", "tests")])
def test_a_search_whose_last_stages_fail_has_failed(stage: str, what: str) -> None:
    said, records, _ = given_up(raising(lambda spec, step: "b" if spec.stage == stage else None))
    assert (f"{what}" in said) or "4 trials failed" in said
    assert f"the run {stage}-0000" in said
    assert set(states(records.search.trials())) <= {"complete", "pruned"}


def test_a_search_that_gave_up_can_be_taken_up_when_it_is_mended(tmp_path: Path) -> None:
    plan, path = toys.plan(), str(tmp_path / "toy.journal")
    score = raising(lambda spec, step: "boom")
    for n in (4, 8):  # it gives up again, if nothing was mended
        with open_storage(path) as storage, pytest.raises(SearchFailed):
            run(plan, storage, InlineExecutor(lambda: Toy(4, score)))
        with open_storage(path) as storage:
            assert states(toys.records(storage, plan).search.trials())["failed"] == n
    with open_storage(path) as storage:
        records = run(plan, storage)
    assert states(records.search.trials())["failed"] == 8
    assert states(records.final.trials())["complete"] > 0


# ---- finalists and tests ----------------------------------------------------------------------


def test_finalists_are_the_best_and_the_reference_with_paired_seeds() -> None:
    plan = toys.plan()
    records = run(plan)
    complete = [t for t in records.search.trials() if t.state == "complete"]
    ranked = sorted(complete, key=lambda t: -t.score)
    others = [t.number for t in ranked if not plan.space.is_reference(t.params)]
    references = [t.number for t in ranked if plan.space.is_reference(t.params)]
    finalist_retrainings = records.final.trials()
    keys = [(t.notes["role"], t.notes["candidate"]) for t in finalist_retrainings]
    found = list(dict.fromkeys(keys))
    best = best_candidate(finalist_retrainings, "searched")
    assert found[0] == ("uniform", references[0])
    assert sorted(found[1:3]) == sorted(("searched", n) for n in others[:2])
    assert found[3:] == [("uniform", best)]  # with its rates
    seeds = {
        one: [
            t.notes["seed"] for t, key in zip(finalist_retrainings, keys, strict=True) if key == one
        ]
        for one in found
    }
    assert len({tuple(s) for s in seeds.values()}) == 1
    assert len(set(seeds[found[0]])) == plan.seeds
    assert not set(seeds[found[0]]) & {t.notes["seed"] for t in records.search.trials()}


def test_only_the_best_candidate_and_the_reference_see_the_test_tasks() -> None:
    plan = toys.plan(finalists=3)
    records = run(plan)
    finalist_retrainings, tests = records.final.trials(), records.test.trials()
    means: dict[int, list[float]] = {}
    for t in finalist_retrainings:
        if t.notes["role"] == "searched":
            means.setdefault(t.notes["candidate"], []).append(t.score)
    candidate = max(means, key=lambda n: sum(means[n]))
    reference = best_candidate(finalist_retrainings, "uniform")
    assert [t.notes["candidate"] for t in tests] == [candidate] * 2 + [reference] * 2
    assert [t.notes["role"] for t in tests] == ["searched"] * 2 + ["uniform"] * 2
    assert [t.notes["seed_index"] for t in tests] == [0, 1, 0, 1]


def test_a_test_starts_from_where_its_final_ended() -> None:
    specs: list[TrialSpec] = []

    class Watching(Toy):
        def admit(self, spec: TrialSpec) -> None:
            specs.append(spec)
            super().admit(spec)

    run(toys.plan(), executor=InlineExecutor(Watching))
    finalist_retrainings = {s.key: s for s in specs if s.stage == "final"}
    tests = [s for s in specs if s.stage == "test"]
    assert len(tests) == 4
    for spec in tests:
        final = finalist_retrainings[spec.initial or ""]
        assert replace(spec, stage="final", number=final.number, initial=None) == final


def test_a_final_that_diverged_rules_its_candidate_out() -> None:
    plan = toys.plan()
    unharmed = run(plan)
    winner = unharmed.test.trials()[0].notes["candidate"]
    first = next(t.number for t in unharmed.final.trials() if t.notes["candidate"] == winner)
    score = score_with_nan({first}, "final")
    records = run(plan, executor=InlineExecutor(lambda: Toy(4, score)))
    assert states(records.final.trials()) == {"complete": 7, "failed": 1}
    shown = {(t.notes["role"], t.notes["candidate"]) for t in records.test.trials()}
    assert ("searched", winner) not in shown
    assert len(shown) == 2


def test_there_is_no_best_candidate_where_all_diverged() -> None:
    notes = {"candidate": 3, "role": "searched"}
    failed = StudiedTrial(0, "failed", {}, {10: math.nan}, notes)
    complete = StudiedTrial(1, "complete", {}, {10: 0.5}, notes)
    assert best_candidate([failed, complete], "searched") is None
    assert best_candidate([complete], "searched") == 3
    assert best_candidate([complete], "uniform") is None
    assert best_candidate([], "searched") is None


def test_without_a_reference_the_best_is_tested_alone() -> None:
    space = SearchSpace({"lr/outer": Range(1e-4, 1e-1, log=True)}, {}, dict.fromkeys(SIZES, 1 / 3))
    records = run(toys.plan(space=space))
    assert {t.notes["role"] for t in records.final.trials()} == {"searched"}
    assert len({t.notes["candidate"] for t in records.test.trials()}) == 1


def test_the_first_trials_include_a_prior_that_is_not_uniform() -> None:
    simplex = Simplex(toys.TASKS, (0.6, 0.2, 0.2), zero_below=0.05)
    space = SearchSpace({"lr/outer": Range(1e-4, 1e-1, log=True)}, {}, simplex)
    first = first_trials(toys.plan(space=space), dict.fromkeys(toys.TASKS, 10))
    assert len(first) == 3 + 1  # equal sizes are the reference itself
    assert space.decode(first[3])[1] == pytest.approx({"clean": 0.6, "mixed": 0.2, "noise": 0.2})


def test_the_first_trials_are_no_more_than_there_are_trials() -> None:
    assert len(first_trials(toys.plan(trials=2), SIZES)) == 2


def test_finals_of_nothing_are_none() -> None:
    assert finalist_retrainings(toys.plan(), ranked_trials([])) == []
    params = toys.plan().space.reference() | {"lr/outer": 0.01}
    ended = StudiedTrial(0, "complete", params, {10: 0.5}, {})
    assert [
        r.seed_index for r in finalist_retrainings(toys.plan(seeds=4), ranked_trials([ended]))
    ] == [0, 1, 2, 3]


# ---- ahead and early ------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "lanes"), [(1, 1), (1, 4), (2, 3)])
def test_a_worker_waits_for_suggestions_only_if_more_than_half_of_all_lanes_are_free(
    monkeypatch: pytest.MonkeyPatch, workers: int, lanes: int
) -> None:
    waiting, late, ahead = set(), [], []

    class Watching(InlineExecutor):
        def turn(self) -> Turn | None:
            turn = super().turn()
            waiting.update([] if turn is None else [turn.worker])
            return turn

        def send_orders(self, worker, release, admit) -> None:
            assert not late or len(admit) > workers * lanes / 2
            late.clear()
            waiting.discard(worker)
            super().send_orders(worker, release, admit)

    def suggest(sampler, trials, unused, n=1):
        (late if waiting else ahead).append(n)
        return toys.quick_suggest(sampler, trials, unused, n)

    monkeypatch.setattr("orchestrator.sampling.sampler.Sampler.suggest", suggest)
    run(toys.plan(trials=30), executor=Watching(lambda: Toy(lanes), workers=workers))
    assert len(ahead) > 10


def test_suggestions_know_all_that_was_reported_before_the_workers_went_on(monkeypatch) -> None:
    reports, seen = [0], []

    class Counting(InlineExecutor):
        def turn(self) -> Turn | None:
            turn = super().turn()
            reports[0] += 0 if turn is None else len(turn.reports)
            return turn

    def suggest(sampler, trials, unused, n=1):
        assert [t.number for t in trials.trials] == list(range(len(trials.trials)))
        assert sum(len(t.reports) for t in trials.trials) == reports[0]
        seen.append(len(trials.trials) + len(unused))
        return toys.quick_suggest(sampler, trials, unused, n)

    monkeypatch.setattr("orchestrator.sampling.sampler.Sampler.suggest", suggest)
    run(toys.plan(trials=20), executor=Counting(lambda: Toy(4)))
    assert max(seen) < 20


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["complete", "running"]), st.floats(0, 1), st.booleans()),
        max_size=9,
    ),
    st.randoms(),
)
def test_a_candidate_that_is_sure_is_one_in_the_end(trials, random) -> None:
    space = toys.plan().space
    reference = space.reference() | {"lr/outer": 0.01}
    other = reference | {"lambda.ilr1": 0.5}
    now = [
        StudiedTrial(i, state, reference if first else other, {10: score}, {})
        for i, (state, score, first) in enumerate(trials)
    ]
    then = [
        replace(t, state="complete", reports={10: random.random()}) if t.state == "running" else t
        for t in now
    ]
    assert set(_numbers(now)) <= set(_numbers(then))
    if not any(t.state == "running" for t in now):
        assert _numbers(now) == _numbers(then)


def _numbers(trials: list[StudiedTrial]) -> list[int]:
    return [c.number for c in candidates(ranked_trials(trials), 3)]


def test_finals_begin_while_the_search_is_running_out() -> None:
    turns: list[set[str]] = []

    class Watching(InlineExecutor):
        def turn(self) -> Turn | None:
            turns.append({key.partition("-")[0] for key in self._roster._held[0]})
            return super().turn()

    run(toys.plan(), executor=Watching(lambda: Toy(4)))
    assert {"search", "final"} in turns


# ---- crashes, stops, losses -------------------------------------------------------------------


def outcome(records: SearchRecords) -> list[tuple[int, str, int]]:
    return [(t.number, t.state, len(t.reports)) for t in records.search.trials()]


def whole_after(storage: str, plan: Plan, told: Told) -> None:
    """The search is taken up in a fresh process, so to speak, and comes to its end."""
    with open_storage(storage) as again:
        records = run(plan, again, recorder=told)
    assert len(records.search.trials()) == plan.trials
    assert set(states(records.search.trials())) <= {"complete", "pruned"}
    assert states(records.final.trials()) == {"complete": 8}
    assert states(records.test.trials()) == {"complete": 4}
    started = {key for key, _ in told.starts}
    assert len(started) == 12 + 8 + 4
    assert told.ends().keys() == started
    # An attempt is never given twice.
    assert len(set(told.starts)) == len(told.starts)


@pytest.mark.parametrize("late", [False, True])
def test_a_search_that_crashed_at_any_turn_is_taken_up_to_its_end(
    tmp_path: Path, late: bool
) -> None:
    plan = toys.plan()
    turns = 0
    for k in range(int(late), 100, 2):
        path, told = str(tmp_path / f"{k}.journal"), Told()
        try:
            with open_storage(path) as storage:
                run(plan, storage, Crashing(lambda: Toy(3), k, late=late), told)
        except Crash:
            whole_after(path, plan, told)
            turns += 1
        else:
            break
    assert turns > 5


def test_a_search_that_crashed_between_any_two_things_it_said_is_taken_up(tmp_path: Path) -> None:
    plan = toys.plan()
    whole = Told()
    run(plan, recorder=whole, executor=InlineExecutor(lambda: Toy(3)))
    for k in range(0, whole.calls, 7):
        path, told = str(tmp_path / f"{k}.journal"), Told(crash_at=k)
        with pytest.raises(Crash), open_storage(path) as storage:
            run(plan, storage, InlineExecutor(lambda: Toy(3)), told)
        told.crash_at = None
        whole_after(path, plan, told)


def test_wherever_the_journal_ends_the_search_is_taken_up_to_the_same_counts(
    tmp_path: Path,
) -> None:
    plan, whole, cut = toys.plan(), tmp_path / "whole.journal", tmp_path / "cut.journal"
    with open_storage(str(whole)) as storage:
        run(plan, storage, InlineExecutor(lambda: Toy(3)))
    lines = whole.read_bytes().splitlines(keepends=True)
    for n in range(0, len(lines), 11):
        cut.write_bytes(b"".join(lines[:n]))
        with open_storage(str(cut)) as storage:
            records = run(plan, storage, InlineExecutor(lambda: Toy(3)))
        assert len(records.search) == plan.trials
        assert set(states(records.search.trials())) <= {"complete", "pruned"}
        assert states(records.final.trials()) == {"complete": 8}
        assert states(records.test.trials()) == {"complete": 4}
        seeds = Counter((t.notes["role"], t.notes["candidate"]) for t in records.final.trials())
        assert set(seeds.values()) == {plan.seeds}


def test_the_study_has_the_skill_on_each_validation_task_at_each_rung(tmp_path: Path) -> None:
    plan, path, told = toys.plan(), str(tmp_path / "toy.journal"), Told()
    with pytest.raises(Crash), open_storage(path) as storage:
        run(plan, storage, Crashing(lambda: Toy(3), 5), told)
    with open_storage(path) as storage:
        trials = run(plan, storage, InlineExecutor(lambda: Toy(3)), told).search.trials()
    assert any(t.notes.get("attempt") for t in trials)
    for trial in trials:
        skills = trial.notes["rung_skills"]
        assert set(skills) == set(toys.HELD_OUT)
        means = [sum(row) / 2 for row in zip(*skills.values(), strict=True)]
        assert means == pytest.approx([trial.reports[s] for s in sorted(trial.reports)], abs=1e-5)


def test_a_skill_that_is_not_a_number_is_null(tmp_path: Path) -> None:
    def score(spec: TrialSpec, step: int) -> float:
        return math.nan if spec.number == 5 and step == 6 else skill(spec, step)

    records = run(toys.plan(eta=1.0001), executor=InlineExecutor(lambda: Toy(3, score)))
    failed = records.search[5]
    assert failed.state == "failed"
    first, second = failed.notes["rung_skills"]["angelic"]
    assert first == pytest.approx(failed.reports[3] - 0.01, abs=1e-5)
    assert second is None


def test_a_search_can_crash_again_and_again(tmp_path: Path) -> None:
    plan, told, crashes = toys.plan(), Told(), 0
    path = str(tmp_path / "toy.journal")
    for _ in range(30):
        try:
            with open_storage(path) as storage:
                records = run(plan, storage, Crashing(lambda: Toy(3), 4), told)
            break
        except Crash:
            crashes += 1
    assert crashes >= 3
    assert len(records.search.trials()) == 12
    assert told.ends().keys() == {key for key, _ in told.starts}


def test_a_stopped_search_can_be_taken_up(tmp_path: Path) -> None:
    plan, told = toys.plan(), Told()
    path = str(tmp_path / "toy.journal")
    asked = iter([False] * 4 + [True])
    with open_storage(path) as storage:
        with pytest.raises(Stopped):
            run(plan, storage, recorder=told, should_stop=lambda: next(asked))
        left = states(toys.records(storage, plan).search.trials())
    # Those on the four lanes, and those that were told to end and have not said so yet.
    assert 0 < left["running"] <= 2 * 4
    whole_after(path, plan, told)


@pytest.mark.parametrize("why", [Stopped, KeyboardInterrupt])
def test_the_recorder_hears_which_trials_a_search_leaves_behind(why: type[BaseException]) -> None:
    asked, told = iter([False] * 4), Told()

    def should_stop() -> bool:
        if next(asked, True):
            raise why
        return False

    records = toys.records(memory(), toys.plan())
    with pytest.raises(why):
        run_search(
            toys.plan(),
            records,
            InlineExecutor(Toy),
            told,
            task_sizes=SIZES,
            should_stop=should_stop,
        )
    left = [t.number for t in records.search.trials() if t.state == "running"]
    assert left
    said = {key[1] for key in told.events if key[0] == "interrupted"}
    assert said == {f"search-{number:04d}" for number in left}


def test_a_complete_search_that_is_run_again_runs_nothing(tmp_path: Path) -> None:
    plan, path = toys.plan(), str(tmp_path / "toy.journal")
    with open_storage(path) as storage:
        before = outcome(run(plan, storage))
    told = Told()
    with open_storage(path) as storage:
        assert outcome(run(plan, storage, recorder=told)) == before
    assert told.calls == 0


def test_the_trials_of_a_lost_worker_are_begun_again_as_the_next_attempt() -> None:
    told, plan = Told(), toys.plan()
    records = run(plan, executor=Losing(lambda: Toy(3), at=[3]), recorder=told)
    again = sorted(key for key, attempt in told.starts if attempt == 1)
    assert 1 <= len(again) <= 6
    assert len(told.starts) == 24 + len(again)
    assert set(states(records.search.trials())) <= {"complete", "pruned"}
    notes = {f"search-{t.number:04d}": t.notes for t in records.search.trials()}
    assert {notes[key]["attempt"] for key in again} == {1}


def test_losses_do_not_change_what_the_trials_score() -> None:
    plan = toys.plan(eta=1.0001)  # stops none, as who is stopped depends on who came first
    calm = run(plan, executor=InlineExecutor(lambda: Toy(3)))
    harried = run(plan, executor=Losing(lambda: Toy(3), at=[2, 5, 9]))
    assert [t.reports for t in harried.search.trials()] == [t.reports for t in calm.search.trials()]


def test_driver_crashes_do_not_use_up_the_losses_of_a_trial(tmp_path: Path) -> None:
    plan, told = toys.plan(), Told()
    path = str(tmp_path / "toy.journal")
    for _ in range(6):
        with pytest.raises(Crash), open_storage(path) as storage:
            run(plan, storage, Crashing(lambda: Toy(3), 0), told)
    with open_storage(path) as storage:
        records = run(plan, storage, Losing(lambda: Toy(3), at=[1]), told)
    assert records.search.trials()[0].notes["attempt"] == 7
    assert len(set(told.starts)) == len(told.starts)


def test_trials_that_reach_a_rung_together_are_judged_the_same_in_any_order(tmp_path):
    plan = toys.plan(trials=20)
    reports = [_at_first_rung(plan, 10 + i, score=i / 6) for i in range(6)]
    judged = []
    for order in (reports, reports[::-1]):
        with open_storage(str(tmp_path / f"{len(judged)}.journal")) as storage:
            record = toys.records(storage, plan).search
            for _ in range(16):
                record.ask(plan.space.complete({"lambda.ilr1": 1.0}))
            judged.append(SearchTrials(plan, record, toys.SIZES).decide(order))
    assert judged[0] == judged[1]
    outcomes = [judged[0][report.key].outcome for report in reports]
    assert outcomes == ["pruned"] * 3 + [None] * 3


def _at_first_rung(plan, number, score):
    return RungReport(
        key=f"search-{number:04d}",
        step=plan.rungs[0],
        score=Estimate(score, 0.01, 10),
        per_task={},
        metrics={},
        time=0.0,
        seconds=0.0,
        lane_seconds=0.0,
    )


def test_the_last_two_trials_are_where_the_sampler_expects_most(monkeypatch) -> None:
    left_of: list[int] = []

    def last(sampler: Sampler, trials: RankedTrials, left: int) -> Values:
        left_of.append(left)
        return trials.trials[-left].params | {"lr/outer": 0.05}

    monkeypatch.setattr(Sampler, "last", last)
    trials = run(toys.plan(trials=30)).search.trials()
    assert left_of == [2, 1]
    assert [t.params["lr/outer"] == 0.05 for t in trials[26:]] == [False, False, True, True]


def test_with_a_sampler_of_optuna_the_last_two_are_the_means_of_the_best_eight_and_four() -> None:
    plan = toys.plan(trials=30, eta=1.2, sampler="random")  # of which most are complete
    trials = run(plan, executor=InlineExecutor(lambda: Toy(1))).search.trials()
    for last, n in ((28, 8), (29, 4)):
        # The one before it still runs when it is asked for.
        known = mean_of_best(ranked_trials(trials[: last - 1]), plan.space, n)
        assert known is not None
        assert trials[last].params == known


def test_there_are_no_means_before_enough_trials_are_complete() -> None:
    plan = toys.plan(trials=12, sampler="random")
    trials = run(plan, executor=InlineExecutor(lambda: Toy(1))).search.trials()
    assert len(trials) == 12
    assert mean_of_best(ranked_trials(trials[:10]), plan.space, 8) is None


# ---- the reference with the rates of the best candidate ---------------------------------------


def test_uniform_weights_are_retrained_with_the_rates_of_the_best_candidate() -> None:
    plan = toys.plan()
    records = run(plan)
    finals = records.final.trials()
    best = best_candidate(finals, "searched")
    assert best is not None
    rates = records.search[best].notes["hyperparameters"]
    own = [t for t in finals if (t.notes["role"], t.notes["candidate"]) == ("uniform", best)]
    assert len(own) == plan.seeds
    for trial in own:
        assert trial.notes["hyperparameters"] == rates
        assert list(trial.notes["task_weights"].values()) == pytest.approx([1 / 3] * 3)


def test_weights_without_effect_are_not_called_better() -> None:
    """All of the gain comes from the rate, which the reference has too in the end."""

    def only_the_rate(spec: TrialSpec, step: int) -> float:
        return (
            0.5 - 0.1 * abs(math.log(spec.hyperparameters["lr/outer"] / 0.0123)) - 1 / (10 + step)
        )

    executor = InlineExecutor(lambda: Toy(4, only_the_rate))
    records = run(toys.plan(trials=30), executor=executor)
    finals = records.final.trials()
    best, uniform = (best_candidate(finals, role) for role in ("searched", "uniform"))
    assert uniform == best
    scores = [mean_score(finals, role, best) for role in ("searched", "uniform")]
    assert scores[0] == pytest.approx(scores[1])


def test_a_reference_without_rates_needs_no_other() -> None:
    simplex = Simplex(toys.TASKS, (1 / 3,) * 3, zero_below=0.05)
    records = run(toys.plan(space=SearchSpace({}, {"lr/outer": 0.01}, simplex)))
    assert states(records.final.trials()) == {"complete": 6}
