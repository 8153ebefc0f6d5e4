"""Reading checkpoints: every layout, wrapped in every way, strictly; and the traps of what fits and is wrong."""

from __future__ import annotations

import argparse
import logging
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slowfast_zoo as sfz
from slowfast_zoo.models import ARCHITECTURES, NonLocalConfig
from slowfast_zoo.video import load_labels
from slowfast_zoo.weights import convert_file, read_checkpoint, records, save_state_dict
from tests import upstream

SMALL: dict[str, Any] = {"width": 8, "num_classes": 5}


def awake(name: str, **overrides: Any) -> Any:
    """A network whose every tensor is its own, so that no two can be mistaken for each other."""
    generator = torch.Generator().manual_seed(0)
    model = sfz.create_model(name, **{**SMALL, **overrides}).eval()
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            low = 0.5 if key.endswith(("running_var", "norm.weight")) else -0.1
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * (1.0 if low > 0 else 0.2) + low)
    return model


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    counters = {key for key in ours if key.endswith("num_batches_tracked")}
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours.keys() - counters)


# -- layouts ---------------------------------------------------------------------------------------------------------

LAYOUT_CASES = [
    ("pyslowfast", "slowfast_r50_4x16", {}, {}),
    ("pyslowfast", "slowfast_r101_nl_8x8", {}, {}),
    ("pyslowfast", "i3d_r50_nl_8x8", {}, {}),
    ("caffe2", "slowfast_r50_4x16", {}, {}),
    ("caffe2", "slowfast_r101_nl_8x8", {}, {}),
    ("caffe2", "i3d_r50_nl_8x8", {}, {}),
    ("pytorchvideo", "slowfast_r50_8x8", {}, {}),
    ("pytorchvideo", "slow_r50_8x8", {}, {}),
    ("pytorchvideo", "c2d_r50_8x8", {}, {"pool_after_res2": True}),
    ("pytorchvideo_in_pyslowfast", "slowfast_r101_8x8", {}, {}),
    ("pytorchvideo_detection", "slow_r50_4x16_det.pytorchvideo_ava22", {}, {}),
    ("pytorchvideo_detection", "slowfast_r50_8x8_det.pytorchvideo_ava22", {}, {}),
    ("mmaction2", "slowfast_r50_4x16", {"lateral_norm": False, "slow_frames": "strided"}, {}),
    ("mmaction2", "slowfast_r101_r50_4x16", {"slow_frames": "strided"}, {}),
    ("mmaction2", "i3d_r50_nl_32x2", {"non_local": NonLocalConfig(((), (1, 3), (1, 3, 5), ()), out_bias=False)}, {}),
    ("gluoncv", "slowfast_r50_8x8", {"slow_frames": "strided"}, {}),
    ("gluoncv", "i3d_r101_nl_32x2", {}, {"family": "i3d"}),
    ("gluoncv", "slow_r50_8x8", {}, {"family": "i3d_slow"}),
]


# The untagged names are the paper's networks; other projects' files in them are warned of, which has its own test.
OTHER_RULES = pytest.mark.filterwarnings("ignore:.*predictions will be wrong")


@OTHER_RULES
@pytest.mark.parametrize(("project", "name", "overrides", "how"), LAYOUT_CASES)
def test_layouts(tmp_path: Path, project: str, name: str, overrides: dict[str, Any], how: dict[str, Any]) -> None:
    """What another project would save of a network comes back as that network, whatever the file is called."""
    model = awake(name, **overrides)
    path = upstream.save(model.state_dict(), project, tmp_path / "weights.bin", **how)
    assert read_checkpoint(path).layout.name == project.removesuffix("_in_pyslowfast").removesuffix("_detection")
    loaded = sfz.create_model(name, checkpoint_path=path, **SMALL, **overrides)
    assert same_weights(loaded, model)
    assert all(torch.is_floating_point(p) and not p.is_meta for p in loaded.parameters())


@pytest.mark.parametrize("name", [name for name, r in records().items() if r.source_layout])
def test_every_record_reads_its_layout(name: str) -> None:
    """What the publisher's file calls the tensors of each record's network, all of them, are read as that network's."""
    record = records()[name]
    with torch.device("meta"):
        state = sfz.create_model(name).state_dict()
    project = record.source_layout
    if project == "pytorchvideo" and record.config.to_dict().get("temporal_pool"):
        theirs = upstream.pytorchvideo(state, pool_after_res2=True)
    elif project == "gluoncv" and record.config.family != "slowfast":
        theirs = upstream.gluoncv(state, "i3d" if record.architecture.startswith("i3d") else "i3d_slow")
    else:
        theirs = getattr(upstream, project)(state)
    from slowfast_zoo.weights.layouts import recognise

    layout = recognise(theirs)
    assert layout is not None
    assert layout.name == project
    got = layout.convert(theirs)
    counters = {key for key in state if key.endswith("num_batches_tracked")}
    assert got.keys() | counters == state.keys()
    assert all(got[key].shape == state[key].shape for key in got.keys() - counters)


