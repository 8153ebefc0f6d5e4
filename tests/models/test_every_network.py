"""The sweep: every registered architecture, narrow and on small clips, through all that a user may do with it."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import slowfast_zoo as sfz
from slowfast_zoo.models import VideoNetwork

NAMES = sfz.list_models()
# One of each kind, for what does not depend on depth: SlowFast, with non-local blocks, one pathway, temporal pooling.
KINDS = ["slowfast_r50_4x16", "slowfast_r50_nl_8x8", "slow_r50_4x16", "fast_r50_4x16", "i3d_r50_nl_8x8"]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def assert_same(got: Tensor, want: Tensor) -> None:
    """Equal but for the rounding of another order of summation, on the scale of the values."""
    assert got.shape == want.shape
    assert (got - want).abs().max().item() <= 1e-3 * want.abs().max().item()


def shallow(name: str, **overrides: Any) -> VideoNetwork[Any]:
    """The kind of network with two blocks a stage, which is what a test can afford."""
    return sfz.create_model(name, **{"width": 16, "depths": (2, 2, 2, 2), "num_classes": 11, **overrides})


def clip_for(model: Any, batch: int = 2, side: int = 48, **kwargs: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (batch, model.config.in_chans, model.config.clip_frames, side, side)
    return torch.randn(shape, generator=generator).to(**kwargs)


def boxes_for(model: Any, clip: Tensor) -> list[Tensor] | None:
    """The whole frame of each clip, where the network asks for boxes."""
    height, width = clip.shape[-2:]
    return [torch.tensor([[0.0, 0.0, width, height]])] * len(clip) if model.config.roi else None


@torch.no_grad()
def wake(model: VideoNetwork[Any]) -> VideoNetwork[Any]:
    """Gives every batch norm its own gamma, beta and statistics: zero-initialised gammas would hide what blocks do."""
    generator = torch.Generator().manual_seed(1)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            small = 0.1 if "non_local" in name else 1.0  # a dot product of untrained features is large
            module.weight.copy_(small * (torch.rand(module.weight.shape, generator=generator) * 0.5 + 0.5))
            module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * 0.1)
            module.running_mean.copy_(torch.randn(module.bias.shape, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(module.bias.shape, generator=generator) + 0.5)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_forward_backward(name: str) -> None:
    model = sfz.create_model(name, width=8, num_classes=11)
    clip = clip_for(model, side=32)
    before = clip.clone()
    boxes = boxes_for(model, clip)
    logits = model(clip, boxes)
    assert logits.shape == (2, 11)
    assert torch.isfinite(logits).all()
    assert torch.equal(clip, before)
    logits.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    model.eval()
    with torch.no_grad():
        assert model(clip, boxes).shape == (2, 11)
        probabilities = model.probabilities(clip, boxes)
    if model.config.head_activation == "softmax":
        torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2))
    assert ((probabilities >= 0) & (probabilities <= 1)).all()


@pytest.mark.parametrize("name", NAMES)
def test_record_is_true(name: str) -> None:
    """pretrained_cfg and timm's vocabulary, by name and by shape."""
    with torch.device("meta"):
        model = sfz.create_model(name)
    modules = dict(model.named_modules())
    cfg = model.pretrained_cfg
    first = cfg["first_conv"] if isinstance(cfg["first_conv"], tuple) else (cfg["first_conv"],)
    seen = [1 if "fast." in conv and model.config.fast_input == "time_difference" else 3 for conv in first]
    assert [modules[conv].weight.shape[1] for conv in first] == seen
    assert modules[cfg["classifier"]] is model.get_classifier()
    assert model.get_classifier().weight.shape == (model.num_classes, model.num_features)
    assert cfg["architecture"] == name
    assert cfg["num_classes"] == model.num_classes == model.config.num_classes
    assert cfg["input_size"][:2] == (3, model.config.clip_frames)
    assert str(model.config.clip_frames) in str(model.config)
    assert f"{model.config.clip_seconds():.2f} s" in str(model.config)


@pytest.mark.parametrize("name", NAMES)
def test_features(name: str) -> None:
    """Channels, reductions and module names of feature_info are those of the maps."""
    features = sfz.create_model(name, width=8, features_only=True).eval()
    clip = clip_for(features, batch=1, side=64)
    with torch.no_grad():
        stages = features(clip)
    assert len(stages) == len(features.feature_info) == 5
    for stage, info in zip(stages, features.feature_info, strict=True):
        pairs = zip(stage, (info["slow"], info["fast"]), strict=True) if isinstance(stage, tuple) else [(stage, info)]
        for x, entry in pairs:
            frames = clip.shape[2] // entry["temporal_reduction"]
            side = 64 // entry["reduction"]
            assert x.shape == (1, entry["num_chs"], frames, side, side)
            assert features.get_submodule(entry["module"]) is not None


