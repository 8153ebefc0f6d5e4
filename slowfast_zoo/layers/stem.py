"""The stem: conv1 and pool1 of the paper's Table 1."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .conv import ConvNorm, as_images, channels_last, from_images, runs_on_cpu, unflatten


class Stem(nn.Module):
    """conv1 (kt x 7 x 7, stride 1, 2, 2) with batch norm and ReLU, then pool1 (max 1 x 3 x 3, stride 1, 2, 2).

    (B, in_channels, T, H, W) -> (B, out_channels, T, H / 4, W / 4), odd sizes rounded up at each halving.

    Args:
        in_channels: channels of the pathway's input frames.
        out_channels: channels of conv1.
        temporal_kernel: kt, 1 in the Slow pathway and 5 in the Fast one.
        pool_padding: spatial padding of pool1.
        temporal_strides: of conv1 and pool1; others than 1 divide the frames.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        temporal_kernel: int,
        pool_padding: int = 1,
        temporal_strides: tuple[int, int] = (1, 1),
    ) -> None:
        super().__init__()
        conv, pool = temporal_strides
        self.conv1 = ConvNorm(in_channels, out_channels, (temporal_kernel, 7, 7), (conv, 2, 2), relu=True)
        self.pool1 = Pool((1, 3, 3), (pool, 2, 2), (0, pool_padding, pool_padding))

    def forward(self, x: Tensor) -> Tensor:
        return self.pool1(self.conv1(x))  # type: ignore[no-any-return]


class Pool(nn.MaxPool3d):
    """nn.MaxPool3d that looks at single frames, on a CPU by 2-D pooling of views, which is faster there.

    The output is channels-last there.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not runs_on_cpu(x):
            return super().forward(x)  # type: ignore[no-any-return]
        kernel, stride, padding = cast(Any, (self.kernel_size, self.stride, self.padding))
        x, settings = x[:, :, :: stride[0]], (kernel[1:], stride[1:], padding[1:])
        if x.is_contiguous(memory_format=torch.channels_last_3d):
            return from_images(F.max_pool2d(as_images(x), *settings), x.shape[2])
        y = F.max_pool2d(x.flatten(1, 2), *settings)  # (B, C T, H, W)
        return channels_last(unflatten(y, 1, (-1, x.shape[2])))
