"""The weaker spatial inputs that the paper gives to the Fast pathway (Table 5c)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

FastInput = Literal["rgb", "rgb_half", "gray", "time_difference", "flow"]
FAST_INPUTS: tuple[str, ...] = get_args(FastInput)

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, for RGB


def fast_input_channels(kind: FastInput, in_chans: int) -> int:
    """Channels that conv1 of the Fast pathway sees. Time difference is taken of gray frames (see docs: Table 5c)."""
    return {"rgb": in_chans, "rgb_half": in_chans, "gray": 1, "time_difference": 1, "flow": 2}[kind]


def weaken(frames: Tensor, kind: FastInput) -> Tensor:
    """Turns the clip's frames into what the Fast pathway is given.

    Args:
        frames: (B, C, alpha T, H, W) normalised frames; for ``flow`` the (B, 2, alpha T, H, W) flow itself.
        kind: ``rgb`` and ``flow`` pass; ``rgb_half`` averages 2 x 2 pixels; ``gray`` takes the luma;
            ``time_difference`` subtracts the previous frame's luma, the first frame giving zeros.

    Returns:
        (B, C', alpha T, H', W').
    """
    if kind == "rgb_half":
        # Averaged as images, with time in the batch: backends lack the 3D pooling in low precision.
        images = F.avg_pool2d(rearrange(frames, "b c t h w -> (b t) c h w"), 2, ceil_mode=True)
        return rearrange(images, "(b t) c h w -> b c t h w", b=frames.shape[0])
    if kind in ("gray", "time_difference"):
        if frames.shape[1] == 3:
            luma = rearrange(frames.new_tensor(_LUMA), "c -> 1 c 1 1 1")
            frames = reduce(frames * luma, "b c t h w -> b 1 t h w", "sum")
        else:
            frames = reduce(frames, "b c t h w -> b 1 t h w", "mean")
        if kind == "time_difference":
            previous = torch.cat((frames[:, :, :1], frames[:, :, :-1]), dim=2)
            frames = frames - previous
    return frames
