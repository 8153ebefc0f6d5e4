"""Networks made for inference compute what they were made from, whatever the configuration, the clip and the build."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import slowfast_zoo as sfz
from slowfast_zoo.inference import VideoClassifier
from slowfast_zoo.inference.optimize import convs as folded_conv
from slowfast_zoo.inference.optimize.blocks import FoldedStem
from slowfast_zoo.inference.optimize.convs import FoldedConv
from slowfast_zoo.inference.optimize.network import optimize_for_inference
from slowfast_zoo.kernels import onednn

NAMES = sfz.list_models()
# One of each kind: SlowFast, with non-local blocks, one pathway, one thin pathway, temporal strides and pooling, boxes.
KINDS = [
    "slowfast_r50_4x16",
    "slowfast_r50_nl_8x8",
    "slow_r50_nl_8x8",
    "fast_r50_4x16",
    "i3d_r50_nl_32x2",
    "slowfast_r50_4x16_det",
    "slowfast_tiny_4x8",
]
FUSIONS = [
    "time_to_channel_sum",
    "time_to_channel_concat",
    "time_strided_sample",
    "time_strided_conv",
    "bidirectional",
    "none",
]
SAMPLE = Path(sfz.__file__).parent / "video" / "samples" / "camera_moves.mp4"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@torch.no_grad()
def wake(model: Any) -> Any:
    """Gives each batch norm its own statistics, gamma and beta: as they are initialised, folding does next to nothing.

    A dot product of untrained features is large, and its cube larger from block to block, so non-local blocks are
    made weak.
    """
    generator = torch.Generator().manual_seed(1)

    def random(like: Tensor, low: float, high: float) -> Tensor:
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm3d):
            module.weight.copy_(random(module.weight, 0.5, 1.0) * (0.3 if "non_local" in name else 1.0))
            module.bias.copy_(random(module.bias, -0.1, 0.1))
            module.running_mean.copy_(random(module.bias, -0.1, 0.1))
            module.running_var.copy_(random(module.bias, 0.5, 1.5))
        elif isinstance(module, nn.Conv3d) and module.bias is not None:
            module.bias.copy_(random(module.bias, -0.1, 0.1))
        if name.endswith((".theta", ".phi")):
            module.weight.mul_(0.1)
    return model


def network(name: str, seed: int = 0, **overrides: Any) -> Any:
    """A narrow network on few frames, in evaluation."""
    with torch.device("meta"):
        least = getattr(sfz.create_model(name).config, "temporal_reduction", 1)
    torch.manual_seed(seed)
    return wake(sfz.create_model(name, **{"width": 8, "num_classes": 11, "frames": max(2, least), **overrides})).eval()


def small(name: str, **overrides: Any) -> Any:
    """The same with two blocks a stage: one with a convolution for its shortcut, and one without."""
    return network(name, **{"width": 16, "depths": (2, 2, 2, 2), **overrides})


def clip_for(model: Any, size: tuple[int, int] = (64, 48), batch: int = 2, times: int = 1) -> Any:
    generator = torch.Generator().manual_seed(5)
    config = model.config
    frames = config.clip_frames * times
    clip = torch.randn((batch, config.in_chans, frames, *size), generator=generator)
    if getattr(config, "fast_input", "") != "flow":
        return clip
    flow = torch.randn((batch, 2, frames, *size), generator=generator)
    return clip[:, :, :: config.alpha], flow


def boxes_for(model: Any, clip: Any) -> list[Tensor] | None:
    if model.config.roi is None:
        return None
    h, w = clip.shape[-2:]
    return [torch.tensor([[0.0, 0, w, h], [w / 4, h / 5, w / 2, h - 3]])] * len(clip)


def assert_close(got: Any, want: Any, tolerance: float = 1e-4) -> None:
    """Equal within a share of the largest value, in the same lists and tuples."""
    if not isinstance(want, Tensor):
        assert type(got) is type(want)
        assert len(got) == len(want)
        for g, w in zip(got, want, strict=True):
            assert_close(g, w, tolerance)
        return
    assert got.shape == want.shape
    assert torch.isfinite(want).all()
    scale = want.abs().max().item()
    assert 0 < scale < 1e6, "the network says nothing"
    assert (got.float() - want.float()).abs().max().item() <= tolerance * scale


@torch.no_grad()
def assert_same_network(optimized: Any, model: Any, clip: Any, tolerance: float = 1e-4) -> None:
    boxes = boxes_for(model, clip)
    maps, want = optimized.forward_features(clip), model.forward_features(clip)
    assert_close(maps, want, tolerance)
    logits = optimized(clip, boxes)
    assert logits.dtype == torch.float32
    assert_close(logits, model.forward_head(want, boxes=boxes), tolerance)
    assert_close(optimized.forward_head(maps, boxes=boxes), logits, tolerance)
    pooled = [m.forward_head(x, pre_logits=True, boxes=boxes) for m, x in ((optimized, maps), (model, want))]
    assert_close(*pooled, tolerance)


# -- every network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_architecture(name: str) -> None:
    model = network(name)
    optimized = optimize_for_inference(model)
    assert type(optimized) is type(model)
    assert optimized.optimized
    assert not model.optimized
    assert optimized.config == model.config
    assert optimized.feature_info == model.feature_info
    assert optimized.pretrained_cfg == model.pretrained_cfg
    assert not [key for key, module in optimized.named_modules() if isinstance(module, (nn.BatchNorm3d, nn.Conv3d))]
    clip = clip_for(model)
    assert_same_network(optimized, model, clip)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_low_precision(name: str, dtype: torch.dtype, tolerance: float) -> None:
    try:
        F.conv2d(torch.ones(1, 2, 4, 4, dtype=dtype), torch.ones(2, 2, 3, 3, dtype=dtype))
    except RuntimeError:
        pytest.skip(f"this build of PyTorch has no convolution of {dtype}")
    model = small(name)
    optimized = optimize_for_inference(model, dtype)
    clip = clip_for(model)
    assert_same_network(optimized, model, clip, tolerance)
    maps = optimized.forward_features(clip)
    assert {x.dtype for x in (maps if isinstance(maps, tuple) else (maps,))} == {dtype}
    boxes = boxes_for(model, clip)
    with torch.no_grad():
        logits = optimized(clip, boxes)
        assert_close(optimized(clip.to(dtype), boxes), logits, tolerance)
        assert_close(optimized(clip.double(), boxes), logits, tolerance)  # frames of any type
        assert_close(optimized.probabilities(clip, boxes), model.probabilities(clip, boxes), tolerance)


def test_dtype_is_the_networks_own_unless_given() -> None:
    model = small("slowfast_tiny_4x8").to(torch.bfloat16)
    assert optimize_for_inference(model).forward_features(clip_for(model))[0].dtype == torch.bfloat16
    wide = optimize_for_inference(model, torch.float32)
    assert wide.forward_features(clip_for(model))[0].dtype == torch.float32
    assert_same_network(wide, model.float(), clip_for(model))


@pytest.mark.parametrize("name", KINDS[:-2])
@pytest.mark.parametrize("out_indices", [None, (3, 0, -2), (1,)])
def test_feature_maps(name: str, out_indices: Any) -> None:
    """None of them is written over by the layers behind it, which add in place."""
    model = small(name, features_only=True, out_indices=out_indices)
    optimized = optimize_for_inference(model)
    assert type(optimized) is type(model)
    assert optimized.network.optimized
    assert optimized.out_indices == model.out_indices
    assert optimized.feature_info == model.feature_info
    clip = clip_for(model)
    with torch.no_grad():
        first, want = optimized(clip), model(clip)
        assert_close(first, want)
        before = copy.deepcopy(first)
        optimized(clip + 1)
    for got, kept in zip(first, before, strict=True):  # nor by the next call
        pairs = zip(got, kept, strict=True) if isinstance(got, tuple) else [(got, kept)]
        assert all(torch.equal(a, b) for a, b in pairs)
    for x in (x for stage in first for x in (stage if isinstance(stage, tuple) else (stage,))):
        assert x.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("res5_stride", [1, 2])
def test_feature_maps_of_fusions(fusion: str, res5_stride: int) -> None:
    # With four times the beta, concatenated channels make a block's input as wide as its output.
    for overrides in ({}, {"alpha": 4, "stride": 8, "beta": 0.5, "width": 8}):
        if overrides and fusion == "time_to_channel_sum":
            continue
        model = small(
            "slowfast_r50_4x16", features_only=True, fusion=fusion, res5_stride=res5_stride, **overrides
        )  # fmt: skip
        clip = clip_for(model, (40, 33))
        with torch.no_grad():
            assert_close(optimize_for_inference(model)(clip), model(clip))


@pytest.mark.parametrize("name", ["slowfast_r50_4x16", "slowfast_tiny_4x8", "slowfast_r50_4x16_det"])
def test_pair(name: str) -> None:
    model = small(name)
    optimized = optimize_for_inference(model)
    slow, fast = clip_for(model)[:, :, :2], clip_for(model)
    boxes = boxes_for(model, fast)
    with torch.no_grad():
        want = model((slow, fast), boxes)
        assert_close(optimized((slow, fast), boxes), want)
        assert_close(optimized([slow, fast], boxes), want)
        assert not torch.allclose(optimized(fast, boxes), want, rtol=1e-3), "other frames than the clip's"


def test_boxes_of_some_clips_only() -> None:
    model = small("slowfast_r50_4x16_det")
    optimized = optimize_for_inference(model)
    clip = clip_for(model, batch=3)
    boxes = [torch.zeros(0, 4), torch.tensor([[3.0, 4, 30, 40]]), torch.tensor([[-5.0, 2, 30, 40], [0, 0, 48, 64]])]
    with torch.no_grad():
        assert_close(optimized(clip, boxes), model(clip, boxes))
        assert optimized(clip, [torch.zeros(0, 4)] * 3).shape == (0, 11)
    with pytest.raises(ValueError, match="needs boxes"):
        optimized(clip)


# -- every configuration -----------------------------------------------------------------------------------------------

NON_LOCAL = {"blocks": {"res3": (0, 1), "res5": (1,)}, "fast_blocks": {"res4": (0,)}}
SF, SLOW, I3D = "slowfast_r50_4x16", "slow_r50_8x8", "i3d_r50_32x2"
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *((SF, {"fusion": fusion}) for fusion in FUSIONS),
    *((SF, {"fusion": fusion, "res5_stride": 1, "res5_dilation": 2}) for fusion in FUSIONS),
    *((SF, {"fusion": fusion, "lateral_norm": False}) for fusion in ("time_strided_conv", "bidirectional")),
    *((SF, {"fast_input": kind}) for kind in ("rgb", "rgb_half", "gray", "time_difference", "flow")),
    *((SF, {"fast_input": "rgb_half", "fusion": fusion}) for fusion in FUSIONS),
    *(
        (SF, {"non_local": {**NON_LOCAL, "instantiation": kind, **more}})
        for kind in ("gaussian", "embedded_gaussian", "dot_product", "concatenation")
        for more in ({}, {"pool": (2, 2, 2), "pool_first": False, "scaled": False, "out_bias": False})
    ),
    (SF, {"alpha": 4, "stride": 8, "beta": 0.5, "res5_stride": 1}),  # res5's input is as wide as its output
    (SF, {"alpha": 4, "stride": 8, "beta": 1 / 6, "lateral_kernel": 7, "lateral_ratio": 3}),
    (SF, {"width": 8, "fusion": "bidirectional"}),  # one Fast channel
    (SF, {"width": 8, "fusion": "time_strided_sample"}),
    (SF, {"width": 40, "beta": 1 / 5}),
    (SF, {"slow_frames": "strided"}),
    (SF, {"temporal_kernels": ((3, 1, (1, 3), 3, 3), (7, 5, 3, 3, 1))}),
    *((SF, {"in_chans": channels}) for channels in (1, 4)),
    *((SF, {"in_chans": channels, "fast_input": "gray"}) for channels in (1, 4)),
    (SF, {"head_window": 7}),
    (SF, {"head_window": 2, "head_average": "logits"}),
    (SF, {"num_classes": 0}),
    (SLOW, {"in_chans": 1}),
    (SLOW, {"width": 8, "beta": 1 / 8}),  # one channel from stem to res2
    (SLOW, {"pool1_padding": 0, "head_window": 7, "head_activation": "sigmoid"}),
    (SLOW, {"pool1_stride": 2, "frames": 6}),
    (SLOW, {"res5_stride": 1, "res5_dilation": 2}),
    (SLOW, {"temporal_pool": True, "frames": 6}),
    (I3D, {"frames": 8}),
    (I3D, {"frames": 24, "beta": 1 / 4}),
    (I3D, {"conv1_stride": 3, "pool1_stride": 2, "temporal_kernels": (3, 3, 1, 3, 1), "frames": 12, "beta": 1 / 2}),
    (I3D, {"temporal_kernels": (1, 3, 1, 3, 1), "frames": 16}),
    ("slow_r50_4x16_det", {"roi": {"aligned": True, "temporal_pool": "max", "context": True, "resolution": 3}}),
    ("slowfast_r50_4x16_det", {"fusion": "time_to_channel_concat"}),
]


@pytest.mark.parametrize(("name", "overrides"), OPTIONS, ids=lambda x: x if isinstance(x, str) else str(x)[1:60])
def test_options(name: str, overrides: dict[str, Any]) -> None:
    model = small(name, **overrides)
    optimized = optimize_for_inference(model)
    for size in ((32, 32), (33, 47)):
        clip = clip_for(model, size, batch=1)
        assert_same_network(optimized, model, clip)
    if model.config.head_window or model.config.roi:  # low precision has those of the others
        boxes = boxes_for(model, clip)
        with torch.no_grad():
            assert_close(optimized.probabilities(clip, boxes), model.probabilities(clip, boxes))


@pytest.mark.parametrize("window", [7, None])
def test_head_windows_at_other_sizes(window: int | None) -> None:
    model = network("slowfast_tiny_4x8", head_window=window)
    optimized = optimize_for_inference(model)
    for size in ((32, 32), (224, 225), (290, 96)):
        assert_same_network(optimized, model, clip_for(model, size, batch=1))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_reset_classifier(dtype: torch.dtype | None) -> None:
    model = small("slowfast_r50_4x16")
    optimized = optimize_for_inference(model, dtype)
    clip = clip_for(model)
    optimized.reset_classifier(5)
    model.reset_classifier(5)
    model.head.fc.load_state_dict(optimized.head.fc.state_dict())
    tolerance = 0.05 if dtype else 1e-4
    with torch.no_grad():
        assert optimized.num_classes == 5
        logits = optimized(clip)
        assert logits.dtype == torch.float32
        assert_close(logits, model(clip), tolerance)
        optimized.reset_classifier(0)
        model.reset_classifier(0)
        assert_close(optimized(clip), model(clip), tolerance)


# -- from call to call -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_sizes_change_from_call_to_call(name: str) -> None:
    """Weights lie in an order that depends on the input's size, and are put in another when it changes."""
    model = small(name)
    optimized = optimize_for_inference(model)
    first = clip_for(model)
    boxes = boxes_for(model, first)
    with torch.no_grad():
        before = optimized(first, boxes)
    for size, batch, times in (((32, 40), 3, 1), ((65, 70), 1, 2), ((64, 48), 2, 1), ((64, 48), 1, 3)):
        assert_same_network(optimized, model, clip_for(model, size, batch, times))
    with torch.no_grad():
        assert torch.equal(optimized(first, boxes), before)
        assert torch.equal(optimized(first, boxes), before)


