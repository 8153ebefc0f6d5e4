"""Convolutions whose weight's gradient is computed one frame of the kernel at a time: faster than oneDNN's on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad


def serves(x: Tensor, weight: Tensor) -> bool:
    """Whether the weight's gradient is wanted, and these functions can give it."""
    if not (torch.is_grad_enabled() and weight.requires_grad) or forward_ad._current_level >= 0:
        return False
    known = x.dtype == weight.dtype and x.dtype in (torch.float32, torch.float64)  # in low precision, oneDNN's is
    return known and not torch.is_autocast_enabled("cpu")  # the faster one


class TemporalConv(torch.autograd.Function):
    """The convolution of (B, C, T, N), channels last, with a kernel (C', C, kt, 1). The products are of matrices."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        return F.conv2d(x, weight, None, (stride, 1), (padding, 0))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        x, weight, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        grad = grad.movedim(1, -1).contiguous().movedim(-1, 1)
        grad_x = grad_weight = None
        with torch.autocast(x.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                settings = (ctx.stride, 1), (ctx.padding, 0), (1, 1), False, (0, 0), 1
                grad_x = torch.ops.aten.convolution_backward(grad, x, weight, None, *settings, (True, False, False))[0]
            if ctx.needs_input_grad[1]:
                taps = [_tap_gradient(x, grad, i - ctx.padding, ctx.stride) for i in range(weight.shape[2])]
                grad_weight = torch.stack(taps, dim=-1).unsqueeze(-1)
        return grad_x, grad_weight, None, None


def _tap_gradient(x: Tensor, grad: Tensor, offset: int, stride: int) -> Tensor:
    """Gradient (C', C) of the weights between each output frame t and the input frame t * stride + offset."""
    outputs, inputs = _frames_of_tap(x.shape[2], grad.shape[2], offset, stride)
    total = grad.new_zeros(grad.shape[1], x.shape[1])
    for g, s in zip(grad[:, :, outputs], x[:, :, inputs], strict=True):  # clip by clip; the matrices are views
        total = torch.addmm(total, g.flatten(1), s.flatten(1).t())
    return total


def _frames_of_tap(frames: int, outputs: int, offset: int, stride: int) -> tuple[slice, slice]:
    """Which output frames t see an input frame t * stride + offset, and those; none, where it is all padding."""
    first = max(0, -(offset // stride))
    count = max(0, min(outputs - 1, (frames - 1 - offset) // stride) + 1 - first)
    start = first * stride + offset
    return slice(first, first + count), slice(start, start + count * stride, stride) if count else slice(0)


class StemConv(torch.autograd.Function):
    """The convolution of (B, C, T, H, W) with a kernel of all three axes, kt x 7 x 7. The frames' gradients are 2-D."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, stride: Any, padding: Any) -> Tensor:
        return F.conv3d(x, weight, None, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        x, weight, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            settings = ctx.stride, ctx.padding, (1, 1, 1), False, (0, 0, 0), 1
            grad_x = torch.ops.aten.convolution_backward(grad, x, weight, None, *settings, (True, False, False))[0]
        if ctx.needs_input_grad[1]:
            taps = [torch.zeros_like(tap) for tap in weight.unbind(2)]
            in_2d = ctx.stride[1:], ctx.padding[1:], (1, 1), False, (0, 0), 1
            for g, s in zip(grad.transpose(1, 2), x.transpose(1, 2), strict=True):  # clip by clip, (T, C, H, W)
                g, s = g.contiguous(), s.contiguous()
                for i, tap in enumerate(taps):
                    outputs, inputs = _frames_of_tap(len(s), len(g), i - ctx.padding[0], ctx.stride[0])
                    found = g[outputs], s[inputs], tap, None, *in_2d, (False, True, False)
                    taps[i] = tap + torch.ops.aten.convolution_backward(*found)[1] if len(found[0]) else tap
            grad_weight = torch.stack(taps, dim=2)
        return grad_x, grad_weight, None, None
