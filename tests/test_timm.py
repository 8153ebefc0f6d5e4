"""register_with_timm: timm knows the networks as it knows its own."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import slowfast_zoo as sfz
from tests.servers import HubServer, Repo

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = "slowfast_tiny_4x8.motion"


@pytest.fixture(scope="module", autouse=True)
def registered() -> list[str]:
    return sfz.register_with_timm()


def test_every_name_is_listed(registered: list[str]) -> None:
    assert registered == sfz.list_models()
    for family in ("slowfast*", "slow_*", "fast_*", "c2d*", "i3d*"):
        assert set(timm.list_models(family)) == set(sfz.list_models(family))
    assert set(timm.list_pretrained("slowfast*")) == set(sfz.list_models("slowfast*", pretrained=True))


def test_second_call_changes_nothing(registered: list[str]) -> None:
    entry_point = timm.models.model_entrypoint("slowfast_r50_4x16")
    everything = timm.list_models(), timm.list_models(pretrained=True), timm.list_modules()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sfz.register_with_timm() == registered
    assert (timm.list_models(), timm.list_models(pretrained=True), timm.list_modules()) == everything
    assert timm.models.model_entrypoint("slowfast_r50_4x16") is entry_point


def test_create_model_takes_our_keywords() -> None:
    model = timm.create_model("slowfast_r50_4x16", num_classes=7, width=8, alpha=4, drop_rate=0.1).eval()
    assert model.config == sfz.create_model("slowfast_r50_4x16", num_classes=7, width=8, alpha=4, drop_rate=0.1).config
    assert model(torch.rand(1, 3, 16, 32, 32)).shape == (1, 7)
    backbone = timm.create_model("slowfast_tiny_4x8", features_only=True, out_indices=(4,))
    assert len(backbone(torch.rand(1, 3, 16, 32, 32))) == 1
    with pytest.raises(TypeError, match="no_such_keyword"):
        timm.create_model("slowfast_tiny_4x8", no_such_keyword=1)
    with pytest.raises(ValueError, match="no weights named 'slowfast_tiny_4x8.nowhere'"):
        timm.create_model("slowfast_tiny_4x8.nowhere")


@pytest.mark.parametrize("name", [BUNDLED, "slowfast_tiny_4x8"])
def test_pretrained(name: str) -> None:
    assert timm.models.is_model_pretrained(name)
    ours, theirs = sfz.create_model(BUNDLED, pretrained=True), timm.create_model(name, pretrained=True)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))
    finetuned = timm.create_model(name, pretrained=True, num_classes=5)
    assert finetuned.num_classes == 5
    assert torch.equal(finetuned.slow.stem.conv1.conv.weight, ours.slow.stem.conv1.conv.weight)


def test_network_without_weights() -> None:
    assert not timm.models.is_model_pretrained("slow_tiny_4x8")
    with pytest.raises(sfz.WeightsError, match="slow_tiny_4x8 has no pretrained weights"):
        timm.create_model("slow_tiny_4x8", pretrained=True)


def test_pretrained_cfg_is_the_networks_own() -> None:
    model = timm.create_model(BUNDLED)
    cfg = timm.models.get_pretrained_cfg(BUNDLED)
    for key in ("architecture", "tag", "input_size", "mean", "std", "num_classes", "first_conv", "classifier"):
        assert getattr(cfg, key) == model.pretrained_cfg[key], key
    assert dict(model.named_modules())[cfg.classifier] is model.get_classifier()
    assert timm.models.get_pretrained_cfg("slowfast_tiny_4x8") == cfg, "the default weights"
    again = timm.create_model("slowfast_tiny_4x8", pretrained_cfg=cfg)
    assert again.pretrained_cfg["tag"] == "motion"
    again = timm.create_model("slowfast_tiny_4x8", pretrained_cfg=model.pretrained_cfg)
    assert again.pretrained_cfg["tag"] == "motion"


def test_weights_from_a_file(tmp_path: Path) -> None:
    from slowfast_zoo.weights import save_state_dict

    saved = sfz.create_model("slowfast_tiny_4x8", width=8, num_classes=5)
    save_state_dict(saved.state_dict(), tmp_path / "mine.safetensors")
    arguments = {"width": 8, "num_classes": 5}
    overlay = {"file": str(tmp_path / "mine.safetensors")}
    models = [
        timm.create_model("slowfast_tiny_4x8", checkpoint_path=str(tmp_path / "mine.safetensors"), **arguments),
        timm.create_model("slowfast_tiny_4x8", pretrained=True, pretrained_cfg_overlay=overlay, **arguments),
    ]
    for model in models:
        assert torch.equal(model.head.fc.weight, saved.head.fc.weight)


def test_a_name_of_timms_own_stays() -> None:
    code = """
