"""The weaker spatial inputs that the paper gives to the Fast pathway (Table 5c)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
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
        b, c, t, h, w = frames.shape
        images = F.avg_pool2d(frames.transpose(1, 2).reshape(b * t, c, h, w), 2, ceil_mode=True)
        return images.reshape(b, t, c, *images.shape[-2:]).transpose(1, 2)
    if kind in ("gray", "time_difference"):
        if frames.shape[1] == 3:
            luma = frames.new_tensor(_LUMA).view(1, 3, 1, 1, 1)
            frames = (frames * luma).sum(dim=1, keepdim=True)
        else:
            frames = frames.mean(dim=1, keepdim=True)
        if kind == "time_difference":
            previous = torch.cat((frames[:, :, :1], frames[:, :, :-1]), dim=2)
            frames = frames - previous
    return frames
