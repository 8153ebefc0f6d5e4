"""Lateral connections: how the two pathways tell each other what they see (sections 3.3 and 3.4 of the paper).

Every connection maps the features of both pathways after a stage to the inputs of the next one::

    slow (B, C, T, H, W), fast (B, beta C, alpha T, H, W)  ->  slow (B, C + slow_extra, T, H, W), fast

It says beforehand how many channels it adds to each pathway: ``slow_extra`` and ``fast_extra``.
"""

from __future__ import annotations

import torch
import torch.fx
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from .conv import ConvNorm

# A traced graph calls them: what they do depends on the shape.
torch.fx.wrap("rearrange")
torch.fx.wrap("repeat")


class LateralConnection(nn.Module):
    """No connection, and the base of those below: both pathways go on as they are.

    Attributes:
        slow_extra: channels that it adds to the Slow pathway.
        fast_extra: channels that it adds to the Fast pathway.
        reads_slow: names of its convolutions that read the Slow pathway; others read the Fast one.
        resizes: the pathways' maps differ in height and width, as with a Fast pathway on frames at half resolution.
    """

    slow_extra: int = 0
    fast_extra: int = 0
    reads_slow: tuple[str, ...] = ()
    resizes: bool = False

    def forward(self, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        return slow, fast

    def concatenate(self, features: Tensor, added: Tensor) -> Tensor:
        """A pathway's features with the channels that come from the other one."""
        return torch.cat((features, added), dim=1)

    def _resized(self, x: Tensor, other: Tensor) -> Tensor:
        """x, by nearest neighbours of the height and width of ``other`` where they differ."""
        if not self.resizes:
            return x
        return F.interpolate(x, size=(x.shape[2], other.shape[3], other.shape[4]), mode="nearest")


class TimeToChannel(LateralConnection):
    """(i) Time-to-channel: alpha Fast frames are packed into the channels of one Slow frame.

    Args:
        fast_channels: channels of the Fast pathway here, beta C.
        alpha: frame-rate ratio.
        add: sum into the Slow features, which needs alpha x beta = 1, instead of concatenating.
    """

    def __init__(self, fast_channels: int, alpha: int, *, add: bool) -> None:
        super().__init__()
        self.alpha = alpha
        self.add = add
        self.slow_extra = 0 if add else alpha * fast_channels

    def forward(self, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        packed = rearrange(fast, "b c (t a) h w -> b (a c) t h w", a=self.alpha)
        packed = self._resized(packed, slow)
        return slow + packed if self.add else self.concatenate(slow, packed), fast


class TimeStridedSample(LateralConnection):
    """(ii) Time-strided sampling: one out of every alpha Fast frames, concatenated.

    Args:
        fast_channels: channels of the Fast pathway here, beta C.
        alpha: frame-rate ratio.
    """

    def __init__(self, fast_channels: int, alpha: int) -> None:
        super().__init__()
        self.alpha = alpha
        self.slow_extra = fast_channels

    def forward(self, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        return self.concatenate(slow, self._resized(fast[:, :, :: self.alpha], slow)), fast


class TimeStridedConv(LateralConnection):
    """(iii) Time-strided convolution: kernel x 1 x 1, stride alpha, 2 beta C outputs, concatenated. The default.

    Args:
        fast_channels: channels of the Fast pathway here, beta C.
        alpha: frame-rate ratio, the temporal stride.
        kernel: temporal kernel, 5 in the paper and 7 in several published models.
        ratio: output channels as a multiple of the Fast pathway's.
        norm: batch norm and ReLU after the convolution. Some published models have the bare convolution.
    """

    def __init__(self, fast_channels: int, alpha: int, kernel: int, *, ratio: int = 2, norm: bool = True) -> None:
        super().__init__()
        self.slow_extra = ratio * fast_channels
        self.fast_to_slow = ConvNorm(
            fast_channels, self.slow_extra, (kernel, 1, 1), (alpha, 1, 1), relu=norm, norm=norm
        )

    def forward(self, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        return self.concatenate(slow, self._resized(self.fast_to_slow(fast), slow)), fast


class Bidirectional(TimeStridedConv):
    """Time-strided convolution from Fast to Slow, and its mirror image from Slow to Fast.

    The paper says (section 3.3) that bidirectional fusion was tried and gave similar results, not how it was built.
    Here Slow features pass a 1 x 1 x 1 convolution to beta C channels, with batch norm and ReLU, are held for alpha
    frames, and are concatenated to the Fast features. Both directions read the features from before the fusion.

    Args:
        slow_channels: channels of the Slow pathway here, C.
        fast_channels: channels of the Fast pathway here, beta C.
        alpha: frame-rate ratio.
        kernel: temporal kernel of the Fast-to-Slow convolution.
        ratio: its output channels as a multiple of the Fast pathway's.
        norm: batch norm and ReLU after both convolutions.
    """

    reads_slow = ("slow_to_fast",)

    def __init__(
        self, slow_channels: int, fast_channels: int, alpha: int, kernel: int, *, ratio: int = 2, norm: bool = True
    ) -> None:
        super().__init__(fast_channels, alpha, kernel, ratio=ratio, norm=norm)
        self.alpha = alpha
        self.fast_extra = fast_channels
        self.slow_to_fast = ConvNorm(slow_channels, fast_channels, (1, 1, 1), relu=norm, norm=norm)

    def forward(self, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        held = repeat(self.slow_to_fast(slow), "b c t h w -> b c (t a) h w", a=self.alpha)
        fused, _ = super().forward(slow, fast)
        return fused, self.concatenate(fast, self._resized(held, fast))
