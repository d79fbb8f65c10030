"""A new task that is unlike the training tasks is said, and one that is like them is not."""

from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.config.loading import parse
from orchestrator.config.plan import plan_of
from orchestrator.record.home import Home
from orchestrator.results.new_tasks.adapt import adapt
from tests.orchestrator.results.test_adapt import exported
from trials.lanes import checkpoint
from trials.programs.new_tasks.task_distance import (
    TRAINING_TASKS,
    TaskMeans,
    load_task_means,
    means_of_training_tasks,
    unlike,
)

ROOMS = ("hall", "kitchen", "attic", "cellar")


def photos(path: Path, light: dict[str, int]) -> str:
    """Noisy images 6 x 6 of three kinds in each room; a room has a light of its own."""
    rng = np.random.default_rng(0)
    images, labels, rooms = [], [], []
    for room, level in light.items():
        for kind in range(3):
            for _ in range(20):
                image = rng.normal(level, 12, (6, 6))
                image[kind * 2 : kind * 2 + 2] += 25
                images.append(image.clip(0, 255).astype(np.uint8))
                labels.append(f"kind {kind}")
                rooms.append(room)
    np.savez(path, images=np.stack(images), label=np.array(labels), room=np.array(rooms))
    return str(path)


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unlike")
    path = photos(folder / "known.npz", dict(zip(ROOMS, (100, 110, 120, 130), strict=True)))
    tasks = [
        {"name": room, "dataset": "photos", "label": "label", "where": {"room": room}}
        for room in ROOMS
    ]
    made = parse(
        {
            "name": "rooms",
            "datasets": {"photos": {"source": "images", "path": path}},
            "tasks": {"train": tasks[:3], "validation": tasks[3:], "test": tasks[3:]}
            | {"overlap": True},
            "model": {"name": "mlp", "hidden": [], "n_out": 12},
            "learner": {"name": "protonet"},
            "episodes": {"way": 2, "shot": 2, "query": 2, "validation": 5, "test": 5},
            "steps": 2,
            "space": {"lr/outer": 0.001, "task_weights": {"search": False}},
        }
    )
    exported(made, folder)
    params = checkpoint.exported(folder / "model.safetensors")
    means = means_of_training_tasks(plan_of(made).recipe, params, folder)
    assert means is not None
    means.save(folder / TRAINING_TASKS)
    return folder


@pytest.mark.parametrize(("light", "warned"), [(115, False), (125, False), (220, True)])
def test_an_unlike_task_is_said_and_a_like_one_is_not(export, tmp_path, light, warned):
    data = photos(tmp_path / "new.npz", {"garden": light})
    found = adapt(
        export, data, shots=5, out=tmp_path / "mine", home=Home.at(str(tmp_path / "home"))
    )
    assert bool(found.unlike) == warned
    assert "unlike all training tasks" in found.unlike or not warned


def test_the_noise_of_few_examples_is_no_distance():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(3, 64, 500, generator=rng)  # three tasks that are the same
    mean, spread = x.mean(1), x.std(1).square().sum(-1).sqrt()
    known = TaskMeans(("a", "b", "c"), mean, spread, torch.full((3,), 64.0))
    far = unlike(known, torch.randn(5, 500, generator=rng) + 1)
    assert far is not None
    assert far.distance == pytest.approx(500**0.5, rel=0.1)
    assert far.between < 3  # the means of 64 examples differ by 4


def test_a_task_like_training_tasks_that_are_all_alike_is_not_unlike():
    rng = torch.Generator().manual_seed(0)
    alike = TaskMeans(
        ("a", "b"), torch.zeros(2, 8), torch.full((2,), 8**0.5), torch.tensor([1e6] * 2)
    )
    for _ in range(50):
        assert unlike(alike, torch.randn(5, 8, generator=rng)) is None
    assert unlike(alike, torch.randn(5, 8, generator=rng) + 2) is not None


def test_with_one_training_task_the_spread_of_its_examples_is_the_limit():
    known = TaskMeans(("a",), torch.zeros(1, 4), torch.tensor([2.0]), torch.tensor([64.0]))
    rows = torch.eye(4)
    assert unlike(known, rows) is None
    assert unlike(known, rows + 5) is not None


def test_a_missing_or_damaged_file_gives_no_means(tmp_path):
    assert load_task_means(tmp_path / "nothing") is None
    (tmp_path / "damaged").write_bytes(b"garbage")
    assert load_task_means(tmp_path / "damaged") is None