def test_own_files(tmp_path: Path) -> None:
    model = awake("slowfast_r50_4x16")
    save_state_dict(model.state_dict(), tmp_path / "a.safetensors")
    torch.save(model.state_dict(), tmp_path / "b.pth")
    torch.save(model.state_dict(), tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "b.pth", "c.pth"):
        loaded = sfz.create_model("slowfast_r50_4x16", checkpoint_path=tmp_path / name, **SMALL)
        assert same_weights(loaded, model)


def test_loaded_weights_do_not_hang_on_the_file(tmp_path: Path) -> None:
    """A file that is written over in place, as torch.save does it, changes no network that was loaded from it."""
    model = awake("slow_r50_4x16")
    for name in ("own.safetensors", "zip.pth"):
        path = tmp_path / name
        if name.endswith("pth"):
            torch.save(model.state_dict(), path)
        else:
            save_state_dict(model.state_dict(), path)
        loaded = sfz.create_model("slow_r50_4x16", checkpoint_path=path, **SMALL)
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.write(b"\0" * size)
        assert same_weights(loaded, model)


def wrapped(state: dict[str, Tensor], how: str) -> Any:
    wraps: dict[str, Any] = {
        "ddp": lambda s: {f"module.{k}": v for k, v in s.items()},
        "compiled ddp": lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
        "loop": lambda s: {"epoch": 3, "model": s, "optimizer": {"state": {}}, "args": {"lr": 0.1}},
        "lightning": lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}, "epoch": 1},
        "averaged": lambda s: {"n_averaged": torch.tensor(5), **{f"module.{k}": v for k, v in s.items()}},
        "timm ema": lambda s: {"state_dict": {k: v * 0 for k, v in s.items()}, "state_dict_ema": s},
        "nested": lambda s: {"model_state": {"state_dict": {f"module.{k}": v for k, v in s.items()}}},
        "tutorial": lambda s: {"model_state_dict": s, "loss": 0.1, "args": argparse.Namespace(lr=0.1, tags={"a", "b"})},
        "empty ema": lambda s: {"model": s, "model_ema": {}, "best": defaultdict(list, {"top1": [0.1]})},
        "ema of parameters": lambda s: {"model": s, "ema": {k: v * 0 for k, v in s.items() if "running" not in k}},
        "shadow": lambda s: {"model": {k: v * 0 for k, v in s.items()}, "ema": {"decay": 0.9, "shadow": s}},
    }
    return wraps[how](state)


@OTHER_RULES
@pytest.mark.parametrize("project", ["own", "pyslowfast", "mmaction2", "pytorchvideo"])
@pytest.mark.parametrize(
    "how",
    [
        *("ddp", "compiled ddp", "loop", "lightning", "averaged", "timm ema", "nested"),
        *("tutorial", "empty ema", "ema of parameters", "shadow"),
    ],
)
def test_wrapped_checkpoints(tmp_path: Path, how: str, project: str) -> None:
    model = awake("slow_r50_4x16")
    state = model.state_dict()
    named = state if project == "own" else getattr(upstream, project)(state)
    torch.save(wrapped(named, how), tmp_path / "w.pth")
    assert same_weights(sfz.create_model("slow_r50_4x16", checkpoint_path=tmp_path / "w.pth", **SMALL), model)


def test_averaged_weights_are_said_to_be_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(wrapped(awake("slow_r50_4x16").state_dict(), "timm ema"), tmp_path / "w.pth")
    with caplog.at_level(logging.INFO, logger="slowfast_zoo"):
        sfz.create_model("slow_r50_4x16", checkpoint_path=tmp_path / "w.pth", **SMALL)
    assert "averaged weights (state_dict_ema)" in caplog.text


# -- strictness ------------------------------------------------------------------------------------------------------


