"""The SlowFast network (sections 3.1 to 3.4 and Table 1 of the paper)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
import torch.fx
from torch import Tensor, nn

from slowfast_zoo.layers import (
    Bidirectional,
    LateralConnection,
    TimeStridedConv,
    TimeStridedSample,
    TimeToChannel,
    fast_input_channels,
    weaken,
)

from .config import FEATURE_NAMES, Fusion, SlowFastConfig, SlowFrames, slow_indices
from .feature_info import FeatureInfo
from .init import init_weights
from .network import Clip, Maps, VideoNetwork
from .pathway import Pathway


class SlowFast(VideoNetwork[SlowFastConfig]):
    """A Slow pathway on T frames, a light Fast pathway on alpha T frames, and lateral connections between them.

    The data flow, with the shapes of SlowFast 4 x 16, R50 (alpha 8, beta 1/8) at 224 x 224, T x S^2 x C::

        stage   Slow pathway                            Fast pathway
        data    T of the clip's frames  4 x 224^2 x 3   all alpha T frames  32 x 224^2 x 3
        stem    conv1, pool1            4 x 56^2 x 64   conv1, pool1        32 x 56^2 x 8     -> lateral.stem
        res2    on 64 + 16 channels     4 x 56^2 x 256                      32 x 56^2 x 32    -> lateral.res2
        res3    on 256 + 64 channels    4 x 28^2 x 512                      32 x 28^2 x 64    -> lateral.res3
        res4    on 512 + 128 channels   4 x 14^2 x 1024                     32 x 14^2 x 128   -> lateral.res4
        res5    on 1024 + 256 channels  4 x 7^2 x 2048                      32 x 7^2 x 256
        head    average pool each pathway, concatenate (2304), dropout, fully connected

    Attributes:
        slow: the Slow pathway.
        fast: the Fast pathway.
        lateral: the lateral connections after pool1 (named ``stem``), res2, res3 and res4.
        head: the classifier head.
    """

    def __init__(self, config: SlowFastConfig) -> None:
        super().__init__(config)
        width = config.width
        lateral = {
            "stem": _lateral_connection(config, width),
            "res2": _lateral_connection(config, 4 * width),
            "res3": _lateral_connection(config, 8 * width),
            "res4": _lateral_connection(config, 16 * width),
        }
        non_local = config.non_local
        self.slow = Pathway(
            config.in_chans,
            lambda channels: channels,
            config.depths[0],
            config.temporal_kernels[0],
            [connection.slow_extra for connection in lateral.values()],
            non_local.blocks if non_local else (),
            config,
        )
        self.fast = Pathway(
            fast_input_channels(config.fast_input, config.in_chans),
            config.fast_channels,
            config.depths[1],
            config.temporal_kernels[1],
            [connection.fast_extra for connection in lateral.values()],
            non_local.fast_blocks if non_local else (),
            config,
        )
        self.lateral = nn.ModuleDict(lateral)
        features = self.slow.out_channels[-1] + self.fast.out_channels[-1]
        self.head = self._build_head(features)
        halved = 2 if config.fast_input == "rgb_half" else 1
        self.feature_info = FeatureInfo(
            {
                "slow": self.slow.feature_info(i, "slow.", temporal_reduction=config.alpha),
                "fast": self.fast.feature_info(i, "fast.", spatial_scale=halved),
            }
            for i in range(len(FEATURE_NAMES))
        )
        init_weights(self)

    def _plain(self, config: SlowFastConfig) -> SlowFast:
        return SlowFast(config)

    def forward_stages(self, clip: Clip, out_indices: Sequence[int]) -> list[Maps]:
        slow, fast = self.pathway_inputs(clip)  # (B, C, T, H, W), (B, C', alpha T, H, W)
        maps: dict[int, Maps] = {}
        for i, stage in enumerate(FEATURE_NAMES[: max(out_indices) + 1]):
            slow = getattr(self.slow, stage)(slow)
            fast = getattr(self.fast, stage)(fast)
            if i in out_indices:
                maps[i] = slow, fast
            if i < max(out_indices):
                slow, fast = self.lateral[stage](slow, fast)
        return [maps[i] for i in out_indices]

    def drop_stages_after(self, stage: int) -> None:
        self.last_stage = stage
        for name in FEATURE_NAMES[stage + 1 :]:
            delattr(self.slow, name)
            delattr(self.fast, name)
        for name in set(self.lateral) & set(FEATURE_NAMES[stage:]):
            del self.lateral[name]

    def pathway_inputs(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """What each pathway is given: the clip's frames by ``config.slow_indices``, or the pair as the caller made it.

        Args:
            clip: (B, in_chans, alpha T, H, W), or the pair (slow, fast) with T and alpha T frames. A network on flow
                takes only pairs, with (B, 2, alpha T, H, W) flow in the second place.

        Returns:
            Slow frames (B, in_chans, T, H, W), and the Fast pathway's input after ``config.fast_input``.

        Raises:
            TypeError: not floating-point tensors of the network's dtype.
            ValueError: shapes that do not fit.
        """
        config = self.config
        channels = 2 if config.fast_input == "flow" else self.in_chans
        if isinstance(clip, (tuple, list)):
            if len(clip) != 2:
                raise ValueError(f"a sequence of clips is the pair (slow, fast), not {len(clip)} tensors. {config}")
            slow = self._check_frames(clip[0], "slow", self.in_chans, 1)
            fast = self._check_frames(clip[1], "fast", channels, config.alpha)
            if fast.shape[2] != config.alpha * slow.shape[2]:
                raise ValueError(
                    f"the Fast pathway takes alpha = {config.alpha} times the Slow pathway's frames, "
                    f"{config.alpha * slow.shape[2]} for {slow.shape[2]}, not {fast.shape[2]}. {config}"
                )
            if slow.shape[0] != fast.shape[0] or slow.shape[3:] != fast.shape[3:]:
                raise ValueError(
                    "slow and fast are one clip and agree in batch, height and width; given: "
                    f"{tuple(slow.shape)} and {tuple(fast.shape)}"
                )
        elif config.fast_input == "flow":
            raise ValueError(
                f"a network on optical flow takes the pair (frames, flow): (B, {config.in_chans}, {config.frames}, H, "
                f"W) and (B, 2, {config.clip_frames}, H, W)"
            )
        else:
            fast = self._check_frames(clip, "clip", channels, config.alpha)
            slow = take_slow_frames(fast, config.slow_frames, config.alpha)
        return slow, fast if config.fast_input in ("rgb", "flow") else weaken(fast, config.fast_input)


# Graphs of torch.fx call these functions: what they do depends on the clip's shape.
torch.fx.wrap("weaken")


@torch.fx.wrap
def take_slow_frames(clip: Tensor, rule: SlowFrames, alpha: int) -> Tensor:
    """The Slow pathway's frames (B, C, T, H, W) of a clip (B, C, alpha T, H, W)."""
    # Slices, not an index tensor: they need no constant on the right device, and export as plain slicing.
    return torch.cat([clip[:, :, i : i + 1] for i in slow_indices(clip.shape[2], rule, alpha)], dim=2)


