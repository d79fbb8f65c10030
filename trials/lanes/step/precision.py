"""How exactly a GPU multiplies float32 numbers."""

import torch

from trials.contract import Precision


def multiply_in(precision: Precision) -> None:
    """In matrix products and convolutions of this process, from now on.

    Left alone, PyTorch has tf32 in convolutions and not in products.
    """
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
