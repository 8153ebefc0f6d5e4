"""From frames to clips."""

from __future__ import annotations

import math
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from slowfast_zoo import create_transform
from slowfast_zoo.errors import MissingDependencyError
from slowfast_zoo.transforms import resized_size
from slowfast_zoo.video import ClipTransform

RECORD = {"mean": [0.45, 0.4, 0.35], "std": [0.225, 0.25, 0.2], "scale": 64, "crop": 48, "channel_order": "rgb"}


def frames(t: int = 3, height: int = 80, width: int = 120) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (t, 3, height, width), dtype=torch.uint8, generator=generator)


def reference(video: torch.Tensor, scale: int, crop: int, position: int) -> torch.Tensor:
    """PySlowFast's test-time order of work: normalise, resize, crop at position 0, 1 or 2. -> (C, T, crop, crop)"""
    mean, std = torch.tensor(RECORD["mean"]).view(3, 1, 1, 1), torch.tensor(RECORD["std"]).view(3, 1, 1, 1)
    clip = (video.permute(1, 0, 2, 3).float() / 255 - mean) / std
    height, width = clip.shape[2:]
    if width < height:
        new_height, new_width = math.floor(height / width * scale), scale
    else:
        new_height, new_width = scale, math.floor(width / height * scale)
    clip = F.interpolate(clip, size=(new_height, new_width), mode="bilinear", align_corners=False)
    y, x = math.ceil((new_height - crop) / 2), math.ceil((new_width - crop) / 2)
    if new_height > new_width:
        y = [0, y, new_height - crop][position]
    else:
        x = [0, x, new_width - crop][position]
    return clip[:, :, y : y + crop, x : x + crop]


@pytest.mark.parametrize(("height", "width"), [(80, 120), (120, 80), (64, 64), (97, 131), (40, 50), (64, 113)])
def test_the_rule_of_pyslowfast(height: int, width: int) -> None:
    video = frames(3, height, width)
    centre = ClipTransform.from_record(RECORD)(video)
    three = ClipTransform.from_record(RECORD, crops=3)(video)
    assert centre.shape == (3, 3, 48, 48)
    assert three.shape == (3, 3, 3, 48, 48)
    assert centre.dtype == torch.float32
    torch.testing.assert_close(centre, reference(video, 64, 48, 1), atol=2e-5, rtol=0)
    for position in range(3):
        torch.testing.assert_close(three[position], reference(video, 64, 48, position), atol=2e-5, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(80, 121), (121, 80), (64, 64), (97, 131), (40, 51)])
def test_the_rule_of_mmaction2(height: int, width: int) -> None:
    # Resize(scale=(-1, 64)) rounds; CenterCrop and ThreeCrop halve what is left over and drop the odd pixel.
    video = frames(3, height, width)
    new_height, new_width = (math.floor(side * 64 / min(height, width) + 0.5) for side in (height, width))
    mean, std = torch.tensor(RECORD["mean"]).view(3, 1, 1, 1), torch.tensor(RECORD["std"]).view(3, 1, 1, 1)
    resized = F.interpolate(video.float(), size=(new_height, new_width), mode="bilinear", align_corners=False)
    whole = (resized.transpose(0, 1) / 255 - mean) / std
    record = {**RECORD, "crop": 49, "clip_sampling": "mmaction2"}
    three = ClipTransform.from_record(record, crops=3)(video)
    for position in range(3):
        y, x = (new_height - 49) // 2, (new_width - 49) // 2
        if height > width:
            y *= position
        else:
            x *= position
        torch.testing.assert_close(three[position], whole[:, :, y : y + 49, x : x + 49], atol=2e-5, rtol=0)
    assert torch.equal(ClipTransform.from_record(record)(video), three[1])
    torch.testing.assert_close(ClipTransform.from_record(record, crops="full")(video), whole, atol=2e-5, rtol=0)