import warnings
import timm
from timm.models import register_model

@register_model
def slowfast_r50_4x16(pretrained=False, **kwargs):
    return "timm's own"

import slowfast_zoo as sfz
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    names = sfz.register_with_timm()
assert timm.models.model_entrypoint("slowfast_r50_4x16") is slowfast_r50_4x16
assert "slowfast_r50_4x16" not in names and "slowfast_r50_8x8" in names
[warning] = caught
assert "slowfast_r50_4x16" in str(warning.message), warning
assert warning.filename == "<string>", warning
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


CLIP = torch.rand(1, 3, 16, 32, 32, generator=torch.Generator().manual_seed(0))


def finetuned() -> Any:
    torch.manual_seed(1)
    return sfz.create_model("slowfast_tiny_4x8", width=12, num_classes=5).eval()


@pytest.mark.parametrize("source", ["local-dir", "timm", "timm bin"])
def test_a_folder_is_the_network_that_was_saved(source: str, tmp_path: Path) -> None:
    """Weights, class count, labels and configuration, whoever wrote the folder."""
    saved, labels = finetuned(), ("a", "b", "c", "d", "e")
    if source == "local-dir":
        saved.save_pretrained(tmp_path, labels)
    else:
        saved = timm.create_model("slowfast_tiny_4x8", width=12, num_classes=5).eval()
        config = {"label_names": list(labels)}
        timm.models.save_for_hf(saved, str(tmp_path), config, safe_serialization=source == "timm")
    name = f"local-dir:{tmp_path}"
    model = timm.create_model(name, pretrained=True).eval()
    assert model.num_classes == 5 and torch.equal(model(CLIP), saved(CLIP))
    assert sfz.VideoClassifier(model).labels == labels
    assert str(sfz.create_transform(model)) == str(sfz.create_transform(saved))
    fresh = timm.create_model(name, pretrained=False)
    assert fresh.config.width == 12 and not torch.equal(fresh.head.fc.weight, saved.head.fc.weight)
    other = timm.create_model(name, pretrained=True, num_classes=2, drop_rate=0.1)
    assert other.num_classes == 2 and other.head.dropout.p == 0.1
    assert not sfz.VideoClassifier(other).labels_known
    assert torch.equal(other.slow.stem.conv1.conv.weight, saved.slow.stem.conv1.conv.weight)
    grey = timm.create_model(name, pretrained=True, in_chans=1)
    assert grey(CLIP[:, :1]).shape == (1, 5)
    maps = timm.create_model(name, pretrained=True, features_only=True, out_indices=(2,)).eval()(CLIP)
    wanted = saved.forward_stages(CLIP, (2,))[0]
    assert len(maps) == 1 and all(torch.equal(a, b) for a, b in zip(maps[0], wanted, strict=True))


@pytest.mark.parametrize("way", ["cfg", "overlay", "state_dict"])
def test_the_hosts_record_is_used(way: str, tmp_path: Path) -> None:
    saved = finetuned()
    saved.save_pretrained(tmp_path)
    given: dict[str, Any] = {"num_classes": 5, "file": str(tmp_path / "model.safetensors")}
    if way == "state_dict":
        given = {"num_classes": 5, "state_dict": saved.state_dict()}
    arguments = {"pretrained_cfg": given} if way == "cfg" else {"pretrained_cfg_overlay": given}
    model = timm.create_model("slowfast_tiny_4x8", pretrained=True, width=12, **arguments).eval()
    assert torch.equal(model(CLIP), saved(CLIP))
    assert "state_dict" not in model.pretrained_cfg


def test_global_pool() -> None:
    assert timm.create_model("slowfast_tiny_4x8", global_pool="avg").num_features == 576
    with pytest.raises(ValueError, match="global_pool is 'avg', not 'max'"):
        timm.create_model("slowfast_tiny_4x8", global_pool="max")


