"""Convolutions by Winograd's minimal filtering compute what plain ones do, and behave like them."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_optimize import (
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
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import slowfast_zoo as sfz
from slowfast_zoo.inference.optimize import optimize_for_inference
from slowfast_zoo.layers import folded_conv, onednn, winograd
from slowfast_zoo.layers.conv import Conv3d
from slowfast_zoo.layers.folded import FoldedStem
from slowfast_zoo.layers.folded_conv import FoldedConv, WinogradConv

pytestmark = pytest.mark.skipif(not onednn.has_onednn(torch.float32), reason="PyTorch without oneDNN's convolutions")


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few channels, frames and columns there are."""
    for name, value in (("TEMPORAL", 1), ("TRAINED", 1), ("SPATIAL", (1, 1)), ("SPARED", -100.0)):
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
    x, weight = torch.randn(1, 256, 8, 196), torch.randn(256, 256, 3, 1)
    counts = []
    for convolve in (winograd.TemporalFilter.apply, lambda x, w: F.conv2d(x, w, padding=(1, 0))):
        with FlopCounterMode(display=False) as counter:
            convolve(x, weight)
        counts.append(counter.get_total_flops())
    assert 0.5 < counts[0] / counts[1] < 0.6


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
    assert winograd.pays(conv, (8, 8, 8), training=True)
    assert not winograd.pays(nn.Conv3d(512, 128, (3, 1, 1), padding=(1, 0, 0)), (8, 8, 8), training=True)
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


# -- training ----------------------------------------------------------------------------------------------------------


def gradients_of(conv: nn.Conv3d, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the convolution gives, and the gradients of its input and its weight."""
    x = x.clone().requires_grad_()
    y = conv(x)
    got = torch.autograd.grad(y, (x, conv.weight), grad)
    return y.detach(), *got


@settings(max_examples=60, deadline=None)
@given(
    channels=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    size=st.tuples(st.integers(1, 3), st.integers(1, 13), st.integers(1, 6), st.integers(1, 6)),
    last=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_gradients_of_any_shape(
    channels: tuple[int, int], size: tuple[int, int, int, int], last: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    conv = Conv3d(*channels, (3, 1, 1), padding=(1, 0, 0), bias=False)
    batch, *rest = size
    x, grad = torch.randn(batch, channels[0], *rest), torch.randn(batch, channels[1], *rest)
    if last:
        x, grad = (t.contiguous(memory_format=torch.channels_last_3d) for t in (x, grad))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "_LEAST_TRAINED", 1)
        patch.setattr(winograd, "_LEAST_SPARED", -100.0)
        assert winograd.pays(conv, (size[1], 1, 1), training=True)
        got = gradients_of(conv, x, grad)
    exact = nn.Conv3d(*channels, (3, 1, 1), padding=(1, 0, 0), bias=False).double()
    exact.weight.data.copy_(conv.weight)
    for a, b in zip(got, gradients_of(exact, x.double(), grad.double()), strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max().item() <= 2e-5 * max(b.abs().max().item(), 1.0)


def test_a_training_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gradients are as near to those in float64 as those of plain convolutions are."""
    model = small("slowfast_r50_4x16", drop_rate=0.0, frames=4).train()
    clip = clip_for(model, (64, 64))

    def step(network: Any, x: Tensor) -> list[Tensor]:
        network.zero_grad()
        network(x).square().sum().backward()
        return [p.grad.double() for p in network.parameters()]

    exact = step(copy.deepcopy(model).double(), clip.double())
    plain_ = step(model, clip)
    monkeypatch.setattr(winograd, "_LEAST_TRAINED", 1)
    calls = []
    forward = winograd.TemporalFilter.forward
    monkeypatch.setattr(winograd.TemporalFilter, "forward", staticmethod(lambda *a: (calls.append(a), forward(*a))[1]))
    by_it = step(model, clip)
    assert len(calls) > 8
    errors = [
        sum((a - b).norm().item() / b.norm().item() for a, b in zip(g, exact, strict=True)) for g in (plain_, by_it)
    ]
    assert errors[1] <= 3 * errors[0]


@pytest.mark.usefixtures("everywhere")
def test_gradients_of_each_clip_and_of_gradients() -> None:
    conv = Conv3d(6, 5, (3, 1, 1), padding=(1, 0, 0), bias=False)
    x = torch.randn(3, 6, 7, 2, 2)

    def loss(weight: Tensor, clip: Tensor) -> Tensor:
        return torch.func.functional_call(conv, {"weight": weight}, (clip[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(conv.weight.detach(), x)
    for got, clip in zip(each, x, strict=True):
        (want,) = torch.autograd.grad(loss(conv.weight, clip), conv.weight)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    weight = conv.weight.detach().clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(weight, x[0]), weight, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), weight)
    exact = conv.weight.detach().double().requires_grad_()
    y = F.conv3d(x[:1].double(), exact, padding=(1, 0, 0))
    (first64,) = torch.autograd.grad(y.square().sum(), exact, create_graph=True)
    (second64,) = torch.autograd.grad(first64.square().sum(), exact)
    assert (second - second64).abs().max().item() <= 1e-4 * second64.abs().max().item()


@pytest.mark.parametrize("frames", [1, 2, 9, 32])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_gradients_of_the_stem(frames: int, stride: int) -> None:
    torch.manual_seed(0)
    conv = Conv3d(3, 8, (5, 7, 7), (stride, 2, 2), padding=(2, 3, 3), bias=False)
    exact = nn.Conv3d(3, 8, (5, 7, 7), (stride, 2, 2), padding=(2, 3, 3), bias=False).double()
    exact.weight.data.copy_(conv.weight)
    x = torch.randn(2, 3, frames, 21, 16)
    grad = torch.randn_like(conv(x))
    assert "StemConv" in type(conv(x).grad_fn).__name__
    for a, b in zip(gradients_of(conv, x, grad), gradients_of(exact, x.double(), grad.double()), strict=True):
        assert (a - b).abs().max().item() <= 1e-5 * max(b.abs().max().item(), 1.0)


@pytest.mark.usefixtures("everywhere")
def test_weights_of_an_ensemble() -> None:
    conv = Conv3d(6, 5, (3, 1, 1), padding=(1, 0, 0), bias=False)
    weights, x = torch.randn(3, *conv.weight.shape), torch.randn(2, 6, 7, 2, 2)

    def loss(weight: Tensor, clip: Tensor) -> Tensor:
        return torch.func.functional_call(conv, {"weight": weight}, (clip,)).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), (0, None))(weights, x)
    for weight, got in zip(weights, found, strict=True):
        torch.testing.assert_close(got, torch.func.grad(loss)(weight, x), rtol=1e-4, atol=1e-3)


