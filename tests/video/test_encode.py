"""Writing video files: what is read back, what is refused, and that nothing half-written stays."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from slowfast_zoo.inference import check_plot_path
from slowfast_zoo.utils.files import check_target, keep_inputs, whole_file
from slowfast_zoo.video.encode import VideoWriter, check_video_path, write_video


def moving_square(frames: int = 8, height: int = 48, width: int = 64) -> np.ndarray:
    film = np.full((frames, height, width, 3), 60, dtype=np.uint8)
    for i in range(frames):
        film[i, 16:32, 4 * i : 4 * i + 16] = (200, 40, 90)
    return film


def read_back(path: Path) -> tuple[np.ndarray, Fraction]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        rate = stream.average_rate
        assert rate is not None
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)]), rate


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_frames_come_back(tmp_path: Path, suffix: str) -> None:
    film = moving_square()
    write_video(tmp_path / f"clip{suffix}", film, 30, crf=5)
    read, rate = read_back(tmp_path / f"clip{suffix}")
    assert read.shape == film.shape and rate == 30
    assert np.abs(read.astype(int) - film).mean() < 4  # colours are kept at half the resolution


@pytest.mark.parametrize("fps", [24, 25.0, 30000 / 1001, Fraction(24000, 1001), 59.94, 12.5])
def test_fractional_rates(tmp_path: Path, fps: float) -> None:
    write_video(tmp_path / "clip.mp4", moving_square(20), fps)
    read, rate = read_back(tmp_path / "clip.mp4")
    assert len(read) == 20
    assert float(rate) == pytest.approx(float(fps), rel=1e-4)


def test_one_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", moving_square(1), 30)
    assert len(read_back(tmp_path / "clip.mp4")[0]) == 1


def test_quality_and_repeatability(tmp_path: Path) -> None:
    film = np.random.default_rng(0).integers(0, 255, (6, 64, 64, 3), dtype=np.uint8)
    for name, crf in (("good", 10), ("bad", 45), ("again", 45)):
        write_video(tmp_path / f"{name}.mp4", film, 30, crf=crf)
    assert (tmp_path / "good.mp4").stat().st_size > 3 * (tmp_path / "bad.mp4").stat().st_size
    assert (tmp_path / "bad.mp4").read_bytes() == (tmp_path / "again.mp4").read_bytes()


def test_keyframe_interval(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", moving_square(9), 30, keyframe_interval=3)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert sum(frame.key_frame for frame in container.decode(video=0)) == 3


def test_an_existing_file_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "clip.mp4"
    write_video(target, moving_square(3), 30)
    write_video(str(target), moving_square(5), 30)
    assert len(read_back(target)[0]) == 5
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": moving_square()[:, :47, :63]}, "even sides of 16 or more, not 47 x 63; crop or pad to 46 x 62"),
        ({"frames": moving_square()[:, :8]}, "not 8 x 64"),
        ({"frames": moving_square().astype(np.float32)}, r"uint8 \(T, H, W, 3\) .* not float32"),
        ({"frames": moving_square()[0]}, r"not uint8 \(48, 64, 3\)"),
        ({"frames": moving_square()[:0]}, "T >= 1"),
        ({"fps": 0}, "fps must lie between 0 and 1000, not 0"),
        ({"fps": float("nan")}, "fps must lie between"),
        ({"crf": 52}, "crf must lie between 0 and 51, not 52"),
        ({"preset": "warp-speed"}, "preset 'warp-speed'"),
        ({"path": "clip.gif"}, "suffix must be one of .mp4, .mkv, .mov"),
    ],
)
def test_refusals_leave_nothing_behind(tmp_path: Path, change: dict, message: str) -> None:
    arguments = {"path": "clip.mp4", "frames": moving_square(), "fps": 30, **change}
    old = tmp_path / "clip.mp4"
    old.write_bytes(b"what was there before")
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / arguments.pop("path"), **arguments)
    assert list(tmp_path.iterdir()) == [old] and old.read_bytes() == b"what was there before"


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder to write into"):
        write_video(tmp_path / "missing" / "clip.mp4", moving_square(), 30)


# Frame by frame


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_frames_keep_their_times(tmp_path: Path, suffix: str) -> None:
    times = [0.0, 0.04, 0.08, 0.5, 0.54, 1.0]
    with VideoWriter(tmp_path / f"clip{suffix}", 25) as writer:
        for frame, time in zip(moving_square(6), times, strict=True):
            writer.add(frame, time)
    with av.open(str(tmp_path / f"clip{suffix}")) as container:
        shown = [frame.time for frame in container.decode(video=0)]
    assert shown == pytest.approx(times, abs=1e-3)


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(25), Fraction(60)])
def test_even_times_make_an_even_rate(tmp_path: Path, rate: Fraction) -> None:
    with VideoWriter(tmp_path / "clip.mp4", rate) as writer:
        for index, frame in enumerate(moving_square(12)):
            writer.add(frame, index / float(rate))
    assert read_back(tmp_path / "clip.mp4")[1] == rate


def test_frames_one_by_one_are_the_same_file(tmp_path: Path) -> None:
    write_video(tmp_path / "at once.mp4", moving_square(9), 30, crf=20, keyframe_interval=4)
    with VideoWriter(tmp_path / "one by one.mp4", 30, crf=20, keyframe_interval=4) as writer:
        for frame in moving_square(9):
            writer.add(frame)
        assert not (tmp_path / "one by one.mp4").exists()
    assert (tmp_path / "one by one.mp4").read_bytes() == (tmp_path / "at once.mp4").read_bytes()


@pytest.mark.parametrize("said", [True, False])
def test_the_file_says_how_its_colours_were_converted(tmp_path: Path, said: bool) -> None:
    with VideoWriter(tmp_path / "clip.mp4", 30, say_colours=said) as writer:
        writer.add(moving_square(1)[0])
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.streams.video[0].codec_context.colorspace == (6 if said else 2)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "no frame was added"),
        ([(moving_square()[0].astype(np.float32), None)], r"uint8 \(H, W, 3\), not float32"),
        ([(moving_square()[0], None), (moving_square(width=96)[0], None)], "all frames must be of one size"),
        ([(moving_square()[0], 0.0), (moving_square()[0], None)], "times, or none"),
        ([(moving_square()[0], 0.2), (moving_square()[0], 0.2)], "one at 0.2 s is not later"),
        ([(moving_square(height=14)[0], 0.0)], "even sides of 16 or more"),
    ],
)
def test_what_a_writer_refuses(tmp_path: Path, frames: list, message: str) -> None:
    old = tmp_path / "clip.mp4"
    old.write_bytes(b"what was there before")

    def write() -> None:
        with VideoWriter(old, 30) as writer:
            for frame, time in frames:
                writer.add(frame, time)

    with pytest.raises(ValueError, match=message):
        write()
    assert list(tmp_path.iterdir()) == [old] and old.read_bytes() == b"what was there before"


def test_a_writer_that_is_interrupted(tmp_path: Path) -> None:
    def write() -> None:
        with VideoWriter(tmp_path / "clip.mp4", 30) as writer:
            for frame in moving_square(60):
                writer.add(frame)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


def test_whole_files(tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    with whole_file(target) as temporary:
        temporary.write_text("one")
        assert temporary.suffix == ".csv" and not target.exists()
    with pytest.raises(UnicodeEncodeError), whole_file(target) as temporary:
        temporary.write_text("two \N{SNOWMAN}", encoding="ascii")
    assert list(tmp_path.iterdir()) == [target] and target.read_text() == "one"


def test_targets_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = tmp_path / f"{'n' * 251}.mp4"
    with whole_file(check_target(longest)) as temporary:
        temporary.touch()
    for path, message in ((tmp_path, "it is a folder"), (os.devnull, "it is no regular file")):
        with pytest.raises(ValueError, match=message):
            check_target(path)
    too_long = str(tmp_path / f"n{longest.name}")
    with pytest.raises(OSError, match="cannot write") as caught:
        check_video_path(too_long)
    assert caught.value.filename == too_long

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / ".a.x1y2z3"))

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    for write in (check_video_path, check_plot_path, check_target, lambda path: whole_file(path).__enter__()):
        path = tmp_path / ("a.png" if write is check_plot_path else "a.mp4")
        with pytest.raises(PermissionError, match=r"cannot write \(Permission denied\)") as caught:
            write(path)
        assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == [longest]


def test_errors_name_the_file_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, whole_file(tmp_path / "a.csv") as temporary:
        temporary.unlink()
    assert caught.value.filename == str(tmp_path / "a.csv")
    with pytest.raises(OSError, match="No space left") as caught, whole_file(tmp_path / "a.csv"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "a.csv")
    assert list(tmp_path.iterdir()) == []


def test_what_is_read_is_not_written_over(tmp_path: Path) -> None:
    video, other = tmp_path / "a.mp4", tmp_path / "b.mp4"
    video.touch(), other.touch()
    (tmp_path / "link.mp4").symlink_to(video)
    keep_inputs([other, tmp_path / "new.mp4"], [video, "<array>", None, b"a.mp4", "http://host/b.mp4", io.BytesIO()])
    with video.open("rb") as file:
        for one in (str(video), tmp_path / "link.mp4", f"file://{video}", file, tmp_path):
            with pytest.raises(ValueError, match=r"a\.mp4: that would replace what is read"):
                keep_inputs([tmp_path / "." / "a.mp4"], [one])
