"""Reading frames by time, checked frame by frame against a full sequential decode of real files."""

from __future__ import annotations

import gc
import itertools
import os
import random
import struct
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from videos import displayed, read_code, write_audio_only, write_video

from slowfast_zoo.errors import MissingDependencyError, VideoDecodeError
from slowfast_zoo.video import VideoReader

B_FRAMES = {"g": "12", "bf": "3"}
FINE = Fraction(1, 15360)

FILES: dict[str, dict[str, Any]] = {
    "plain.mp4": {},
    "b_frames.mp4": {"options": B_FRAMES},
    "open_gop.mp4": {"options": {**B_FRAMES, "x264-params": "open-gop=1"}},
    "intra_refresh.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=20"}},
    "fragmented.mp4": {"options": B_FRAMES, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "ntsc.mp4": {"fps": Fraction(30000, 1001)},
    "late_start.mp4": {"stamps": [5 * 15360 + 512 * i for i in range(60)], "time_base": FINE},
    "variable.mp4": {"stamps": [i * 400 + (i % 4) * 90 + (i > 30) * 5000 for i in range(60)], "time_base": FINE},
    "variable_b.mp4": {"stamps": [i * i * 9 + 300 * i for i in range(60)], "time_base": FINE, "options": B_FRAMES},
    "h265.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=20"}},
    "b_frames.mkv": {"options": B_FRAMES},
    "longer_audio.mkv": {"audio_seconds": 4.0},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "15"}, "frames": 40},
    "streamed.webm": {"codec": "libvpx-vp9", "frames": 40, "container_options": {"live": "1"}},
    "b_frames.ts": {"options": B_FRAMES},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "motion_jpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "odd.mkv": {"codec": "ffv1", "pix_fmt": "yuv444p", "width": 127, "height": 97},
    "one_frame.mp4": {"frames": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


def get(folder: Path, name: str) -> Path:
    path = folder / name
    return path if path.exists() else write_video(path, **FILES[name])


def codes(frames: torch.Tensor) -> list[int]:
    return [read_code(frame) for frame in frames]


@pytest.mark.parametrize("name", FILES)
def test_every_frame_is_found_at_its_time(folder: Path, name: str) -> None:
    path = get(folder, name)
    shown = displayed(path)
    assert [index for _, index in shown] == list(range(FILES[name].get("frames", 60)))
    between = [((now + later) / 2, index) for (now, index), (later, _) in itertools.pairwise(shown)]
    wanted = sorted(shown + between)
    with VideoReader(path) as reader:
        assert codes(reader.frames_at([time for time, _ in wanted])) == [index for _, index in wanted]
        random.Random(0).shuffle(wanted)
        for time, index in wanted[:12]:
            assert codes(reader.frames_at([time])) == [index]
        assert codes(reader.frames_at([-1.0, 1e6])) == [0, shown[-1][1]]


@pytest.mark.parametrize("name", FILES)
def test_facts(folder: Path, name: str) -> None:
    path, spec = get(folder, name), FILES[name]
    shown = displayed(path)
    with VideoReader(path) as reader:
        step = 1 / reader.fps
        # The last frame's length is a convention; everything before it is not.
        assert shown[-1][0] < reader.duration <= shown[-1][0] + 2.1 * step
        assert (reader.width, reader.height) == (spec.get("width", 128), spec.get("height", 96))
        frames = reader.frames_at([0.0, 0.1])
        assert frames.shape == (2, 3, reader.height, reader.width)
        assert frames.dtype == torch.uint8


def test_times_rounded_to_milliseconds_do_not_slip(folder: Path) -> None:
    # Matroska stores 33, 67, 100 ms for frames at 30 fps: 2/30 s lies before the 67 ms of frame 2.
    with VideoReader(get(folder, "b_frames.mkv")) as reader:
        assert codes(reader.frames_at([index / 30 for index in range(60)])) == list(range(60))


def test_colours(folder: Path) -> None:
    with VideoReader(get(folder, "plain.mp4")) as reader:
        frame = reader.frames_at([0.0])[0].float()
    left, right = frame[:, 60:90, 10:50].mean((1, 2)), frame[:, 60:90, 80:120].mean((1, 2))
    assert left.tolist() == pytest.approx([220, 0, 0], abs=8)
    assert right.tolist() == pytest.approx([0, 0, 220], abs=8)


@pytest.mark.skipif(
    not hasattr(av.video.stream.VideoStream, "set_display_rotation"), reason="this PyAV cannot write it"
)
@pytest.mark.parametrize(("degrees", "red"), [(90, "lower right"), (180, "upper right"), (-90, "upper left")])
def test_rotation_metadata_is_applied(tmp_path: Path, degrees: int, red: str) -> None:
    path = write_video(tmp_path / "rotated.mp4", 3, rotation=degrees)
    if degrees == -90:  # what a phone held upright writes: the matrix of a clockwise quarter turn
        header = path.read_bytes()
        matrix = struct.unpack_from(">9i", header, header.index(b"tkhd") + 44)
        assert [value >> 16 for value in matrix[:2] + matrix[3:5]] == [0, 1, -1, 0]
    with VideoReader(path) as reader:
        frame = reader.frames_at([0.0])[0]
        assert (reader.width, reader.height) == ((128, 96) if degrees == 180 else (96, 128))
    assert frame.shape[1:] == (reader.height, reader.width)
    rows = {"upper": slice(0, 20), "lower": slice(-20, None)}
    columns = {"left": slice(0, 20), "right": slice(-20, None)}
    redness = {
        f"{y} {x}": float(frame[0, rows[y], columns[x]].float().mean() - frame[2, rows[y], columns[x]].float().mean())
        for y in rows
        for x in columns
    }
    assert max(redness, key=lambda corner: redness[corner]) == red


def test_clips_share_frames(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = count_decoded(monkeypatch)
    clips = [[start / 30 + 2 * k / 30 for k in range(16)] for start in (0, 5, 10, 28)]
    with VideoReader(get(folder, "b_frames.mp4")) as reader:
        decoded.clear()
        got = [codes(clip) for clip in reader.clips_at(clips)]
    assert got == [[start + 2 * k for k in range(16)] for start in (0, 5, 10, 28)]
    assert len(decoded) == 60  # of 60 frames, though the clips hold 64


def test_clips_in_any_order(folder: Path) -> None:
    clips = [[1.5, 0.5], [0.0, 1.9, 0.0], [0.5]]
    with VideoReader(get(folder, "b_frames.mp4")) as reader:
        assert [codes(clip) for clip in reader.clips_at(clips)] == [[45, 15], [0, 57, 0], [15]]


def test_a_late_clip_costs_no_more_than_an_early_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "long.mp4", 250, options=B_FRAMES)
    decoded = count_decoded(monkeypatch)
    with VideoReader(path) as reader:
        decoded.clear()
        assert codes(reader.frames_at([7.5, 7.6])) == [225, 228]
        assert len(decoded) <= 12 + 5
        assert codes(reader.frames_at([7.8])) == [234]
        assert len(decoded) <= 12 + 12


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A list that grows by one with each frame that any reader decodes."""
    decoded: list[float] = []
    original = VideoReader._decode

    def counting(self: VideoReader) -> Any:
        for stamped in original(self):
            decoded.append(stamped.time)
            yield stamped

    monkeypatch.setattr(VideoReader, "_decode", counting)
    return decoded


@settings(max_examples=25, deadline=None)
@given(times=st.lists(st.floats(-1, 4, allow_nan=False), min_size=1, max_size=6))
def test_any_times(folder: Path, times: list[float]) -> None:
    path = get(folder, "variable_b.mp4")
    shown = displayed(path)
    expected = [max([index for stamp, index in shown if stamp <= time + 1e-4] or [0]) for time in times]
    with VideoReader(path) as reader:
        assert codes(reader.frames_at(times)) == expected


def bad_files(folder: Path) -> dict[str, Path]:
    whole = write_video(folder / "whole.mp4", 60).read_bytes()
    contents = {
        "text.mp4": b"hello there\n" * 50,
        "zeros.mp4": bytes(5000),
        "noise.mp4": random.Random(1).randbytes(5000),
        "truncated.mp4": whole[: len(whole) // 2],
        "header_only.mp4": whole[:40],
        "empty.mp4": b"",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder.mp4").mkdir()
    write_audio_only(folder / "audio.mp4")
    return {path.name: path for path in folder.iterdir() if path.name != "whole.mp4"}


def test_what_is_no_video_is_told_with_path_and_reason(tmp_path: Path) -> None:
    reasons = {"empty.mp4": "empty", "folder.mp4": "directory", "audio.mp4": "only audio"}
    for name, path in bad_files(tmp_path).items():
        with pytest.raises(VideoDecodeError, match=reasons.get(name, "not a video, or damaged")) as caught:
            VideoReader(path)
        assert caught.value.path == str(path)
        assert name in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such video file.*nowhere\.mp4"):
        VideoReader(tmp_path / "nowhere.mp4")


def test_a_truncated_file_ends_where_its_frames_end(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", 150, options=B_FRAMES, container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.warns(RuntimeWarning, match=r"v\.mp4' is damaged.*header says 5\.00 s"):
        reader = VideoReader(path)
    with reader:
        assert 1.0 < reader.duration < 4.5
        assert codes(reader.frames_at([0.5, 1.0])) == [15, 30]


def test_a_file_damaged_in_the_middle_yields_the_rest(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", 150, options=B_FRAMES, container_options={"movflags": "faststart"})
    content = bytearray(path.read_bytes())
    for position in range(len(content) * 5 // 10, len(content) * 6 // 10):
        content[position] = position * 37 % 256
    path.write_bytes(bytes(content))
    with VideoReader(path) as reader, pytest.warns(RuntimeWarning, match=r"v\.mp4' is damaged") as warned:
        got = codes(reader.frames_at([index / 30 for index in range(150)]))
    assert len(warned) == 1
    assert got[:20] == list(range(20))
    assert got[-40:] == list(range(110, 150))


def test_the_file_is_closed(folder: Path, tmp_path: Path) -> None:
    path = get(folder, "plain.mp4")
    reader = VideoReader(path)
    frames = reader.frames_at([0.0])
    reader.close()
    reader.close()
    assert read_code(frames[0]) == 0
    with pytest.raises(ValueError, match="closed"):
        reader.frames_at([0.5])
    with pytest.raises(VideoDecodeError):
        VideoReader(write_audio_only(tmp_path / "audio.mp4"))
    gc.collect()
    if sys.platform == "linux":
        opened = {os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.exists()}
        assert not {str(path), str(tmp_path / "audio.mp4")} & opened


def test_no_times(folder: Path) -> None:
    with VideoReader(get(folder, "plain.mp4")) as reader, pytest.raises(ValueError, match="at least one time"):
        reader.frames_at([])


def test_odd_names(folder: Path, tmp_path: Path) -> None:
    for name in ("pipe:0.mp4", "50% off.mp4", "frame%03d.mp4", "é ö.mp4"):
        path = tmp_path / name
        path.write_bytes(get(folder, "one_frame.mp4").read_bytes())
        with VideoReader(str(path)) as reader:
            assert codes(reader.frames_at([0.0])) == [0]


def test_without_pyav(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = get(folder, "plain.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "slowfast-zoo\[video\]"'):
        VideoReader(path)