@given(
    batch=st.integers(1, 3),
    times=st.integers(1, 3),
    height=st.integers(32, 75),
    width=st.integers(32, 75),
    last=st.booleans(),
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_clip(tiny: tuple[Any, Any], batch: int, times: int, height: int, width: int, last: bool) -> None:
    model, optimized = tiny
    clip = clip_for(model, (height, width), batch, times)
    if last:
        clip = clip.to(memory_format=torch.channels_last_3d)
    assert_same_network(optimized, model, clip)


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    model = network("slowfast_tiny_4x8")
    return model, optimize_for_inference(model)


@pytest.mark.parametrize("name", KINDS)
def test_the_clip_is_only_read(name: str) -> None:
    model = small(name)
    for dtype in (torch.float32, torch.bfloat16):
        optimized = optimize_for_inference(model, dtype)
        for clip in (clip_for(model), clip_for(model).to(dtype), clip_for(model)[..., ::2, :].transpose(3, 4)):
            before = clip.clone()
            with torch.no_grad():
                optimized(clip, boxes_for(model, clip))
            assert torch.equal(clip, before)


def test_clips_in_any_memory(tiny: tuple[Any, Any]) -> None:
    model, optimized = tiny
    clip = clip_for(model)
    wide = clip_for(model, (64, 96))
    for x in (
        clip.to(memory_format=torch.channels_last_3d),
        clip.transpose(3, 4),
        wide[..., ::2],
        clip[:1].expand(3, -1, -1, -1, -1),
        clip.flip(2),
    ):
        assert_same_network(optimized, model, x)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_autograd_modes(tiny: tuple[Any, Any], mode: Any) -> None:
    model, optimized = tiny
    clip = clip_for(model)
    with mode():
        assert_close(optimized(clip), model(clip).detach())
        assert not optimized(clip).requires_grad


@pytest.mark.parametrize("name", ["slowfast_r50_nl_8x8", "slow_r50_nl_8x8", "slowfast_tiny_4x8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast(name: str, dtype: torch.dtype) -> None:
    model = network(name)
    optimized = optimize_for_inference(model, dtype)
    clip = clip_for(model)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(optimized(clip), model(clip), 0.1)


def test_threads(tiny: tuple[Any, Any]) -> None:
    """Callers with clips of other sizes put the weights into another order under each other's hands."""
    model, optimized = tiny
    clips = [
        clip_for(model, size, batch) for size, batch in (((32, 32), 1), ((48, 40), 2), ((64, 33), 1), ((36, 64), 3))
    ]
    with torch.no_grad():
        want = [model(clip) for clip in clips]

    def call(i: int) -> list[tuple[int, Tensor]]:
        with torch.no_grad():
            return [(k % 4, optimized(clips[k % 4])) for k in range(i, i + 8)]

    with ThreadPoolExecutor(4) as pool:
        for results in pool.map(call, range(4)):
            for k, got in results:
                assert_close(got, want[k])


# -- the original, and copies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_the_original_is_left_alone(name: str) -> None:
    model = small(name, drop_rate=0.0).train()
    before = copy.deepcopy(model.state_dict())
    flags = [p.requires_grad for p in model.parameters()]
    optimized = optimize_for_inference(model)
    clip = clip_for(model)
    boxes = boxes_for(model, clip)
    with torch.no_grad():
        want = optimized(clip, boxes)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert model.training and all(module.training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()] == flags
    model(clip, boxes).square().sum().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None] == []
    storages = {x.untyped_storage().data_ptr() for x in (*model.parameters(), *model.buffers())}
    assert not storages & {x.untyped_storage().data_ptr() for x in optimized.state_dict().values()}
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(3)
        assert torch.equal(optimized(clip, boxes), want)
        for tensor in (*optimized.parameters(), *optimized.buffers()):
            tensor.zero_()
    assert all((p == 3).all() for p in model.parameters())


def test_no_memory_is_shared_with_bare_convolutions() -> None:
    """Where there is no batch norm to fold, nothing makes a new weight."""
    for dtype in (torch.float32, torch.bfloat16):
        model = small(SF, lateral_norm=False).to(dtype)
        storages = {x.untyped_storage().data_ptr() for x in model.parameters()}
        optimized = optimize_for_inference(model)
        assert not storages & {x.untyped_storage().data_ptr() for x in optimized.state_dict().values()}


@pytest.mark.parametrize("name", KINDS)
def test_in_evaluation_for_good(name: str) -> None:
    model = small(name)
    optimized = optimize_for_inference(model.train())
    assert [key for key, module in optimized.named_modules() if module.training] == []
    assert not any(p.requires_grad for p in optimized.parameters())
    clip = clip_for(model)
    boxes = boxes_for(model, clip)
    with torch.no_grad():
        want = optimized(clip, boxes)
        state = copy.deepcopy(optimized.state_dict())
        assert torch.equal(optimized.train()(clip, boxes), want)
        assert torch.equal(optimized.eval()(clip, boxes), want)
        optimized.set_grad_checkpointing()
    assert_close(optimized(clip, boxes), want)
    assert all(torch.equal(x, state[key]) for key, x in optimized.state_dict().items())


@pytest.mark.parametrize("name", KINDS)
def test_state_dict(name: str) -> None:
    model = small(name)
    first = optimize_for_inference(model)
    second = optimize_for_inference(small(name, seed=1))
    state = first.state_dict()
    layers = {key: m for key, m in first.named_modules() if isinstance(m, (FoldedConv, FoldedStem))}
    assert len(layers) > 20
    for key in layers:
        assert state[f"{key}.weight"].ndim == 5, key
        assert state[f"{key}.weight"].is_mkldnn is False
        assert state[f"{key}.bias"].shape == state[f"{key}.weight"].shape[:1]
    clip = clip_for(model)
    boxes = boxes_for(model, clip)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    with torch.no_grad():
        want = first(clip, boxes)
        assert not torch.allclose(second(clip, boxes), want)
        loaded = second.load_state_dict(torch.load(file, weights_only=True))
        assert not loaded.missing_keys
        assert not loaded.unexpected_keys
        assert torch.equal(second(clip, boxes), want)
        assert not any(p.requires_grad for p in second.parameters())


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_copies(name: str, dtype: torch.dtype) -> None:
    model = small(name)
    optimized = optimize_for_inference(model, dtype)
    clip = clip_for(model)
    boxes = boxes_for(model, clip)

    def through_a_file(x: Any) -> Any:
        file = io.BytesIO()
        torch.save(x, file)
        file.seek(0)
        return torch.load(file, weights_only=False)

    with torch.no_grad():
        fresh = copy.deepcopy(optimized)
        want = optimized(clip, boxes)
        for other in (fresh, copy.deepcopy(optimized), through_a_file(optimized)):
            assert other.optimized
            assert torch.equal(other(clip, boxes), want)
            assert not any(p.requires_grad for p in other.parameters())
        for tensor in (*other.parameters(), *other.buffers()):
            tensor.zero_()
        assert torch.equal(optimized(clip, boxes), want)


def test_moving_keeps_the_weights(tiny: tuple[Any, Any]) -> None:
    model, optimized = tiny
    moved = copy.deepcopy(optimized).to("cpu").to(memory_format=torch.channels_last_3d)
    assert_same_network(moved, model, clip_for(model))
    assert_same_network(moved, model, clip_for(model, (33, 40), 1))


# -- gradients ---------------------------------------------------------------------------------------------------------


def assert_same_gradient(got: Tensor, want: Tensor) -> None:
    """Equal on the whole: a ReLU of next to nothing may be on in one order of summation and off in another."""
    assert got.shape == want.shape
    assert want.norm() > 0
    assert (got - want).norm().item() <= 0.03 * want.norm().item()


def gradients(model: Any, clip: Any, boxes: Any, needs: tuple[bool, ...]) -> list[Tensor | None]:
    """Those of a sum of squares with respect to the clip, or to each clip of a pair that is to have one."""
    leaves = [
        x.clone().requires_grad_(n) for x, n in zip(clip if isinstance(clip, tuple) else (clip,), needs, strict=True)
    ]
    model(tuple(leaves) if isinstance(clip, tuple) else leaves[0], boxes).square().sum().backward()
    return [x.grad for x in leaves]


@pytest.mark.parametrize("name", KINDS)
def test_gradient_of_the_input(name: str) -> None:
    model = small(name)
    optimized = optimize_for_inference(model)
    clip = clip_for(model)
    boxes = boxes_for(model, clip)
    (want,) = gradients(model, clip, boxes, (True,))
    (got,) = gradients(optimized, clip, boxes, (True,))
    assert_same_gradient(got, want)
    assert all(p.grad is None for p in optimized.parameters())
    with torch.no_grad():
        assert_close(optimized(clip, boxes), model(clip, boxes))


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("needs", [(True, False), (False, True)])
def test_gradient_of_a_pair(fusion: str, needs: tuple[bool, bool]) -> None:
    """Where only one pathway's frames have a gradient, the other's convolutions must not cut it off."""
    model = small("slowfast_r50_4x16", fusion=fusion)
    optimized = optimize_for_inference(model)
    clip = clip_for(model)
    pair = clip[:, :, ::8], clip
    for got, want, need in zip(
        gradients(optimized, pair, None, needs), gradients(model, pair, None, needs), needs, strict=True
    ):
        assert (got is None) == (want is None) == (not need)
        if need:
            assert_same_gradient(got, want)


@pytest.mark.parametrize("out", range(5))
def test_gradient_through_feature_maps(out: int) -> None:
    model = small("slowfast_r50_nl_8x8", features_only=True, out_indices=(out,))
    optimized = optimize_for_inference(model)
    results = []
    for each in (model, optimized):
        clip = clip_for(model).requires_grad_()
        sum(x.square().sum() for x in each(clip)[0]).backward()
        results.append(clip.grad)
    assert_same_gradient(results[1], results[0])


def test_gradient_after_inference_mode() -> None:
    """What a call in inference mode leaves behind does not spoil the next one."""
    model = small("slowfast_r50_nl_8x8")
    optimized = optimize_for_inference(model)
    clip = clip_for(model)
    with torch.inference_mode():
        optimized(clip_for(model, (40, 40)))
    (want,) = gradients(model, clip, None, (True,))
    (got,) = gradients(optimized, clip, None, (True,))
    assert_same_gradient(got, want)
    assert_close(copy.deepcopy(optimized)(clip), model(clip).detach())


# -- other builds of PyTorch, compilers --------------------------------------------------------------------------------


def without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (onednn, folded_conv):
        monkeypatch.setattr(module, "has_onednn", lambda dtype: False)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_without_onednn(name: str, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(name)
    with_it = optimize_for_inference(model, dtype)
    assert_same_network(with_it, model, clip_for(model), tolerance)
    without_onednn(monkeypatch)
    without = optimize_for_inference(model, dtype)
    clip = clip_for(model, (33, 47), batch=1)
    assert_same_network(without, model, clip, tolerance)
    assert_same_network(with_it, model, clip, tolerance)  # whose weights are packed
    assert_same_network(copy.deepcopy(without), model, clip, tolerance)
    assert_same_network(copy.deepcopy(with_it), model, clip, tolerance)
    assert set(without.state_dict()) == set(with_it.state_dict())
    monkeypatch.undo()
    assert_same_network(without, model, clip_for(model), tolerance)  # whose weights are not
    without.load_state_dict(with_it.state_dict())
    assert_same_network(without, model, clip_for(model, (40, 40)), tolerance)


def test_feature_maps_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("slowfast_r50_nl_8x8", features_only=True)
    without_onednn(monkeypatch)
    with torch.no_grad():
        assert_close(optimize_for_inference(model)(clip_for(model)), model(clip_for(model)))


@pytest.fixture
def compile_with() -> Any:
    torch._dynamo.reset()
    yield lambda model, backend: torch.compile(model, backend=backend)
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "has_run"), [("eager", False), ("aot_eager", True)])
def test_compile(backend: str, has_run: bool, compile_with: Callable[..., Any]) -> None:
    model = network("slowfast_tiny_4x8")
    optimized = optimize_for_inference(model)
    clip = clip_for(model)
    with torch.no_grad():
        if has_run:
            optimized(clip_for(model, (40, 40), 1))
        compiled = compile_with(optimized, backend)
        want = model(clip)
        assert_close(compiled(clip), want)
        assert_close(compiled(clip), want)
        assert_close(optimized(clip), want)  # as it was


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile_an_ordinary_network_in_training(backend: str, compile_with: Callable[..., Any]) -> None:
    plain = network("slowfast_tiny_4x8", drop_rate=0.0).train()
    other = copy.deepcopy(plain)
    clip = clip_for(plain)
    for model in (plain, compile_with(other, backend)):
        model(clip).square().sum().backward()
    for (key, a), b in zip(plain.named_parameters(), other.parameters(), strict=True):
        scale = a.grad.abs().max().item()
        assert (a.grad - b.grad).abs().max().item() <= 1e-3 * scale + 1e-7, key
    for a, b in zip(plain.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(b, a)


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("thing", [nn.Linear(2, 2), "slowfast_tiny_4x8", None, nn.Sequential()])
def test_not_a_network(thing: Any) -> None:
    with pytest.raises(TypeError, match="takes a network from create_model"):
        optimize_for_inference(thing)


@pytest.mark.parametrize("dtype", [torch.float64, "bfloat16", torch.int8])
def test_not_a_dtype(tiny: tuple[Any, Any], dtype: Any) -> None:
    with pytest.raises(TypeError, match="torch.float32, torch.bfloat16, torch.float16"):
        optimize_for_inference(tiny[0], dtype)


def test_network_of_another_dtype() -> None:
    model = network("slowfast_tiny_4x8").double()
    with pytest.raises(TypeError, match="torch.float64"):
        optimize_for_inference(model)
    assert_same_network(optimize_for_inference(model, torch.float32), model.float(), clip_for(model))


@pytest.mark.parametrize("features_only", [False, True])
def test_optimised_twice(features_only: bool) -> None:
    optimized = optimize_for_inference(network("slowfast_tiny_4x8", features_only=features_only))
    with pytest.raises(ValueError, match="optimised already"):
        optimize_for_inference(optimized)


def test_meta() -> None:
    with torch.device("meta"):
        model = sfz.create_model("slowfast_tiny_4x8")
    with pytest.raises(ValueError, match="meta device"):
        optimize_for_inference(model)


def test_no_checkpoint(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    _, optimized = tiny
    with pytest.raises(ValueError, match="optimised.*save the network that it was made from"):
        optimized.save_pretrained(tmp_path / "folder")
    with pytest.raises(ValueError, match="optimised.*save the network that it was made from"):
        optimized.push_to_hub("someone/something")
    assert not (tmp_path / "folder").exists()


def test_clips_are_checked(tiny: tuple[Any, Any]) -> None:
    model, optimized = tiny
    clip = clip_for(model)
    for bad in (clip[:, :, :7], clip[:, :2], clip[0], clip[..., :31]):
        with pytest.raises(ValueError):  # noqa: PT011 - the same words as the ordinary network's
            model(bad)
        with pytest.raises(ValueError):  # noqa: PT011
            optimized(bad)
    with pytest.raises(TypeError, match="floating-point"):
        optimized(clip.to(torch.uint8))


# -- videos ------------------------------------------------------------------------------------------------------------


def test_video() -> None:
    model = sfz.create_model("slowfast_tiny_4x8.motion", pretrained=True).eval()
    want = VideoClassifier(model)(SAMPLE, clips=2).probabilities
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.05)):
        got = VideoClassifier(optimize_for_inference(model, dtype))(SAMPLE, clips=2).probabilities
        assert got.argmax() == want.argmax()
        torch.testing.assert_close(got, want, atol=tolerance, rtol=0)


# -- unusual ways of calling ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["slowfast_r50_4x16", "i3d_r50_nl_32x2"])
def test_no_clips(name: str) -> None:
    model = small(name)
    clip = clip_for(model)[:0]
    with torch.inference_mode():
        assert model(clip).shape == optimize_for_inference(model)(clip).shape == (0, 11)


def test_forward_mode_derivative() -> None:
    model = small("slowfast_r50_4x16")
    clip = clip_for(model, batch=1)
    direction = torch.randn_like(clip)
    _, want = torch.func.jvp(model, (clip,), (direction,))
    _, got = torch.func.jvp(optimize_for_inference(model), (clip,), (direction,))
    assert (got - want).norm() < 0.03 * want.norm()  # a ReLU that flips changes a derivative by more than rounding


def test_made_in_inference_mode() -> None:
    model = small("slow_r50_8x8")
    with torch.inference_mode():
        fast = optimize_for_inference(model)
    clip = clip_for(model, batch=1).requires_grad_()
    fast(clip).sum().backward()
    assert clip.grad is not None and clip.grad.abs().max() > 0


def test_another_dtype_afterwards() -> None:
    model = small("slowfast_r50_4x16")
    clip = clip_for(model)
    with torch.inference_mode():
        assert_close(optimize_for_inference(model).to(torch.bfloat16)(clip).float(), model(clip), 0.1)


@pytest.mark.parametrize("change", ["norm", "statistics", "activation"])
def test_changed_networks_are_refused(change: str) -> None:
    model = small("slow_r50_8x8")
    block = model.pathway.res3.blocks[1]
    if change == "norm":
        block.conv2.norm = nn.GroupNorm(2, 32)
    elif change == "statistics":
        block.conv2.norm = nn.BatchNorm3d(32, track_running_stats=False)
    else:
        block.act = nn.SiLU()
    with pytest.raises(TypeError, match="can be(come)?"):
        optimize_for_inference(model)


def convolution(**options: Any) -> nn.Conv3d:
    return nn.Conv3d(32, 32, **{"kernel_size": (1, 3, 3), "padding": (0, 1, 1), **options})


CHANGES: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "groups": ("slow.res3.blocks.1.conv2.conv", lambda: convolution(groups=2)),
    "reflecting": ("slow.res3.blocks.1.conv2.conv", lambda: convolution(padding_mode="reflect")),
    "padding in words": ("slow.res3.blocks.1.conv2.conv", lambda: convolution(padding="same")),
    "all axes": ("slow.res3.blocks.1.conv2.conv", lambda: convolution(kernel_size=3, padding=1)),
    "sequential": ("slow.res3.blocks.1.conv2.conv", lambda: nn.Sequential(convolution())),
    "block": ("slow.res3.blocks.1", nn.Identity),
    "stage": ("slow.res3", lambda: nn.Conv3d(80, 128, 1, (1, 2, 2))),
    "shortcut": ("slow.res3.blocks.0.shortcut", lambda: nn.Conv3d(80, 128, 1, (1, 2, 2))),
    "pooling": ("fast.stem.pool1", lambda: nn.AvgPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))),
    "pooling in time": ("fast.stem.pool1", lambda: nn.MaxPool3d(3, (1, 2, 2), 1)),
    "lateral": ("lateral.res2", nn.Identity),
    "norm": ("fast.stem.conv1.norm", lambda: nn.InstanceNorm3d(2, affine=True)),
    "activation": ("fast.stem.conv1.act", nn.GELU),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_layers_are_refused(change: str) -> None:
    """In words that name the layer, and never by another answer than the network's."""
    model = small(SF)
    path, make = CHANGES[change]
    model.set_submodule(path, make())
    with pytest.raises(TypeError, match=f"can be optimised.*; {path} (is another layer|has another form): "):
        optimize_for_inference(model)