@pytest.mark.parametrize("name", KINDS)
def test_out_indices(name: str) -> None:
    torch.manual_seed(0)
    every = shallow(name, features_only=True).eval()
    torch.manual_seed(0)
    some = shallow(name, features_only=True, out_indices=(3, 1)).eval()
    clip = clip_for(every)
    with torch.no_grad():
        everything, two = every(clip), some(clip)
    for got, want in zip(two, (everything[3], everything[1]), strict=True):
        torch.testing.assert_close(got, want)
    assert [i.get("slow", i)["name"] for i in some.feature_info] == ["res4", "res2"]
    sum(x.sum() for stage in some.train()(clip) for x in stage).backward()
    assert [n for n, p in some.named_parameters() if p.grad is None] == []
    assert sum(p.numel() for p in some.parameters()) < sum(p.numel() for p in every.parameters())  # res5 is gone


@pytest.mark.parametrize("name", KINDS)
def test_head(name: str) -> None:
    model = wake(shallow(name)).eval()
    clip = clip_for(model)
    with torch.no_grad():
        features = model.forward_features(clip)
        pooled = model.forward_head(features, pre_logits=True)
        torch.testing.assert_close(model.get_classifier()(pooled), model(clip))
        assert pooled.shape == (2, model.num_features)
        model.reset_classifier(5)
        assert model(clip).shape == (2, 5)
        assert model.num_classes == 5
        model.reset_classifier(0)
        torch.testing.assert_close(model(clip), pooled)
    with pytest.raises(ValueError, match="num_classes"):
        model.reset_classifier(-1)
    with pytest.raises(ValueError, match="global_pool"):
        model.reset_classifier(5, "max")
    with pytest.raises(ValueError, match="no probabilities"):
        model.probabilities(clip)
    assert model.pretrained_cfg["num_classes"] == 0


def test_pooled_vector_of_the_paper() -> None:
    model = sfz.create_model("slowfast_r50_4x16", num_classes=0).eval()
    with torch.no_grad():
        assert model(clip_for(model, batch=1, side=32)).shape == (1, 2304)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (64, 35)])
def test_any_size(name: str, height: int, width: int) -> None:
    model = shallow(name).eval()
    with torch.no_grad():
        clip = torch.randn(1, 3, model.config.clip_frames, height, width)
        assert model(clip).shape == (1, 11)
        twice = torch.cat((clip, clip), dim=2)  # other frame counts: any multiple of alpha
        assert model(twice).shape == (1, 11)


@pytest.mark.parametrize("name", ["slowfast_r50_4x16", "slowfast_r50_8x8"])
def test_pair_and_clip_agree(name: str) -> None:
    model = wake(shallow(name)).eval()
    clip = clip_for(model)
    n, t = clip.shape[2], model.config.frames
    slow = clip[:, :, torch.linspace(0, n - 1, t).long()]
    pair = (slow, clip)
    with torch.no_grad():
        torch.testing.assert_close(model(pair), model(clip))
        torch.testing.assert_close(model(list(pair)), model(clip))
    assert pair[0] is slow
    assert torch.equal(pair[1], clip_for(model))
    strided = shallow(name, slow_frames="strided").eval()
    strided.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(strided(clip), strided((clip[:, :, :: model.config.alpha], clip)))
        assert not torch.allclose(strided(clip), model(clip))


@pytest.mark.parametrize("alpha", [2, 4, 8])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 8, 16, 32])
def test_slow_frames_are_those_of_linspace(alpha: int, frames: int) -> None:
    """The rule is written in integers; upstream's is float32 linspace, truncated."""
    model = shallow("slowfast_r50_4x16", frames=frames, alpha=alpha, stride=alpha)
    n = alpha * frames
    numbered = torch.arange(n, dtype=torch.float32).view(1, 1, n, 1, 1).expand(1, 3, n, 32, 32)
    slow, _ = model.pathway_inputs(numbered)
    assert slow[0, 0, :, 0, 0].tolist() == torch.linspace(0, n - 1, frames).long().tolist()


@pytest.mark.parametrize("name", KINDS)
def test_logits_do_not_depend_on_mode_or_company(name: str) -> None:
    """One row a clip: a clip's logits are its own, in a batch or alone."""
    model = wake(shallow(name)).eval()
    clip = clip_for(model, batch=3)
    with torch.no_grad():
        together = model(clip)
        for i in range(3):
            assert_same(model(clip[i : i + 1]), together[i : i + 1])


