"""Configurations: JSON round trips, words, and one clear error for what makes no network."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import slowfast_zoo as sfz
from slowfast_zoo.models import ARCHITECTURES, NonLocalConfig, ResNet3DConfig, SlowFastConfig, build, config_from_dict
from slowfast_zoo.models.config import FAST_KERNELS, SLOW_KERNELS, Fusion
from slowfast_zoo.models.slowfast import FUSIONS


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_json_round_trip(name: str) -> None:
    config = ARCHITECTURES[name]
    again = config_from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert type(again) is type(config)
    hash(again)


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ARCHITECTURES["slowfast_r50_4x16"].frames = 8  # type: ignore[misc]


def test_words() -> None:
    words = str(ARCHITECTURES["slowfast_r50_8x8"])
    assert "32 frames" in words
    assert "every 2nd frame" in words
    assert "2.13 s" in words
    assert "256 x 256" in words
    assert "every 8th frame" in words


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"alpha": 3}, "alpha=3 does not divide"),
        ({"alpha": 0}, "alpha is an integer of at least 1"),
        ({"alpha": 2.5}, "alpha is an integer"),
        ({"frames": 0}, "frames is an integer"),
        ({"frames": True}, "frames is an integer"),
        ({"beta": 0}, "beta"),
        ({"beta": -1.0}, "beta"),
        ({"beta": 1 / 128}, "no whole channel"),
        ({"width": 4}, "no whole channel"),
        ({"width": "64"}, "width is an integer"),
        ({"beta": "1/8"}, "beta is a finite number"),
        ({"beta": float("inf")}, "beta is a finite number"),
        ({"drop_rate": None, "lateral_norm": "no"}, "lateral_norm is True or False"),
        ({"fusion": "time_to_channel_sum", "width": 12}, "alpha divide the width"),
        ({"res5_stride": True}, "res5_stride"),
        ({"non_local": {"blocks": {"res4": 0}}}, "sequence of different block indices"),
        ({"non_local": {"blocks": {"res4": (1, 1)}}}, "sequence of different block indices"),
        ({"depths": (3, 4, 6)}, "4 integers"),
        ({"depths": (3, 4, 0, 3)}, "at least 1"),
        ({"depths": ((3, 4, 6, 3), (3, 4, 6))}, "holds 4 integers"),
        ({"temporal_kernels": SLOW_KERNELS}, "pair"),
        ({"temporal_kernels": ((1, 1, 1, 3), FAST_KERNELS)}, "entry for each"),
        ({"temporal_kernels": ((1, 1, 1, 2, 3), FAST_KERNELS)}, "odd"),
        ({"temporal_kernels": ((1, 1, 1, (3, 3), 3), FAST_KERNELS)}, "res4 has 6 blocks"),
        ({"lateral_kernel": 4}, "odd"),
        ({"fusion": "conv"}, "time_strided_conv"),
        ({"fusion": "time_to_channel_sum", "beta": 1 / 4}, "alpha x beta must be 1"),
        ({"fast_input": "bgr"}, "fast_input is one of"),
        ({"fast_input": "rgb_half", "head_window": 7}, "head_window"),
        ({"slow_frames": "first"}, "slow_frames is one of"),
        ({"head_window": 0}, "head_window"),
        ({"head_activation": "relu"}, "head_activation"),
        ({"res5_stride": 3}, "res5_stride"),
        ({"res5_dilation": 0}, "res5_dilation"),
        ({"num_classes": -1}, "num_classes"),
        ({"drop_rate": 1.0}, "drop_rate"),
        ({"crop": 16}, "crop"),
        ({"non_local": {"blocks": {"res4": (6,)}}}, "res4 has 6 blocks"),
        ({"non_local": {"blocks": {"res6": (1,)}}}, "res2, res3, res4, res5"),
        ({"non_local": {"instantiation": "softmax"}}, "embedded_gaussian"),
        ({"non_local": {"pool": (2, 2)}}, "3 integers"),
    ],
)
def test_bad_values(overrides: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        sfz.create_model("slowfast_r50_4x16", **overrides)


@pytest.mark.parametrize(
    ("name", "overrides", "says"),
    [
        ("slowfast_r50_4x16", {"beta_inv": 8}, "takes no keyword 'beta_inv'"),
        ("slow_r50_4x16", {"fusion": "none"}, "takes no keyword 'fusion'"),
        ("slow_r50_4x16", {"non_local": {"block": ()}}, "non_local takes no keyword 'block'; did you mean 'blocks'"),
        ("slowfast_r50_4x16", {"non_local": 3}, "non_local is a NonLocalConfig"),
    ],
)
def test_bad_keywords(name: str, overrides: dict[str, Any], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        sfz.create_model(name, **overrides)


def test_unknown_family() -> None:
    with pytest.raises(ValueError, match="family"):
        config_from_dict({"family": "x3d"})
    with pytest.raises(ValueError, match="not fast_blocks"):
        ResNet3DConfig(non_local=NonLocalConfig(fast_blocks=((0,), (), (), ())))


@settings(max_examples=30, deadline=None)
@given(
    alpha=st.integers(1, 8),
    rate=st.integers(1, 3),
    frames=st.integers(1, 5),
    inverse_beta=st.integers(1, 16),
    fusion=st.sampled_from(
        ["time_to_channel_concat", "time_strided_sample", "time_strided_conv", "bidirectional", "none"]
    ),
    lateral_kernel=st.sampled_from([1, 3, 5, 7, 9]),
    ratio=st.integers(1, 3),
    fast_input=st.sampled_from(["rgb", "rgb_half", "gray", "time_difference", "flow"]),
    in_chans=st.integers(1, 4),
    dilation=st.sampled_from([1, 2]),
    stride=st.sampled_from([1, 2]),
)
def test_any_configuration_runs(
    alpha: int, rate: int, frames: int, inverse_beta: int, fusion: Any, lateral_kernel: int, ratio: int,
    fast_input: Any, in_chans: int, dilation: int, stride: int,
) -> None:  # fmt: skip
    """Whatever the configuration takes, the network gives one row a clip (shapes only, on the meta device)."""
    config = SlowFastConfig(
        frames=frames,
        stride=alpha * rate,
        alpha=alpha,
        beta=1 / inverse_beta,
        width=16,
        depths=((1, 2, 1, 1), (1, 1, 2, 1)),
        fusion=fusion,
        lateral_kernel=lateral_kernel,
        lateral_ratio=ratio,
        fast_input=fast_input,
        in_chans=in_chans,
        res5_dilation=dilation,
        res5_stride=stride,
        num_classes=7,
    )
    with torch.device("meta"):
        model = build(config)
        clip: Any = torch.empty(2, in_chans, config.clip_frames, 40, 64)
        if fast_input == "flow":
            clip = (clip[:, :, :frames], torch.empty(2, 2, config.clip_frames, 40, 64))
    assert model(clip).shape == (2, 7)
    slow, fast = model.forward_features(clip)
    assert slow.shape[2] == frames
    assert fast.shape[2] == alpha * frames
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_every_fusion_has_its_lateral_connection() -> None:
    assert set(FUSIONS) == set(get_args(Fusion))