def test_feature_info_has_timms_interface() -> None:
    model = timm.create_model("slowfast_tiny_4x8", features_only=True, out_indices=(1, 4))
    info, maps = model.feature_info, model(CLIP)
    assert info.channels() == [tuple(x.shape[1] for x in pair) for pair in maps]
    assert info.reduction() == [tuple(32 // x.shape[3] for x in pair) for pair in maps]
    for i, pathway in enumerate(("slow", "fast")):
        assert info.channels(pathway=pathway) == [pair[i].shape[1] for pair in maps]
        assert info.module_name(4, pathway=pathway) == f"network.{pathway}.res5"
        assert info.get_dicts(["reduction"], [2], pathway=pathway) == [{"reduction": 8}]
    with pytest.raises(ValueError, match="the pathways slow, fast"):
        info.channels(pathway="third")
    one = timm.create_model("slow_tiny_4x8")
    assert one.feature_info.channels(-1) == one.num_features
    assert one.feature_info.get_dicts() == list(one.feature_info)
    assert model.default_cfg is model.pretrained_cfg and one.default_cfg is one.pretrained_cfg


def test_forward_intermediates() -> None:
    model = timm.create_model("slowfast_tiny_4x8").eval()
    final, maps = model.forward_intermediates(CLIP, (3, -4))
    wanted = [*model.forward_stages(CLIP, (3, 1)), model.forward_features(CLIP)]
    for got, want in zip((*maps, final), wanted, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert len(model.forward_intermediates(CLIP)[1]) == 5
    last = model.forward_intermediates(CLIP, 2, intermediates_only=True)
    assert torch.equal(last[1][0], final[0]) and len(last) == 2
    calls: list[Any] = []
    model.slow.res3.register_forward_hook(lambda *args: calls.append(args))
    model.forward_intermediates(CLIP, [1], stop_early=True, intermediates_only=True)
    assert not calls
    for given in ("res4", ["res4"], [torch.tensor(3)], {3}):
        (found,) = model.forward_intermediates(CLIP, given, intermediates_only=True)
        assert torch.equal(found[0], maps[0][0])
    wrongs: tuple[dict[str, Any], ...] = ({"output_fmt": "NLC"}, {"indices": 6}, {"indices": [5]}, {"indices": 0})
    wrongs += ({"indices": "res6"}, {"indices": ["pool"]}, {"indices": True}, {"indices": 1.5}, {"indices": [None]})
    for wrong in wrongs:
        with pytest.raises(ValueError, match="channels first|5 stages"):
            model.forward_intermediates(CLIP, **wrong)


def test_forward_intermediates_of_features() -> None:
    model: Any = timm.create_model("slowfast_tiny_4x8", features_only=True, out_indices=(1, 3)).eval()
    maps = model(CLIP)
    final, found = model.forward_intermediates(CLIP, ["res2", -1])
    for got, want in zip((*found, final), (*maps, maps[-1]), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    with pytest.raises(ValueError, match="there are 4 stages"):
        model.forward_intermediates(CLIP, "res5")


@pytest.mark.parametrize("name", ["slowfast_tiny_4x8", "slow_tiny_4x8"])
def test_prune_intermediate_layers(name: str) -> None:
    model = timm.create_model(name, num_classes=5).eval()
    clip = CLIP[:, :, : model.config.clip_frames]
    wanted = model.forward_intermediates(clip, (1, 3), intermediates_only=True)
    before = sum(p.numel() for p in model.parameters())
    assert model.prune_intermediate_layers(("res2", 3)) == [1, 3]
    final, maps = model.forward_intermediates(clip, (1, 3))
    for got, want in zip((*maps, final), (*wanted, wanted[-1]), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(tuple(got), tuple(want), strict=True))
    assert sum(p.numel() for p in model.parameters()) < before / 2
    pooled = torch.cat([x.mean(dim=(2, 3, 4)) for x in (final if isinstance(final, tuple) else (final,))], dim=1)
    torch.testing.assert_close(model(clip), pooled)
    assert model.num_classes == 0 and model.num_features == pooled.shape[1]
    with pytest.raises(ValueError, match="names no stage"):
        model.prune_intermediate_layers([])


@pytest.mark.parametrize(
    ("overlay", "scale", "crop"),
    [
        ({"crop_pct": 0.5}, 224, 112),
        ({"crop_pct": 0.875}, 128, 112),
        ({"scale": 160}, 160, 112),
        ({"crop": 64}, 64, 64),
        ({"input_size": (3, 16, 64, 64), "crop_pct": 0.5}, 128, 64),
    ],
)
def test_an_overlay_of_the_crop_is_seen(overlay: dict[str, Any], scale: int, crop: int) -> None:
    model = timm.create_model(BUNDLED, pretrained=True, pretrained_cfg_overlay=overlay)
    record = model.pretrained_cfg
    assert (record["scale"], record["crop"], record["crop_pct"]) == (scale, crop, crop / scale)
    assert record["input_size"] == (3, 16, crop, crop) and model.config.crop == crop
    # A frame that is white but for a black border: what of it the transform shows.
    side, border = 448, 448 * (scale - crop) // scale // 2
    frame = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    frame[:, :, border : side - border, border : side - border] = 255
    seen = sfz.create_transform(model)(frame)
    assert seen.shape[-2:] == (crop, crop) and seen[..., 2:-2, 2:-2].min() > 2.4  # (1 - 0.45) / 0.225
    for wrong in (0, -1, "half", True):
        with pytest.raises(ValueError, match="crop_pct"):
            timm.create_model(BUNDLED, pretrained_cfg_overlay={"crop_pct": wrong})


def test_an_overlay_of_the_classes_of_a_folder(tmp_path: Path) -> None:
    finetuned().save_pretrained(tmp_path, ("a", "b", "c", "d", "e"))
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, pretrained_cfg_overlay={"num_classes": 9})
    assert model.num_classes == model.pretrained_cfg["num_classes"] == 9 and model.pretrained_cfg["labels"] is None


@pytest.mark.parametrize("crop", [None, 64])
def test_crop_pct_agrees(crop: int | None) -> None:
    cfg = sfz.create_model(BUNDLED, **({} if crop is None else {"crop": crop})).pretrained_cfg
    assert cfg["crop_pct"] == cfg["crop"] / cfg["scale"]
    assert timm.models.get_pretrained_cfg(BUNDLED).crop_pct == sfz.create_model(BUNDLED).pretrained_cfg["crop_pct"]


@pytest.mark.parametrize("features_only", [False, True])
def test_layer_decay_treats_pathways_alike(features_only: bool) -> None:
    from timm.optim import param_groups_layer_decay

    model = timm.create_model("slowfast_tiny_4x8", features_only=features_only)
    for wrapped in (model, torch.compile(model, backend="eager")):
        groups = param_groups_layer_decay(wrapped, layer_decay=0.5)
        scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
        of_stage: dict[str, set[float]] = {}
        for name, parameter in model.named_parameters():
            if ".head." not in f".{name}":
                owner, stage = name.removeprefix("network.").split(".")[:2]
                assert owner in ("slow", "fast", "lateral")
                of_stage.setdefault(stage, set()).add(scale[id(parameter)])
        assert all(len(values) == 1 for values in of_stage.values()), of_stage
        ordered = [min(of_stage[stage]) for stage in ("stem", "res2", "res3", "res4", "res5")]
        assert ordered == sorted(set(ordered)), "later stages learn faster"


FROM_THE_HUB = """
import sys
import timm
import torch
import slowfast_zoo as sfz

sfz.register_with_timm()
model = timm.create_model("hf-hub:" + sys.argv[1], pretrained=sys.argv[2] == "True").eval()
saved = torch.load(sys.argv[3], weights_only=True)
same = [torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items()]
print(model.num_classes, *(model.labels or ["none"]), all(same))
"""


@pytest.mark.parametrize(("kind", "pretrained"), [("ours", True), ("timm", True), ("timm", False), ("bin", True)])
def test_a_repository_is_the_network_that_was_uploaded(kind: str, pretrained: bool, tmp_path: Path) -> None:
    model: Any = timm.create_model("slow_tiny_4x8", num_classes=3).eval()
    folder, letters = tmp_path / "repository", ["a", "b", "c"]
    if kind == "ours":
        model.save_pretrained(folder, letters)
    else:
        timm.models.save_for_hf(model, folder, {"label_names": letters}, safe_serialization=kind == "timm")
    torch.save(model.state_dict(), tmp_path / "saved.pt")
    repo = Repo({path.name: path.read_bytes() for path in folder.iterdir()})
    settings = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    with HubServer({"me/mine": repo}) as server:
        settings |= {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-c", FROM_THE_HUB, "me/mine", str(pretrained), str(tmp_path / "saved.pt")]
        done = subprocess.run(command, capture_output=True, text=True, env=settings, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["3", *letters, str(pretrained)]
