"""create_model and its sisters: names, keywords, weights, and what wrong input gets told."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import slowfast_zoo as sfz
from slowfast_zoo.models import ARCHITECTURES, build
from slowfast_zoo.weights import records, save_state_dict

TINY = "slowfast_tiny_4x8"
BUNDLED = "slowfast_tiny_4x8.motion"


def test_list_models() -> None:
    names = sfz.list_models()
    assert names == sorted(ARCHITECTURES)
    assert "slowfast_r50_4x16" in names
    assert sfz.list_models("slowfast_r101*") == [n for n in names if n.startswith("slowfast_r101")]
    assert sfz.list_models("i3d_r50*8x8") == ["i3d_r50_8x8", "i3d_r50_nl_8x8"]
    assert sfz.list_models("*8x8") == [n for n in names if n.endswith("8x8")]
    assert sfz.list_models("resnext") == []
    with pytest.raises(TypeError, match="pattern is a string"):
        sfz.list_models(["slow*"])  # type: ignore[arg-type]
    assert sfz.list_models(pretrained=True) == sorted(records())
    assert BUNDLED in sfz.list_models("*.motion", pretrained=True)
    detectors = sfz.list_models("*_det", pretrained=True)
    assert len(detectors) > 20
    assert all("_det." in name for name in detectors)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("slowfast_r50_4x61", "slowfast_r50_4x16"),
        ("slowfast-r50-8x8", "slowfast_r50_8x8"),
        ("SlowFast_R50_4x16", "slowfast_r50_4x16"),
        ("slow_fast_tiny_4x8", TINY),
    ],
)
def test_unknown_name_suggests_near_ones(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean .*{near}"):
        sfz.create_model(name)


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="list_models"):
        sfz.create_model("vit")
    with pytest.raises(ValueError, match=f"{TINY} has the tags motion"):
        sfz.create_model(f"{TINY}.k400")
    with pytest.raises(ValueError, match="no published weights"):
        sfz.create_model("fast_r50_4x16.pyslowfast_k400")
    with pytest.raises(TypeError, match="string"):
        sfz.create_model(50)  # type: ignore[arg-type]
    with pytest.raises(
        sfz.WeightsError, match="fast_r50_4x16 has no pretrained weights.*slowfast_r50_4x16.pyslowfast_k400"
    ):
        sfz.create_model("fast_r50_4x16", pretrained=True)
    with pytest.raises(TypeError, match="keyword 'num_clases'; did you mean 'num_classes'"):
        sfz.create_model(TINY, num_clases=3)


def test_keywords() -> None:
    model = sfz.create_model(TINY, num_classes=3, in_chans=1, drop_rate=0.25, frames=2, lateral_norm=False)
    assert model.head.dropout.p == 0.25
    assert model.config.frames == 2
    assert model(torch.randn(2, 1, 8, 32, 32)).shape == (2, 3)
    assert model.pretrained_cfg["input_size"] == (1, 8, 112, 112)
    assert not any("lateral" in name and "norm" in name for name, _ in model.named_parameters())
    with pytest.raises(ValueError, match="features_only=True"):
        sfz.create_model(TINY, out_indices=(1,))
    for indices in ((5,), (), (1.0,), (-6,)):
        with pytest.raises(ValueError, match="out_indices holds integers from 0"):
            sfz.create_model(TINY, features_only=True, out_indices=indices)  # type: ignore[arg-type]


def test_wrong_input() -> None:
    model = sfz.create_model("slowfast_r50_4x16", width=8)
    good = torch.randn(1, 3, 32, 32, 32)
    cases: list[tuple[Any, type[Exception], str]] = [
        (good.to(torch.uint8), TypeError, "uint8.*create_transform"),
        (good.double(), TypeError, r"float64 but the network is torch.float32"),
        (good.numpy(), TypeError, "Tensor, not ndarray"),
        (good[0], ValueError, r"4-dimensional.*clip\[None\]"),
        (good[:, :2], ValueError, "3 channels in dimension 1, not 2"),
        (good.transpose(1, 2), ValueError, "3 channels in dimension 1, not 32"),
        (good[:, :, :31], ValueError, "31 frames.*positive multiple of 8"),
        (good[:, :, :0], ValueError, "0 frames"),
        (good[..., :31], ValueError, "32 x 31 pixels"),
        ((good[:, :, :4],), ValueError, "pair"),
        ((good[:, :, :4], good[:, :, :24]), ValueError, "32 for 4, not 24"),
        ((good[:, :, :4], good.expand(2, -1, -1, -1, -1)), ValueError, "agree in batch"),
        ((good[:, :, :4].to(torch.uint8), good), TypeError, "slow holds"),
    ]
    for clip, error, says in cases:
        with pytest.raises(error, match=says) as caught:
            model(clip)
        assert len(str(caught.value).splitlines()) == 1
    assert "multiple of 8" in says_of(model, good[:, :, :31])
    assert "every 2nd frame" in says_of(model, good[:, :, :31])


def says_of(model: torch.nn.Module, clip: Any) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        model(clip)
    return str(caught.value)


def test_depths_alone_are_enough() -> None:
    """What an architecture has block by block is fitted to other depths, unless that is given too."""
    model = sfz.create_model("slowfast_r101_nl_8x8", width=8, depths=((1, 1, 8, 1), (1, 1, 2, 1)), num_classes=3)
    assert [b.conv1.conv.kernel_size[0] for b in model.slow.res4.blocks] == [3] * 6 + [1] * 2
    assert model.config.non_local.blocks == ((), (), (6,), ())
    model = sfz.create_model("i3d_r50_8x8", width=8, depths=(1, 6, 1, 1))
    assert [b.conv1.conv.kernel_size[0] for b in model.pathway.res3.blocks] == [3, 1, 3, 1, 1, 1]
    with pytest.raises(ValueError, match="res4 has 1 blocks"):
        sfz.create_model("i3d_r50_8x8", depths=(3, 4, 1, 3), temporal_kernels=(5, 3, 3, (3, 1, 3), 3))


def test_one_pathway_frames() -> None:
    fast = sfz.create_model("fast_r50_4x16", width=8, depths=(1, 1, 1, 1)).eval()
    clip = torch.randn(1, 3, 32, 32, 32)
    assert torch.equal(fast([clip]), fast(clip))
    with pytest.raises(ValueError, match="positive multiple of 8"):
        fast(clip[:, :, :31])
    with pytest.raises(ValueError, match="positive multiple of 2"):
        sfz.create_model("i3d_r50_8x8", width=8)(clip[:, :, :7])


def test_records_are_each_networks_own() -> None:
    first, second = sfz.create_model(TINY), sfz.create_model(TINY)
    first.pretrained_cfg["mean"][0] = 9.0
    assert second.pretrained_cfg["mean"][0] == sfz.create_model(TINY).pretrained_cfg["mean"][0] != 9.0
    smaller = sfz.create_model(BUNDLED, crop=64)
    assert smaller.config.crop == smaller.pretrained_cfg["crop"] == sfz.create_transform(smaller).crop == 64
    assert str(sfz.create_transform(TINY)) == str(sfz.create_transform(sfz.create_model(TINY)))


def test_flow_is_given_by_the_user() -> None:
    model = sfz.create_model("slowfast_r50_4x16", width=8, fast_input="flow").eval()
    frames, flow = torch.randn(2, 3, 4, 32, 32), torch.randn(2, 2, 32, 32, 32)
    assert model((frames, flow)).shape == (2, 400)
    with pytest.raises(ValueError, match="pair"):
        model(torch.randn(2, 3, 32, 32, 32))
    with pytest.raises(ValueError, match="2 channels"):
        model((frames, torch.randn(2, 3, 32, 32, 32)))


def test_bundled_weights() -> None:
    model = sfz.create_model(BUNDLED, pretrained=True).eval()
    default = sfz.create_model(TINY, pretrained=True).eval()
    clip = torch.randn(1, 3, 16, 112, 112, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(clip), default(clip))
        assert not torch.allclose(model(clip), sfz.create_model(BUNDLED).eval()(clip))
    assert model.pretrained_cfg["tag"] == "motion"
    assert model.pretrained_cfg["labels"] == "motion"


def test_num_classes_replaces_the_classifier(caplog: pytest.LogCaptureFixture) -> None:
    full = sfz.create_model(BUNDLED, pretrained=True).eval()
    with caplog.at_level(logging.INFO, logger="slowfast_zoo"):
        model = sfz.create_model(BUNDLED, pretrained=True, num_classes=5).eval()
        headless = sfz.create_model(BUNDLED, pretrained=True, num_classes=0).eval()
    assert [r.levelname for r in caplog.records] == ["INFO", "INFO"]
    assert "has 5" in caplog.messages[0]
    clip = torch.randn(1, 3, 16, 64, 64)
    with torch.no_grad():
        pooled = full.forward_head(full.forward_features(clip), pre_logits=True)
        torch.testing.assert_close(headless(clip), pooled)
        torch.testing.assert_close(model.forward_head(model.forward_features(clip), pre_logits=True), pooled)
        assert model(clip).shape == (1, 5)
    assert model.pretrained_cfg["labels"] is None
    caplog.clear()
    sfz.create_model(BUNDLED, pretrained=True, num_classes=full.num_classes)
    assert caplog.messages == []


def test_features_only_with_weights() -> None:
    full = sfz.create_model(BUNDLED, pretrained=True).eval()
    features = sfz.create_model(BUNDLED, pretrained=True, features_only=True, out_indices=(4,)).eval()
    clip = torch.randn(1, 3, 16, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(features(clip)[0], full.forward_features(clip))


def test_checkpoints(tmp_path: Path) -> None:
    model = sfz.create_model(TINY, num_classes=7)
    path = tmp_path / "model.safetensors"
    save_state_dict(model.state_dict(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    again = sfz.create_model(TINY, num_classes=7, checkpoint_path=path)
    for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    tuned = sfz.create_model(TINY, num_classes=4, checkpoint_path=str(path))
    assert torch.equal(tuned.slow.res5.blocks[0].conv1.conv.weight, model.slow.res5.blocks[0].conv1.conv.weight)


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = sfz.create_model(TINY, num_classes=7)
    save_state_dict(model.state_dict(), path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        sfz.create_model(TINY, checkpoint_path=tmp_path / "nowhere.safetensors")
    with pytest.raises(sfz.WeightsError, match=r"2 of another shape: .* head.fc.bias \(7,\) instead of \(400,\)"):
        sfz.load_checkpoint(sfz.create_model(TINY), path)
    other = sfz.create_model("slow_tiny_4x8", num_classes=7)
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(sfz.WeightsError, match=r"missing: .* and \d+ more; \d+ unexpected: "):
        sfz.load_checkpoint(other, path)
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())
    with pytest.raises(sfz.WeightsError, match="of another shape"):
        sfz.create_model(TINY, num_classes=7, width=32, checkpoint_path=path)
    with pytest.raises(TypeError, match="create_model"):
        sfz.load_checkpoint(torch.nn.Linear(1, 1), path)  # type: ignore[arg-type]
    whole = path.read_bytes()
    for broken in (b"", b"PK\x03\x04", whole[: len(whole) // 2], b"\xff" * 64):
        path.write_bytes(broken)
        with pytest.raises(sfz.WeightsError, match="model.safetensors"):
            sfz.load_checkpoint(model, path)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises((OSError, TypeError)):
        save_state_dict({"x": torch.zeros(2)}, tmp_path / "folder" / "model.safetensors")
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        save_state_dict({"x": torch.zeros(2)}, tmp_path / "taken")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_a_network_has_its_transform() -> None:
    frames = torch.randint(0, 256, (4, 3, 40, 60), dtype=torch.uint8)
    for options in ({}, {"features_only": True}):
        model: Any = sfz.create_model("slowfast_tiny_4x8.motion", **options)
        for crops in (1, 3):
            found = model.transform(crops=crops)(frames)
            torch.testing.assert_close(found, sfz.create_transform("slowfast_tiny_4x8.motion", crops=crops)(frames))
    assert model.transform(training=True).training
    with pytest.raises(TypeError, match="was not made by create_model"):
        build(model.config).transform()


def test_create_transform() -> None:
    for what in (BUNDLED, TINY, sfz.create_model(BUNDLED)):
        transform = sfz.create_transform(what)
        clip = transform(torch.randint(0, 256, (16, 3, 120, 160), dtype=torch.uint8))
        assert clip.shape == (3, 16, 112, 112)
        assert clip.dtype == torch.float32
    assert sfz.create_transform("slowfast_r50_4x16").crop == 256
    assert sfz.create_transform(TINY, crop=64, scale=72).crop == 64
    assert sfz.create_transform(TINY, training=True).training
    with pytest.raises(TypeError, match="create_model"):
        sfz.create_transform(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="did you mean"):
        sfz.create_transform("slowfast_r50_4x17")


def test_bundled_weights_are_those_of_the_manifest() -> None:
    from slowfast_zoo.weights import find_weights

    bundled = {name: record for name, record in records().items() if record.file}
    assert BUNDLED in bundled
    for name, record in bundled.items():
        path = find_weights(record)  # verifies the hash
        assert path.stat().st_size == record.bytes
        assert sfz.create_model(name, pretrained=True).pretrained_cfg["labels"] == record.labels


def test_tampered_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import dataclasses

    from slowfast_zoo.weights import find_weights, source

    record = records()[BUNDLED]
    good = find_weights(record).read_bytes()
    monkeypatch.setattr(source, "_BUNDLE", tmp_path)
    with pytest.raises(sfz.WeightsError, match="missing"):
        find_weights(record)
    assert record.file
    (tmp_path / record.file).write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(sfz.WeightsError, match="SHA-256"):
        find_weights(record)
    (tmp_path / record.file).write_bytes(good)
    assert find_weights(dataclasses.replace(record)) == tmp_path / record.file
