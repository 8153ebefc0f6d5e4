"""Convolution with its batch norm: the unit that every other layer is made of."""

from __future__ import annotations

from torch import Tensor, nn

# All kinds of them, synchronised ones too.
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


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
        self.conv = nn.Conv3d(
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
