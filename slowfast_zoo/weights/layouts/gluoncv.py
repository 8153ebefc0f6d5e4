"""GluonCV's PyTorch checkpoints (.pth): gluoncv/torch/model_zoo/action_recognition.

The SlowFast networks of slowfast.py, I3D of i3d_resnet.py, Slow-only networks of i3d_slow.py, non-local blocks of
non_local.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from .layout import IMAGENET_MEAN, Layout, State, rename

_STEMS = ("slow_conv1.weight", "first_stage.0.weight", "layer1.0.conv1.weight")


def recognises(state: Mapping[str, Tensor]) -> bool:
    """SlowFast has a ``slow_conv1``, I3D a ``first_stage``, Slow-only an image network's names, but in 3-D."""
    slow_only = "layer1.0.conv1.weight" in state and state["layer1.0.conv1.weight"].ndim == 5
    return slow_only or "slow_conv1.weight" in state or "first_stage.0.weight" in state


def convert(state: Mapping[str, Tensor]) -> State:
    """I3D's classifier and parts of non-local blocks stand twice in the file, and are taken once."""
    twice = re.compile(r"head\.1\.|(?:layer\d|res_layers)\..*\.W_bn\.")
    state = {name: t for name, t in state.items() if not twice.match(name)}
    rules = [(r"fc\.(weight|bias)", r"head.fc.\1")]
    if "slow_conv1.weight" in state:
        for pathway in ("slow", "fast"):
            rules += _pathway(rf"{pathway}_conv1", rf"{pathway}_bn1", rf"{pathway}_res([2-5])", r"res\1", pathway)
        for lateral, stage in (("p1", "stem"), ("res2", "res2"), ("res3", "res3"), ("res4", "res4")):
            rules += [
                (rf"lateral_{lateral}\.0\.weight", f"lateral.{stage}.fast_to_slow.conv.weight"),
                (rf"lateral_{lateral}\.1\.(\w+)", rf"lateral.{stage}.fast_to_slow.norm.\1"),
            ]
    else:
        for i in range(4):
            stage = f"res{i + 2}"
            rules += _pathway(r"first_stage\.0", r"first_stage\.1", rf"(res_layers\.{i})", stage, "pathway")
            rules += _pathway("conv1", "bn1", f"(layer{i + 1})", stage, "pathway")
    return rename(state, rules)


def _pathway(conv1: str, bn1: str, theirs: str, stage: str, pathway: str) -> list[tuple[str, str]]:
    """The names of one pathway's stem and stage; ``theirs`` has the pattern's first group."""
    block, ours = rf"{theirs}\.(\d+)\.", rf"{pathway}.{stage}.blocks.\2."
    non_local = rf"{pathway}.{stage}.non_local.\2."
    return [
        (rf"{conv1}\.weight", f"{pathway}.stem.conv1.conv.weight"),
        (rf"{bn1}\.(\w+)", rf"{pathway}.stem.conv1.norm.\1"),
        (rf"{block}(conv[123])\.weight", rf"{ours}\3.conv.weight"),
        (rf"{block}bn([123])\.(\w+)", rf"{ours}conv\3.norm.\4"),
        (rf"{block}downsample\.0\.weight", rf"{ours}shortcut.conv.weight"),
        (rf"{block}downsample\.1\.(\w+)", rf"{ours}shortcut.norm.\3"),
        (rf"{block}nonlocal_block\.(theta|phi|g)\.(weight|bias)", rf"{non_local}\3.\4"),
        (rf"{block}nonlocal_block\.W\.(weight|bias)", rf"{non_local}out.\3"),
        (rf"{block}nonlocal_block\.bn\.(\w+)", rf"{non_local}norm.\3"),
    ]


LAYOUT = Layout("gluoncv", "GluonCV", _STEMS, recognises, convert, slow_frames="strided", mean=IMAGENET_MEAN)
