"""The parts: lateral connections, non-local blocks and heads against their definitions, initialisation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import slowfast_zoo as sfz
from slowfast_zoo.layers import (
    Bidirectional,
    ClassifierHead,
    NonLocal,
    TimeStridedConv,
    TimeStridedSample,
    TimeToChannel,
    weaken,
)

B, C, T, ALPHA, BETA_C, SIDE = 2, 16, 3, 4, 4, 5


def features() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(B, C, T, SIDE, SIDE), torch.randn(B, BETA_C, ALPHA * T, SIDE, SIDE)


def test_time_to_channel() -> None:
    """{alpha T, S^2, beta C} is packed into {T, S^2, alpha beta C}: a Slow frame's alpha frames in its channels."""
    slow, fast = features()
    summed, same = TimeToChannel(BETA_C, ALPHA, add=True)(slow, fast)
    joined, _ = TimeToChannel(BETA_C, ALPHA, add=False)(slow, fast)
    assert same is fast
    assert joined.shape == (B, C + ALPHA * BETA_C, T, SIDE, SIDE)
    packed = joined[:, C:]
    torch.testing.assert_close(summed, slow + packed)
    for t in range(T):
        here = {float(v) for v in packed[0, :, t, 0, 0]}
        assert here == {float(v) for v in fast[0, :, ALPHA * t : ALPHA * (t + 1), 0, 0].flatten()}


def test_time_strided_sample() -> None:
    slow, fast = features()
    joined, _ = TimeStridedSample(BETA_C, ALPHA)(slow, fast)
    torch.testing.assert_close(joined, torch.cat((slow, fast[:, :, [0, 4, 8]]), dim=1))


