"""Says whether a new task is unlike the training tasks of a model, by distances of embeddings.

A task is the mean m of its embedded examples, and their spread s, the root mean square distance
from m. The distance of two tasks is that of their means, without what the few examples add to it:

    d_ij^2 = max(0, ||m_i - m_j||^2 - s_i^2 / n_i - s_j^2 / n_j)

A new task is unlike the training tasks if its distance from the nearest of them is larger than all
distances between two training tasks, and than two errors of its own mean, 2 s / sqrt(n).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fewshot.functional import Params
from fewshot.learners.metric.embedding import EmbeddingLearner, embed_rows
from trials.contract import Recipe
from trials.data.pools import task_kind_of
from trials.data.sources import Sources
from trials.programs.factories import build_learner

TRAINING_TASKS = "training_tasks.safetensors"  # the file of an export with its `TaskMeans`
_EXAMPLES = 64  # that are embedded of each training task


class TaskMeans(NamedTuple):
    """The embedded examples of t tasks in short: their means, spreads and numbers."""

    names: tuple[str, ...]
    means: Tensor  # (t, d) float32
    spreads: Tensor  # (t,)
    counts: Tensor  # (t,)

    def save(self, path: Path) -> None:
        tensors = {"means": self.means, "spreads": self.spreads, "counts": self.counts}
        safetensors.torch.save_file(tensors, path, {"names": json.dumps(self.names)})


class Unlike(NamedTuple):
    """A new task that is further from all training tasks than these are from each other."""

    distance: float  # from the nearest training task
    nearest: str
    between: float  # the largest distance between two training tasks

    def __str__(self) -> str:
        return (
            f"The new task is unlike all training tasks: its distance from the nearest one, "
            f"{self.nearest}, is {self.distance:.3g}; two training tasks are at most "
            f"{self.between:.3g} apart. Check its predictions on labelled examples."
        )


def load_task_means(path: Path) -> TaskMeans | None:
    """What `TaskMeans.save` wrote; None if the file is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            names = tuple(map(str, json.loads((file.metadata() or {})["names"])))
            tensors = [file.get_tensor(key) for key in ("means", "spreads", "counts")]
        return TaskMeans(names, *tensors)
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def means_of_training_tasks(recipe: Recipe, params: Params, cache: Path) -> TaskMeans | None:
    """The training tasks as a meta-trained model embeds them.

    None if there are no training tasks with examples, or if the model gives them no vectors: see
    `embedding_of`. Raises InputError if the data can't be read.
    """
    tasks = [task for task in recipe.tasks.get("train", ()) if task.function is None]
    if not tasks:
        return None
    sources = Sources(recipe.datasets, cache)
    embed = embedding_of(recipe, params, sources.inputs)
    if embed is None:
        return None
    found = []
    for i, task in enumerate(tasks):
        rows = sources.rows(task, task.where, f"tasks.train.{task.name}")
        rows = np.random.default_rng(recipe.seed + i).permutation(rows)[:_EXAMPLES]
        with torch.no_grad():
            x = embed(sources.inputs[torch.from_numpy(rows + sources.offset[task.dataset])])
        found.append(_in_short(x))
    means, spreads, counts = (torch.stack(parts) for parts in zip(*found, strict=True))
    return TaskMeans(tuple(task.name for task in tasks), means, spreads, counts)


def embedding_of(
    recipe: Recipe, params: Params, inputs: Tensor
) -> Callable[[Tensor], Tensor] | None:
    """A function from examples (n, *features) to vectors (n, d); see `inputs` for their shape.

    It is the embedding of the learner, else the inputs themselves. None for tables, whose features
    have a scale in each task of its own, and for ids without an embedding.
    """
    like = recipe.tasks["validation"][0]
    kind = task_kind_of(recipe, like)
    if kind.source != "rows":
        return None
    learner = build_learner(recipe, tuple(inputs.shape[1:]), recipe.max_way, kind)
    if isinstance(learner, EmbeddingLearner):
        embedding = learner.embedding
        return lambda x: embed_rows(embedding, params, x)
    return (lambda x: x.flatten(1)) if inputs.is_floating_point() else None


def unlike(known: TaskMeans, embedded: Tensor) -> Unlike | None:
    """How the task with the embedded support (s, d) is unlike the known tasks; None if it is like.

    With one known task, the other distance is the spread of its examples.
    """
    if embedded.shape[1:] != known.means.shape[1:]:
        return None
    mean, spread, count = _in_short(embedded)
    noise = known.spreads.square() / known.counts
    apart = (known.means[:, None] - known.means).square().sum(-1) - noise[:, None] - noise
    apart = apart.fill_diagonal_(0).clamp(min=0).sqrt()
    between = float(apart.max()) if len(known.names) > 1 else float(known.spreads[0])
    away = (known.means - mean).square().sum(-1) - noise - spread.square() / count
    distances = away.clamp(min=0).sqrt()
    nearest = int(distances.argmin())
    # If the training tasks are alike, `between` is about 0.
    if not float(distances[nearest]) > max(between, float(2 * spread / count.sqrt())):
        return None
    return Unlike(float(distances[nearest]), known.names[nearest], between)


def _in_short(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (d,), spread () and number () of vectors x (n, d)."""
    mean, n = x.mean(0), len(x)
    squares = (x - mean).square().sum() / max(1, n - 1)
    return mean, squares.sqrt(), torch.tensor(float(n))