@pytest.mark.usefixtures("everywhere")
def test_no_clips() -> None:
    conv = Conv3d(6, 5, (3, 1, 1), padding=(1, 0, 0), bias=False)
    conv(torch.zeros(0, 6, 8, 2, 2)).sum().backward()
    assert torch.equal(conv.weight.grad, torch.zeros_like(conv.weight))
    _, _, fast = layer((3, 1, 1), (6, 5))
    assert fast(torch.zeros(0, 6, 8, 2, 2)).shape == (0, 5, 8, 2, 2)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("kernel", [(3, 1, 1), (5, 1, 1), (5, 7, 7)])
def test_backward_within_autocast(kernel: tuple[int, int, int]) -> None:
    """What ran forward in float32 runs backward in float32."""
    conv = Conv3d(6, 5, kernel, padding=tuple(k // 2 for k in kernel), bias=False)
    x = torch.randn(1, 6, 8, 9, 9)
    grads = []
    for within in (False, True):
        loss = conv(x).square().sum()
        with torch.autocast("cpu", torch.bfloat16, enabled=within):
            grads.append(torch.autograd.grad(loss, conv.weight)[0])
    assert torch.equal(*grads)


def test_a_fake_step_leaves_nothing_behind() -> None:
    """In a process of its own, where it is the first."""
    code = """
import torch
from torch._subclasses import FakeTensorMode
from slowfast_zoo.layers.conv import Conv3d

def step():
    conv = Conv3d(256, 256, (3, 1, 1), padding=(1, 0, 0), bias=False)
    conv(torch.ones(1, 256, 4, 2, 2)).sum().backward()
    return conv.weight.grad

with FakeTensorMode():
    assert type(step()).__name__ == "FakeTensor"
with torch.device("meta"):
    Conv3d(256, 256, (3, 1, 1), padding=(1, 0, 0), bias=False)(torch.ones(1, 256, 4, 2, 2))
torch.set_default_dtype(torch.float64)
torch.set_default_dtype(torch.float32)
assert step()[0, 0].flatten().round().tolist() == [12.0, 16.0, 12.0]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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
