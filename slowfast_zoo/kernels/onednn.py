"""oneDNN's fused 2-D convolutions, for networks in inference on a CPU, and PyTorch's where those cannot be had."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

Pair = tuple[int, int]

_HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    relu: bool,
    add_to: Tensor | None = None,
    groups: int = 1,
) -> Tensor:
    """A 2-D convolution with what follows it. ``add_to`` is added, and may be overwritten."""
    if not uses_onednn(x, add_to):
        y = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
        y = y if add_to is None else add_to + y
        return y.relu() if relu else y
    return _onednn_conv2d(x, weight, bias, stride, padding, dilation, relu, add_to, groups)


def pack(
    weight: Tensor, shape: torch.Size, stride: Pair, padding: Pair, dilation: Pair = (1, 1), groups: int = 1
) -> Tensor:
    """The weight in the order in which oneDNN multiplies it with an input of that shape, channels last."""
    reorder = cast(Any, torch._C._nn.mkldnn_reorder_conv2d_weight)
    return reorder(weight.to_mkldnn(), padding, stride, dilation, groups, shape)  # type: ignore[no-any-return]


def uses_onednn(x: Tensor, add_to: Tensor | None = None) -> bool:
    """Whether this convolution is oneDNN's fused one, of which autograd, tracers and compilers know nothing."""
    wanted = torch.is_grad_enabled() and (x.requires_grad or (add_to is not None and add_to.requires_grad))
    if wanted or _has_tangent(x) or (add_to is not None and _has_tangent(add_to)) or not runs_on_cpu(x):
        return False
    # Of one channel the two orders of memory look alike, and the wrong one is taken.
    return x.shape[0] > 0 and x.shape[1] > 1 and has_onednn(x.dtype)


def _has_tangent(x: Tensor) -> bool:
    """Whether a directional derivative is carried along with x, in forward mode."""
    return forward_ad.unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]


def runs_on_cpu(x: Tensor) -> bool:
    """Whether x is computed with here and now, on a CPU: not by a compiler, for export, or for its shape alone."""
    if torch.compiler.is_compiling():
        return False
    traced: bool = torch.jit.is_tracing()  # type: ignore[no-untyped-call,attr-defined]
    return x.device.type == "cpu" and _HAS_ONEDNN and not traced


def _onednn_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    relu: bool,
    add_to: Tensor | None = None,
    groups: int = 1,
) -> Tensor:
    settings = weight, bias, padding, stride, dilation, groups
    if add_to is None:
        y = torch.ops.mkldnn._convolution_pointwise(x, *settings, "relu" if relu else "none", [], "")
    else:
        relu_after = "relu" if relu else None
        y = torch.ops.mkldnn._convolution_pointwise_.binary(add_to, x, *settings, "add", 1.0, relu_after, [], "")
    return cast(Tensor, y)


@cache
def has_onednn(dtype: torch.dtype) -> bool:
    """Whether this machine's PyTorch has oneDNN's fused convolutions for the dtype; found out by trying."""
    x = torch.ones(1, 16, 4, 4, dtype=dtype, device="cpu").contiguous(memory_format=torch.channels_last)
    weight = torch.full((16, 16, 1, 1), 0.5, dtype=dtype, device="cpu")
    bias = torch.ones(16, dtype=dtype, device="cpu")
    try:
        packed = pack(weight, x.shape, (1, 1), (0, 0), (1, 1), 1)
        alone = _onednn_conv2d(x, packed, bias, (1, 1), (0, 0), (1, 1), True)
        summed = _onednn_conv2d(x, packed, bias, (1, 1), (0, 0), (1, 1), True, torch.full_like(x, -4))
    except Exception:  # another build of PyTorch, where a name or an argument is gone, or a CPU without the type
        return False
    return bool((alone == 9).all() and (summed == 5).all())