@pytest.mark.parametrize(
    ("name", "overrides"), [*((name, {}) for name in KINDS), ("slowfast_r50_4x16", {"fast_input": "gray"})]
)
def test_channels_last(name: str, overrides: dict[str, Any]) -> None:
    model = wake(shallow(name, **overrides)).eval()
    clip = clip_for(model)
    last = clip.to(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        want = model(clip)
        assert_same(model(last), want)
        model.to(memory_format=torch.channels_last_3d)
        assert_same(model(last), want)
        assert_same(model(clip), want)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision(name: str, dtype: torch.dtype) -> None:
    model = wake(shallow(name)).eval()
    clip = clip_for(model)
    with torch.no_grad():
        want = model(clip)
        with torch.autocast("cpu", dtype=dtype):
            autocast = model(clip)
            again = model(clip.double())  # frames of any dtype
        half = copy.deepcopy(model).to(dtype)(clip.to(dtype))
    scale = want.abs().max().item()
    assert half.dtype == dtype
    for got in (autocast, again, half):
        assert (got.float() - want).abs().max().item() < 0.1 * scale


@pytest.mark.parametrize("name", KINDS)
def test_double(name: str) -> None:
    model = wake(shallow(name)).eval()
    clip = clip_for(model)
    with torch.no_grad():
        want = model(clip)
        assert_same(model.double()(clip.double()).float(), want)


@pytest.mark.parametrize("name", KINDS)
def test_copies(name: str) -> None:
    model = wake(shallow(name)).eval()
    clip = clip_for(model)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded = shallow(name).eval()
    loaded.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        want = model(clip)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded):
            assert torch.equal(other(clip), want)


@pytest.mark.parametrize("name", KINDS)
def test_gradient_checkpointing(name: str) -> None:
    """Equal gradients, and running statistics that count each batch once."""
    plain = wake(shallow(name, drop_rate=0.0))
    checkpointed = copy.deepcopy(plain)
    checkpointed.set_grad_checkpointing()
    clip = clip_for(plain)
    for model in (plain, checkpointed):
        model(clip).square().sum().backward()
    for (key, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, msg=lambda text, key=key: f"{key}: {text}")
    for (key, a), b in zip(plain.named_buffers(), checkpointed.buffers(), strict=True):
        torch.testing.assert_close(b, a, msg=lambda text, key=key: f"{key}: {text}")
    assert all(m.track_running_stats for m in checkpointed.modules() if isinstance(m, torch.nn.BatchNorm3d))


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_compile(name: str) -> None:
    model = wake(shallow(name)).eval()
    clip = clip_for(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert_same(compiled(clip), model(clip))


@pytest.mark.slow
def test_compile_training_and_checkpointing() -> None:
    # In float64: batch norms over a few positions magnify how float32 rounds, which is the processor's affair.
    model = wake(shallow("slowfast_r50_4x16", drop_rate=0.0)).double()
    clip = clip_for(model).double()
    other = copy.deepcopy(model)
    other.set_grad_checkpointing()
    model(clip).square().sum().backward()
    torch.compile(other, fullgraph=True, backend="aot_eager")(clip).square().sum().backward()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert_same(b.grad, a.grad)


@pytest.mark.slow
def test_compile_inductor() -> None:
    model = wake(shallow("slowfast_r50_4x16", depths=(1, 1, 1, 1))).eval()
    clip = clip_for(model)
    with torch.no_grad():
        assert_same(torch.compile(model, fullgraph=True)(clip), model(clip))


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_export(name: str) -> None:
    model = wake(shallow(name)).eval()
    clip = clip_for(model, side=64)
    sizes = torch.export.Dim("batch", min=1, max=64), torch.export.Dim.AUTO, torch.export.Dim.AUTO
    shapes = ({0: sizes[0], 3: sizes[1], 4: sizes[2]},)
    program = torch.export.export(model, (clip,), dynamic_shapes=shapes).module()
    with torch.no_grad():
        for shape in ((2, 64, 64), (1, 96, 70), (3, 112, 128)):
            other = torch.randn(shape[0], 3, clip.shape[2], *shape[1:])
            assert_same(program(other), model(other))


@pytest.mark.slow
def test_export_of_a_pair() -> None:
    model = wake(shallow("slowfast_r50_4x16")).eval()
    clip = clip_for(model)
    pair = model.pathway_inputs(clip)
    program = torch.export.export(model, (pair,)).module()
    with torch.no_grad():
        torch.testing.assert_close(program(pair), model(clip))
