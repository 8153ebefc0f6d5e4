"""Videos with what was seen in them written into their frames."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from videos import coded_image, decoded, read_code, write_video

from slowfast_zoo.errors import MissingDependencyError
from slowfast_zoo.inference import ClipPrediction, Timeline
from slowfast_zoo.inference.draw import captions as rendering
from slowfast_zoo.inference.draw.captions import render_video
from slowfast_zoo.video import ClipSpan, VideoReader
from slowfast_zoo.video.encode import VideoWriter

LABELS = ("one", "two", "a label that is much longer than a narrow frame is wide")
COLOURS = {"one": (31, 111, 139), "two": (217, 130, 43)}  # the first two of the pictures


def timeline(video: Path | str, duration: float, windows: Sequence[tuple[float, float, int, float]]) -> Timeline:
    """From (start, end, class, its score)."""
    seen = []
    for start, end, index, score in windows:
        probabilities = torch.full((3,), (1 - score) / 2)
        probabilities[index] = score
        seen.append(ClipPrediction(ClipSpan(start, end, (start,), False), probabilities, LABELS[index], score))
    return Timeline(str(video), "tiny", duration, LABELS, True, tuple(seen), 1, 3)


def coloured(frame: torch.Tensor, colour: tuple[int, int, int]) -> int:
    """How many columns of the score bar of a frame (3, H, W) have about that colour."""
    near = (frame.int() - torch.tensor(colour).view(3, 1, 1)).abs().amax(0) < 40
    return int((near.sum(0) >= 2).sum())


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A video of 2 s at 25 fps with a label for each second, before and after."""
    folder = tmp_path_factory.mktemp("render")
    before = write_video(folder / "before.mp4", 50, fps=25, width=320, height=180, audio_seconds=1)
    seen = timeline(before, 2.0, [(0.0, 1.0, 0, 0.9), (0.2, 0.8, 0, 0.9), (1.0, 2.0, 1, 0.5)])
    render_video(seen, folder / "after.mp4")
    return before, folder / "after.mp4"


def test_every_frame_keeps_its_time(rendered: tuple[Path, Path]) -> None:
    _, after = rendered
    assert [(time, read_code(pixels)) for time, pixels in decoded(after)] == [
        (index / 25, index) for index in range(50)
    ]
    with VideoReader(after) as reader:
        assert (reader.width, reader.height, reader.fps) == (320, 180, 25)
        assert reader.duration == pytest.approx(2.0, abs=0.01)


def test_the_bar_shows_label_and_score_of_the_moment(rendered: tuple[Path, Path]) -> None:
    before, after = rendered
    with VideoReader(before) as source, VideoReader(after) as reader:
        plain = source.frames_at([0.1, 1.9])
        early, late = reader.frames_at([0.1, 1.9])
    for now, was in zip((early, late), plain, strict=True):
        assert (now[:, :140].int() - was[:, :140].int()).abs().float().mean() < 6, "the picture above the bar"
        assert now[:, -4:].float().mean() < 0.5 * was[:, -4:].float().mean(), "dimmed, not black"
        assert now[:, -4:].float().mean() > 10
        assert (now.amin(0) > 200)[-40:].any(), "white letters"
    full = coloured(early, COLOURS["one"]) / 0.9
    assert full > 150
    assert coloured(early, COLOURS["two"]) == coloured(late, COLOURS["one"]) == 0
    assert coloured(late, COLOURS["two"]) == pytest.approx(0.5 * full, rel=0.1)


def test_labels_change_half_way_between_the_middles_of_windows(rendered: tuple[Path, Path]) -> None:
    with VideoReader(rendered[1]) as reader:
        is_two = [coloured(frame, COLOURS["two"]) > 20 for _, frame in reader.frames()]
    assert is_two == [index / 25 >= 1.0 for index in range(50)]  # the middles are at 0.5 and 1.5 s


def test_a_variable_frame_rate_and_rotation(tmp_path: Path) -> None:
    stamps = [0, 1, 2, 20, 21, 50]
    path = write_video(tmp_path / "a.mp4", 6, stamps=stamps, width=96, height=64, rotation=90)
    render_video(timeline(path, 1.7, [(0, 1.7, 0, 0.5)]), tmp_path / "b.mkv")
    with VideoReader(tmp_path / "b.mkv") as reader:
        assert (reader.width, reader.height) == (64, 96)
        assert [time for time, _ in reader.frames()] == pytest.approx([stamp / 30 for stamp in stamps], abs=2e-3)


