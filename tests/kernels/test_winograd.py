"""Convolutions by Winograd's minimal filtering compute what plain ones do, and behave like them."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import slowfast_zoo as sfz
from slowfast_zoo.inference.optimize import convs as folded_conv
from slowfast_zoo.inference.optimize.blocks import FoldedStem
from slowfast_zoo.inference.optimize.convs import FoldedConv, WinogradConv
from slowfast_zoo.inference.optimize.network import optimize_for_inference
from slowfast_zoo.kernels import onednn, winograd
from tests.inference.optimize.test_optimize import (
    KINDS,
    assert_close,
    assert_same_gradient,
    assert_same_network,
    boxes_for,
    clip_for,
    gradients,
    small,
    wake,
)

pytestmark = pytest.mark.skipif(not onednn.has_onednn(torch.float32), reason="PyTorch without oneDNN's convolutions")


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few channels, frames and columns there are."""
    for name, value in (("TEMPORAL", 1), ("SPATIAL", (1, 1)), ("SPARED", -100.0)):
        monkeypatch.setattr(winograd, f"_LEAST_{name}", value)


def layer(
    kernel: tuple[int, int, int], channels: tuple[int, int], *, relu: bool = False, seed: int = 0
) -> tuple[nn.Conv3d, Tensor, WinogradConv]:
    generator = torch.Generator().manual_seed(seed)
    padding = tuple(k // 2 for k in kernel)
    conv = nn.Conv3d(*channels, kernel, padding=padding, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.randn(conv.weight.shape, generator=generator))
    bias = torch.randn(channels[1], generator=generator)
    return conv, bias, WinogradConv(conv, conv.weight.detach(), bias, relu, (8, 16, 16))


def plain(conv: nn.Conv3d, bias: Tensor, x: Tensor, relu: bool) -> Tensor:
    y = F.conv3d(x.double(), conv.weight.double(), bias.double(), padding=conv.padding)
    return y.relu() if relu else y


@pytest.mark.parametrize("kernel", [(3, 1, 1), (1, 3, 3)])
@settings(max_examples=60, deadline=None)
@given(
    channels=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.tuples(st.integers(1, 3), st.integers(1, 19), st.integers(1, 9), st.integers(1, 19)),
    relu=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_any_shape(
    kernel: tuple[int, int, int], channels: tuple[int, int], size: tuple[int, int, int, int], relu: bool, seed: int
) -> None:
    conv, bias, fast = layer(kernel, channels, relu=relu, seed=seed)
    batch, *rest = size
    x = torch.randn(batch, channels[0], *rest, generator=torch.Generator().manual_seed(seed + 1))
    with torch.no_grad():
        want = plain(conv, bias, x, relu)
        for given_ in (x, x.contiguous(memory_format=torch.channels_last_3d)):
            got = fast(given_)
            assert got.shape == want.shape
            scale = max(want.abs().max().item(), 1.0)
            assert (got - want).abs().max().item() <= 1e-5 * scale


def test_half_of_the_multiplications() -> None:
    """Of eight frames, and of many channels, beside which what combining takes is little."""
    conv, bias, fast = layer((3, 1, 1), (256, 256))
    plain_, tiles = FoldedConv(conv, conv.weight.detach(), bias, False, (8, 14, 14)), winograd.tiles(8)
    products = fast.dense_weight().numel() * tiles  # of each position's tiles
    combining = 2 * 8 * winograd.PRODUCTS * tiles * 256
    counted = plain_.dense_weight().numel() * 8
    assert 0.5 < (products + combining) / counted < 0.6


@pytest.mark.parametrize("positions", [(31, 31), (16, 16), (1, 67)])
def test_parts(positions: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Many positions are computed on in equal parts, of which the last overlaps where they do not divide."""
    conv, bias, fast = layer((3, 1, 1), (16, 24), relu=True)
    x = torch.randn(2, 16, 8, *positions)
    monkeypatch.setattr(winograd, "_PART_BYTES", 100_000)
    count = positions[0] * positions[1]
    found = winograd.parts(count, 4 * 12 * 16)
    assert len(found) == max(1, round(count * 768 / 100_000))
    assert {part.stop - part.start for part in found} == {-(-count // len(found))}
    assert sorted({i for part in found for i in range(part.start, part.stop)}) == list(range(count))
    with torch.no_grad():
        assert (fast(x) - plain(conv, bias, x, True)).abs().max().item() < 1e-4


def test_rounding_is_that_of_the_plain_convolution() -> None:
    for kernel in ((3, 1, 1), (1, 3, 3)):
        conv, bias, fast = layer(kernel, (256, 32))
        x = torch.randn(1, 256, 16, 16, 16).relu()
        with torch.no_grad():
            want = plain(conv, bias, x, False)
            errors = [
                (y - want).abs().max().item()
                for y in (fast(x), FoldedConv(conv, conv.weight, bias, False, (16, 16, 16))(x))
            ]
        assert errors[0] <= 8 * errors[1] + 1e-5


def test_it_is_used_where_it_pays() -> None:
    """In res4 and res5 of a network of the usual width; not in low precision, nor in narrow networks."""
    with torch.device("meta"):
        model = sfz.create_model("slow_r50_8x8")
    convs = {key: module for key, module in model.named_modules() if isinstance(module, nn.Conv3d)}
    found = {key for key, conv in convs.items() if winograd.pays(conv, (8, 16, 16))}
    blocks = {"res4": 6, "res5": 3}
    temporal = {f"pathway.{stage}.blocks.{i}.conv1.conv" for stage, depth in blocks.items() for i in range(depth)}
    spatial = {f"pathway.{stage}.blocks.{i}.conv2.conv" for stage, depth in blocks.items() for i in range(1, depth)}
    assert found == temporal | spatial
    conv = nn.Conv3d(256, 256, (3, 1, 1), padding=(1, 0, 0))
    # Of five and six frames two tiles spare too little.
    assert [t for t in range(1, 17) if winograd.pays(conv, (t, 8, 8))] == [4, 7, 8, 10, 11, 12, 13, 14, 15, 16]
    for other in (
        nn.Conv3d(256, 256, (3, 1, 1)),
        nn.Conv3d(256, 256, (3, 1, 1), stride=(2, 1, 1), padding=(1, 0, 0)),
        nn.Conv3d(256, 256, (3, 1, 1), padding=(1, 0, 0), groups=2),
        nn.Conv3d(256, 256, (5, 1, 1), padding=(2, 0, 0)),
        nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 2, 2), dilation=(1, 2, 2)),
        nn.Conv3d(256, 256, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
    ):
        assert not winograd.pays(other, (8, 16, 16))


@pytest.mark.usefixtures("everywhere")
def test_it_can_be_left_out() -> None:
    model = small("slowfast_r50_4x16")
    by_it, without = (optimize_for_inference(model, winograd=chosen) for chosen in (True, False))
    assert not any(isinstance(m, WinogradConv) for m in optimize_for_inference(model, torch.bfloat16).modules())
    assert any(isinstance(m, WinogradConv) for m in by_it.modules())
    assert not any(isinstance(m, WinogradConv) for m in without.modules())
    clip = clip_for(model)
    with torch.no_grad():
        assert_close(by_it(clip), without(clip), 1e-5)
    numbers = [
        sum(m.dense_weight().numel() for m in n.modules() if isinstance(m, folded_conv.PackedConv))
        for n in (by_it, without)
    ]
    assert numbers[0] > numbers[1]


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("name", KINDS)
def test_networks(name: str) -> None:
    model = small(name)
    optimized = optimize_for_inference(model)
    assert sum(isinstance(module, WinogradConv) for module in optimized.modules()) >= 4
    assert_same_network(optimized, model, clip_for(model))
    assert_same_network(optimized, model, clip_for(model, (33, 47), batch=1))
    assert_same_network(optimized, model, clip_for(model, (64, 48), batch=3, times=2))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        maps = optimized.forward_features(clip_for(model))
    with torch.no_grad():
        assert_close(maps, model.forward_features(clip_for(model)), 0.05)


@pytest.mark.usefixtures("everywhere")
def test_feature_maps() -> None:
    model = small("slowfast_r50_nl_8x8", features_only=True)
    clip = clip_for(model)
    with torch.no_grad():
        assert_close(optimize_for_inference(model)(clip), model(clip))


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("name", ["slowfast_r50_4x16", "i3d_r50_nl_32x2"])
def test_gradient_of_the_input(name: str) -> None:
    model = small(name)
    clip = clip_for(model)
    (want,) = gradients(model, clip, None, (True,))
    (got,) = gradients(optimize_for_inference(model), clip, None, (True,))
    assert_same_gradient(got, want)


@pytest.mark.usefixtures("everywhere")
def test_state_dict_has_the_kernels() -> None:
    model = small("slowfast_r50_4x16_det")
    optimized, other = optimize_for_inference(model), optimize_for_inference(small("slowfast_r50_4x16_det", seed=1))
    clip = clip_for(model)
    boxes = boxes_for(model, clip)
    state = optimized.state_dict()
    for key, module in optimized.named_modules():
        if isinstance(module, (FoldedConv, FoldedStem, WinogradConv)):
            assert state[f"{key}.weight"].ndim == 5
    with torch.no_grad():
        want = optimized(clip, boxes)
        assert not torch.allclose(other(clip, boxes), want)
        other.load_state_dict(state)
        assert_close(other(clip, boxes), want, 1e-6)
        part = {key: value for key, value in state.items() if key.startswith("slow.res4.")}
        other.load_state_dict(part, strict=False)
        assert_close(other(clip, boxes), want, 1e-6)


@pytest.mark.usefixtures("everywhere")
def test_copies_are_equal_to_the_bit() -> None:
    """Also after other shapes of clips, for which the weights are ordered anew."""
    model = small("slowfast_r50_4x16")
    optimized = optimize_for_inference(model)
    clip = clip_for(model)
    file = io.BytesIO()
    with torch.no_grad():
        want = optimized(clip)
        for _ in range(3):
            optimized(clip_for(model, (40, 40), 1))
            assert torch.equal(optimized(clip), want)
        torch.save(optimized, file)
        file.seek(0)
        for other in (copy.deepcopy(optimized), torch.load(file, weights_only=False), optimized.to("cpu")):
            assert torch.equal(other(clip), want)


@pytest.mark.usefixtures("everywhere")
def test_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("slowfast_r50_4x16")
    optimized = optimize_for_inference(model)
    for module in (onednn, folded_conv):
        monkeypatch.setattr(module, "has_onednn", lambda dtype: False)
    assert_same_network(optimized, model, clip_for(model))
    assert_same_network(copy.deepcopy(optimized), model, clip_for(model))
    assert not any(isinstance(m, WinogradConv) for m in optimize_for_inference(model).modules())


@pytest.mark.usefixtures("everywhere")
def test_low_precision_after_all() -> None:
    """A network that is moved to another type keeps its kernels, and computes plainly."""
    model = small("slow_r50_8x8")
    for dtype, tolerance in ((torch.float64, 1e-5), (torch.bfloat16, 0.05)):
        moved = optimize_for_inference(model).to(dtype)
        with torch.no_grad():
            assert_close(moved(clip_for(model)), model(clip_for(model)), tolerance)


@pytest.mark.slow
def test_a_network_of_the_usual_width() -> None:
    model = wake(sfz.create_model("slowfast_r50_4x16")).eval()
    optimized = optimize_for_inference(model)
    assert sum(isinstance(module, WinogradConv) for module in optimized.modules()) > 10
    clip: Any = torch.randn(1, 3, 32, 112, 112)
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(clip.double())
        errors = [(each(clip) - exact).abs().max().item() for each in (model, optimized)]
        assert errors[1] <= 4 * errors[0]


@pytest.mark.slow
@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile(backend: str) -> None:
    torch._dynamo.reset()
    model = small("slowfast_tiny_4x8")
    optimized = optimize_for_inference(model)
    clip = clip_for(model)
    with torch.no_grad():
        assert_close(torch.compile(optimized, backend=backend)(clip), model(clip))
        assert_close(optimized(clip), model(clip))
    torch._dynamo.reset()
