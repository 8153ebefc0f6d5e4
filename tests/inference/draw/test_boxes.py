"""Videos with boxes and actions drawn into their frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from videos import decoded, read_code, write_video

from slowfast_zoo.inference.detect.detector import Detections, KeyFrame
from slowfast_zoo.inference.draw.boxes import _Overlay, _Scene, _shared_area, render_detections
from slowfast_zoo.video import ClipSpan, VideoReader

LABELS = ("walk", "run", "talk to (e.g., self, a person, a group)", "sit")
COLOURS = {"first": (31, 111, 139), "second": (217, 130, 43)}  # of the pictures
GRAY = (160, 160, 160)
Box = tuple[float, float, float, float]


def detections(
    key_frames: Mapping[float, Sequence[tuple[Box, Sequence[float]]]],
    *,
    video: Path | str = "<array>",
    size: tuple[int, int] = (320, 180),
    duration: float = 4.0,
    every: float = 1.0,
) -> Detections:
    """From {second: [(box, scores of the labels), ...]}; size is width and height."""
    seen = tuple(
        KeyFrame(
            time,
            torch.tensor([box for box, _ in found]).reshape(-1, 4),
            torch.ones(len(found)),
            torch.tensor([scores for _, scores in found]).reshape(-1, len(LABELS)),
            ClipSpan(0.0, 1.0, (0.0,), False),
            LABELS,
        )
        for time, found in key_frames.items()
    )
    return Detections(str(video), "tiny", duration, *size, LABELS, (1, 2, 3, 4), seen, every)


def is_colour(pixel: torch.Tensor, colour: tuple[int, int, int]) -> bool:
    return bool((pixel.int() - torch.tensor(colour)).abs().max() < 45)


def rendered(found: Detections, path: Path, frames: np.ndarray[Any, Any], **settings: Any) -> list[torch.Tensor]:
    """The new frames (3, H, W)."""
    render_detections(found, path, frames, **settings)
    return [pixels for _, pixels in decoded(path)]


# From key frames to moments


WALKS, RUNS, NOTHING = (0.9, 0.2, 0.0, 0.0), (0.4, 0.8, 0.35, 0.0), (0.1, 0.0, 0.0, 0.2)


def moments(found: Detections) -> _Scene:
    return _Scene(found, found.height, found.width, 3, 0.3)


def test_the_nearest_key_frame_within_half_a_step() -> None:
    scene = moments(detections({1.0: [((10, 10, 50, 90), WALKS)], 3.0: [((200, 10, 240, 90), RUNS)], 3.5: []}))
    assert scene.at(0.4) == scene.at(1.6) == scene.at(2.4) == scene.at(3.3) == scene.at(4.0) == []
    for time in (0.5, 1.0, 1.5):
        (actor,) = scene.at(time)
        assert actor.box == (10, 10, 50, 90), "the next key frame is too far away to move there"
        assert [label for label, _ in actor.actions] == ["walk"]
    (actor,) = scene.at(3.2)
    assert actor.box == (200, 10, 240, 90)
    assert [label for label, _ in actor.actions] == ["run", "walk", LABELS[2]]
    assert list(dict.fromkeys(scene.labels())) == ["walk", "run", LABELS[2]]


def test_boxes_move_from_key_frame_to_key_frame() -> None:
    """Two change places in the list, one jumps too far, one leaves."""
    scene = moments(
        detections(
            {
                1.0: [((0, 0, 40, 40), WALKS), ((100, 0, 140, 40), RUNS), ((0, 100, 20, 120), WALKS)],
                2.0: [((120, 0, 160, 40), WALKS), ((20, 8, 60, 48), WALKS), ((60, 100, 80, 120), WALKS)],
                2.5: [((130, 0, 170, 40), WALKS)],
            }
        )
    )
    at = {time: {actor.track: actor.box for actor in scene.at(time)} for time in (1.0, 1.25, 1.75, 2.0, 2.25, 2.75)}
    first, second, jumping = at[1.0]
    assert at[1.25] == {first: (5, 2, 45, 42), second: (105, 0, 145, 40), jumping: (0, 100, 20, 120)}
    assert (at[1.75][first], at[1.75][second]) == ((15, 6, 55, 46), (115, 0, 155, 40))
    assert jumping not in at[1.75] and len(at[1.75]) == 3
    assert at[2.25][second] == (125, 0, 165, 40)
    assert at[2.75] == {second: (130, 0, 170, 40)}


# Frames


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A video of 2 s at 25 fps before and after, with somebody at 1 s and two more, one of whom does nothing."""
    folder = tmp_path_factory.mktemp("render")
    before = write_video(folder / "before.mp4", 50, fps=25, width=320, height=180)
    seen = [((30.0, 100.0, 90.0, 170.0), WALKS), ((120.0, 100.0, 180.0, 170.0), WALKS)]
    seen += [((210.0, 100.0, 300.0, 170.0), NOTHING)]
    render_detections(detections({1.0: seen}, video=before, duration=2.0), folder / "after.mp4")
    return before, folder / "after.mp4"