def test_the_convention_comes_from_the_record() -> None:
    def convention(**entries: str) -> str:
        return ClipTransform.from_record({**RECORD, **entries}).convention

    assert convention() == convention(clip_sampling="uniform") == convention(clip_sampling="gluoncv") == "pyslowfast"
    assert convention(clip_sampling="mmaction2") == convention(convention="mmaction2") == "mmaction2"
    assert convention(clip_sampling="mmaction2", convention="pyslowfast") == "pyslowfast"
    record = {**RECORD, "clip_sampling": "mmaction2"}
    assert ClipTransform.from_record(record, convention="pyslowfast").convention == "pyslowfast"
    assert create_transform("slowfast_r50_8x8.mmaction2_k400").convention == "mmaction2"
    assert create_transform("slowfast_r50_8x8.pyslowfast_k400").convention == "pyslowfast"


def test_training_has_one_convention() -> None:
    clips = []
    for convention in ("pyslowfast", "mmaction2"):
        torch.manual_seed(1)
        clips.append(ClipTransform.from_record(RECORD, training=True, convention=convention)(frames(2, 80, 121)))
    assert torch.equal(*clips)


def test_the_full_frame() -> None:
    clip = ClipTransform.from_record(RECORD, crops="full")(frames(3, 80, 120))
    assert clip.shape == (3, 3, 64, 96)
    torch.testing.assert_close(clip[..., 8:56, 24:72], ClipTransform.from_record(RECORD)(frames(3, 80, 120)))


@pytest.mark.parametrize("convention", ["pyslowfast", "mmaction2"])
@pytest.mark.parametrize("channel_order", ["rgb", "bgr"])
@pytest.mark.parametrize("crops", [1, 3, "full"])
def test_resizing_frames_one_by_one_is_the_same(crops: int | str, channel_order: str, convention: str) -> None:
    video = frames(11, 50, 71)
    transform = ClipTransform.from_record(RECORD, crops=crops, channel_order=channel_order, convention=convention)
    as_decoded = video.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # decoders give (H, W, 3)
    resized = torch.stack([transform.resize(frame) for frame in as_decoded])
    assert torch.equal(resized, transform.resize(video))
    assert resized.dtype == torch.float32
    assert resized.shape[2] == 64
    before = resized.clone()
    views = transform.views(resized)
    assert torch.equal(resized, before)
    assert torch.equal(views if crops == 3 else views[0], transform(video))
    assert len(views) == (3 if crops == 3 else 1)
    assert views.is_contiguous()


def test_bgr_weights_get_bgr() -> None:
    video = frames()
    record = {**RECORD, "mean": RECORD["mean"][::-1], "std": RECORD["std"][::-1], "channel_order": "bgr"}
    torch.testing.assert_close(
        ClipTransform.from_record(record)(video), ClipTransform.from_record(RECORD)(video).flip(0)
    )


def test_training_varies_and_repeats_with_the_seed() -> None:
    transform, video = ClipTransform.from_record(RECORD, training=True), frames()
    torch.manual_seed(3)
    first, second = transform(video), transform(video)
    torch.manual_seed(3)
    assert torch.equal(transform(video), first)
    assert first.shape == second.shape == (3, 3, 48, 48)
    assert not torch.equal(first, second)


def mirrored(clip: torch.Tensor) -> bool:
    """Whether a clip of a picture that brightens to the right brightens to the left."""
    return bool(clip[..., 0].mean() > clip[..., -1].mean())


def test_training_mirrors_half_of_the_clips_unless_told_not_to() -> None:
    ramp = torch.linspace(0, 255, 120).to(torch.uint8).expand(1, 3, 80, 120)
    torch.manual_seed(0)
    flipping = [mirrored(ClipTransform.from_record(RECORD, training=True)(ramp)) for _ in range(60)]
    assert 15 <= sum(flipping) <= 45
    still = ClipTransform.from_record({**RECORD, "flip": False}, training=True)
    assert not any(mirrored(still(ramp)) for _ in range(20))


def test_training_jitters_the_scale_from_1_to_1_25() -> None:
    # A picture whose brightness is its horizontal position: the slope in the crop tells the scale.
    ramp = torch.arange(0, 200, 2, dtype=torch.uint8).expand(1, 3, 100, 100)
    transform = ClipTransform((0.0,) * 3, (1.0,) * 3, scale=100, crop=50, training=True, flip=False)
    torch.manual_seed(0)
    scales = []
    for _ in range(80):
        row = transform(ramp)[0, 0, 25] * 255
        scales.append(2 / float((row[40] - row[10]) / 30))
    assert 0.99 < min(scales) < 1.03
    assert 1.22 < max(scales) < 1.26