def test_what_is_beside_the_layers_does_not_matter() -> None:
    model = small(SF)
    model.loss, model.head.fc = nn.CrossEntropyLoss(), nn.Sequential(nn.Linear(576, 20), nn.Tanh(), nn.Linear(20, 11))
    model.slow.register_buffer("total_ops", torch.zeros(1))
    with torch.no_grad():
        assert_close(optimize_for_inference(model)(clip_for(model)), model(clip_for(model)))


def test_narrower_layers() -> None:
    """As pruning tools leave them: fewer channels in a lateral connection, and in what reads it."""
    model = small(SF)
    conv, norm = model.lateral.res3.fast_to_slow.conv, model.lateral.res3.fast_to_slow.norm
    features = model.slow.res3.blocks[-1].conv3.conv.out_channels
    keep = conv.out_channels // 2
    model.lateral.res3.fast_to_slow.conv = nn.Conv3d(
        conv.in_channels, keep, (5, 1, 1), (8, 1, 1), (2, 0, 0), bias=False
    )
    model.lateral.res3.fast_to_slow.norm = nn.BatchNorm3d(keep).eval()
    for name in ("conv1", "shortcut"):
        layer = getattr(model.slow.res4.blocks[0], name)
        new = nn.Conv3d(
            features + keep, layer.conv.out_channels, layer.conv.kernel_size, layer.conv.stride, layer.conv.padding
        )
        layer.conv = new
    assert norm.num_features == 2 * keep
    with torch.no_grad():
        assert_close(optimize_for_inference(model)(clip_for(model)), model(clip_for(model)))


def test_hooks_see_what_a_layer_gave() -> None:
    model = small("slow_r50_8x8")
    block = model.pathway.res2.blocks[1]
    seen: list[Tensor] = []
    block.conv3.register_forward_hook(lambda _module, _inputs, output: seen.extend((output, output.clone())))
    with torch.no_grad():
        model(clip_for(model))
    assert torch.equal(seen[0], seen[1])
