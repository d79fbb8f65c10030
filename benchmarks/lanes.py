"""Measures training steps per second against the number of lanes.

    python benchmarks/lanes.py [PROBLEM ..] [--quick] [--eager] [--threads N] [--json FILE]

Each problem is the config of a search. One trial of it is trained in 1, 4, 16, .. lanes, until four
times as many lanes save less than a tenth of the CPU time (--most: the maximum). Scoring is not
included. Steps per second are wall-clock figures; the CPU time is that of this process, which other
load disturbs less. `product_share` is the time of a step's matrix products, run alone, as a share
of the time of the step; the rest is overhead. On a GPU the operands are in the cache, so the share
is a lower bound. --eager: the gradient is not captured (docs/adr/0007).

The problem `lora_minilm` compares LoRA in lanes with full fine-tuning instead, see lanes_lora.py.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import lanes_lora
import torch
from lanes_products import Products, cost
from tidy import Row, row, show, write

from fewshot.metrics import estimate
from orchestrator.config.loading import load_config
from orchestrator.config.plan import plan_of
from orchestrator.record.home import Home
from orchestrator.search.forecast import first_spec
from trials.contract import TrialSpec
from trials.lanes import memory
from trials.lanes.lanes import Lanes
from trials.lanes.step import capture
from trials.programs.build import programs
from trials.programs.data_summary import summarise_data

CONFIGS = Path(__file__).parent.parent / "configs"
CONV = "model={name: conv, width: 32, blocks: 3}"
# Each problem is a config with overrides; those in QUICK need no data.
PROBLEMS: dict[str, tuple[str, list[str]]] = {
    "maml_functions": ("functions", []),
    "protonet_glyphs_mlp": ("quickstart", []),
    "protonet_glyphs_conv": ("quickstart", [CONV]),
    "protonet_omniglot_mlp": ("omniglot", []),
    "protonet_omniglot_conv": ("omniglot", [CONV]),
    "head_minilm": ("intents", ["model={name: mlp, hidden: [], n_out: 32}"]),
}
LORA = "lora_minilm"
QUICK = ["maml_functions", "protonet_glyphs_mlp", "protonet_glyphs_conv"]
# The minimum number of timed steps, and the number of warm-up steps, after which all captures are
# done. On a GPU a step is short, and draws (of sixteen steps each) are captured too.
STEPS = {"cpu": 3, "cuda": 256}
WARM = {"cpu": 2 * capture.WORTH, "cuda": 40 * capture.WORTH}


def main() -> None:
    options = _options()
    chosen = options.problem or (QUICK if options.quick else list(PROBLEMS))
    most = options.most or (16 if options.quick else 1024)
    if options.eager:
        capture.WORTH = sys.maxsize
    rows: list[Row] = []
    for problem in chosen:
        measured = (
            lanes_lora.measured(options.seeds)
            if problem == LORA
            else throughput(problem, options.seeds, most, options.threads)
        )
        for one in measured:
            show([one])
            rows.append(one)
    if options.json:
        write(options.json, rows, ["torch"])


def throughput(problem: str, seeds: int, most: int, threads: int) -> Iterator[Row]:
    """Lane-steps per second and the cost of each, for increasing numbers of lanes."""
    name, changes = PROBLEMS[problem]
    config, home = load_config(CONFIGS / f"{name}.yaml", changes), Home.at(None)
    plan = plan_of(config)
    recipe = replace(plan.recipe, validation_episodes=1)
    program = programs(recipe, home.cache, threads)
    spec = replace(first_spec(plan, summarise_data(plan.recipe, home.cache)), recipe=recipe)
    measure(program, spec, 1)  # warm-up: loads data and libraries
    lanes, before = 1, 0.0
    while lanes <= most:
        measured = [measure(program, spec, lanes) for _ in range(seeds)]
        per_second, cpu, peak, products, flops = torch.tensor(measured).double().unbind(1)
        found = {
            "steps_per_second": per_second,
            "cpu_ms_per_step": 1000 * cpu,
            "peak_bytes": peak,
            "product_share": products,
            "gflop_per_second": flops / 1e9,
        }
        for metric, values in found.items():
            yield row("lanes", problem, f"lanes_{lanes}", metric, estimate(values))
        on_gpu = program.keywords["device"].type == "cuda"
        rate = (per_second.mean() if on_gpu else 1 / cpu.mean()).item()
        if rate < 1.1 * before:
            return
        lanes, before = 4 * lanes, rate


def measure(program: partial[Lanes], spec: TrialSpec, lanes: int) -> tuple[float, ...]:
    """Lane-steps per second, CPU seconds per lane-step, peak bytes without the inputs, the share of
    time in matrix products, and floating-point operations of products per second."""
    device: torch.device = program.keywords["device"]
    steps, warm = max(STEPS[device.type], 32 // lanes), WARM[device.type]
    with tempfile.TemporaryDirectory(prefix="fewtune-") as folder:
        before = memory.peak(device, reset=True)
        training = program(lanes=lanes, folder=Path(folder))
        for number in range(lanes):
            rungs = (0, 1, 1 + warm, 2 + warm, 3 + warm + steps)
            training.admit(replace(spec, number=number, rungs=rungs))
        with Products() as scored:
            training.advance()
        with Products() as stepped:
            training.advance()
        training.advance()  # the first steps allocate memory and are captured
        begun = time.process_time()
        short = training.advance()[0].seconds
        between = time.process_time()
        long = training.advance()[0].seconds
        # Both were scored and saved once, so the difference is the steps of the longer one.
        cpu = (time.process_time() - between) - (between - begun)
        peak = memory.peak(device) - before
    per_second = (1 + steps) / (long - short)
    seconds, flops = cost(stepped.found - scored.found, torch.get_num_threads())
    return lanes * per_second, cpu / (steps * lanes), peak, seconds * per_second, flops * per_second


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problem", nargs="*", help=f"one of {', '.join((*PROBLEMS, LORA))}")
    parser.add_argument("--quick", action="store_true", help="without data, up to 16 lanes")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions")
    parser.add_argument("--most", type=int, help="maximum number of lanes")
    parser.add_argument("--threads", type=int, default=1, help="threads of the process")
    parser.add_argument("--eager", action="store_true", help="do not capture the gradient")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    unknown = [problem for problem in options.problem if problem not in (*PROBLEMS, LORA)]
    if unknown:
        parser.error(
            f"unknown problem {unknown[0]!r}; known problems: {', '.join((*PROBLEMS, LORA))}."
        )
    return options


if __name__ == "__main__":
    main()
