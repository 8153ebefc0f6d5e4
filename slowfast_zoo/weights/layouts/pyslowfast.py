"""PySlowFast's own checkpoints (.pyth): slowfast/models/video_model_builder.py and the helpers next to it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .layout import FAIR_MEAN, Layout, State, rename

_STAGES = {"s1": "stem", "s2": "res2", "s3": "res3", "s4": "res4"}


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Stages are s1 to s5, and say which pathway: ``s1.pathway0_stem.conv.weight``."""
    return any(name.startswith("s1.pathway0_stem.") for name in state)


def convert(state: Mapping[str, Tensor]) -> State:
    """Pathway 0 is the Slow one, or the only one; pathway 1 the Fast one."""
    two = any("pathway1_" in name for name in state)
    rules = [(r"head\.projection\.(weight|bias)", r"head.fc.\1")]
    for number, pathway in enumerate(("slow", "fast") if two else ("pathway",)):
        rules += [
            (rf"s1\.pathway{number}_stem\.conv\.weight", rf"{pathway}.stem.conv1.conv.weight"),
            (rf"s1\.pathway{number}_stem\.bn\.(\w+)", rf"{pathway}.stem.conv1.norm.\1"),
        ]
        block, ours = rf"s([2-5])\.pathway{number}_res(\d+)\.", rf"{pathway}.res\1.blocks.\2."
        for letter, conv in zip("abc", ("conv1", "conv2", "conv3"), strict=True):
            rules += [
                (rf"{block}branch2\.{letter}\.weight", rf"{ours}{conv}.conv.weight"),
                (rf"{block}branch2\.{letter}_bn\.(\w+)", rf"{ours}{conv}.norm.\3"),
            ]
        rules += [
            (rf"{block}branch1\.weight", rf"{ours}shortcut.conv.weight"),
            (rf"{block}branch1_bn\.(\w+)", rf"{ours}shortcut.norm.\3"),
        ]
        block, ours = rf"s([2-5])\.pathway{number}_nonlocal(\d+)\.", rf"{pathway}.res\1.non_local.\2."
        rules += [
            (rf"{block}conv_(theta|phi|g|out)\.(weight|bias)", rf"{ours}\3.\4"),
            (rf"{block}bn\.(\w+)", rf"{ours}norm.\3"),
        ]
    for theirs, stage in _STAGES.items():
        rules += [
            (rf"{theirs}_fuse\.conv_f2s\.weight", rf"lateral.{stage}.fast_to_slow.conv.weight"),
            (rf"{theirs}_fuse\.bn\.(\w+)", rf"lateral.{stage}.fast_to_slow.norm.\1"),
        ]
    return rename(state, rules)


LAYOUT = Layout(
    "pyslowfast",
    "PySlowFast",
    ("s1.pathway0_stem.conv.weight",),
    recognises,
    convert,
    slow_frames="linspace",
    mean=FAIR_MEAN,
)