@OTHER_RULES
@pytest.mark.parametrize("project", ["pyslowfast", "caffe2", "pytorchvideo", "gluoncv"])
def test_any_difference_is_an_error(tmp_path: Path, project: str) -> None:
    model = awake("slowfast_r50_4x16", slow_frames="strided" if project == "gluoncv" else "linspace")
    state = model.state_dict()

    def load(changed: dict[str, Tensor]) -> None:
        path = upstream.save(changed, project, tmp_path / "w.bin")
        sfz.create_model("slowfast_r50_4x16", checkpoint_path=path, **SMALL, slow_frames=model.config.slow_frames)

    load(state)
    less = {k: v for k, v in state.items() if not k.startswith("fast.res5.blocks.2.conv")}
    with pytest.raises(sfz.WeightsError, match=r"(15|18) missing: fast\.res5\.blocks\.2\.conv1.* and \d+ more"):
        load(less)
    more = {**state, "fast.res5.blocks.3.conv1.conv.weight": torch.zeros(1)}
    with pytest.raises(sfz.WeightsError, match=r"1 unexpected: "):
        load(more)
    other = {**state, "lateral.res2.fast_to_slow.conv.weight": torch.zeros(8, 4, 7, 1, 1)}
    with pytest.raises(
        sfz.WeightsError, match=r"of another shape: lateral.res2.*\(8, 4, 7, 1, 1\) instead of \(8, 4, 5"
    ):
        load(other)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"features.0.weight": torch.zeros(3)}, path)
    with pytest.raises(sfz.WeightsError, match=r"no layout that is known .*PySlowFast.*features.0.weight"):
        sfz.create_model("slow_r50_4x16", checkpoint_path=path)
    torch.save([1, 2, 3], path)
    with pytest.raises(sfz.WeightsError, match="no state dict but a list"):
        sfz.create_model("slow_r50_4x16", checkpoint_path=path)
    torch.save({"epoch": 1}, path)
    with pytest.raises(sfz.WeightsError, match="no tensors .* it has 'epoch'"):
        sfz.create_model("slow_r50_4x16", checkpoint_path=path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        sfz.create_model("slow_r50_4x16", checkpoint_path=tmp_path / "nowhere")


def test_new_classifier(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = awake("slow_r50_4x16")
    path = upstream.save(model.state_dict(), "pyslowfast", tmp_path / "w.pyth")
    with caplog.at_level(logging.INFO, logger="slowfast_zoo"):
        new = sfz.create_model("slow_r50_4x16", checkpoint_path=path, width=8, num_classes=3)
    assert len([r for r in caplog.records if "classifier of 5 classes left out" in r.getMessage()]) == 1
    assert new.get_classifier().weight.shape == (3, 256)
    assert torch.isfinite(new.get_classifier().weight).all()
    assert torch.equal(new.pathway.stem.conv1.conv.weight, model.pathway.stem.conv1.conv.weight)
    with pytest.raises(sfz.WeightsError, match="of another shape: head.fc.weight"):
        sfz.create_model("slow_r50_4x16", checkpoint_path=path, width=8)
    bare = sfz.create_model("slow_r50_4x16", checkpoint_path=path, width=8, num_classes=0)
    assert bare(torch.randn(1, 3, 4, 32, 32)).shape == (1, 256)
    # A backbone without any classifier gives one to be trained.
    backbone = {k: v for k, v in model.state_dict().items() if not k.startswith("head.")}
    path = upstream.save(backbone, "pyslowfast", tmp_path / "b.pyth")
    assert sfz.create_model("slow_r50_4x16", checkpoint_path=path, width=8, num_classes=3).num_classes == 3
    with pytest.raises(sfz.WeightsError, match="2 missing: head.fc.weight, head.fc.bias"):
        sfz.create_model("slow_r50_4x16", checkpoint_path=path, width=8)


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_stems_fit_other_channels(tmp_path: Path, channels: int) -> None:
    """As timm does; where a frame's channels all hold one gray image, whole triples give the outputs of RGB."""
    timm_models = pytest.importorskip("timm.models")
    model = awake("slowfast_r50_4x16")
    path = upstream.save(model.state_dict(), "pyslowfast", tmp_path / "w.pyth")
    fitted = sfz.create_model("slowfast_r50_4x16", checkpoint_path=path, in_chans=channels, **SMALL).eval()
    gray = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        want, got = model(gray.expand(-1, 3, -1, -1, -1)), fitted(gray.expand(-1, channels, -1, -1, -1))
        if channels in (1, 6):
            torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    flat = model.slow.stem.conv1.conv.weight[:, :, 0]
    torch.testing.assert_close(
        fitted.slow.stem.conv1.conv.weight[:, :, 0], timm_models.adapt_input_conv(channels, flat)
    )
    assert len(fitted.pretrained_cfg["mean"]) == channels
    # A file that has the channels already is taken as it is.
    save_state_dict(fitted.state_dict(), tmp_path / "fitted.safetensors")
    again = sfz.create_model(
        "slowfast_r50_4x16", checkpoint_path=tmp_path / "fitted.safetensors", in_chans=channels, **SMALL
    )
    assert same_weights(again, fitted)


# -- image networks --------------------------------------------------------------------------------------------------


def image_resnet() -> nn.Module:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network: nn.Module = timm.create_model("resnet50", num_classes=6).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
    return network


@pytest.mark.parametrize("inflate", ["center", "mean"])
@pytest.mark.parametrize(("name", "frames"), [("slow_r50_4x16", 24), ("i3d_r50_8x8", 64), ("c2d_r50_8x8", 2)])
def test_a_still_image_is_seen_as_the_image_network_sees_it(name: str, frames: int, inflate: Any) -> None:
    """In the middle of a clip that is long enough: zeros beyond its ends reach in from there with each convolution."""
    image_network = image_resnet()
    model = sfz.create_model(name, num_classes=6, frames=frames).eval()
    sfz.load_image_weights(model, image_network, inflate=inflate)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        clip = image[:, :, None].expand(-1, -1, frames, -1, -1)
        want = image_network.forward_features(image)  # type: ignore[operator]
        got = model.forward_features(clip)
        middle = got[:, :, got.shape[2] // 2]
        assert (middle - want).abs().max().item() < 1e-4 * want.abs().max().item()
        if inflate == "center":  # zeros are all that it sees of other frames
            torch.testing.assert_close(model(clip), image_network(image), atol=1e-3, rtol=1e-3)
    assert model.pretrained_cfg["mean"] == [0.485, 0.456, 0.406]


def test_the_slow_pathway_starts_as_the_image_network() -> None:
    image_network = image_resnet()
    model = sfz.create_model("slowfast_r50_4x16", num_classes=11).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    sfz.load_image_weights(model, image_network)
    with torch.no_grad():
        clip = torch.randn(1, 3, 1, 64, 64).expand(-1, -1, 32, -1, -1)
        slow, _ = model.forward_features(clip)
        want = image_network.forward_features(clip[:, :, 0])  # type: ignore[operator]
        assert (slow[:, :, 1] - want).abs().max().item() < 1e-4 * want.abs().max().item()
    state = model.state_dict()
    kept = [k for k in state if k.startswith(("fast.", "lateral.", "head."))]
    assert all(torch.equal(state[k], before[k]) for k in kept)
    assert not torch.equal(
        state["slow.res2.blocks.0.conv1.conv.weight"], before["slow.res2.blocks.0.conv1.conv.weight"]
    )


def test_where_image_weights_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_network = image_resnet()
    torch.save(image_network.state_dict(), tmp_path / "resnet50.pth")
    reference = sfz.create_model("slow_r50_4x16", num_classes=7)
    sfz.load_image_weights(reference, image_network)
    head = {k: v for k, v in reference.state_dict().items() if k.startswith("head.")}
    for source in (tmp_path / "resnet50.pth", str(tmp_path / "resnet50.pth"), image_network.state_dict()):
        model = sfz.create_model("slow_r50_4x16", num_classes=7)
        sfz.load_image_weights(model, source)
        model.load_state_dict(head, strict=False)
        assert same_weights(model, reference)
    # create_model and load_checkpoint recognise such a file too.
    model = sfz.create_model("slow_r50_4x16", num_classes=7, checkpoint_path=tmp_path / "resnet50.pth")
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert model.pretrained_cfg["mean"] == [0.485, 0.456, 0.406]
    model.load_state_dict(head, strict=False)
    assert same_weights(model, reference)
    tagged = sfz.create_model("slow_r50_4x16.pyslowfast_k400", checkpoint_path=tmp_path / "resnet50.pth")
    assert tagged.pretrained_cfg["labels"] is None  # its classifier is untrained
    with torch.device("meta"):
        bare = sfz.create_model("slow_r50_4x16", num_classes=7)
    sfz.load_image_weights(bare, image_network)
    assert not any(p.is_meta for p in bare.parameters())
    # A name is timm's to find.
    import timm

    asked: list[Any] = []

    def create_model(name: str, pretrained: bool) -> nn.Module:
        asked.append((name, pretrained))
        return image_network

    monkeypatch.setattr(timm, "create_model", create_model)
    sfz.load_image_weights(model, "resnet50.a1_in1k")
    assert asked == [("resnet50.a1_in1k", True)]


def test_image_networks_that_do_not_fit(tmp_path: Path) -> None:
    image_network = image_resnet()
    with pytest.raises(sfz.WeightsError, match="missing: pathway.res4.blocks.6"):
        sfz.load_image_weights(sfz.create_model("slow_r101_8x8"), image_network)
    with pytest.raises(sfz.WeightsError, match="of another shape"):
        sfz.load_image_weights(sfz.create_model("slow_r50_4x16", width=8), image_network)
    with pytest.raises(ValueError, match="'center' or 'mean', not 'median'"):
        sfz.load_image_weights(sfz.create_model("slow_r50_4x16", width=8), image_network, inflate="median")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="create_model"):
        sfz.load_image_weights(image_network, image_network)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        sfz.load_image_weights(sfz.create_model("slow_r50_4x16", width=8), tmp_path / "nowhere.pth")
    with pytest.raises(sfz.WeightsError, match="no layout"):
        sfz.load_image_weights(sfz.create_model("slow_r50_4x16", width=8), {"stem.weight": torch.zeros(1)})
    import timm

    with pytest.raises(sfz.WeightsError, match="unexpected|of another shape"):
        sfz.load_image_weights(sfz.create_model("slow_r50_4x16"), timm.create_model("resnet50d"))
    with pytest.raises(sfz.WeightsError, match="timm cannot give the weights of 'resnet5000'"):
        sfz.load_image_weights(sfz.create_model("slow_r50_4x16", width=8), "resnet5000")
    video = sfz.create_model("slow_r50_4x16", width=8)
    with pytest.raises(sfz.WeightsError, match="is no image network: .* sees 3 frames"):
        sfz.load_image_weights(sfz.create_model("slow_r50_4x16", width=8), video.state_dict())


def test_image_weights_for_other_channels(tmp_path: Path) -> None:
    image_network = image_resnet()
    torch.save(image_network.state_dict(), tmp_path / "resnet50.pth")
    model = sfz.create_model("slow_r50_4x16", in_chans=1)
    sfz.load_image_weights(model, image_network)
    want = image_network.state_dict()["conv1.weight"].sum(1)
    torch.testing.assert_close(model.pathway.stem.conv1.conv.weight[:, 0, 0], want)
    again = sfz.create_model("slow_r50_4x16", in_chans=1, checkpoint_path=tmp_path / "resnet50.pth")
    assert torch.equal(again.pathway.stem.conv1.conv.weight, model.pathway.stem.conv1.conv.weight)


def test_shared_and_odd_tensors(tmp_path: Path) -> None:
    """Tensors that are views of one block in the file become the network's own; odd shapes are refused in words."""
    model = awake("slow_r50_4x16")
    state = model.state_dict()
    ones = torch.ones(8)
    norms = [k for k, t in state.items() if t.shape == (8,)]
    torch.save({**state, **dict.fromkeys(norms, ones)}, tmp_path / "shared.pth")
    loaded = sfz.create_model("slow_r50_4x16", checkpoint_path=tmp_path / "shared.pth", **SMALL)
    pointers = [t.data_ptr() for t in loaded.state_dict().values()]
    assert len(set(pointers)) == len(pointers)
    loaded.save_pretrained(tmp_path / "saved")
    for name, odd in (("head.fc.bias", torch.tensor(1.0)), ("pathway.stem.conv1.conv.weight", torch.zeros(2, 2))):
        torch.save({**state, name: odd}, tmp_path / "odd.pth")
        for classes in (5, 3):
            with pytest.raises(sfz.WeightsError, match="of another shape"):
                sfz.create_model("slow_r50_4x16", checkpoint_path=tmp_path / "odd.pth", width=8, num_classes=classes)
    named = upstream.mmaction2(awake("slowfast_r50_4x16.mmaction2_k400").state_dict())
    named["backbone.fast_path.layer4.0.conv3.conv.weight"] = torch.tensor(1.0)
    torch.save(named, tmp_path / "odd.pth")
    with pytest.raises(sfz.WeightsError, match="of another shape"):
        sfz.create_model("slowfast_r50_4x16.mmaction2_k400", checkpoint_path=tmp_path / "odd.pth", **SMALL)


def test_pyslowfasts_image_network_inflates(tmp_path: Path) -> None:
    image = awake("c2d_r50_1x1")
    path = upstream.save(image.state_dict(), "pyslowfast", tmp_path / "in1k.pyth")
    model = sfz.create_model("slow_r50_8x8", **SMALL).eval()
    sfz.load_image_weights(model, path)
    with torch.no_grad():
        frame = torch.randn(1, 3, 1, 64, 64)
        torch.testing.assert_close(model(frame.expand(-1, -1, 8, -1, -1)), image(frame), atol=1e-4, rtol=1e-4)


# -- traps: they fit, and predict wrongly ----------------------------------------------------------------------------


def config(name: str) -> Any:
    return records()[name].config


def test_trap_slow_frames(tmp_path: Path) -> None:
    """Each project takes other frames for the Slow pathway."""
    for source in ("pyslowfast", "pytorchvideo"):
        assert config(f"slowfast_r50_4x16.{source}_k400").slow_indices() == (0, 10, 20, 31)
        assert config(f"slowfast_r50_8x8.{source}_k400").slow_indices() == (0, 4, 8, 13, 17, 22, 26, 31)
    for source in ("mmaction2", "gluoncv"):
        assert config(f"slowfast_r50_4x16.{source}_k400").slow_indices() == (0, 8, 16, 24)
        assert config(f"slowfast_r50_8x8.{source}_k400").slow_indices() == tuple(range(0, 32, 4))
    # The untagged name has the paper's rule, so a file of the others' layouts warns there, and names the way out.
    model = awake("slowfast_r50_4x16", slow_frames="strided")
    path = upstream.save(model.state_dict(), "gluoncv", tmp_path / "w.pth")
    with pytest.warns(UserWarning, match=r"takes strided frames.*slow_frames='strided'.*mean of \(0.485.*gluoncv_k400"):
        sfz.create_model("slowfast_r50_4x16", checkpoint_path=path, **SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sfz.create_model("slowfast_r50_4x16.gluoncv_k400", checkpoint_path=path, **SMALL)
    # One pathway takes all frames, but is normalised differently.
    path = upstream.save(awake("slow_r50_8x8").state_dict(), "mmaction2", tmp_path / "slow.pth")
    with pytest.warns(UserWarning, match="predictions will be wrong: its frames have a mean"):
        sfz.create_model("slow_r50_8x8", checkpoint_path=path, **SMALL)


def test_trap_head_order(tmp_path: Path) -> None:
    """MMAction2's classifier reads the Fast features first, its detection head the Slow ones."""
    model = awake("slowfast_r50_4x16.mmaction2_k400")
    path = upstream.save(model.state_dict(), "mmaction2", tmp_path / "w.pth")
    loaded = sfz.create_model("slowfast_r50_4x16.mmaction2_k400", checkpoint_path=path, **SMALL)
    theirs = upstream.mmaction2(model.state_dict())["cls_head.fc_cls.weight"]
    assert torch.equal(loaded.head.fc.weight[:, -32:], theirs[:, :32])
    assert torch.equal(loaded.head.fc.weight[:, :-32], theirs[:, 32:])
    detector = awake("slowfast_r50_4x16_det.mmaction2_ava21")
    named = upstream.mmaction2(detector.state_dict())
    for part in ("weight", "bias"):
        del named[f"cls_head.fc_cls.{part}"]
        named[f"roi_head.bbox_head.fc_cls.{part}"] = detector.state_dict()[f"head.fc.{part}"]
    torch.save({"state_dict": named}, tmp_path / "d.pth")
    assert same_weights(
        sfz.create_model("slowfast_r50_4x16_det.mmaction2_ava21", checkpoint_path=tmp_path / "d.pth", **SMALL), detector
    )


def test_trap_lateral_norm(tmp_path: Path) -> None:
    """MMAction2's lateral connections are bare convolutions, but for a few files."""
    assert not config("slowfast_r50_4x16.mmaction2_k400").lateral_norm
    assert config("slowfast_r50_8x8.mmaction2_k400_steplr").lateral_norm
    assert config("slowfast_r50_8x8.gluoncv_k400").lateral_norm
    bare = awake("slowfast_r50_4x16.mmaction2_k400")
    path = upstream.save(bare.state_dict(), "mmaction2", tmp_path / "w.pth")
    with pytest.raises(sfz.WeightsError, match=r"20 missing: lateral.stem.*slowfast_r50_4x16.mmaction2_k400"):
        sfz.create_model("slowfast_r50_4x16", checkpoint_path=path, **SMALL)


def test_trap_alpha_and_lateral_kernel(tmp_path: Path) -> None:
    """alpha is in no tensor, the kernel is in no name."""
    for name, alpha, kernel in [
        ("slowfast_r50_4x16.pyslowfast_k400", 8, 5),
        ("slowfast_r50_8x8.pyslowfast_k400", 4, 7),
        ("slowfast_r101_8x8.pytorchvideo_k400", 4, 5),
        ("slowfast_r101_16x8.pytorchvideo_k400", 4, 5),
        ("slowfast_r101_8x8.gluoncv_k400", 4, 5),
        ("slowfast_r101_8x8.mmaction2_k400", 4, 7),
        ("slowfast_r50_16x8.pyslowfast_ssv2", 4, 7),
        ("slowfast_r50_16x8.pyslowfast_charades", 4, 7),
        ("slowfast_r50_8x8.mmaction2_k400_old", 4, 5),
    ]:
        assert (config(name).alpha, config(name).lateral_kernel) == (alpha, kernel), name
    model = awake("slowfast_r50_4x16")
    named = upstream.pyslowfast(model.state_dict())
    yaml = "DATA:\n  NUM_FRAMES: 32\nSLOWFAST:\n  ALPHA: 8\n  BETA_INV: 8\n"
    torch.save({"model_state": named, "cfg": yaml}, tmp_path / "w.pyth")
    with pytest.warns(UserWarning, match="trained with alpha = 8, this network has alpha = 4"):
        sfz.create_model("slowfast_r50_8x8", lateral_kernel=5, checkpoint_path=tmp_path / "w.pyth", **SMALL)
    with pytest.raises(sfz.WeightsError, match="of another shape: lateral"):
        sfz.create_model("slowfast_r50_8x8", checkpoint_path=tmp_path / "w.pyth", **SMALL)


def test_trap_two_kinds_of_r101(tmp_path: Path) -> None:
    """Temporal kernels in six of res4's 23 blocks, or in all."""
    six, every = (3,) * 6 + (1,) * 17, (3, (3,) * 23)
    for name in ("slowfast_r101_16x8.pytorchvideo_k400", "slowfast_r101_nl_8x8_det.pyslowfast_ava22"):
        assert [kernels[3] for kernels in config(name).temporal_kernels] == [six, six], name
    for name in (
        "slowfast_r101_8x8.pytorchvideo_k400",
        "slowfast_r101_8x8.gluoncv_k400",
        "slowfast_r101_8x8.mmaction2_k400",
    ):
        assert all(kernels[3] in every for kernels in config(name).temporal_kernels), name
    assert config("slow_r101_8x8.mmaction2_k400").temporal_kernels[3] in every
    assert [len(d) and d[2] for d in config("slowfast_r101_r50_4x16.mmaction2_k400").depths] == [23, 6]
    model = awake("slowfast_r101_8x8.pytorchvideo_k400")
    path = upstream.save(model.state_dict(), "pytorchvideo", tmp_path / "w.pyth")
    with pytest.raises(sfz.WeightsError, match="of another shape: slow.res4.blocks.6.conv1"):
        sfz.create_model("slowfast_r101_8x8", checkpoint_path=path, **SMALL)


def test_trap_detection_heads() -> None:
    for name in ("slow_r50_4x16_det.pyslowfast_ava22", "slowfast_r50_8x8_det.pytorchvideo_ava22"):
        got = config(name)
        assert (got.res5_stride, got.res5_dilation, got.roi.resolution, got.roi.aligned) == (1, 2, 7, False)
    for name in ("slow_r50_4x16_det.mmaction2_ava21", "slowfast_r50_8x8_det.mmaction2_ava22"):
        got = config(name)
        assert (got.res5_stride, got.res5_dilation, got.roi.resolution, got.roi.aligned) == (1, 1, 8, True)
    assert config("slowfast_r50_8x8_det.mmaction2_ava22_temporalmax").roi.temporal_pool == "max"
    assert config("slowfast_r50_4x16_det.mmaction2_ava21_context").roi.context
    with torch.device("meta"):
        assert sfz.create_model("slowfast_r50_4x16_det.mmaction2_ava21_context").num_features == 4608


def test_trap_ava_columns() -> None:
    """FAIR's column i is id i + 1; MMAction2's column i is id i, and column 0 nothing."""
    fair = records()["slow_r50_4x16_det.pyslowfast_ava22"]
    mm = records()["slow_r50_4x16_det.mmaction2_ava21"]
    assert fair.labels
    assert mm.labels
    names, shifted = load_labels(fair.labels), load_labels(mm.labels)
    assert (len(names), len(shifted)) == (80, 81) == (fair.config.num_classes, mm.config.num_classes)
    assert shifted[1:] == names
    assert names[0] == "bend/bow (at the waist)"
    assert names[11] == "stand"


def test_trap_input_scale() -> None:
    for name, mean, std in [
        ("slowfast_r50_4x16.pyslowfast_k400", [0.45] * 3, [0.225] * 3),
        ("slowfast_r50_4x16.pytorchvideo_k400", [0.45] * 3, [0.225] * 3),
        (
            "slowfast_r50_4x16.mmaction2_k400",
            [123.675 / 255, 116.28 / 255, 103.53 / 255],
            [58.395 / 255, 57.12 / 255, 57.375 / 255],
        ),
        ("slowfast_r50_4x16.gluoncv_k400", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]:
        with torch.device("meta"):
            cfg = sfz.create_model(name).pretrained_cfg
        assert cfg["mean"] == pytest.approx(mean)
        assert cfg["std"] == pytest.approx(std)
        assert cfg["channel_order"] == "rgb"


def test_trap_c2d(tmp_path: Path) -> None:
    assert not config("c2d_r50_8x8.pyslowfast_k400_nopool").temporal_pool
    assert config("c2d_r50_8x8.pytorchvideo_k400").temporal_pool
    mm = config("c2d_r50_8x8.mmaction2_k400")
    assert mm.temporal_pool
    assert mm.pool1_padding == 0
    assert not config("c2d_r50_8x8.mmaction2_k400_nopool").temporal_pool
    # MMAction2 saves the 2-D weights of an image network.
    model = awake("c2d_r50_8x8.mmaction2_k400")
    named = upstream.mmaction2(model.state_dict())
    flat = {k: v.squeeze(2) if v.ndim == 5 else v for k, v in named.items()}
    torch.save({"state_dict": flat}, tmp_path / "w.pth")
    loaded = sfz.create_model("c2d_r50_8x8.mmaction2_k400", checkpoint_path=tmp_path / "w.pth", **SMALL)
    assert same_weights(loaded, model)


def test_trap_i3d() -> None:
    fair, mm = config("i3d_r50_8x8.pyslowfast_k400"), config("i3d_r50_32x2.mmaction2_k400")
    assert (fair.conv1_stride, fair.pool1_stride, fair.temporal_reduction) == (1, 1, 2)
    assert (mm.conv1_stride, mm.pool1_stride, mm.temporal_reduction) == (2, 2, 8)
    assert config("i3d_r50_32x2.gluoncv_k400") == mm.replace(num_classes=400)
    heavy = config("i3d_r50_32x2.mmaction2_k400_heavy")
    assert (heavy.conv1_stride, heavy.pool1_stride) == (1, 1)
    model = sfz.create_model("i3d_r50_32x2.mmaction2_k400", **SMALL).eval()
    features = model.forward_features(torch.randn(1, 3, 32, 32, 32))
    assert features.shape[2] == 4


def test_trap_non_local() -> None:
    """Where keys are pooled, whether products are scaled, which biases there are, and after which blocks."""
    fair = config("i3d_r50_nl_8x8.pyslowfast_k400").non_local
    assert (fair.instantiation, fair.pool, fair.pool_first, fair.scaled, fair.out_bias) == (
        "embedded_gaussian", (1, 2, 2), True, True, True
    )  # fmt: skip
    ava = config("slowfast_r101_nl_8x8_det.pyslowfast_ava22").non_local
    assert (ava.instantiation, ava.pool, ava.blocks[2]) == ("dot_product", (2, 2, 2), (6, 13, 20))
    mm = config("i3d_r50_nl_32x2.mmaction2_k400").non_local
    assert (mm.pool_first, mm.scaled, mm.out_bias) == (False, False, False)
    assert config("slow_r50_nl_4x16.mmaction2_k400").non_local.scaled
    assert config("slow_r50_nl_4x16.mmaction2_k400").non_local.blocks[1:3] == ((0, 2), (0, 2, 4))
    assert config("i3d_r50_nl_32x2.mmaction2_k400_gaussian").non_local.instantiation == "gaussian"
    gluon = config("i3d_r50_nl_32x2.gluoncv_k400").non_local
    assert (gluon.pool, gluon.scaled, gluon.out_bias) == ((1, 1, 1), True, True)
    assert config("i3d_r50_nl_32x2.gluoncv_k400_nl10").non_local.blocks[1] == (0, 1, 2, 3)


def test_trap_scores(tmp_path: Path) -> None:
    """PySlowFast averages probabilities over positions, PyTorchVideo's hub models average logits."""
    for name, window, average in [
        ("slow_r50_8x8.pyslowfast_k400", 7, "scores"),
        ("slow_r50_8x8.pyslowfast_k400_ptv", 7, "scores"),
        ("slow_r50_8x8.pytorchvideo_k400", 7, "logits"),
        ("slowfast_r50_8x8.pyslowfast_k400_multigrid", None, "scores"),
        ("slow_r50_8x8.mmaction2_k400", None, "scores"),
        ("slow_r50_8x8.gluoncv_k400", None, "scores"),
    ]:
        assert config(name).head_window == window, name
        if window:
            assert config(name).head_average == average, name
    for name in ("slowfast_r50_8x8.pytorchvideo_charades", "slowfast_r50_16x8.pyslowfast_charades"):
        assert config(name).head_activation == "sigmoid"
    state = awake("slow_r50_8x8.pyslowfast_k400", frames=1)
    clip = torch.randn(1, 3, 1, 256, 256)
    logits_first = sfz.create_model("slow_r50_8x8.pytorchvideo_k400", frames=1, **SMALL).eval()
    logits_first.load_state_dict(state.state_dict())
    with torch.no_grad():
        assert torch.equal(state(clip), logits_first(clip))
        torch.testing.assert_close(logits_first.probabilities(clip), logits_first(clip).softmax(1))
        assert not torch.allclose(state.probabilities(clip), state(clip).softmax(1), atol=1e-7)


def test_trap_clip_placement() -> None:
    placement = {name: record.preprocessing["clip_sampling"] for name, record in records().items()}
    assert placement["slowfast_r50_8x8.pyslowfast_k400"] == "pyslowfast"
    assert placement["slowfast_r50_8x8.mmaction2_k400"] == "mmaction2"
    assert placement["slowfast_r50_8x8.gluoncv_k400"] == "gluoncv"
    assert placement["slowfast_r50_16x8.pyslowfast_ssv2"] == "segments"
    assert placement["slow_r50_4x16_det.pyslowfast_ava22"] == "keyframe"
    assert records()["slowfast_r50_16x8.pyslowfast_charades"].preprocessing["view_average"] == "max"
    assert records()["slowfast_r50_8x8.gluoncv_k400"].preprocessing["view_average"] == "logits"


def test_trap_videos_resized_beforehand() -> None:
    for name in ("slow_r50_8x8.mmaction2_k600", "slow_r50_8x8.mmaction2_k700_0x"):
        assert records()[name].preprocessing["scale"] == 256
        assert any("esize" in note for note in records()[name].notes), name
    assert any("340" in note for note in records()["slowfast_r50_4x16.gluoncv_k400"].notes)


def test_trap_label_order() -> None:
    """The class order of FAIR's Kinetics-600 weights is not the alphabet's, and was never published."""
    for name in ("slowfast_r101_nl_8x8.pyslowfast_k600", "slowfast_r101_nl_16x8.pyslowfast_k600"):
        assert records()[name].labels is None
        assert any("order" in note for note in records()[name].notes)
    k400 = load_labels("kinetics400")
    assert len(k400) == 400
    assert k400[290] == "sharpening knives"
    assert (k400[0], k400[399]) == ("abseiling", "zumba")


def test_trap_misleading_names() -> None:
    ava = records()["slow_r50_4x16_det.pyslowfast_ava22"]
    assert ava.source
    assert ava.source["url"].endswith("ava/C2D_8x8_R50.pkl")
    assert (ava.config.frames, ava.config.stride) == (4, 16)
    jester = records()["slow_r50_8x4.mmaction2_jester"]
    assert jester.source
    assert "8x8" in jester.source["url"]
    assert records()["slow_r50_4x16.mmaction2_gym99"].config.num_classes == 400


def test_trap_containers(tmp_path: Path) -> None:
    """A .pkl may be a torch file, and a .pyth a pickle; gzip is said to be gzip."""
    model = awake("slow_r50_4x16")
    for project, name in (("pyslowfast", "torch.pkl"), ("caffe2", "caffe2.pyth")):
        path = upstream.save(model.state_dict(), project, tmp_path / name)
        assert same_weights(sfz.create_model("slow_r50_4x16", checkpoint_path=path, **SMALL), model)
    (tmp_path / "c2d.pkl").write_bytes(b"\x1f\x8b\x08" + b"\0" * 100)
    with pytest.raises(sfz.WeightsError, match="gzip"):
        sfz.create_model("slow_r50_4x16", checkpoint_path=tmp_path / "c2d.pkl")


def test_convert_file(tmp_path: Path) -> None:
    record = records()["c2d_r50_1x1.pyslowfast_in1k"]
    model = sfz.create_model(record.name)
    path = upstream.save(model.state_dict(), "pyslowfast", tmp_path / "in1k.pyth")
    state = convert_file(path, record)
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    path = upstream.save(model.state_dict(), "caffe2", tmp_path / "in1k.pkl")
    with pytest.raises(sfz.WeightsError, match="layout of PySlowFast's Caffe2 models, which .* is not published in"):
        convert_file(path, record)
    other = sfz.create_model("slow_r50_4x16", **SMALL)
    path = upstream.save(other.state_dict(), "pyslowfast", tmp_path / "other.pyth")
    with pytest.raises(sfz.WeightsError, match="of another shape"):
        convert_file(path, record)


def test_every_architecture_takes_some_weights_or_a_headline() -> None:
    """A name is registered because somebody published weights for it, or the paper has a number for it."""
    with_weights = {record.architecture for record in records().values()}
    paper = {
        "slowfast_r101_nl_16x8", "slow_r101_16x8", "fast_r50_4x16", "fast_r50_8x8", "slow_tiny_4x8", "fast_tiny_4x8"
    }  # fmt: skip
    conformance = {"slowfast_r50_nl_4x16", "slowfast_r50_nl_8x8", "c2d_r50_nl_8x8"}  # PySlowFast has configs of them
    assert set(ARCHITECTURES) - with_weights <= paper | conformance
