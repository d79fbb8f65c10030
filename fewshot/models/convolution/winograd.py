"""A 3x3 convolution of small images, by the fewest multiplications.

m neighbouring outputs of 3 taps in one dimension, y_i = sum_j x_{i+j} k_j, take 3m multiplications.
The values of two polynomials at m + 2 points, multiplied, are those of their product, and so m + 2
are enough, between maps that are the same for all images:

    y = V_m^T ((V_3 k) * (V_{m+2}^{-T} x)),  V_n[i, j] = p_i^j,

where the last point is infinity, whose row is (0 .. 0 1). In two dimensions it is each way once: 64
multiplications for 6x6 outputs, not 324, and all of it products of matrices. In float32 the error
is some 2e-6 of the outputs, where that of PyTorch's convolution is some 3e-7.

Toom, 1963; Cook, 1966; Winograd, "Arithmetic complexity of computations", 1980; for networks, Lavin
and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

_POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)  # and infinity; with more the error grows fast


class Winograd:
    """What is pooled 2x2 of a convolution, padded by one, of images of h x w pixels, >= 2.

    Rows and columns that pooling leaves out, the last of odd sides, are not computed. The maps are
    matrices of all pixels, which are few.
    """

    def __init__(self, h: int, w: int) -> None:
        maps = [torch.kron(*sides) for sides in zip(_side(h), _side(w), strict=True)]
        out = maps[-1].unflatten(0, (h // 2, 2, w // 2, 2)).permute(1, 3, 0, 2, 4)
        maps[-1] = falls(out.flatten(0, 1)).flatten(0, 2)
        self._maps = {t: [part.to(t) for part in maps] for t in (torch.float32, torch.float64)}

    def __call__(self, x: Tensor, kernel: Tensor) -> tuple[Tensor, ...]:
        """(h, w, b, n_in), (n_out, n_in, 3, 3) -> `falls` of four (h / 2, w / 2, b, n_out)."""
        into, taps, out = self._maps[x.dtype]
        h, w, b, n_in = x.shape
        p, n_out = len(into), len(kernel)
        values = into @ x.reshape(h * w, b * n_in)
        factors = taps @ kernel.permute(2, 3, 1, 0).reshape(9, n_in * n_out)
        products = values.view(p, b, n_in) @ factors.view(p, n_in, n_out)
        outputs = out @ products.view(p, b * n_out)
        return outputs.view(4, h // 2, w // 2, b, n_out).unbind()


def falls(four: Tensor) -> Tensor:
    """(4, ..) -> (4, ..): each less the next, and the last. Of matrices: of what they give."""
    return torch.cat([four[:-1] - four[1:], four[-1:]])


def _side(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """What maps n pixels to p values, 3 taps to p, and p products to outputs.

    Of tiles of up to six outputs, so that p is the least. They overlap by two pixels, and what they
    have beyond the pixels is 0.
    """
    n_out = n // 2 * 2
    m = min(range(2, len(_POINTS)), key=lambda m: -(-n_out // m) * (m + 2))
    tiles = -(-n_out // m)
    into, taps, out = _tile(m)
    overlapping = [pad(into, (t * m, (tiles - t - 1) * m)) for t in range(tiles)]
    padded = pad(torch.cat(overlapping), (0, max(0, n - tiles * m)))
    outputs = torch.block_diag(*[out] * tiles)[:n_out]
    return padded[:, 1 : n + 1], taps.repeat(tiles, 1), outputs


def _tile(m: int) -> tuple[Tensor, Tensor, Tensor]:
    """V_{m+2}^{-T}, V_3 and V_m^T."""

    def at_points(n: int) -> Tensor:
        points = torch.tensor(_POINTS[: m + 1]).double()
        return torch.cat([points[:, None] ** torch.arange(n), torch.eye(n).double()[-1:]])

    return torch.linalg.inv(at_points(m + 2)).T, at_points(3), at_points(m).T
