"""What a network costs: multiply-adds of one clip, and parameters, counted on the meta device, in no time or memory."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from slowfast_zoo.models import ResNet3DConfig, SlowFastConfig, build


def gflops_and_parameters(config: SlowFastConfig | ResNet3DConfig, side: int = 256) -> tuple[float, int]:
    """GFLOPs in the paper's sense (multiply-adds x 10^9) of one side x side clip, and the number of parameters.

    torch counts a multiply-add as two operations, so its count is halved. Convolutions and matrix products count; batch
    norm, ReLU and pooling do not, as in the paper's figures.
    """
    with torch.device("meta"):
        network = build(config).eval()
        clip: torch.Tensor | tuple[torch.Tensor, torch.Tensor]
        clip = torch.empty(1, config.in_chans, config.clip_frames, side, side)
        if isinstance(config, SlowFastConfig) and config.fast_input == "flow":
            clip = (clip[:, :, : config.frames], torch.empty(1, 2, config.clip_frames, side, side))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(clip)
    return counter.get_total_flops() / 2e9, sum(p.numel() for p in network.parameters())
