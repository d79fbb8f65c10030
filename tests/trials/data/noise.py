"""A dataset whose images say nothing, and whose texts say everything."""

from pathlib import Path

import numpy as np
import torch

from fewshot.tasks.base import Dataset
from fewshot.tasks.two_modalities.pairs import paired
from fewshot.tasks.two_modalities.text_features import hashed

N_CLASSES, N_EACH, WIDTH = 12, 6, 16


def load(*, cache: Path, query: str = "image") -> Dataset:
    """Pixels of noise (n, 3), with the name of the class as the text; `split` is by class."""
    del cache
    labels = np.arange(N_CLASSES).repeat(N_EACH)
    images = torch.rand(len(labels), 3, generator=torch.Generator().manual_seed(0))
    texts = [3 * chr(ord("a") + label) for label in labels]
    splits = np.array(["train", "validation", "test"], dtype=object)[labels % 3]
    columns = {"label": labels, "number": labels.astype(float), "split": splits}
    return paired(images, texts, hashed(texts, WIDTH), columns, query=query)