def test_frames_keep_their_times_and_sizes(people: tuple[Path, Path]) -> None:
    with VideoReader(people[1]) as reader:
        assert (reader.width, reader.height, reader.fps) == (320, 180, 25)
        assert [time for time, _ in reader.frames()] == pytest.approx([index / 25 for index in range(50)])
    assert [read_code(pixels) for _, pixels in decoded(people[1])][:12] == list(range(12))


def test_boxes_have_the_colour_of_their_class(people: tuple[Path, Path]) -> None:
    with VideoReader(people[0]) as source, VideoReader(people[1]) as reader:
        plain, (early, middle) = source.frames_at([0.2, 1.0]), reader.frames_at([0.2, 1.0])
    assert (early.int() - plain[0].int()).abs().float().mean() < 6, "nobody is there yet"
    for left, right, colour in ((30, 90, COLOURS["first"]), (120, 180, COLOURS["first"]), (210, 300, GRAY)):
        assert is_colour(middle[:, 130:160, left : left + 2].float().mean((1, 2)), colour)
        assert is_colour(middle[:, 130:160, right - 2 : right].float().mean((1, 2)), colour)
        assert is_colour(middle[:, 168:170, left + 10 : right - 10].float().mean((1, 2)), colour)
        inside = np.s_[:, 104:164, left + 6 : right - 6]
        assert (middle[inside].int() - plain[1][inside].int()).abs().float().mean() < 8, "the picture is left alone"
    above = [(middle[:, 80:98, left : left + 90].amin(0) > 180).sum() for left in (30, 120, 210)]
    assert above[0] > 30 and above[1] > 30, "white letters"


def test_every_class_has_one_colour_wherever_it_is_shown(tmp_path: Path) -> None:
    box = (20.0, 90.0, 120.0, 170.0)
    found = detections({0.5: [(box, WALKS)], 1.5: [(box, RUNS)], 2.5: [(box, WALKS)]}, duration=3.0)
    frames = rendered(found, tmp_path / "a.mp4", np.full((30, 180, 320, 3), 128, np.uint8))
    for index, colour in ((5, "first"), (15, "second"), (25, "first")):
        assert is_colour(frames[index][:, 100:160, 20:22].float().mean((1, 2)), COLOURS[colour])


