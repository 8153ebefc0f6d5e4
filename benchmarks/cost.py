"""What a network costs: multiply-adds of one clip, and parameters, counted on the meta device, in no time or memory."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from slowfast_zoo.models import ResNet3DConfig, SlowFastConfig, build


def batch_norm_outputs(config: SlowFastConfig | ResNet3DConfig, side: int = 256) -> float:
    """Outputs of all batch norms for one clip, x 10^9. Some published figures count five operations for each."""
    outputs: list[int] = []
    with torch.device("meta"), torch.no_grad():
        network = build(config).eval()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output.numel()))
        clip = torch.empty(1, config.in_chans, config.clip_frames, side, side)
        network(clip, [torch.empty(1, 4)]) if config.roi else network(clip)
    return sum(outputs) / 1e9


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
        # With heads that see boxes, for one box.
        network(clip, [torch.empty(1, 4, device="meta")]) if config.roi else network(clip)
    return counter.get_total_flops() / 2e9, sum(p.numel() for p in network.parameters())