@pytest.mark.parametrize("kernel", [5, 7])
def test_time_strided_conv(kernel: int) -> None:
    slow, fast = features()
    lateral = TimeStridedConv(BETA_C, ALPHA, kernel, norm=False)
    joined, _ = lateral(slow, fast)
    weight = lateral.fast_to_slow.conv.weight
    assert weight.shape == (2 * BETA_C, BETA_C, kernel, 1, 1)
    padded = F.pad(fast, (0, 0, 0, 0, kernel // 2, kernel // 2))
    for t in range(T):
        window = padded[:, :, ALPHA * t : ALPHA * t + kernel]
        want = torch.einsum("bckhw,ock->bohw", window, weight[..., 0, 0])
        torch.testing.assert_close(joined[:, C:, t], want, rtol=1e-4, atol=1e-5)
    normed = TimeStridedConv(BETA_C, ALPHA, kernel).eval()
    assert (normed(slow, fast)[0][:, C:] >= 0).all()  # batch norm and ReLU


def test_bidirectional() -> None:
    slow, fast = features()
    lateral = Bidirectional(C, BETA_C, ALPHA, 5).eval()
    to_slow, to_fast = lateral(slow, fast)
    assert to_slow.shape[1] == C + lateral.slow_extra == C + 2 * BETA_C
    assert to_fast.shape[1] == BETA_C + lateral.fast_extra == 2 * BETA_C
    held = to_fast[:, BETA_C:]
    for t in range(T):  # each Slow frame is held for alpha Fast frames
        group = held[:, :, ALPHA * t : ALPHA * (t + 1)]
        torch.testing.assert_close(group, group[:, :, :1].expand_as(group))
    assert not torch.allclose(held[:, :, 0], held[:, :, ALPHA])
    changed, _ = lateral(slow, fast + 1)
    assert not torch.allclose(changed, to_slow)


def pairwise(instantiation: str, block: NonLocal, x: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """The weights of section 3.2 of the non-local paper, one pair of positions at a time."""
    n, m = x.shape[1], keys.shape[1]
    theta, phi = x, keys  # (C, N) and (C, M)
    if instantiation != "gaussian":
        theta = block.theta.weight[..., 0, 0, 0] @ x + block.theta.bias[:, None]
        phi = block.phi.weight[..., 0, 0, 0] @ keys + block.phi.bias[:, None]
    f = torch.zeros(n, m)
    for i in range(n):
        for j in range(m):
            if instantiation == "concatenation":
                w = torch.cat((block.w_theta.weight.flatten(), block.w_phi.weight.flatten()))
                f[i, j] = torch.relu(w @ torch.cat((theta[:, i], phi[:, j])))
            else:
                f[i, j] = theta[:, i] @ phi[:, j]
    if instantiation in ("dot_product", "concatenation"):
        return f / m
    return torch.softmax(f * (theta.shape[0] ** -0.5 if instantiation == "embedded_gaussian" else 1), dim=1)


@pytest.mark.parametrize("pool", [(1, 1, 1), (1, 2, 2), (2, 2, 2)])
@pytest.mark.parametrize("instantiation", ["gaussian", "embedded_gaussian", "dot_product", "concatenation"])
@torch.no_grad()
def test_non_local(instantiation: Any, pool: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    block = NonLocal(8, instantiation, pool).eval()
    for p in block.parameters():
        p.normal_(std=0.5)
    x = torch.randn(1, 8, 2, 4, 4)
    keys = F.max_pool3d(x, pool)
    g = block.g.weight[..., 0, 0, 0] @ keys[0].flatten(1) + block.g.bias[:, None]
    y = g @ pairwise(instantiation, block, x[0].flatten(1), keys[0].flatten(1)).T  # (inner, N)
    want = x + block.norm(block.out(y.reshape(1, -1, 2, 4, 4)))
    torch.testing.assert_close(block(x), want, rtol=1e-4, atol=1e-5)


def test_new_non_local_block_is_the_identity() -> None:
    model = sfz.create_model("slow_r50_4x16", width=8, depths=(1, 1, 1, 1), non_local={"blocks": {"res4": [0]}}).eval()
    block = model.pathway.res4.non_local["0"]
    x = torch.randn(1, 128, 2, 3, 3)
    torch.testing.assert_close(block(x), x)


def test_non_local_on_the_fast_pathway() -> None:
    places = {"blocks": {"res3": (0,)}, "fast_blocks": {"res4": (1,), "res5": (0,)}, "instantiation": "gaussian"}
    model = sfz.create_model("slowfast_r50_4x16", width=8, depths=(1, 1, 2, 1), temporal_kernels=(
        (1, 1, 1, 3, 3), (5, 3, 3, 3, 3)), non_local=places)  # fmt: skip
    where = [name for name, module in model.named_modules() if isinstance(module, NonLocal)]
    assert where == ["slow.res3.non_local.0", "fast.res4.non_local.1", "fast.res5.non_local.0"]
    model(torch.randn(2, 3, 32, 32, 32)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_fast_inputs() -> None:
    torch.manual_seed(0)
    frames = torch.rand(1, 3, 4, 6, 7)
    gray = weaken(frames, "gray")
    torch.testing.assert_close(gray[0, 0, 1, 2, 3], frames[0, :, 1, 2, 3] @ torch.tensor([0.299, 0.587, 0.114]))
    difference = weaken(frames, "time_difference")
    assert (difference[:, :, 0] == 0).all()
    torch.testing.assert_close(difference[:, :, 1:], gray[:, :, 1:] - gray[:, :, :-1])
    half = weaken(frames, "rgb_half")
    assert half.shape == (1, 3, 4, 3, 4)
    torch.testing.assert_close(half[0, 1, 2, 0, 0], frames[0, 1, 2, :2, :2].mean())
    assert weaken(frames, "rgb") is frames


@pytest.mark.parametrize("side", [7, 8, 9])
def test_head_windows(side: int) -> None:
    """Windows as an average pool of 7 x 7 at stride 1: one position at 7, four at 8, nine at 9."""
    torch.manual_seed(0)
    maps = (torch.randn(2, 6, 4, side, side), torch.randn(2, 3, 8, side, side))
    head = ClassifierHead(9, 5, 0.5, 7).eval()
    pooled = torch.cat([F.avg_pool3d(x, (x.shape[2], 7, 7), 1) for x in maps], dim=1)
    logits = head.fc(pooled.permute(0, 2, 3, 4, 1)).flatten(1, 3)  # (B, P, classes)
    assert logits.shape[1] == (side - 6) ** 2
    torch.testing.assert_close(head.positions(maps), logits)
    torch.testing.assert_close(head(maps), logits.mean(dim=1))


def test_map_smaller_than_the_window_is_averaged_whole() -> None:
    maps = (torch.randn(1, 6, 4, 3, 9),)
    head, whole = ClassifierHead(6, 5, 0.0, 7).eval(), ClassifierHead(6, 5, 0.0, None).eval()
    whole.load_state_dict(head.state_dict())
    square = (maps[0][..., :3],)
    torch.testing.assert_close(head(square), whole(square))
    assert head.positions(maps).shape == (1, 3, 5)  # 9 wide has three windows of 7


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("average", ["scores", "logits"])
def test_probabilities(activation: Any, average: Any) -> None:
    model = sfz.create_model(
        "slow_r50_4x16", width=8, depths=(1, 1, 1, 1), num_classes=5, head_window=2, head_activation=activation,
        head_average=average,
    ).eval()  # fmt: skip
    nn.init.normal_(model.head.fc.weight)
    clip = torch.randn(2, 3, 4, 96, 96)
    score = (lambda x: x.softmax(-1)) if activation == "softmax" else torch.sigmoid
    with torch.no_grad():
        logits = model.head.positions([model.forward_features(clip)])
        assert logits.shape == (2, 4, 5)
        want = score(logits).mean(1) if average == "scores" else score(logits.mean(1))
        torch.testing.assert_close(model.probabilities(clip), want)
        torch.testing.assert_close(model(clip), logits.mean(1))


def test_initialisation() -> None:
    """He for convolutions, zero gamma at the end of each residual block, N(0, 0.01) for the classifier."""
    torch.manual_seed(0)
    model = sfz.create_model("slowfast_r50_4x16")
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm3d):
            assert (module.weight == (0.0 if name.endswith("conv3.norm") else 1.0)).all(), name
            assert (module.bias == 0).all(), name
    conv = model.slow.res4.blocks[0].conv2.conv
    assert conv.weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
    assert model.head.fc.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert (model.head.fc.bias == 0).all()
    assert model.head.dropout.p == 0.5


def test_res5_for_detection() -> None:
    """Stride 1 and dilation 2 in res5 keep 1/16 resolution with the receptive field of stride 2."""
    model = sfz.create_model("slowfast_r50_4x16", width=8, res5_stride=1, res5_dilation=2).eval()
    slow, fast = model.forward_features(torch.randn(1, 3, 32, 64, 64))
    assert slow.shape[-2:] == fast.shape[-2:] == (4, 4)
    assert model.feature_info[-1]["slow"]["reduction"] == 16
    assert all(block.conv2.conv.dilation == (1, 2, 2) for block in model.slow.res5.blocks)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("slowfast_r50_nl_8x8", {}),
        ("slowfast_r50_4x16", {"fusion": "bidirectional"}),
        ("slowfast_r50_4x16", {"fusion": "time_to_channel_sum", "fast_input": "gray"}),
        ("slow_r50_nl_8x8", {}),
        ("i3d_r50_nl_32x2", {"frames": 8}),
    ],
)
@pytest.mark.parametrize("batch", [1, 2])
def test_memory_format_of_feature_maps(name: str, overrides: Any, batch: int) -> None:
    """Contiguous, as the clip is."""
    kwargs = {"width": 16, "depths": (2, 2, 2, 2), "frames": 2, **overrides}
    features = sfz.create_model(name, features_only=True, **kwargs).eval()
    whole = sfz.create_model(name, **kwargs).eval()
    clip = torch.randn(batch, 3, features.config.clip_frames, 48, 64)
    with torch.no_grad():
        stages = [*features(clip), whole.forward_features(clip)]
    for stage in stages:
        for x in stage if isinstance(stage, tuple) else (stage,):
            assert x.is_contiguous()
