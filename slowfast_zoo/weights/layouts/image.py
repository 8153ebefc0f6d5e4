"""Image ResNets with bottleneck blocks, by torchvision's names, which are timm's too: torchvision/models/resnet.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from .layout import Layout, State, rename

Inflation = Literal["center", "mean"]


def recognises(state: Mapping[str, Tensor]) -> bool:
    """``layer1.0.conv1.weight``, in 2-D."""
    return "layer1.0.conv3.weight" in state and state["layer1.0.conv3.weight"].ndim == 4


def convert(state: Mapping[str, Tensor]) -> State:
    """A network of one pathway whose kernels have a temporal extent of one."""
    rules = [
        (r"conv1\.weight", "pathway.stem.conv1.conv.weight"),
        (r"bn1\.(\w+)", r"pathway.stem.conv1.norm.\1"),
        (r"fc\.(weight|bias)", r"head.fc.\1"),
    ]
    for i in range(4):
        theirs, ours = rf"layer{i + 1}\.(\d+)\.", rf"pathway.res{i + 2}.blocks.\1."
        rules += [
            (rf"{theirs}(conv[123])\.weight", rf"{ours}\2.conv.weight"),
            (rf"{theirs}bn([123])\.(\w+)", rf"{ours}conv\2.norm.\3"),
            (rf"{theirs}downsample\.0\.weight", rf"{ours}shortcut.conv.weight"),
            (rf"{theirs}downsample\.1\.(\w+)", rf"{ours}shortcut.norm.\2"),
        ]
    return {name: t.unsqueeze(2) if t.ndim == 4 else t for name, t in rename(state, rules).items()}


def inflate(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], how: Inflation) -> State:
    """The weights of an image network as those of a video network, as far as it has them.

    Args:
        state: what :func:`convert` gave.
        expected: the state dict of the video network; its Slow, or only, pathway takes the weights.
        how: kernels longer in time get the 2-D one in their middle, with zeros around, or a part of it in each frame.
    """
    pathway = "slow." if any(name.startswith("slow.") for name in expected) else "pathway."
    inflated = {}
    for name, weight in state.items():
        ours = name.replace("pathway.", pathway, 1)
        # What would not fit is not made larger first.
        if weight.ndim == 5 and ours in expected and _is_inflatable(weight.shape, expected[ours].shape):
            _, channels, length, *_ = expected[ours].shape
            if length > weight.shape[2] == 1:
                long = torch.zeros(
                    *weight.shape[:2], length, *weight.shape[3:], dtype=weight.dtype, device=weight.device
                )
                if how == "center":
                    long[:, :, length // 2] = weight[:, :, 0]
                else:
                    long += weight / length
                weight = long
            # What lateral connections add to the channels of res2 to res5 starts at zero.
            if channels > weight.shape[1] and ".stem." not in ours:
                added = weight.new_zeros(weight.shape[0], channels - weight.shape[1], *weight.shape[2:])
                weight = torch.cat((weight, added), dim=1)
        inflated[ours] = weight
    return inflated


def _is_inflatable(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether a weight differs from the wanted one in channels that are added and in the length in time, if at all."""
    same = len(wanted) == 5 and (shape[0], *shape[3:]) == (wanted[0], *wanted[3:])
    return same and shape[1] <= wanted[1] and shape[2] <= wanted[2]


def is_kept(name: str) -> bool:
    """Whether a tensor of the video network is one that image networks do not have."""
    return name.startswith(("fast.", "lateral.")) or ".non_local." in name


LAYOUT = Layout("image", "an image ResNet", ("layer1.0.conv1.weight",), recognises, convert)
