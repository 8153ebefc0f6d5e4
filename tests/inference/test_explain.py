"""Grad-CAM of both pathways: the maps, in a video, as pictures and from the command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from videos import decoded, read_code, write_video

import slowfast_zoo as sfz
from slowfast_zoo.cli import explain as command
from slowfast_zoo.inference import VideoClassifier
from slowfast_zoo.inference.draw.heat import overlay, save_explanation
from slowfast_zoo.inference.explain import VideoExplanation, explain, explain_video
from slowfast_zoo.models.config import FEATURE_NAMES

SIX = ("one", "two", "three", "four", "five", "a $ix with a name that is longer than most")


def network(name: str = "slowfast_tiny_4x8", **overrides: Any) -> Any:
    """A small random network whose classes differ."""
    torch.manual_seed(0)
    settings = {"width": 8, "depths": (1, 1, 1, 1), "num_classes": 6, "crop": 64, **overrides}
    model: Any = sfz.create_model(name, **settings).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):  # blocks begin as the identity
            torch.nn.init.uniform_(module.weight, 0.5, 1)
    if model.num_classes:
        torch.nn.init.normal_(model.get_classifier().weight, 0.1, 0.3)
    return model


def clip_for(model: Any, batch: int = 1, height: int = 64, width: int = 96, frames: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (batch, model.config.in_chans, frames or model.config.clip_frames, height, width)
    return torch.randn(shape, generator=generator)


# The maps


@pytest.mark.parametrize("name", sfz.list_models())
def test_every_network(name: str) -> None:
    model = network(name)
    config = model.config
    clip = clip_for(model, 1, 32, 48, frames=2 * config.alpha * getattr(config, "temporal_reduction", 1))
    found = explain(model, clip, boxes="full" if config.roi else None)
    frames = clip.shape[2]
    if name.startswith("slowfast"):
        expected = {"slow": (frames // config.alpha, "slow.res5"), "fast": (frames, "fast.res5")}
    else:
        expected = {"network": (frames, "pathway.res5")}
    assert {pathway: (x.shape[1], found.layers[pathway]) for pathway, x in found.maps.items()} == expected
    for pathway, x in found.maps.items():
        assert x.shape[2:] == (32, 48)
        assert torch.isfinite(x).all()
        assert float(x.min()) >= 0
        assert float(x.max()) == (1 if found.heat[pathway] > 0 else 0)
        assert len(found.frames[pathway]) == x.shape[1]
        assert found.over_clip()[pathway].shape == (1, frames, 32, 48)
    assert found.target.tolist() == found.logits.argmax(1).tolist()


def test_closed_form() -> None:
    """With an average-pooling head, channels weigh what the classifier gives them, divided by the positions."""
    model = network()
    clip = clip_for(model, batch=2)
    target = torch.tensor([1, 4])
    found = explain(model, clip, target)
    with torch.no_grad():
        outputs = model.forward_features(clip)
        torch.testing.assert_close(found.logits, model(clip))
    rows = model.get_classifier().weight[target].detach().split([x.shape[1] for x in outputs], dim=1)
    for (name, x), output, row in zip(found.maps.items(), outputs, rows, strict=True):
        coarse = (output * row[..., None, None, None] / output[0, 0].numel()).sum(1).relu()
        torch.testing.assert_close(found.heat[name], coarse.sum((1, 2, 3)))
        # Positions of res5 lie at every 32nd pixel.
        torch.testing.assert_close(x[..., ::32, ::32], coarse / coarse.amax((1, 2, 3), keepdim=True))
        assert x.amax((1, 2, 3)).tolist() == [1, 1]


def test_heat_and_bias_are_the_logit_where_nothing_speaks_against_it() -> None:
    model = network()
    torch.nn.init.uniform_(model.get_classifier().weight, 0, 1)
    found = explain(model, clip_for(model), 3)
    logit = sum(found.heat.values()) + model.get_classifier().bias[3].detach()
    torch.testing.assert_close(logit, found.logits[:, 3])
    moments = found.moments()
    for name, heat in found.heat.items():
        torch.testing.assert_close(moments[name].mean(1), heat)


@pytest.mark.parametrize(
    ("name", "layer", "settings"),
    [
        ("slowfast_tiny_4x8", "res3", {}),
        ("slowfast_tiny_4x8", "res5", {"head_window": 2}),
        ("slowfast_r50_nl_4x16", "res4", {"in_chans": 5, "depths": (1, 2, 1, 1)}),
        ("slowfast_tiny_4x8", "res4", {"fast_input": "rgb_half"}),
        ("slowfast_tiny_4x8", "res2", {"fast_input": "flow"}),
        ("slowfast_tiny_4x8_det", "res5", {}),
        ("i3d_r50_32x2", "res2", {}),
        ("i3d_r50_nl_8x8", "res5", {}),
    ],
)
def test_equals_the_straightforward_way(name: str, layer: str, settings: dict[str, Any]) -> None:
    """Gradients all the way to the clip, and NumPy's interpolation."""
    model = network(name, **settings)
    config = model.config
    clip: Any = clip_for(model, batch=2)
    frames = clip.shape[2]
    boxes = [torch.tensor([[8.0, 4.0, 60.0, 50.0]]), torch.tensor([[0.0, 0.0, 90.0, 64.0]])] if config.roi else None
    given = clip.requires_grad_()
    if settings.get("fast_input") == "flow":
        given = (clip[:, :, list(config.slow_indices())], torch.randn(2, 2, *clip.shape[2:]))
    found = explain(model, given, 2, layer=layer, boxes=boxes)

    # Maps are handed out in the clip's memory format: in the layers' own they are not copied, and part of the graph.
    one = isinstance(given, Tensor)
    given = [x.contiguous(memory_format=torch.channels_last_3d) for x in ([given] if one else given)]
    index = FEATURE_NAMES.index(layer)
    outputs, last = model.forward_stages(given[0] if one else given, (index, 4))
    logits = model.forward_head(last, boxes=boxes)
    gradients = torch.autograd.grad(logits[:, 2].sum(), outputs)
    info = model.feature_info[index]
    for (pathway, x), output, gradient in zip(found.maps.items(), outputs, gradients, strict=True):
        coarse = (output * gradient.mean((2, 3, 4), keepdim=True)).sum(1).relu().detach()
        torch.testing.assert_close(found.heat[pathway], coarse.sum((1, 2, 3)))
        record = info.get(pathway, info)
        step = record["reduction"]
        at = coarse[..., : -(-64 // step), : -(-96 // step)].numpy()
        if pathway == "network":
            reduction, strided = record["temporal_reduction"], config.conv1_stride * config.pool1_stride
            # Two frames that are pooled have their middle between them.
            middles = [t * reduction + (strided / 2 if reduction > strided else 0) for t in range(at.shape[1])]
            at = np.apply_along_axis(lambda line, m=middles: np.interp(range(frames), m, line), 1, at)
        at /= at.max((1, 2, 3), keepdims=True)
        np.testing.assert_allclose(x[..., ::step, ::step], at, atol=1e-4)
        # Between two positions along straight lines.
        half = (x[..., 0, 0] + x[..., 0, step]) / 2
        torch.testing.assert_close(x[..., 0, step // 2], half, atol=1e-4, rtol=0)


def test_positions_look_where_the_maps_put_them() -> None:
    """In the bundled network, by the gradients of a position with respect to the pixels."""
    model = sfz.create_model("slowfast_tiny_4x8.motion", pretrained=True).eval()
    generator = torch.Generator().manual_seed(0)
    noise = F.interpolate(torch.randn(1, 48, 28, 28, generator=generator), scale_factor=4, mode="bicubic")
    clip = noise.view(1, 3, 16, 112, 112).requires_grad_()
    pixels = torch.arange(112)
    for x in model.forward_stages(clip, (3,))[0]:
        for i in (1, 3, 5):
            (gradient,) = torch.autograd.grad(x[0, :, x.shape[2] // 2, 3, i].square().sum(), clip, retain_graph=True)
            energy = gradient.square().sum((0, 1, 2, 3))
            assert float((energy * pixels).sum() / energy.sum()) == pytest.approx(16 * i, abs=4)


def test_over_the_clip() -> None:
    """Slow frames are 0, 5, 10 and 15; between them the map changes evenly."""
    found = explain(network(), clip_for(network()))
    assert found.frames["slow"] == (0, 5, 10, 15)
    slow = found.over_clip()["slow"]
    for y, x in ((0, 0), (33, 50)):
        values = np.interp(range(16), found.frames["slow"], found.maps["slow"][0, :, y, x])
        np.testing.assert_allclose(slow[0, :, y, x], values, atol=1e-6)
    torch.testing.assert_close(found.over_clip()["fast"], found.maps["fast"])
    strided = network(slow_frames="strided")
    found = explain(strided, clip_for(strided))
    torch.testing.assert_close(found.over_clip()["slow"][:, 12:], found.maps["slow"][:, -1:].expand(-1, 4, -1, -1))


def test_where_nothing_speaks_for_a_class() -> None:
    model = network()
    torch.nn.init.constant_(model.get_classifier().weight, -1.0)
    found = explain(model, clip_for(model, batch=2))
    for name, x in found.maps.items():
        assert not x.any()
        assert found.heat[name].tolist() == [0, 0]
        assert not found.moments()[name].any()


def test_targets() -> None:
    model = network()
    clip = clip_for(model, batch=2)
    one, two = explain(model, clip, 1), explain(model, clip, [1, 5])
    assert (one.target.tolist(), two.target.tolist()) == ([1, 1], [1, 5])
    for name in ("slow", "fast"):
        torch.testing.assert_close(one.maps[name][0], two.maps[name][0])
        assert not torch.allclose(one.maps[name][1], two.maps[name][1])
        alone = explain(model, clip[1:], torch.tensor([5]))
        torch.testing.assert_close(alone.maps[name][0], two.maps[name][1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("layer", ["res3", "res5"])
def test_nothing_is_left_behind(layer: str) -> None:
    model = network(drop_rate=0.9)
    expected = explain(model, clip_for(model), 0, layer=layer)
    model.train()
    model.slow.res2.eval()
    model.fast.requires_grad_(False)
    compiled = torch.nn.Module()  # what torch.compile gives looks like this
    compiled._orig_mod = model
    modes = {name: module.training for name, module in model.named_modules()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        clip = clip_for(model)
        found = explain(model, clip, 0, layer=layer)
    with torch.no_grad():
        again = explain(compiled, clip_for(model), 0, layer=layer)
    for name, x in expected.maps.items():
        torch.testing.assert_close(found.maps[name], x)
        torch.testing.assert_close(again.maps[name], x)
        assert not found.maps[name].requires_grad
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(ValueError, match="must be a positive multiple"):
        explain(model, clip_for(model, frames=3))
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["slowfast_tiny_4x8", "i3d_r50_nl_8x8"])
@pytest.mark.parametrize("layer", ["res2", "res5"])
def test_optimised_networks(name: str, layer: str) -> None:
    model = network(name)
    clip = clip_for(model)
    expected, found = explain(model, clip, layer=layer), explain(sfz.optimize_for_inference(model), clip, layer=layer)
    for pathway, x in expected.maps.items():
        torch.testing.assert_close(found.maps[pathway], x, atol=1e-3, rtol=0)


def test_half_precision() -> None:
    model = network(num_classes=400)
    torch.nn.init.normal_(model.get_classifier().weight, std=1e-4)  # whose gradients are next to nothing
    clip = clip_for(model)
    expected = explain(model, clip, 7)
    found = explain(model.half(), clip.half(), 7)
    for name, x in expected.maps.items():
        assert found.maps[name].dtype == torch.float32
        torch.testing.assert_close(found.maps[name], x, atol=0.03, rtol=0)


def test_what_cannot_be_explained() -> None:
    model = network()
    clip = clip_for(model)
    for wrong in (torch.nn.Linear(2, 2), sfz.create_model("slow_tiny_4x8", width=8, features_only=True)):
        with pytest.raises(TypeError, match="expected a network from create_model, with its head, not"):
            explain(wrong, clip)
    with pytest.raises(ValueError, match="no class to explain"):
        explain(network(num_classes=0), clip)
    with pytest.raises(ValueError, match="layer must be one of res2, res3, res4, res5, not 'stem'"):
        explain(model, clip, layer="stem")
    for target in (6, -1, [6]):
        with pytest.raises(ValueError, match="target must lie from 0 to 5"):
            explain(model, clip, target)
    with pytest.raises(ValueError, match="or one for each of 1 clips"):
        explain(model, clip, [1, 2])
    for target in (True, "one", torch.tensor([0.5])):
        with pytest.raises(TypeError, match="target"):
            explain(model, clip, target)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="clip is a torch.Tensor, not"):
        explain(network("slow_tiny_4x8"), np.zeros((1, 3, 4, 64, 64)))  # type: ignore[arg-type]
    detector = network("slowfast_tiny_4x8_det")
    with pytest.raises(ValueError, match="needs boxes"):
        explain(detector, clip)
    box = torch.tensor([[0.0, 0.0, 9.0, 9.0]])
    with pytest.raises(ValueError, match=r"one box for each clip is explained at a time: 1 clips, .* \[0, 0\]"):
        explain(detector, clip, boxes=[box.expand(2, 4)])
    explain(detector, clip, boxes=F.pad(box, (1, 0)))


# In a video


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds, wider than high."""
    return write_video(tmp_path_factory.mktemp("videos") / "moves.mp4", 120, width=160, height=96)


@pytest.fixture(scope="module")
def classifier() -> VideoClassifier:
    return VideoClassifier(network(), labels=SIX)


@pytest.fixture(scope="module")
def explained(classifier: VideoClassifier, video: Path) -> VideoExplanation:
    return explain_video(classifier, video, at=2.0, crops="full")


def test_a_clip_around_a_moment(explained: VideoExplanation, classifier: VideoClassifier, video: Path) -> None:
    span = explained.span
    assert (span.start, span.end) == (pytest.approx(2 - 32 / 60), pytest.approx(2 + 32 / 60))
    codes = [read_code(frame) for frame in explained.frames]
    assert codes == [int(time * 30) for time in span.times]
    assert explained.frames.shape == (16, 3, 64, 106), "the whole frame at the network's scale"
    assert {name: x.shape for name, x in explained.explanation.maps.items()} == {
        "slow": (1, 4, 64, 106),
        "fast": (1, 16, 64, 106),
    }
    # As the network itself sees and scores it.
    with torch.no_grad():
        view = replace(classifier.transform, crops="full")(explained.frames)
        logits = classifier.model(view[None])[0]
    torch.testing.assert_close(explained.explanation.logits[0], logits, atol=0.02, rtol=0)
    assert explained.score == pytest.approx(float(logits.softmax(0).max()), abs=0.01)
    assert explained.label == SIX[int(logits.argmax())]
    ends = [explain_video(classifier, video, at=at).span for at in (0.0, 4.0)]
    assert [(span.start, span.end) for span in ends] == [(0.0, pytest.approx(32 / 30)), (pytest.approx(4 - 32 / 30), 4)]


def test_the_clip_that_speaks_most_for_the_class(classifier: VideoClassifier, video: Path) -> None:
    prediction = classifier(video, crops="full")
    explained = explain_video(classifier, video, target="two", crops="full")
    best = max(prediction.clips, key=lambda clip: float(clip.probabilities[1]))
    assert (explained.span, explained.label, explained.target) == (best.span, "two", 1)
    assert explained.score == pytest.approx(float(best.probabilities[1]), abs=1e-5)
    assert explain_video(classifier, video, crops="full").label == prediction[0][0]
    third = explain_video(classifier, video, clip=3)
    assert third.span == prediction.clips[3].span
    assert third.frames.shape == (16, 3, 64, 64), "one crop, as the architecture's record says"


def test_words_and_json(explained: VideoExplanation, video: Path) -> None:
    text = str(explained)
    shares = explained.shares()
    assert sum(shares.values()) == pytest.approx(1)
    assert f"{explained.label} ({100 * explained.score:.1f} %) in 1.47 to 2.53 s of {video}" in text
    assert f"Grad-CAM at slow.res5 and fast.res5; heat: slow {100 * shares['slow']:.0f} %" in text
    plain = json.loads(json.dumps(explained.to_dict()))
    assert (plain["label"], plain["index"], plain["start"]) == (explained.label, explained.target, explained.span.start)
    assert plain["pathways"]["fast"]["layer"] == "fast.res5"
    moments = explained.moments()
    assert [len(moments[name]) for name in ("slow", "fast")] == [4, 16]
    assert [time for time, _ in moments["slow"]] == [explained.span.times[i] for i in (0, 5, 10, 15)]
    assert sum(np.mean([value for _, value in points]) for points in moments.values()) == pytest.approx(1)


def test_short_videos_arrays_and_whole_videos() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (5, 40, 48, 3), np.uint8)
    classifier = VideoClassifier(network("slow_tiny_4x8"))
    short = explain_video(classifier, frames, fps=30, at=0.1)
    assert short.video == "<array>"
    assert "its last frame was repeated" in str(short)
    assert all(time <= short.duration for time, _ in short.moments()["network"])
    assert short.shares() == {"network": 1.0}
    classifier = VideoClassifier(network("slow_tiny_4x8"), sampling="segments")
    whole = explain_video(classifier, frames, fps=1, at=1)
    assert (whole.span.start, whole.span.end) == (0, 5)


def test_frames_are_those_of_the_video(video: Path) -> None:
    model = network("slow_tiny_4x8")
    model.pretrained_cfg.update(channel_order="bgr", crops=3)
    explained = explain_video(VideoClassifier(model), video, clip=0)
    assert explained.frames.shape == (4, 3, 64, 106), "all of what three crops would show"
    left = explained.frames[0, :, 50, 20].tolist()
    assert left[0] > 180 > 60 > left[2], "red, as in the file"


def test_what_is_not_in_the_video(classifier: VideoClassifier, video: Path) -> None:
    with pytest.raises(ValueError, match="no class 'thre': did you mean three"):
        explain_video(classifier, video, target="thre")
    with pytest.raises(ValueError, match="target must lie from 0 to 5"):
        explain_video(classifier, video, target=6)
    with pytest.raises(TypeError, match="the name or the index of a class"):
        explain_video(classifier, video, target=1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="7 s lies outside the video, which is 4.00 s long"):
        explain_video(classifier, video, at=7)
    with pytest.raises(ValueError, match="not both"):
        explain_video(classifier, video, clip=0, at=1.0)
    with pytest.raises(ValueError, match="layer must be one of"):
        explain_video(classifier, video, layer="res6")
    with pytest.raises(ValueError, match='crops must be 1 or "full"'):
        explain_video(classifier, video, crops=3)
    with pytest.raises(FileNotFoundError):
        explain_video(classifier, video.with_name("gone.mp4"))
    still = np.zeros((5, 40, 48, 3), np.uint8)
    for clip in (1, -1, 0.5):
        with pytest.raises(ValueError, match="clip must lie from 0 to 0"):
            explain_video(classifier, still, fps=30, clip=clip)  # type: ignore[arg-type]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("dx", "dy", "label"), [(-3, 0, "pan_left"), (0, -1, "tilt_up")])
def test_the_heat_lies_where_something_moves(side: str, dx: int, dy: int, label: str) -> None:
    """Half of the frame is blank."""
    generator = torch.Generator().manual_seed(0)
    texture = F.interpolate(torch.rand(1, 3, 24, 96, generator=generator), scale_factor=8, mode="bicubic")[0]
    frames = torch.full((34, 3, 112, 320), 0.45)
    half = slice(0, 160) if side == "left" else slice(160, 320)
    for t, frame in enumerate(frames):
        x, y = 250 + dx * t, 40 + dy * t
        frame[:, :, half] = texture[:, y : y + 112, x : x + 160]
    video = (255 * frames.clamp(0, 1)).byte().permute(0, 2, 3, 1)
    explained = explain_video(VideoClassifier(), video, fps=30, at=0.55, crops="full")
    assert explained.label == label
    for name, x in explained.explanation.maps.items():
        there = float(x[..., half].sum() / x.sum())
        assert there > {"slow": 0.6, "fast": 0.8}[name], f"{there:.0%} of the {name} heat"


# Pictures and videos


def test_colours_of_heat() -> None:
    frame = torch.tensor([200, 100, 50], dtype=torch.uint8).view(3, 1, 1).expand(3, 2, 4)
    heat = torch.tensor([[0.0, 0.1, 0.5, 1.0]]).expand(2, 4)
    row = overlay(frame, heat)[0].astype(int)
    assert row[0].tolist() == row[1].tolist(), "no colour where there is little heat"
    assert 0 < row[0, 0] - row[0, 2] < 100, "paler than the frame"
    assert row[3, 0] > 200 and row[3, 1] > 200 and row[3, 2] < 180, "bright yellow"


def test_picture(explained: VideoExplanation, tmp_path: Path) -> None:
    from matplotlib.image import imread

    save_explanation(explained, tmp_path / "heat.png")
    assert [path.name for path in tmp_path.iterdir()] == ["heat.png"]
    pixels = imread(tmp_path / "heat.png")[..., :3]
    assert pixels.shape[1] == 1320
    hot = (pixels[..., 0] > 0.8) & (pixels[..., 1] > 0.4) & (pixels[..., 2] < 0.3)
    assert hot.any(1).sum() > 40, "rows that show heat"
    for colour in ([0.122, 0.435, 0.545], [0.851, 0.510, 0.169]):  # titles and curves of the two pathways
        assert (abs(pixels - colour).max(-1) < 0.02).sum() > 300


@pytest.mark.parametrize(("height", "width", "name"), [(40, 300, "slow_tiny_4x8"), (200, 60, "c2d_r50_1x1")])
def test_odd_shapes(tmp_path: Path, height: int, width: int, name: str) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (4, height, width, 3), np.uint8)
    explained = explain_video(VideoClassifier(network(name), labels=SIX), frames, fps=30, clip=0, target=5)
    no_heat = replace(explained.explanation, heat={"network": torch.zeros(1)})
    for number, each in enumerate((explained, replace(explained, explanation=no_heat))):
        save_explanation(each, tmp_path / f"{number}.svg")
        save_explanation(each, tmp_path / f"{number}.mp4")
        text = (tmp_path / f"{number}.svg").read_text()
        assert text.count("<image") == 2, "frames and scale"
        assert len(decoded(tmp_path / f"{number}.mp4")) == explained.frames.shape[0]
    assert "nothing in the clip speaks for this class" in str(replace(explained, explanation=no_heat))


def test_video(explained: VideoExplanation, tmp_path: Path) -> None:
    target = tmp_path / "heat.mp4"
    save_explanation(explained, target)
    shown = decoded(target)
    assert [path.name for path in tmp_path.iterdir()] == ["heat.mp4"]
    assert len(shown) == 16
    assert shown[-1][0] == pytest.approx(15 * 4 * 2 / 30, rel=1e-3), "a quarter of the speed"
    _, height, width = shown[0][1].shape
    panel = (width - 12) // 3  # with the gap before it
    clips = [pixels[:, 32 : height - 112, 12:panel] for _, pixels in shown]
    assert [read_code(clip) for clip in clips] == [int(time * 30) for time in explained.span.times]
    cursors = [int(pixels[:, height - 74].float().mean(0).argmax()) for _, pixels in shown]
    assert cursors == sorted(cursors) and cursors[-1] - cursors[0] > 0.8 * width


def test_what_cannot_be_written(explained: VideoExplanation, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"suffix must be one of .*\.png.* or for a video \.mp4"):
        save_explanation(explained, tmp_path / "heat.txt")
    for name in ("gone/heat.png", "gone/heat.mp4"):
        with pytest.raises(FileNotFoundError, match="no folder"):
            save_explanation(explained, tmp_path / name)


# The command


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, classifier: VideoClassifier) -> Iterator[Any]:
    """The command with a small network, from the words after its name."""
    parser = argparse.ArgumentParser()
    command.add_command(parser.add_subparsers())
    monkeypatch.setattr("slowfast_zoo.inference.VideoClassifier", lambda *_, **__: classifier)

    def of(*words: str) -> int:
        args = parser.parse_args(["explain", *words])
        code: int = args.run(args)
        return code

    return of


def test_command(run: Any, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "heat.jpg"
    assert run(str(video), "--output", str(target), "--class", "two", "--at", "2", "--layer", "res4") == 0
    out, err = capsys.readouterr()
    assert out.startswith("two (") and "Grad-CAM at slow.res4 and fast.res4" in out
    assert err == f"wrote {target}\n"
    assert target.read_bytes().startswith(b"\xff\xd8")
    assert run(str(video), "--output", str(target), "--class", "4", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["label"], told["index"]) == ("five", 4)
    with pytest.raises(ValueError, match="no class 'ten'"):
        run(str(video), "--output", str(target), "--class", "ten")
    with pytest.raises(ValueError, match="suffix must be one of"):
        run("gone.mp4", "--output", str(tmp_path / "heat.txt"))