@settings(max_examples=40, deadline=None)
@given(
    t=st.integers(1, 9),
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    crops=st.sampled_from([1, 3]),
    training=st.booleans(),
    convention=st.sampled_from(["pyslowfast", "mmaction2"]),
)
def test_any_size_and_length(t: int, height: int, width: int, crops: int, training: bool, convention: str) -> None:
    video = frames(t, height, width)
    before = video.clone()
    record = {**RECORD, "scale": 32, "crop": 32, "convention": convention}
    transform = ClipTransform.from_record(record, training=training, crops=1 if training else crops)
    clip = transform(video)
    assert clip.shape[-4:] == (3, t, 32, 32)
    assert clip.is_contiguous()
    assert bool(clip.isfinite().all())
    assert torch.equal(video, before)


@settings(deadline=None)
@given(height=st.integers(1, 3000), width=st.integers(1, 3000), scale=st.integers(1, 400))
def test_resized_size(height: int, width: int, scale: int) -> None:
    new_height, new_width = resized_size(height, width, scale)
    assert min(new_height, new_width) == scale
    assert (new_height >= new_width) == (height >= width) or scale in (new_height, new_width)
    long_side = scale * max(height, width) / min(height, width)
    assert long_side - 1 - 1e-6 < max(new_height, new_width) <= long_side + 1e-6


@settings(deadline=None)
@given(height=st.integers(1, 3000), width=st.integers(1, 3000), scale=st.integers(1, 400))
def test_resized_size_of_mmaction2(height: int, width: int, scale: int) -> None:
    new_height, new_width = resized_size(height, width, scale, "mmaction2")
    assert min(new_height, new_width) == scale
    long_side = scale * max(height, width) / min(height, width)
    assert abs(max(new_height, new_width) - long_side) <= 0.5 + 1e-6


def test_wrong_frames() -> None:
    transform = ClipTransform.from_record(RECORD)
    with pytest.raises(TypeError, match=r"float32.*the transform does the scaling"):
        transform(frames().float())
    with pytest.raises(TypeError, match="ndarray"):
        transform(frames().numpy())
    with pytest.raises(ValueError, match=r"got shape \(3, 80, 120\)"):
        transform(frames()[0])
    with pytest.raises(ValueError, match=r"got shape \(3, 1, 80, 120\)"):
        transform(frames()[:, :1])
    with pytest.raises(ValueError, match=r"call frames\.permute"):
        transform(frames().permute(0, 2, 3, 1))
    with pytest.raises(ValueError, match=r"got shape \(0, 3, 80, 120\)"):
        transform(frames()[:0])