@pytest.mark.parametrize(("width", "height"), [(33, 17), (17, 91), (400, 16)])
def test_odd_sides_and_frames_with_little_room(tmp_path: Path, width: int, height: int) -> None:
    frames = np.full((3, height, width, 3), 200, np.uint8)
    seen = timeline("<array>", 7200.0, [(0, 7200.0, 2, 0.01)])
    render_video(seen, tmp_path / "a.mp4", frames)
    assert (frames == 200).all(), "what was given is left alone"
    with VideoReader(tmp_path / "a.mp4") as reader:
        assert (reader.width, reader.height) == (width // 2 * 2, height // 2 * 2)
        assert reader.duration == pytest.approx(7200.0, rel=1e-3)  # 3 frames in two hours


def test_one_frame_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[Any] = []

    class Source:
        width, height, fps, duration = 64, 48, 30.0, 2.0

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def frames(self) -> Iterator[tuple[float, torch.Tensor]]:
            for index in range(60):
                frame = torch.zeros(3, 48, 64, dtype=torch.uint8)
                alive.append(weakref.ref(frame))
                yield index / 30, frame
                del frame
                assert sum(reference() is not None for reference in alive) <= 2

    monkeypatch.setattr(rendering, "open_again", lambda *_: Source())
    render_video(timeline("a.mp4", 2.0, [(0, 2, 0, 0.5)]), tmp_path / "b.mp4")
    assert len(alive) == len(decoded(tmp_path / "b.mp4")) == 60


def test_the_video_itself_is_kept(rendered: tuple[Path, Path], tmp_path: Path) -> None:
    before = rendered[0].read_bytes()
    seen = timeline(rendered[0], 2.0, [(0, 2, 0, 0.5)])
    (tmp_path / "same.mp4").symlink_to(rendered[0])
    for path, video in ((rendered[0], None), (tmp_path / "same.mp4", None), (rendered[1], rendered[1])):
        with pytest.raises(ValueError, match="that would replace what is read"):
            render_video(seen, path, video)
    assert rendered[0].read_bytes() == before


def test_what_cannot_be_rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = timeline("<array>", 1.0, [(0, 1, 0, 0.5)])
    film = np.zeros((2, 32, 32, 3), np.uint8)
    (tmp_path / "old.mp4").write_bytes(b"what was there before")
    with pytest.raises(ValueError, match="pass the video once more"):
        render_video(seen, tmp_path / "old.mp4")
    with pytest.raises(ValueError, match="even sides of 16 or more, not 8 x 32"):
        render_video(seen, tmp_path / "old.mp4", film[:, :8])
    with pytest.raises(FileNotFoundError, match="no such video file"):
        render_video(timeline(tmp_path / "gone.mp4", 1.0, [(0, 1, 0, 0.5)]), tmp_path / "old.mp4")
    with pytest.raises(ValueError, match="suffix must be one of .mp4"):
        render_video(seen, tmp_path / "a.gif", film)
    with pytest.raises(FileNotFoundError, match="no folder to write into"):
        render_video(seen, tmp_path / "nowhere" / "a.mp4", film)
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r'pip install "slowfast-zoo\[plot\]"'):
        render_video(seen, tmp_path / "a.mp4", film)
    assert list(tmp_path.iterdir()) == [tmp_path / "old.mp4"]
    assert (tmp_path / "old.mp4").read_bytes() == b"what was there before"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_the_copy_lasts_as_long_and_has_all_frames(tmp_path: Path, suffix: str) -> None:
    # The last frame stays for a second; times differ by less than a frame's length.
    stamps = [0, 33, 40, 41, 120, 500, 1500, 1540, 2540]
    path = tmp_path / "a.mkv"
    with VideoWriter(path, 30, duration=3.54) as writer:
        for index, stamp in enumerate(stamps):
            writer.add(coded_image(index), stamp / 1000)
    copy = tmp_path / f"b{suffix}"
    render_video(timeline(path, 3.54, [(0, 3.54, 0, 0.5)]), copy)
    with av.open(str(copy)) as container:
        frames = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]
        assert container.duration / av.time_base == pytest.approx(3.54, abs=0.002)
    assert frames == pytest.approx([stamp / 1000 for stamp in stamps], abs=0.001)


@pytest.mark.parametrize(("rotation", "expected"), [(0, Fraction(16, 11)), (90, Fraction(11, 16))])
def test_pixels_that_are_not_square(tmp_path: Path, rotation: int, expected: Fraction) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 80, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(16, 11)
        if rotation:
            stream.set_display_rotation(rotation)
        for index in range(5):
            frame = av.VideoFrame.from_ndarray(coded_image(index, 96, 80), format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    render_video(timeline(path, 0.2, [(0, 0.2, 0, 0.5)]), tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == expected
