"""MMAction2's checkpoints (.pth): mmaction/models/backbones/{resnet,resnet3d,resnet3d_slowfast,c2d}.py and heads/."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .layout import IMAGENET_MEAN, Layout, State, rename

_STEMS = ("backbone.conv1.conv.weight", "backbone.slow_path.conv1.conv.weight")


def recognises(state: Mapping[str, Tensor]) -> bool:
    """A backbone of convolution modules: ``backbone.layer1.0.conv1.conv.weight``."""
    return any(name in state for name in _STEMS)


def convert(state: Mapping[str, Tensor]) -> State:
    """layer1 to layer4 are res2 to res5.

    C2D holds the 2-D weights of an image network, which get their temporal dimension. The classifier of a SlowFast
    network reads [Fast, Slow] features (SlowFastHead), everybody else's and that of its detection head [Slow, Fast].
    """
    state = {name: tensor for name, tensor in state.items() if not name.startswith("data_preprocessor.")}
    two = _STEMS[1] in state
    rules = [(r"(?:cls_head|(?:roi_head\.)?bbox_head)\.fc_cls\.(weight|bias)", r"head.fc.\1")]
    for inside, pathway in (("slow_path.", "slow"), ("fast_path.", "fast")) if two else (("", "pathway"),):
        backbone = f"backbone.{inside}".replace(".", r"\.")
        rules += [
            (rf"{backbone}conv1\.conv\.weight", f"{pathway}.stem.conv1.conv.weight"),
            (rf"{backbone}conv1\.bn\.(\w+)", rf"{pathway}.stem.conv1.norm.\1"),
        ]
        for layer in range(1, 5):
            theirs, ours = rf"{backbone}layer{layer}\.(\d+)\.", rf"{pathway}.res{layer + 1}.blocks.\1."
            rules += [
                (rf"{theirs}(conv[123])\.conv\.weight", rf"{ours}\2.conv.weight"),
                (rf"{theirs}(conv[123])\.bn\.(\w+)", rf"{ours}\2.norm.\3"),
                (rf"{theirs}downsample\.conv\.weight", rf"{ours}shortcut.conv.weight"),
                (rf"{theirs}downsample\.bn\.(\w+)", rf"{ours}shortcut.norm.\2"),
            ]
            # With pooling after them, phi and g are the first of a sequence.
            theirs, ours = rf"{theirs}non_local_block\.", rf"{pathway}.res{layer + 1}.non_local.\1."
            rules += [
                (rf"{theirs}(theta|phi|g)(?:\.0)?\.conv\.(weight|bias)", rf"{ours}\2.\3"),
                (rf"{theirs}conv_out\.conv\.(weight|bias)", rf"{ours}out.\2"),
                (rf"{theirs}conv_out\.bn\.(\w+)", rf"{ours}norm.\2"),
            ]
    for lateral, stage in (("conv1", "stem"), ("layer1", "res2"), ("layer2", "res3"), ("layer3", "res4")):
        theirs, ours = rf"backbone\.slow_path\.{lateral}_lateral\.", f"lateral.{stage}.fast_to_slow."
        rules += [
            (rf"{theirs}conv\.weight", f"{ours}conv.weight"),
            (rf"{theirs}bn\.(\w+)", rf"{ours}norm.\1"),
        ]
    renamed = {name: t.unsqueeze(2) if t.ndim == 4 else t for name, t in rename(state, rules).items()}
    if two and "cls_head.fc_cls.weight" in state and "head.fc.weight" in renamed:
        renamed["head.fc.weight"] = _slow_first(renamed)
    return renamed


def _slow_first(state: State) -> Tensor:
    """The classifier's weight with its columns in the order [Slow, Fast]."""
    fc = state["head.fc.weight"]
    last = state.get("fast.res5.blocks.0.conv3.conv.weight")
    if last is None or last.ndim != 5 or fc.ndim != 2:
        return fc  # it will not fit
    return torch.cat((fc[:, len(last) :], fc[:, : len(last)]), dim=1)


LAYOUT = Layout("mmaction2", "MMAction2", _STEMS, recognises, convert, slow_frames="strided", mean=IMAGENET_MEAN)
