"""register_with_timm: timm knows the networks as it knows its own."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import timm
import torch

import slowfast_zoo as sfz

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
