"""How exactly a GPU multiplies float32 numbers."""

from typing import Literal

import torch

# tf32 rounds factors to 11 significant binary digits, an error of up to 2^-11 = .0005 of each, and
# sums in float32. A CPU multiplies exactly in any case.
Precision = Literal["float32", "tf32"]


def multiply_in(precision: Precision) -> None:
    """In matrix products and convolutions of this process, from now on.

    Left alone, PyTorch has tf32 in convolutions and not in products.
    """
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
