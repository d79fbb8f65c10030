"""The number of threads of models with some hundred observations."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def quietly_on_one_thread() -> Iterator[None]:
    """Use one thread, because for some hundred trials a second one costs time; ignore warnings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(before)
