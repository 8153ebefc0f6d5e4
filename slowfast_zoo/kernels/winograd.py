"""Winograd's minimal filtering along one axis of a factorised convolution: half of the multiplications.

Four neighbouring outputs of a kernel of three, F(4, 3), are linear in products of six combinations of the inputs with
six combinations of the kernel, where the sum itself has twelve (S. Winograd, Arithmetic Complexity of Computations,
1980; A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016). Along one axis only, each
combination is still a convolution, or a matrix product, of all channels; the six are one convolution in six groups. The
combinations of inputs and of products are matrix products with constant matrices, into which tiles and padding go too.

The kernel of three is the temporal one of 3 x 1 x 1, and the width of 1 x 3 x 3. In two axes at once there would be
even fewer multiplications, but four times the weights' memory, and more rounding.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Array = np.ndarray[Any, np.dtype[np.float64]]

_OUTPUTS, _TAPS = 4, 3  # of a tile, of the kernel
PRODUCTS = _OUTPUTS + _TAPS - 1
# Where the polynomials of the derivation are evaluated, besides at infinity. Small, of either sign, and powers of two:
# little is lost to rounding.
_POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)

# With fewer, combining takes as long as is spared. Measured on two cores with AVX2.
_LEAST_TEMPORAL = 128  # channels on either side of a temporal kernel
_LEAST_SPATIAL = (256, 12)  # channels on either side of a spatial kernel, and columns
_LEAST_SPARED = 0.35  # of the multiplications: not five frames, for which two tiles take twelve of thirteen
_PART_BYTES = 8 << 20  # of combined inputs to have at once


def _toom_cook() -> tuple[Array, Array, Array]:
    """The matrices A (4 x 6), G (6 x 3) and B (6 x 6): outputs = A ((G kernel) * (B inputs)).

    A convolution of sequences is the product of polynomials: both are evaluated at the points, multiplied, and the
    product is found from its values. What filters a signal is the transpose of that.
    """

    def values(terms: int) -> Array:  # of the powers of each point; at infinity, of the highest power alone
        return np.vstack((np.vander(_POINTS, terms, increasing=True), np.eye(terms)[-1:]))

    combine = np.linalg.inv(values(PRODUCTS)).T
    scale = 2 ** np.log2(np.abs(combine).max(axis=1, keepdims=True)).round()  # so that neither side grows
    return values(_OUTPUTS).T, values(_TAPS) * scale, combine / scale


# Arrays and lists are kept, not tensors: a tensor is of the mode in which it was made (inference, a fake one, ...).
_COLLECT, _KERNEL, _COMBINE = _toom_cook()
_KERNEL_ROWS, _TAPS_ROWS = _KERNEL.tolist(), np.linalg.pinv(_KERNEL).tolist()


def pays(conv: nn.Conv3d, size: tuple[int, int, int]) -> bool:
    """Whether the convolution of inputs of T, H, W, in float32 on a CPU, is faster by this algorithm."""
    if conv.stride != (1, 1, 1) or conv.dilation != (1, 1, 1) or conv.groups != 1 or conv.padding_mode != "zeros":
        return False
    fewest = min(conv.in_channels, conv.out_channels)
    if conv.kernel_size == (3, 1, 1) and conv.padding == (1, 0, 0):
        return fewest >= _LEAST_TEMPORAL and _spared(size[0]) >= _LEAST_SPARED
    if conv.kernel_size == (1, 3, 3) and conv.padding == (0, 1, 1):
        enough = fewest >= _LEAST_SPATIAL[0] and size[2] >= _LEAST_SPATIAL[1]
        return enough and _spared(size[2]) >= _LEAST_SPARED
    return False


def _spared(length: int) -> float:
    """The share of the multiplications that the algorithm spares on an axis of that length."""
    plain = _TAPS * length - 2  # the padding is not multiplied
    return 1 - PRODUCTS * tiles(length) / plain


def with_bias(bias: Tensor) -> Tensor:
    """(C',) -> (6 C',): the bias of the products. What is added at the point 1 is added to each output."""
    before = _POINTS.index(1.0)
    return F.pad(bias, (before * len(bias), (PRODUCTS - 1 - before) * len(bias)))


def parts(positions: int, size: int) -> list[slice]:
    """Equal parts of so many positions, of so many bytes each, small enough for the cache; the last may overlap."""
    each = -(-positions // max(1, round(positions * size / _PART_BYTES)))
    ends = (min(start + each, positions) for start in range(0, positions, each))
    return [slice(end - each, end) for end in ends]


def tiles(length: int) -> int:
    """Tiles that cover so many outputs."""
    return -(-length // _OUTPUTS)


@cache
def _for_length(length: int) -> tuple[Array, Array]:
    count = tiles(length)
    combine = np.zeros((count, PRODUCTS, length + 2 * PRODUCTS))
    collect = np.zeros((count * _OUTPUTS, count, PRODUCTS))
    for i in range(count):
        start = i * _OUTPUTS
        combine[i, :, PRODUCTS + start - 1 : 2 * PRODUCTS + start - 1] = _COMBINE
        collect[start : start + _OUTPUTS, i] = _COLLECT
    combine = combine[..., PRODUCTS : PRODUCTS + length]  # what lies outside is zero in the input
    return combine.reshape(-1, length), collect[:length].reshape(length, -1)


def matrices(length: int) -> tuple[Tensor, Tensor]:
    """For an axis of that length, padded by one on each side: (tiles products, length) and (length, tiles products)."""
    combine, collect = (torch.tensor(x, dtype=torch.float32, device="cpu") for x in _for_length(length))
    return combine, collect


def combined_kernel(taps: Tensor) -> Tensor:
    """(3, ...) -> (6, ...): G times the frames, or columns, of a kernel, in the precision of the taps."""
    return torch.tensordot(taps.new_tensor(_KERNEL_ROWS), taps, 1)  # type: ignore[no-any-return]


def taps_of(combined: Tensor) -> Tensor:
    """(6, ...) -> (3, ...): what :func:`combined_kernel` was given, to rounding."""
    return torch.tensordot(combined.new_tensor(_TAPS_ROWS), combined, 1)  # type: ignore[no-any-return]
