"""The stem: conv1 and pool1 of the paper's Table 1."""

from __future__ import annotations

from torch import Tensor, nn

from .conv import ConvNorm


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
        self.pool1 = nn.MaxPool3d((1, 3, 3), (pool, 2, 2), (0, pool_padding, pool_padding))

    def forward(self, x: Tensor) -> Tensor:
        return self.pool1(self.conv1(x))  # type: ignore[no-any-return]
