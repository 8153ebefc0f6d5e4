"""Writes a network's weights the way other projects do, for tests: names as those projects' own code has them.

Each function takes ``model.state_dict()`` and gives what the project would save of the same network.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]
PROJECTS = ("pyslowfast", "caffe2", "pytorchvideo", "pytorchvideo_in_pyslowfast", "mmaction2", "gluoncv")
STAGES = ("stem", "res2", "res3", "res4", "res5")


def pyslowfast(state: State) -> State:
    out: State = OrderedDict()
    for name, t in state.items():
        p = name.split(".")
        pathway = {"slow": 0, "pathway": 0, "fast": 1}.get(p[0])
        if p[0] == "head":
            key = f"head.projection.{p[2]}"
        elif p[0] == "lateral":
            part = "conv_f2s" if p[3] == "conv" else "bn"
            key = f"s{1 + STAGES.index(p[1])}_fuse.{part}.{p[4]}"
        elif p[1] == "stem":
            key = f"s1.pathway{pathway}_stem.{'conv' if p[3] == 'conv' else 'bn'}.{p[4]}"
        elif p[2] == "non_local":
            part = "bn" if p[4] == "norm" else f"conv_{p[4]}"
            key = f"s{p[1][3]}.pathway{pathway}_nonlocal{p[3]}.{part}.{p[5]}"
        else:
            part = {"conv1": "branch2.a", "conv2": "branch2.b", "conv3": "branch2.c", "shortcut": "branch1"}[p[4]]
            norm = "_bn" if p[5] == "norm" else ""
            key = f"s{p[1][3]}.pathway{pathway}_res{p[3]}.{part}{norm}.{p[6]}"
        out[key] = t
    return out


def caffe2(state: State) -> State:
    blob = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}
    last = {f"res{s}": max(int(n.split(".")[3]) for n in state if f".res{s}.blocks." in n) for s in range(2, 6)}
    out: State = {}
    for name, t in state.items():
        p = name.split(".")
        if p[-1] == "num_batches_tracked":
            continue
        t_ = "t_" if p[0] == "fast" else ""
        if p[0] == "head":
            key = f"pred_{p[2][0]}"
        elif p[0] == "lateral":
            place = "t_pool1" if p[1] == "stem" else f"t_{p[1]}_{last[p[1]]}_branch2c_bn"
            key = f"{place}_subsample_" + ("w" if p[3] == "conv" else f"bn_{blob[p[4]]}")
        elif p[1] == "stem":
            key = f"{t_}conv1_w" if p[3] == "conv" else f"{t_}res_conv1_bn_{blob[p[4]]}"
        elif p[2] == "non_local":
            place = f"{t_}nonlocal_conv{p[1][3]}_{p[3]}"
            key = f"{place}_bn_{blob[p[5]]}" if p[4] == "norm" else f"{place}_{p[4]}_{p[5][0]}"
        else:
            branch = {"conv1": "2a", "conv2": "2b", "conv3": "2c", "shortcut": "1"}[p[4]]
            place = f"{t_}{p[1]}_{p[3]}_branch{branch}"
            key = f"{place}_w" if p[5] == "conv" else f"{place}_bn_{blob[p[6]]}"
        out[key] = t
    return out


def pytorchvideo(state: State, *, pool_after_res2: bool = False) -> State:
    two = any(name.startswith("fast.") for name in state)
    out: State = OrderedDict()
    for name, t in state.items():
        p = name.split(".")
        if p[0] == "head":
            key = f"blocks.{5 + (two or pool_after_res2)}.proj.{p[2]}"
        elif p[0] == "lateral":
            part = "conv_fast_to_slow" if p[3] == "conv" else "norm"
            key = f"blocks.{STAGES.index(p[1])}.multipathway_fusion.{part}.{p[4]}"
        else:
            block = STAGES.index(p[1])
            inside = f"multipathway_blocks.{int(p[0] == 'fast')}." if two else ""
            prefix = f"blocks.{block + (pool_after_res2 and block > 1)}.{inside}"
            if p[1] == "stem":
                key = f"{prefix}{p[3]}.{p[4]}"
            elif p[4] == "shortcut":
                key = f"{prefix}res_blocks.{p[3]}.branch1_{p[5]}.{p[6]}"
            else:
                key = f"{prefix}res_blocks.{p[3]}.branch2.{p[5]}_{'abc'[int(p[4][4]) - 1]}.{p[6]}"
        out[key] = t
    return out


def pytorchvideo_in_pyslowfast(state: State) -> State:
    return {f"model.{name}": t for name, t in pytorchvideo(state).items()}


def pytorchvideo_detection(state: State) -> State:
    """``DetectionBBoxNetwork``: the network, and its classifier beside it."""
    blocks = pytorchvideo({name: t for name, t in state.items() if not name.startswith("head.")})
    head = {f"detection_head.proj.{part}": state[f"head.fc.{part}"] for part in ("weight", "bias")}
    return {**{f"model.{name}": t for name, t in blocks.items()}, **head}


def mmaction2(state: State) -> State:
    two = any(name.startswith("fast.") for name in state)
    out: State = OrderedDict({"data_preprocessor.mean": torch.zeros(3, 1, 1)})
    for name, t in state.items():
        p = name.split(".")
        backbone = f"backbone.{p[0]}_path." if two else "backbone."
        part = {"conv": "conv", "norm": "bn"}
        if p[0] == "head":
            if two and p[2] == "weight":  # SlowFastHead has the Fast features first
                slow = state["slow.res5.blocks.0.conv3.conv.weight"].shape[0]
                t = torch.cat((t[:, slow:], t[:, :slow]), dim=1)
            key = f"cls_head.fc_cls.{p[2]}"
        elif p[0] == "lateral":
            place = "conv1" if p[1] == "stem" else f"layer{int(p[1][3]) - 1}"
            key = f"backbone.slow_path.{place}_lateral.{part[p[3]]}.{p[4]}"
        elif p[1] == "stem":
            key = f"{backbone}conv1.{part[p[3]]}.{p[4]}"
        elif p[2] == "non_local":
            place = f"{backbone}layer{int(p[1][3]) - 1}.{p[3]}.non_local_block"
            inner = {"out": "conv_out.conv", "norm": "conv_out.bn", "theta": "theta.conv"}.get(p[4], f"{p[4]}.0.conv")
            key = f"{place}.{inner}.{p[5]}"
        else:
            place = f"{backbone}layer{int(p[1][3]) - 1}.{p[3]}"
            key = f"{place}.{'downsample' if p[4] == 'shortcut' else p[4]}.{part[p[5]]}.{p[6]}"
        out[key] = t
    return out


def gluoncv(state: State, family: str = "") -> State:
    """``family``: "" for SlowFast, "i3d", or "i3d_slow"."""
    out: State = OrderedDict()
    for name, t in state.items():
        p = name.split(".")
        if p[0] == "head":
            key = f"fc.{p[2]}"
            if family == "i3d":
                out[f"head.1.{p[2]}"] = t
        elif p[0] == "lateral":
            key = f"lateral_{'p1' if p[1] == 'stem' else p[1]}.{int(p[3] == 'norm')}.{p[4]}"
        elif p[1] == "stem":
            if family == "i3d":
                key = f"first_stage.{int(p[3] == 'norm')}.{p[4]}"
            else:
                key = ("" if family else f"{p[0]}_") + ("conv1." if p[3] == "conv" else "bn1.") + p[4]
        else:
            stage = int(p[1][3])
            place = {"": f"{p[0]}_res{stage}", "i3d": f"res_layers.{stage - 2}", "i3d_slow": f"layer{stage - 1}"}[
                family
            ]
            if p[2] == "non_local":
                inner = {"out": "W", "norm": "bn"}.get(p[4], p[4])
                key = f"{place}.{p[3]}.nonlocal_block.{inner}.{p[5]}"
                if inner in ("W", "bn"):
                    out[f"{place}.{p[3]}.nonlocal_block.W_bn.{int(inner == 'bn')}.{p[5]}"] = t
            elif p[4] == "shortcut":
                key = f"{place}.{p[3]}.downsample.{int(p[5] == 'norm')}.{p[6]}"
            else:
                key = f"{place}.{p[3]}.{'conv' if p[5] == 'conv' else 'bn'}{p[4][4]}.{p[6]}"
        out[key] = t
    return out


def save(state: State, project: str, path: Path, **kwargs: Any) -> Path:
    """Writes a file as the project would."""
    named = globals()[project](state, **kwargs)
    if project == "caffe2":
        blobs: dict[str, Any] = {name: t.numpy() for name, t in named.items()}
        # What the training leaves: an iteration count, the learning rate, momenta.
        blobs |= {"model_iter": 7, "lr": torch.ones(1).numpy(), "conv1_w_momentum": blobs["conv1_w"] * 0}
        path.write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
        return path
    content: Any = named
    if project in ("pyslowfast", "pytorchvideo_in_pyslowfast"):
        content = {"epoch": 1, "model_state": named, "optimizer_state": {}, "cfg": "MODEL:\n  ARCH: slowfast\n"}
    elif project in ("pytorchvideo", "pytorchvideo_detection"):
        content = {"model_state": named}
    elif project == "mmaction2":
        content = {"meta": {}, "state_dict": named}
    torch.save(content, path)
    return path
