"""PyTorchVideo's checkpoints (.pyth): pytorchvideo/models/{resnet,slowfast,head}.py.

Also what PySlowFast saves of networks that PyTorchVideo built: the same names after ``model.``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from .layout import FAIR_MEAN, Layout, State, rename

_STEMS = ("blocks.0.conv.weight", "blocks.0.multipathway_blocks.0.conv.weight")
_CONVS = {"a": "conv1", "b": "conv2", "c": "conv3"}


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Everything is a numbered block: ``blocks.0.conv.weight``."""
    return any(re.match(r"(model\.)?blocks\.0\.", name) for name in state)


def convert(state: Mapping[str, Tensor]) -> State:
    """Block 0 is the stem; those with residual blocks are res2 to res5 in turn, pooling may stand between them."""
    if "detection_head.proj.weight" in state or not any(name.startswith("blocks.0.") for name in state):
        outer = {name: tensor for name, tensor in state.items() if not name.startswith("model.")}
        state = outer | {name[6:]: tensor for name, tensor in state.items() if name.startswith("model.")}
    two = any(".multipathway_blocks.1." in name for name in state)
    numbers = {int(m.group(1)) for name in state if (m := re.match(r"blocks\.(\d{1,9})\..*res_blocks\.", name))}
    stages = {str(number): f"res{2 + i}" for i, number in enumerate(sorted(numbers)[:4])}
    rules = [(r"(?:blocks\.\d+|detection_head)\.proj\.(weight|bias)", r"head.fc.\1")]
    for number, pathway in enumerate(("slow", "fast") if two else ("pathway",)):
        inside = rf"multipathway_blocks\.{number}\." if two else ""
        rules += [
            (rf"blocks\.0\.{inside}conv\.weight", f"{pathway}.stem.conv1.conv.weight"),
            (rf"blocks\.0\.{inside}norm\.(\w+)", rf"{pathway}.stem.conv1.norm.\1"),
        ]
        for block, stage in stages.items():
            theirs, ours = rf"blocks\.{block}\.{inside}res_blocks\.(\d+)\.", rf"{pathway}.{stage}.blocks.\1."
            for letter, conv in _CONVS.items():
                rules += [
                    (rf"{theirs}branch2\.conv_{letter}\.weight", rf"{ours}{conv}.conv.weight"),
                    (rf"{theirs}branch2\.norm_{letter}\.(\w+)", rf"{ours}{conv}.norm.\2"),
                ]
            rules += [
                (rf"{theirs}branch1_conv\.weight", rf"{ours}shortcut.conv.weight"),
                (rf"{theirs}branch1_norm\.(\w+)", rf"{ours}shortcut.norm.\2"),
            ]
    for block, stage in {"0": "stem", **stages}.items():
        theirs, ours = rf"blocks\.{block}\.multipathway_fusion\.", f"lateral.{stage}.fast_to_slow."
        rules += [
            (rf"{theirs}conv_fast_to_slow\.weight", f"{ours}conv.weight"),
            (rf"{theirs}norm\.(\w+)", rf"{ours}norm.\1"),
        ]
    return rename(state, rules)


LAYOUT = Layout("pytorchvideo", "PyTorchVideo", _STEMS, recognises, convert, slow_frames="linspace", mean=FAIR_MEAN)
