"""The precision of float32 products on a GPU."""

import torch

from trials.contract import Precision


def set_matmul_precision(precision: Precision) -> None:
    """Set the precision of matrix products and convolutions in this process.

    PyTorch's default is tf32 for convolutions and float32 for matrix products.
    """
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
