"""One pathway: conv1 and pool1, then res2 to res5, as a column of the paper's Table 1."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from slowfast_zoo.layers import NonLocal, Stage, Stem

from .config import FEATURE_NAMES, NetworkConfig, block_kernels
from .validation import STAGES, Depths, TemporalKernels


class Pathway(nn.Module):
    """The layers of one pathway, by the names of Table 1. The network runs them; this only builds them.

    With C channels in conv1 the table's rows are::

        stem   conv1 kt x 7^2, C, stride 1, 2^2; pool1 1 x 3^2 max, stride 1, 2^2
        res2   [kt x 1^2,  C; 1 x 3^2,  C; 1 x 1^2,  4C] x depth
        res3   [kt x 1^2, 2C; 1 x 3^2, 2C; 1 x 1^2,  8C] x depth, stride 1, 2^2
        res4   [kt x 1^2, 4C; 1 x 3^2, 4C; 1 x 1^2, 16C] x depth, stride 1, 2^2
        res5   [kt x 1^2, 8C; 1 x 3^2, 8C; 1 x 1^2, 32C] x depth, stride 1, 2^2 (or as configured)

    Args:
        in_channels: channels of the input frames.
        channels: from channels of the Slow pathway to those of this one.
        depths: blocks of res2 to res5.
        temporal_kernels: kt of conv1 and of each stage's blocks.
        extra: channels that lateral connections add to the inputs of res2 to res5.
        non_local_blocks: the blocks of each stage that a non-local block follows.
        config: the network's width, res5 and non-local settings.
        pool1_padding: spatial padding of pool1.
        stem_strides: temporal strides of conv1 and pool1.
    """

    def __init__(
        self,
        in_channels: int,
        channels: Callable[[int], int],
        depths: Depths,
        temporal_kernels: TemporalKernels,
        extra: Sequence[int],
        non_local_blocks: Sequence[Sequence[int]],
        config: NetworkConfig,
        pool1_padding: int = 1,
        stem_strides: tuple[int, int] = (1, 1),
    ) -> None:
        super().__init__()
        c = config.width
        strides = (1, 2, 2, config.res5_stride)
        dilations = (1, 1, 1, config.res5_dilation)
        self.stem = Stem(in_channels, channels(c), temporal_kernels[0], pool1_padding, stem_strides)
        out_channels = [channels(c)]
        for i, stage in enumerate(STAGES):
            out_channels.append(channels(4 * c))
            non_local = {}
            if config.non_local:
                settings = dataclasses.asdict(config.non_local)
                del settings["blocks"], settings["fast_blocks"]
                non_local = {block: NonLocal(out_channels[-1], **settings) for block in non_local_blocks[i]}
            self.add_module(
                stage,
                Stage(
                    in_channels=out_channels[-2] + extra[i],
                    inner_channels=channels(c),
                    out_channels=out_channels[-1],
                    temporal_kernels=block_kernels(temporal_kernels[i + 1], depths[i]),
                    stride=strides[i],
                    dilation=dilations[i],
                    non_local=non_local,
                ),
            )
            c *= 2
        self.out_channels = out_channels  # of pool1 and res2 to res5
        self.reductions = (4, 4, 8, 16, 16 * config.res5_stride)  # of the side, likewise

    def feature_info(
        self, stage: int, prefix: str = "", *, temporal_reduction: int = 1, spatial_scale: int = 1
    ) -> dict[str, Any]:
        """The record of one stage's feature map (see :class:`~slowfast_zoo.models.network.VideoNetwork`)."""
        return {
            "name": FEATURE_NAMES[stage],
            "num_chs": self.out_channels[stage],
            "reduction": self.reductions[stage] * spatial_scale,
            "temporal_reduction": temporal_reduction,
            "module": prefix + FEATURE_NAMES[stage],
        }
