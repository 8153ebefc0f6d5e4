"""Convolution with its batch norm: the unit that every other layer is made of."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import winograd
from .gradients import StemConv, TemporalConv, serves

_HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


class ConvNorm(nn.Module):
    """3D convolution, batch norm and, if asked for, ReLU, on (B, C, T, H, W).

    Padding keeps the size where the stride is 1: ``dilation * (kernel // 2)`` on each axis. The temporal axis is never
    dilated.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel: (T, H, W) kernel, odd on each axis.
        stride: (T, H, W) stride.
        dilation: dilation of the two spatial axes.
        relu: whether a ReLU follows.
        norm: whether a batch norm follows the (then bias-free) convolution. Without it this is a bare convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int, int],
        stride: tuple[int, int, int] = (1, 1, 1),
        dilation: int = 1,
        *,
        relu: bool = False,
        norm: bool = True,
    ) -> None:
        super().__init__()
        kt, kh, kw = kernel
        self.conv = Conv3d(
            in_channels,
            out_channels,
            kernel,
            stride,
            padding=(kt // 2, dilation * (kh // 2), dilation * (kw // 2)),
            dilation=(1, dilation, dilation),
            bias=False,
        )
        self.norm = nn.BatchNorm3d(out_channels) if norm else nn.Identity()
        self.act = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))  # type: ignore[no-any-return]


class Conv3d(nn.Conv3d):
    """nn.Conv3d, faster on a CPU where the kernel is factorised (1 x k x k, k x 1 x 1 or 1 x 1 x 1).

    Such a kernel is a 2-D convolution on a view of channels-last memory: with time merged into the batch, or with the
    plane merged into one axis. CPUs have far better 2-D than 3-D convolutions. The output is channels-last then.
    Compilers and exporters get the 3-D convolution, and so does what else nn.Conv3d can do (groups, other paddings, a
    stride along an axis without a kernel).
    """

    def _is_2d(self) -> bool:
        kt, kh, kw = self.kernel_size
        if self.groups != 1 or self.padding_mode != "zeros" or isinstance(self.padding, str):
            return False
        if kt == 1:
            return self.padding[0] == 0
        return (kh, kw, *self.stride[1:], self.dilation[0], *self.padding[1:]) == (1, 1, 1, 1, 1, 0, 0)

    def _is_plain(self) -> bool:
        plain = self.groups == 1 and self.bias is None and self.padding_mode == "zeros"
        return plain and self.dilation == (1, 1, 1) and not isinstance(self.padding, str)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 5 or not runs_on_cpu(x):
            return super().forward(x)
        if not self._is_2d():
            if self._is_plain() and serves(x, self.weight):
                return StemConv.apply(x, self.weight, self.stride, self.padding)  # type: ignore[no-any-return]
            return super().forward(x)
        kt = self.kernel_size[0]
        stride, padding, dilation, weight = self.stride, cast(Any, self.padding), self.dilation, self.weight
        if kt == 1:
            x, step = x[:, :, :: stride[0]], stride[1:]
            if (*self.kernel_size, *padding) == (1, 1, 1, 0, 0, 0):
                # Positions that a kernel of one leaves out need not be there; and on processors with AVX2 and nothing
                # newer, the weight gradient of oneDNN's strided one (torch 2.14) writes beyond its memory.
                x, step = x[..., :: step[0], :: step[1]], (1, 1)
            x = channels_last(x)
            y = F.conv2d(as_images(x), weight.squeeze(2), self.bias, step, padding[1:], dilation[1:])
            return from_images(y, x.shape[2])
        x = channels_last(x)
        planes, kernel = as_planes(x), weight.flatten(3)  # (B, C, T, H W), (C', C, kt, 1)
        if self.bias is not None or not serves(planes, kernel):
            y = F.conv2d(planes, kernel, self.bias, (stride[0], 1), (padding[0], 0))
        elif x.dtype == torch.float32 and len(x) and winograd.pays(self, cast(Any, x.shape[2:]), training=True):
            y = winograd.TemporalFilter.apply(planes, kernel)
        else:
            y = TemporalConv.apply(planes, kernel, stride[0], padding[0])
        return from_planes(y, x.shape[4])


def runs_on_cpu(x: Tensor) -> bool:
    """Whether x is computed with here and now, on a CPU: not by a compiler, for export, or for its shape alone."""
    if torch.compiler.is_compiling():
        return False
    traced: bool = torch.jit.is_tracing()  # type: ignore[no-untyped-call,attr-defined]
    return x.device.type == "cpu" and _HAS_ONEDNN and not traced


# Channels-last memory and its views. The channels are moved to where they lie in memory first: otherwise a batch of one
# gets a stride by which PyTorch no longer knows the memory as channels-last.


def channels_last(x: Tensor) -> Tensor:
    """x, with the channels, its second axis, last in memory."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def as_images(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B T, C, H, W)."""
    return x.movedim(1, -1).flatten(0, 1).movedim(-1, 1)


def from_images(x: Tensor, frames: int) -> Tensor:
    """(B T, C, H, W) -> (B, C, T, H, W)."""
    return unflatten(x.movedim(1, -1), 0, (-1, frames)).movedim(-1, 1)


def as_planes(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B, C, T, H W)."""
    return x.movedim(1, -1).flatten(2, 3).movedim(-1, 1)


def from_planes(x: Tensor, width: int) -> Tensor:
    """(B, C, T, H W) -> (B, C, T, H, W)."""
    return unflatten(x.movedim(1, -1), 2, (-1, width)).movedim(-1, 1)


def unflatten(x: Tensor, axis: int, sizes: tuple[int, ...]) -> Tensor:
    """Tensor.unflatten, typed."""
    return x.unflatten(axis, sizes)  # type: ignore[no-any-return, no-untyped-call]
