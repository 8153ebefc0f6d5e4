"""The Caffe2 blobs (.pkl) of PySlowFast's model zoo: slowfast/utils/c2_model_loading.py."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from .layout import FAIR_MEAN, Layout, State, rename

# What a batch norm's blobs are called; "riv" holds the running variance itself, not its inverse.
_NORM = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}
_BRANCHES = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Blobs have no dots in their names: ``conv1_w``, ``res_conv1_bn_s``."""
    return {"conv1_w", "res_conv1_bn_s"} <= state.keys()


def convert(state: Mapping[str, Tensor]) -> State:
    """Names without a prefix are the Slow, or only, pathway's; those with "t_" the Fast one's.

    The optimiser's blobs (``lr``, ``*_momentum``) are left out. Blobs lack trailing dimensions of one that the weights
    have, and running counts, which are no numbers of the network's.
    """
    blobs = {k: v for k, v in state.items() if not k.endswith("_momentum") and k not in ("lr", "model_iter")}
    two = "t_conv1_w" in blobs
    rules = [(r"pred_w", "head.fc.weight"), (r"pred_b", "head.fc.bias")]
    for prefix, pathway in (("", "slow"), ("t_", "fast")) if two else (("", "pathway"),):
        rules.append((rf"{prefix}conv1_w", f"{pathway}.stem.conv1.conv.weight"))
        rules += _norm(rf"{prefix}res_conv1_bn", f"{pathway}.stem.conv1.norm")
        for branch, conv in _BRANCHES.items():
            block, ours = rf"{prefix}res([2-5])_(\d+)_branch{branch}", rf"{pathway}.res\1.blocks.\2.{conv}"
            rules.append((rf"{block}_w", rf"{ours}.conv.weight"))
            rules += _norm(rf"{block}_bn", rf"{ours}.norm")
        block, ours = rf"{prefix}nonlocal_conv([2-5])_(\d+)", rf"{pathway}.res\1.non_local.\2"
        rules += [(rf"{block}_(theta|phi|g|out)_w", rf"{ours}.\3.weight")]
        rules += [(rf"{block}_(theta|phi|g|out)_b", rf"{ours}.\3.bias")]
        rules += _norm(rf"{block}_bn", rf"{ours}.norm")
    # A lateral connection is named for the last block before it.
    for block, stage in ((r"t_pool1", "stem"), (r"t_res([2-5])_\d+_branch2c_bn", r"res\1")):
        rules.append((rf"{block}_subsample_w", rf"lateral.{stage}.fast_to_slow.conv.weight"))
        rules += _norm(rf"{block}_subsample_bn", rf"lateral.{stage}.fast_to_slow.norm")
    return {name: _with_all_dimensions(name, tensor) for name, tensor in rename(blobs, rules).items()}


def _norm(block: str, ours: str) -> list[tuple[str, str]]:
    return [(rf"{block}_{blob}", f"{ours}.{name}") for blob, name in _NORM.items()]


def _with_all_dimensions(name: str, tensor: Tensor) -> Tensor:
    wanted = 2 if name == "head.fc.weight" else 5 if re.search(r"(conv|theta|phi|g|out)\.weight$", name) else 1
    if tensor.ndim < wanted:
        return tensor.reshape(*tensor.shape, *[1] * (wanted - tensor.ndim))
    return tensor.flatten(wanted - 1) if all(size == 1 for size in tensor.shape[wanted:]) else tensor


LAYOUT = Layout(
    "caffe2", "PySlowFast's Caffe2 models", ("conv1_w",), recognises, convert, slow_frames="linspace", mean=FAIR_MEAN
)
