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

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_OUTPUTS, _TAPS = 4, 3  # of a tile, of the kernel
PRODUCTS = _OUTPUTS + _TAPS - 1
# Where the polynomials of the derivation are evaluated, besides at infinity. Small, of either sign, and powers of two:
# little is lost to rounding.
_POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)

# Fewer channels, frames or columns, and combining takes as long as is spared. Measured on two cores with AVX2.
_LEAST_TEMPORAL = (128, 4)  # channels on either side, frames
_LEAST_SPATIAL = (256, 12)  # channels on either side, columns
_PART_BYTES = 8 << 20  # of combined inputs to have at once


def pays(conv: nn.Conv3d, size: tuple[int, int, int]) -> bool:
    """Whether the convolution of inputs of about T, H, W, in float32 on a CPU, is faster by this algorithm."""
    plain = conv.stride == conv.dilation == (1, 1, 1) and conv.groups == 1 and conv.padding_mode == "zeros"
    fewest = min(conv.in_channels, conv.out_channels)
    if conv.kernel_size == (3, 1, 1) and conv.padding == (1, 0, 0):
        return plain and fewest >= _LEAST_TEMPORAL[0] and size[0] >= _LEAST_TEMPORAL[1]
    if conv.kernel_size == (1, 3, 3) and conv.padding == (0, 1, 1):
        return plain and fewest >= _LEAST_SPATIAL[0] and size[2] >= _LEAST_SPATIAL[1]
    return False


class TemporalConv(torch.autograd.Function):
    """The convolution of (B, C, T, N), channels last, with a kernel (C', C, 3, 1), and its gradients. In float32."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        _, collect = matrices(x.shape[2])
        kernel = _grouped(weight)
        out = x.new_empty(len(x), *x.shape[2:], len(weight))  # (B, T, N, C')
        for clip, result in zip(x, out, strict=True):
            y = F.conv2d(_combined(clip), kernel, groups=PRODUCTS)
            result.copy_(torch.matmul(collect, _rows(y, len(collect.T))).transpose(0, 1))
        return out.movedim(-1, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        combine, collect = matrices(x.shape[2])
        grad = grad.movedim(1, -1).contiguous()  # (B, T, N, C')
        kernel = _grouped(weight)
        settings: Any = None, (1, 1), (0, 0), (1, 1), False, (0, 0), PRODUCTS, (True, False, False)
        grad_x = x.new_empty(len(x), *x.shape[2:], x.shape[1]) if ctx.needs_input_grad[0] else None
        products = None
        for i, clip in enumerate(x):
            seen = _combined(clip)  # (1, 6 C, N, tiles)
            g = torch.matmul(collect.T, grad[i].transpose(0, 1))  # (N, tiles 6, C')
            g = g.view(1, *g.shape[:1], -1, PRODUCTS * g.shape[2]).movedim(-1, 1)
            if grad_x is not None:
                y = torch.ops.aten.convolution_backward(g, seen, kernel, *settings)[0]
                grad_x[i] = torch.matmul(combine.T, _rows(y, len(combine))).transpose(0, 1)
            if ctx.needs_input_grad[1]:
                found = torch.bmm(_by_product(g).transpose(1, 2), _by_product(seen))  # (6, C', C)
                products = found if products is None else products + found
        grad_weight = None
        if products is not None:
            taps = torch.tensordot(_toom_cook()[1].to(products).T, products, 1)
            grad_weight = taps.movedim(0, 2).unsqueeze(-1)
        return None if grad_x is None else grad_x.movedim(-1, 1), grad_weight


def _grouped(weight: Tensor) -> Tensor:
    """(C', C, 3, 1) -> (6 C', C, 1, 1), the kernel of the convolution in groups."""
    return combined_kernel(weight[..., 0].movedim(2, 0)).flatten(0, 1)[..., None, None]


def _combined(clip: Tensor) -> Tensor:
    """(C, T, N) -> (1, 6 C, N, tiles), channels last."""
    combine, _ = matrices(clip.shape[1])
    y = torch.matmul(combine, clip.permute(2, 1, 0))  # (N, tiles 6, C)
    return y.view(1, len(y), -1, PRODUCTS * y.shape[2]).movedim(-1, 1)


def _rows(y: Tensor, count: int) -> Tensor:
    """(1, 6 C, N, tiles) -> (N, tiles 6, C)."""
    return y.movedim(1, -1).reshape(y.shape[2], count, -1)


def _by_product(y: Tensor) -> Tensor:
    """(1, 6 C, N, tiles) -> (6, N tiles, C)."""
    return y.movedim(1, -1).reshape(y.shape[2] * y.shape[3], PRODUCTS, -1).transpose(0, 1)


def part(positions: int, size: int) -> int:
    """How many positions, of so many bytes each, to compute on at once: equal parts that the cache holds."""
    parts = max(1, round(positions * size / _PART_BYTES))
    return next((positions // n for n in range(parts, 2 * parts) if positions % n == 0), positions)


def tiles(length: int) -> int:
    """Tiles that cover so many outputs."""
    return -(-length // _OUTPUTS)


@cache
def _toom_cook() -> tuple[Tensor, Tensor, Tensor]:
    """The matrices A (4 x 6), G (6 x 3) and B (6 x 6) in float64: outputs = A ((G kernel) * (B inputs)).

    A convolution of sequences is the product of polynomials: both are evaluated at the points, multiplied, and the
    product is found from its values. What filters a signal is the transpose of that.
    """

    like: Any = {"dtype": torch.float64, "device": "cpu"}

    def values(terms: int) -> Tensor:  # of the powers of each point; at infinity, of the highest power alone
        powers = torch.tensor(_POINTS, **like)[:, None] ** torch.arange(terms, **like)
        return torch.cat((powers, torch.eye(terms, **like)[-1:]))

    with torch.inference_mode(False):
        combine = torch.linalg.inv(values(PRODUCTS)).T
        scale = 2 ** combine.abs().amax(1, keepdim=True).log2().round()  # so that neither side grows
        return values(_OUTPUTS).T, values(_TAPS) * scale, combine / scale


def combined_kernel(taps: Tensor) -> Tensor:
    """(3, ...) -> (6, ...): G times the frames, or columns, of a kernel, in the precision of the taps."""
    combined: Tensor = torch.tensordot(_toom_cook()[1].to(taps), taps, 1)
    return combined


def taps_of(combined: Tensor) -> Tensor:
    """(6, ...) -> (3, ...): what :func:`combined_kernel` was given, to rounding."""
    taps: Tensor = torch.tensordot(torch.linalg.pinv(_toom_cook()[1]).to(combined), combined, 1)
    return taps


@cache
def matrices(length: int) -> tuple[Tensor, Tensor]:
    """For an axis of that length, padded by one on each side: (tiles products, length) and (length, tiles products)."""
    with torch.inference_mode(False):
        outputs, _, inputs = _toom_cook()
        count = tiles(length)
        combine = outputs.new_zeros(count, PRODUCTS, length + 2 * PRODUCTS)
        collect = outputs.new_zeros(count * _OUTPUTS, count, PRODUCTS)
        for i in range(count):
            start = i * _OUTPUTS
            combine[i, :, PRODUCTS + start - 1 : 2 * PRODUCTS + start - 1] = inputs
            collect[start : start + _OUTPUTS, i] = outputs
        combine = combine[..., PRODUCTS : PRODUCTS + length]  # what lies outside is zero in the input
        return combine.flatten(0, 1).float(), collect[:length].flatten(1).float()
