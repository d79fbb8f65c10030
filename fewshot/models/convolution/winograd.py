"""A 3x3 convolution of small images with the minimal number of multiplications.

Computing m neighbouring outputs of a 3-tap filter in one dimension, y_i = sum_j x_{i+j} k_j,
directly takes 3m multiplications. A product of two polynomials is determined by the products of
their values at m + 2 points. So m + 2 multiplications are enough, between linear maps that are the
same for all images:

    y = V_m^T ((V_3 k) * (V_{m+2}^{-T} x)),  V_n[i, j] = p_i^j,

where the last point is infinity, whose row is (0 ... 0 1). In two dimensions the method is applied
along both axes: 6x6 outputs take 64 multiplications instead of 324, all as matrix products. In
float32 the relative error is about 2e-6, compared to about 3e-7 for PyTorch's convolution.

Toom, 1963; Cook, 1966; Winograd, "Arithmetic complexity of computations", 1980; for networks, Lavin
and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

_POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)  # and infinity; the error grows fast with more


class Winograd:
    """The inputs of 2x2 pooling after a convolution with padding 1, for images of h x w pixels.

    h and w must be at least 2.

    For odd sides, the last row or column is not computed, because pooling drops it. The maps are
    matrices over all pixels, which is efficient because images are small.
    """

    def __init__(self, h: int, w: int) -> None:
        maps = [torch.kron(*sides) for sides in zip(_side(h), _side(w), strict=True)]
        out = maps[-1].unflatten(0, (h // 2, 2, w // 2, 2)).permute(1, 3, 0, 2, 4)
        maps[-1] = neighbour_differences(out.flatten(0, 1)).flatten(0, 2)
        self._maps = {t: [part.to(t) for part in maps] for t in (torch.float32, torch.float64)}

    def __call__(self, x: Tensor, kernel: Tensor) -> tuple[Tensor, ...]:
        """The `neighbour_differences` of the four outputs under each pooled pixel.

        x: (h, w, b, n_in). kernel: (n_out, n_in, 3, 3). Returns four tensors
        (h / 2, w / 2, b, n_out).
        """
        into, taps, out = self._maps[x.dtype]
        h, w, b, n_in = x.shape
        p, n_out = len(into), len(kernel)
        values = into @ x.reshape(h * w, b * n_in)
        factors = taps @ kernel.permute(2, 3, 1, 0).reshape(9, n_in * n_out)
        products = values.view(p, b, n_in) @ factors.view(p, n_in, n_out)
        outputs = out @ products.view(p, b * n_out)
        return outputs.view(4, h // 2, w // 2, b, n_out).unbind()


def neighbour_differences(four: Tensor) -> Tensor:
    """(4, ...) -> (4, ...): the differences of neighbours, four[i] - four[i + 1], and the last one.

    Applied to four matrices, it gives matrices whose outputs are these differences.
    """
    return torch.cat([four[:-1] - four[1:], four[-1:]])


def _side(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices that map n pixels to p values, 3 taps to p values, and p products to outputs.

    The outputs are split into tiles of at most six, such that p is minimal. Tiles overlap by two
    pixels, and pixels outside the image are 0.
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