# Each form of lateral connection (section 3.4), for a configuration and the number of Slow channels there.
FUSIONS: Mapping[Fusion, Callable[[SlowFastConfig, int], LateralConnection]] = MappingProxyType(
    {
        "time_to_channel_sum": lambda config, slow: TimeToChannel(config.fast_channels(slow), config.alpha, add=True),
        "time_to_channel_concat": lambda config, slow: TimeToChannel(
            config.fast_channels(slow), config.alpha, add=False
        ),
        "time_strided_sample": lambda config, slow: TimeStridedSample(config.fast_channels(slow), config.alpha),
        "time_strided_conv": lambda config, slow: TimeStridedConv(
            config.fast_channels(slow),
            config.alpha,
            config.lateral_kernel,
            ratio=config.lateral_ratio,
            norm=config.lateral_norm,
        ),
        "bidirectional": lambda config, slow: Bidirectional(
            slow,
            config.fast_channels(slow),
            config.alpha,
            config.lateral_kernel,
            ratio=config.lateral_ratio,
            norm=config.lateral_norm,
        ),
        "none": lambda config, slow: LateralConnection(),
    }
)


def _lateral_connection(config: SlowFastConfig, channels: int) -> LateralConnection:
    """The lateral connection after a stage with so many Slow channels."""
    connection = FUSIONS[config.fusion](config, channels)
    connection.resizes = config.fast_input == "rgb_half"
    return connection