def test_wrong_frames_in_two_steps() -> None:
    transform = ClipTransform.from_record(RECORD)
    with pytest.raises(ValueError, match=r"one \(3, H, W\), got shape \(80, 120, 3\); .*permute\(2, 0, 1"):
        transform.resize(frames()[0].permute(1, 2, 0))
    with pytest.raises(ValueError, match=r"got shape \(80, 120\)"):
        transform.resize(frames()[0, 0])
    with pytest.raises(TypeError, match="float32"):
        transform.resize(frames().float())
    with pytest.raises(TypeError, match=r"uint8: for decoded frames call the transform itself"):
        transform.views(frames())
    with pytest.raises(TypeError, match="ndarray"):
        transform.views(frames().float().numpy())
    for shape in ((3, 64, 80), (2, 3, 64, 47), (2, 1, 64, 80), (0, 3, 64, 80)):
        with pytest.raises(ValueError, match=r"h and w at least 48; got shape"):
            transform.views(torch.zeros(shape))
    training = ClipTransform.from_record(RECORD, training=True)
    with pytest.raises(ValueError, match="are for testing"):
        training.resize(frames())
    with pytest.raises(ValueError, match="are for testing"):
        training.views(frames().float())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"crop": 65}, "crop must lie between 1 and scale"),
        ({"crop": 0}, "crop must lie between 1 and scale"),
        ({"crops": 2}, 'crops must be 1, 3 or "full", got 2'),
        ({"crops": "centre"}, "got 'centre'"),
        ({"training": True, "crops": 3}, "training takes one random crop"),
        ({"training": True, "crops": "full"}, "crops='full' is for testing"),
        ({"convention": "gluoncv"}, "convention must be one of pyslowfast, mmaction2; got 'gluoncv'"),
        ({"channel_order": "rbg"}, "channel_order"),
        ({"std": [1.0, 1.0]}, "one value for each channel"),
        ({"std": [1.0, 0.0, 1.0]}, "std above 0"),
        ({"scale": None}, "does not say scale"),
    ],
)
def test_contradictions(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClipTransform.from_record(RECORD, **overrides)


def test_an_unknown_override() -> None:
    with pytest.raises(TypeError, match="size"):
        ClipTransform.from_record(RECORD, size=3)


def test_in_words() -> None:
    grey = ClipTransform((0.45,) * 3, (0.225,) * 3, scale=256, crop=224)
    assert str(grey) == (
        "shorter side to 256 (bilinear), the centre crop of 224 x 224, RGB / 255, minus 0.45, divided by 0.225"
    )
    training = str(ClipTransform.from_record(RECORD, training=True))
    assert "64 to 80" in training
    assert "mirrored" in training
    assert "3 crops of 48 x 48 along the longer side" in str(ClipTransform.from_record(RECORD, crops=3))
    assert "shorter side to 64 (bilinear), the full frame, RGB" in str(ClipTransform.from_record(RECORD, crops="full"))


def test_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(MissingDependencyError, match="torchvision"):
        ClipTransform.from_record(RECORD)(frames())
    with pytest.raises(MissingDependencyError, match="torchvision"):
        ClipTransform.from_record(RECORD).resize(frames())
    with pytest.raises(MissingDependencyError, match="torchvision"):
        ClipTransform.from_record(RECORD).views(frames().float())


# Frames that are strips


@pytest.mark.parametrize("convention", ["pyslowfast", "mmaction2"])
@pytest.mark.parametrize(("height", "width"), [(2, 4000), (4000, 2), (3, 101), (1, 64), (640, 40)])
def test_of_a_strip_the_same_is_seen_from_few_pixels(height: int, width: int, convention: str) -> None:
    video = frames(2, height, width)
    factor = 64 / min(height, width)
    rounded = (math.floor(side * factor + (0.5 if convention == "mmaction2" else 1e-9)) for side in (height, width))
    size = (int(next(rounded)), int(next(rounded)))
    whole: torch.Tensor = F.interpolate(video.float(), size=size, mode="bilinear", align_corners=False)
    plain = ClipTransform(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), scale=64, crop=48, crops=3, convention=convention)
    three = plain(video)
    down, right = size[0] - 48, size[1] - 48
    if convention == "mmaction2":
        middle = [down // 2, right // 2]
        ends = [2 * middle[0], 2 * middle[1]]
    else:
        middle, ends = [math.ceil(down / 2), math.ceil(right / 2)], [down, right]
    for view, place in zip(three, range(3), strict=True):
        y, x = middle
        if height > width:
            y = [0, middle[0], ends[0]][place]
        else:
            x = [0, middle[1], ends[1]][place]
        expected = whole[:, :, y : y + 48, x : x + 48].transpose(0, 1) / 255
        torch.testing.assert_close(view, expected, atol=2e-3, rtol=0)
    resized = plain.resize(video)
    assert max(resized.shape[-2:]) == 3 * 48, "only what crops show"
    torch.testing.assert_close(plain.views(resized), three, atol=1e-6, rtol=0)
    centre = ClipTransform(mean=(0.0,) * 3, std=(1.0,) * 3, scale=64, crop=48, convention=convention)
    torch.testing.assert_close(centre(video), three[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(centre.views(centre.resize(video))[0], three[1], atol=1e-6, rtol=0)


def test_a_strip_in_training_and_as_a_full_frame() -> None:
    clip = ClipTransform.from_record(RECORD, training=True)(frames(2, 2, 100_000))
    assert clip.shape == (3, 2, 48, 48)
    full = ClipTransform.from_record(RECORD, crops="full")
    for call in (full, full.resize):
        with pytest.raises(ValueError, match=r"4000 x 2 pixels would be 128000 x 64 .*use 1 or 3 crops"):
            call(frames(2, 2, 4000))