@pytest.mark.parametrize(("width", "height"), [(150, 112), (320, 240), (854, 480), (1920, 1080)])
def test_plates_lie_inside_and_apart(width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where four actors move at random, and a fifth stands at the edge."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.tensor(values) for values in ((0.0, 0.3, 0.55, 0.8, 0.9), (0.3, 0.05, 0.6, 0.3, 0.85)))
    key_frames = {}
    for second in (1.0, 2.0, 3.0):
        left, top = ((v + 0.08 * torch.rand(5, generator=generator)) * s for v, s in ((x, width), (y, height)))
        corners = torch.stack([left, top, left + 0.15 * width, top + 0.2 * height], 1).clamp(min=0)
        boxes = corners.minimum(torch.tensor([width, height, width, height])).tolist()
        key_frames[second] = [(tuple(box), (0.9, 0.5, 0.4 * (second == 2.0), 0.3)) for box in boxes]
    overlay = _Overlay(_Scene(detections(key_frames, size=(width, height)), height, width, 3, 0.3), height, width)
    drawn: list[Box] = []
    plate = overlay._draw_plate
    monkeypatch.setattr(
        overlay, "_draw_plate", lambda pixels, place, actions: (drawn.append(place), plate(pixels, place, actions))
    )
    for time in np.arange(0.5, 3.5, 0.1):
        drawn.clear()
        overlay.write(np.zeros((height, width, 3), np.uint8), float(time))
        assert len(drawn) == 5
        assert all(0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height for x1, y1, x2, y2 in drawn)
        assert all(_shared_area(a, b) == 0 for a, b in combinations(drawn, 2)), time


def test_plates_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of somebody who walks from the upper edge down: the plate below the box does not jump above it."""
    found = detections({1.0: [((100, 5, 160, 60), WALKS)], 2.0: [((100, 45, 160, 100), WALKS)]})
    overlay = _Overlay(moments(found), 180, 320)
    places: list[Box] = []
    monkeypatch.setattr(overlay, "_draw_plate", lambda _, place, __: places.append(place))
    for time in np.arange(1.0, 2.0, 0.05):
        overlay.write(np.zeros((180, 320, 3), np.uint8), float(time))
    tops = [place[1] for place in places]
    assert tops[0] == 60 and tops == sorted(tops) and tops[-1] > 95


def test_the_video_itself_is_kept(people: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="that would replace what is read"):
        render_detections(detections({}, video=people[0]), people[0])


@pytest.mark.parametrize(("width", "height"), [(17, 16), (33, 91), (401, 16)])
def test_odd_sides_and_frames_with_little_room(tmp_path: Path, width: int, height: int) -> None:
    frames = np.full((3, height, width, 3), 200, np.uint8)
    everywhere = ((0.0, 0.0, width, height), (0.001, 0.0, 1.0, 0.5))
    found = detections({0.5: [everywhere] * 3}, size=(width, height), duration=1.0)
    after = rendered(found, tmp_path / "a.mp4", frames, threshold=0.0)
    assert (frames == 200).all(), "what was given is left alone"
    assert [tuple(frame.shape[1:]) for frame in after] == [(height // 2 * 2, width // 2 * 2)] * 3


def test_a_copy_of_another_size(tmp_path: Path) -> None:
    found = detections({0.5: [((20.0, 90.0, 120.0, 170.0), WALKS)]}, duration=1.0)
    (frame, *_) = rendered(found, tmp_path / "a.mp4", np.full((2, 90, 160, 3), 128, np.uint8))
    assert is_colour(frame[:, 50:80, 10:12].float().mean((1, 2)), COLOURS["first"])


def test_nobody_anywhere(tmp_path: Path) -> None:
    film = np.full((4, 32, 48, 3), 90, np.uint8)
    for number, key_frames in enumerate(({}, {0.5: []})):
        after = rendered(detections(key_frames, size=(48, 32), duration=1.0), tmp_path / f"{number}.mp4", film)
        assert len(after) == 4 and all((frame.int() - 90).abs().max() < 6 for frame in after)


def test_what_cannot_be_rendered(tmp_path: Path) -> None:
    found = detections({0.5: [((2.0, 2.0, 9.0, 9.0), WALKS)]}, size=(32, 32), duration=1.0)
    film = np.zeros((2, 32, 32, 3), np.uint8)
    (tmp_path / "old.mp4").write_bytes(b"what was there before")
    with pytest.raises(ValueError, match="pass the video once more"):
        render_detections(found, tmp_path / "old.mp4")
    with pytest.raises(ValueError, match="top_k must be an integer of at least 1"):
        render_detections(found, tmp_path / "old.mp4", film, top_k=0)
    with pytest.raises(ValueError, match="suffix must be one of .mp4"):
        render_detections(found, tmp_path / "a.gif", film)
    with pytest.raises(FileNotFoundError, match="no folder to write into"):
        render_detections(found, tmp_path / "nowhere" / "a.mp4", film)
    assert [path.name for path in tmp_path.iterdir()] == ["old.mp4"]
    assert (tmp_path / "old.mp4").read_bytes() == b"what was there before"
