"""Reading frames by time, checked frame by frame against a full sequential decode of real files."""

from __future__ import annotations

import gc
import itertools
import os
import random
import struct
import sys
import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from videos import decoded, read_code, set_matrix, trim, write_audio_only, write_video

from benchmarks import fuzz_videos
from slowfast_zoo.errors import MissingDependencyError, VideoDecodeError
from slowfast_zoo.video import VideoReader, sample_clips
from slowfast_zoo.video.pyav import ToRgb

B_FRAMES = {"g": "12", "bf": "3"}
JPEG: dict[str, Any] = {"codec": "mjpeg", "pix_fmt": "yuvj420p"}
X265 = {"x265-params": "log-level=none:keyint=20"}
VP9 = {"g": "15", "deadline": "realtime", "cpu-used": "8"}
AV1 = {"g": "15", "preset": "10", "crf": "20"}
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
    "turned.mp4": {"frames": 8},
    "upside_down.mov": {"frames": 8},
    "trimmed.mp4": {"options": B_FRAMES},
    "h265.mp4": {"codec": "libx265", "options": X265},
    "h265.mkv": {"codec": "libx265", "options": X265},
    "h265_10_bit.mov": {"codec": "libx265", "options": X265, "pix_fmt": "yuv420p10le"},
    "b_frames.mkv": {"options": B_FRAMES},
    "longer_audio.mkv": {"audio_seconds": 4.0},
    "b_frames.ts": {"options": B_FRAMES},
    "b_frames.avi": {"options": B_FRAMES},
    "b_frames.flv": {"options": B_FRAMES},
    "odd.mp4": {"options": B_FRAMES, "pix_fmt": "yuv444p", "width": 127, "height": 97},
    "10_bit.mp4": {"options": B_FRAMES, "pix_fmt": "yuv420p10le"},
    "gray.mp4": {"options": B_FRAMES, "pix_fmt": "gray"},
    "vp9.webm": {"codec": "libvpx-vp9", "options": VP9},
    "vp9.mkv": {"codec": "libvpx-vp9", "options": VP9},
    "vp9_odd.webm": {"codec": "libvpx-vp9", "options": VP9, "width": 127, "height": 97},
    "vp9_alpha.webm": {"codec": "libvpx-vp9", "options": {**VP9, "auto-alt-ref": "0"}, "pix_fmt": "yuva420p"},
    "streamed.webm": {"codec": "libvpx-vp9", "options": VP9, "container_options": {"live": "1"}},
    "av1.mp4": {"codec": "libsvtav1", "options": AV1},
    "av1_10_bit.mkv": {"codec": "libsvtav1", "options": AV1, "pix_fmt": "yuv420p10le"},
    "av1.webm": {"codec": "libsvtav1", "options": AV1},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "mpeg4.ts": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}},
    "motion_jpeg.mov": JPEG,
    "motion_jpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj422p"},
    "motion_jpeg.mkv": JPEG,
    "raw.h264": {"fps": 25},
    "animation_alpha.mov": {"codec": "qtrle", "pix_fmt": "argb"},
    "prores_alpha.mov": {"codec": "prores_ks", "pix_fmt": "yuva444p10le"},
    "png_alpha.mov": {"codec": "png", "pix_fmt": "rgba"},
    "gray_16_bit.mkv": {"codec": "ffv1", "pix_fmt": "gray16le"},
    "odd.mkv": {"codec": "ffv1", "pix_fmt": "yuv444p", "width": 127, "height": 97},
    "one_frame.mp4": {"frames": 1},
}
UNTIMED = {"b_frames.avi": 30, "mpeg4.avi": 30, "raw.h264": 25}  # no stamps, or wrong ones
TRIMMED = (7, 45)  # first and last frame
ROOT = Path(__file__).resolve().parents[2]
REAL = sorted(
    path
    for folder in (ROOT / "slowfast_zoo" / "video" / "samples", ROOT.parent / "shared" / "videos")
    for path in folder.glob("*.*")
    if path.suffix in (".mp4", ".avi")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


def get(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.exists():
        write_video(path, **{"frames": 60, **FILES[name]})
        if name == "trimmed.mp4":
            trim(path, *TRIMMED)
        if name == "turned.mp4":
            set_matrix(path, (0, 1, -1, 0))
        if name == "upside_down.mov":
            set_matrix(path, (-1, 0, 0, -1))
    return path


def codes(frames: torch.Tensor) -> list[int]:
    return [read_code(frame) for frame in frames]


def upright(name: str, frame: torch.Tensor) -> torch.Tensor:
    return torch.rot90(frame, {"turned.mp4": -1, "upside_down.mov": 2}.get(name, 0), dims=(1, 2))


@pytest.mark.parametrize("name", FILES)
def test_every_frame_is_found_at_its_time(folder: Path, name: str) -> None:
    path = get(folder, name)
    shown = decoded(path, UNTIMED.get(name))
    first, last = TRIMMED if name == "trimmed.mp4" else (0, FILES[name].get("frames", 60) - 1)
    assert codes(torch.stack([frame for _, frame in shown])) == list(range(first, last + 1))
    assert [time for time, _ in shown] == sorted(time for time, _ in shown)
    frames = [upright(name, frame) for _, frame in shown]
    times = [time for time, _ in shown]
    between = [(now + later) / 2 for now, later in itertools.pairwise(times)]
    wanted = sorted([*zip(times, frames, strict=True), *zip(between, frames, strict=False)], key=lambda pair: pair[0])
    with VideoReader(path) as reader:
        found = reader.frames_at([time for time, _ in wanted])
        assert all(torch.equal(frame, expected) for frame, (_, expected) in zip(found, wanted, strict=True))
        random.Random(0).shuffle(wanted)
        for time, expected in wanted[:12]:
            assert torch.equal(reader.frames_at([time])[0], expected)
        found = reader.frames_at([-1.0, 1e6, float("inf")])
        assert all(torch.equal(frame, frames[index]) for frame, index in zip(found, (0, -1, -1), strict=True))
        some = len(times) // 2
        one_by_one = list(reader.frames(start=times[some]))
        assert [time for time, _ in one_by_one] == pytest.approx(times[some:])
        assert all(torch.equal(frame, expected) for (_, frame), expected in zip(one_by_one, frames[some:], strict=True))


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_frames_of_real_files_are_found_at_their_time(path: Path) -> None:
    to_rgb, chosen, expected, times = ToRgb(av), random.Random(0), {}, []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for index, frame in enumerate(container.decode(stream)):
            # AVI has no stamps of display.
            times.append(float((index if path.suffix == ".avi" else frame.pts) * stream.time_base))
            if index == 0 or chosen.random() < 0.04:
                expected[index] = to_rgb(frame)
        expected[index] = to_rgb(frame)
    assert times == sorted(times)
    with VideoReader(path) as reader:
        assert times[-1] < reader.duration + times[0] < times[-1] + 2.1 / reader.fps
        for index in chosen.sample(sorted(expected), len(expected)):
            assert torch.equal(reader.frames_at([times[index] - times[0]])[0], expected[index])


@pytest.mark.parametrize("name", FILES)
def test_facts(folder: Path, name: str) -> None:
    path, spec = get(folder, name), FILES[name]
    end = decoded(path, UNTIMED.get(name))[-1][0]
    with VideoReader(path) as reader:
        step = 1 / reader.fps
        # The last frame's length is a convention; everything before it is not.
        assert end < reader.duration <= end + 2.1 * step
        size = (spec.get("width", 128), spec.get("height", 96))
        assert (reader.width, reader.height) == (size[::-1] if name == "turned.mp4" else size)
        frames = reader.frames_at([0.0, 0.1])
        assert frames.shape == (2, 3, reader.height, reader.width)
        assert frames.dtype == torch.uint8


def test_times_rounded_to_milliseconds_do_not_slip(folder: Path) -> None:
    # Matroska stores 33, 67, 100 ms for frames at 30 fps: 2/30 s lies before the 67 ms of frame 2.
    with VideoReader(get(folder, "b_frames.mkv")) as reader:
        assert codes(reader.frames_at([index / 30 for index in range(60)])) == list(range(60))


COLOURS: dict[str, dict[str, Any]] = {
    "standard.mp4": {},
    "high_definition.mp4": {"bt709": True},
    "10_bit.mp4": {"bt709": True, "pix_fmt": "yuv420p10le"},
    "full_range.webm": {"full_range": True, "codec": "libvpx-vp9", "options": VP9},
    "full_range.mkv": {"full_range": True, "bt709": True, "pix_fmt": "yuv420p10le"},
    "full_range.mov": {"codec": "mjpeg", "pix_fmt": "yuvj444p"},
    "alpha.mov": {"codec": "qtrle", "pix_fmt": "argb"},
    "alpha.mkv": {"codec": "ffv1", "pix_fmt": "yuva444p"},
    "planar.mp4": {"codec": "libx264rgb", "pix_fmt": "bgr24"},
}


@pytest.mark.parametrize("name", COLOURS)
def test_colours(tmp_path: Path, name: str) -> None:
    with VideoReader(write_video(tmp_path / name, 2, **COLOURS[name])) as reader:
        frame = reader.frames_at([0.0])[0].float()
    left, right = frame[:, 60:90, 10:50].mean((1, 2)), frame[:, 60:90, 80:120].mean((1, 2))
    assert left.tolist() == pytest.approx([220, 0, 0], abs=8)
    assert right.tolist() == pytest.approx([0, 0, 220], abs=8)


@pytest.mark.parametrize("pix_fmt", ["gray", "gray10le", "gray16le"])
def test_gray_is_gray(tmp_path: Path, pix_fmt: str) -> None:
    with VideoReader(write_video(tmp_path / "gray.mkv", 2, codec="ffv1", pix_fmt=pix_fmt)) as reader:
        frame = reader.frames_at([0.0])[0].float()
    assert torch.equal(frame[0], frame[1])
    assert torch.equal(frame[0], frame[2])
    assert frame[0, 60:90, 10:50].mean() == pytest.approx(0.299 * 220, abs=8)


def test_a_size_that_changes_stays_that_of_the_first_frame(tmp_path: Path) -> None:
    # Streams of pictures may be joined as they are.
    parts = [write_video(tmp_path / f"{width}.mjpeg", 4, width=width, height=96, **JPEG) for width in (128, 192, 64)]
    (tmp_path / "joined.mjpeg").write_bytes(b"".join(part.read_bytes() for part in parts))
    with VideoReader(tmp_path / "joined.mjpeg") as reader:
        assert [read_code(frame) for _, frame in reader.frames()] == 3 * [0, 1, 2, 3]
        assert reader.frames_at([0.0, reader.duration]).shape == (2, 3, 96, 128)


def test_what_is_transparent_keeps_its_colours(tmp_path: Path) -> None:
    path = tmp_path / "transparent.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("qtrle", rate=30)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "argb"
        pixels = np.full((16, 32, 4), (0, 200, 100, 50), np.uint8)  # alpha, red, green, blue
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="argb")))
        container.mux(stream.encode(None))
    with VideoReader(path) as reader:
        assert reader.frames_at([0.0])[0].float().mean((1, 2)).tolist() == [200, 100, 50]


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


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((0, 1, -1, 0), lambda frame: torch.rot90(frame, -1, (1, 2))),
        ((0, -1, 1, 0), lambda frame: torch.rot90(frame, 1, (1, 2))),
        ((-1, 0, 0, -1), lambda frame: torch.rot90(frame, 2, (1, 2))),
        ((-1, 0, 0, 1), lambda frame: frame.flip(2)),
        ((1, 0, 0, -1), lambda frame: frame.flip(1)),
        ((0, 1, 1, 0), lambda frame: frame.transpose(1, 2)),
        ((0, -1, -1, 0), lambda frame: frame.flip(1, 2).transpose(1, 2)),
        ((0, 0, 0, 0), lambda frame: frame),
    ],
    ids=lambda value: str(value) if isinstance(value, tuple) else "",
)
def test_turned_and_mirrored_as_a_player_does(tmp_path: Path, matrix: tuple[int, ...], expected: Any) -> None:
    path = write_video(tmp_path / "video.mp4", 1)
    with VideoReader(path) as reader:
        plain = reader.frames_at([0.0])[0]
    with VideoReader(set_matrix(path, matrix)) as reader:
        frame = reader.frames_at([0.0])[0]
        assert frame.shape == (3, reader.height, reader.width)
    assert torch.equal(frame, expected(plain))


def test_clips_share_frames(folder: Path) -> None:
    clips = [[start / 30 + 2 * k / 30 for k in range(16)] for start in (0, 5, 10, 28)]
    with VideoReader(get(folder, "b_frames.mp4")) as reader:
        opening = reader.frames_decoded
        got = [codes(clip) for clip in reader.clips_at(clips)]
        assert reader.frames_decoded - opening == 60  # of 60 frames, though the clips hold 64
    assert got == [[start + 2 * k for k in range(16)] for start in (0, 5, 10, 28)]


def test_clips_in_any_order(folder: Path) -> None:
    clips = [[1.5, 0.5], [0.0, 1.9, 0.0], [0.5]]
    with VideoReader(get(folder, "b_frames.mp4")) as reader:
        assert [codes(clip) for clip in reader.clips_at(clips)] == [[45, 15], [0, 57, 0], [15]]


def test_frames_are_transformed_once_and_not_held(folder: Path) -> None:
    seen = []

    def shrink(frame: torch.Tensor) -> torch.Tensor:
        assert frame.shape == (3, 96, 128)
        seen.append(read_code(frame))
        return frame[:, ::32, ::32].float()

    spans = sample_clips(2.0, 10, clip_frames=16, clip_stride=2)
    with VideoReader(get(folder, "b_frames.mp4")) as reader:
        tracemalloc.start()
        clips = list(reader.clips_at([span.times for span in spans], shrink))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert clips[0].shape == (16, 3, 3, 4)
    assert clips[0].dtype == torch.float32
    assert len(seen) == len(set(seen)) > 32
    assert peak < 8 * 96 * 128 * 3  # of a few frames


def test_the_paper_s_clips_decode_each_frame_once(long: Path) -> None:
    spans = sample_clips(10.0, 10, clip_frames=32, clip_stride=2)
    with VideoReader(long) as reader:
        opening = reader.frames_decoded
        assert sum(len(clip) for clip in reader.clips_at([span.times for span in spans], lambda frame: frame[0])) == 320
        assert 250 < reader.frames_decoded - opening <= 300


def test_a_late_clip_costs_no_more_than_an_early_one(long: Path) -> None:
    with VideoReader(long) as reader:
        opening = reader.frames_decoded
        assert codes(reader.frames_at([8.0, 8.1])) == [240, 243]
        assert reader.frames_decoded - opening <= 12 + 5
        assert codes(reader.frames_at([8.4])) == [252]
        assert reader.frames_decoded - opening <= 12 + 12


@pytest.fixture(scope="module")
def long(folder: Path) -> Path:
    """10 s at 30 fps."""
    return write_video(folder / "long.mp4", 300, options=B_FRAMES)


@pytest.mark.parametrize(("name", "codec"), [("hours.mp4", "libx264"), ("hours.mkv", "mpeg4"), ("hours.ts", "libx264")])
def test_the_end_of_two_hours_costs_what_the_start_does(tmp_path: Path, name: str, codec: str) -> None:
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        stream.options = {"g": "12", "bf": "2", **({"preset": "ultrafast"} if codec == "libx264" else {})}
        for second in range(7200):
            frame = av.VideoFrame(32, 16, "yuv420p")
            for plane, value in zip(frame.planes, (second % 200 + 20, 128, 128), strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            frame.pts, frame.time_base = second, Fraction(1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with VideoReader(path) as reader:
        assert reader.duration == 7200
        counts = [reader.frames_decoded]
        for start in (3, 7190):
            frames = reader.frames_at([start, start + 1.0, start + 3.5])
            grays = frames.float().mean((1, 2, 3))
            # Limited range: 16 to 235.
            assert (grays * 219 / 255 + 16).tolist() == pytest.approx(
                [(start + k) % 200 + 20 for k in (0, 1, 3)], abs=3
            )
            counts.append(reader.frames_decoded)
    opening, early, late = counts[0], counts[1] - counts[0], counts[2] - counts[1]
    assert opening == 1
    assert early < 3 * 12
    assert late < 3 * 12


def test_frames_one_by_one(folder: Path) -> None:
    with VideoReader(get(folder, "variable_b.mp4")) as reader:
        shown = []
        for time, frame in reader.frames(start=1.0):
            shown.append((time, read_code(frame)))
            if len(shown) == 3:
                reader.frames_at([0.2, 2.0])  # does not lose the place
        expected = [(time, read_code(frame)) for time, frame in decoded(folder / "variable_b.mp4")]
    first = sum(time <= 1.0 + 1e-6 for time, _ in expected) - 1
    assert [index for _, index in shown] == [index for _, index in expected[first:]]
    assert [time for time, _ in shown] == pytest.approx([time for time, _ in expected[first:]])
    with pytest.raises(ValueError, match="closed"):
        next(reader.frames())


@settings(max_examples=25, deadline=None)
@given(times=st.lists(st.floats(-1, 4, allow_nan=False), min_size=1, max_size=6))
def test_any_times(folder: Path, times: list[float]) -> None:
    path = get(folder, "variable_b.mp4")
    # Half a tick is as good as equal.
    expected = [
        max([i for i in range(60) if (i * i * 9 + 300 * i - 0.5) / 15360 <= time + 1e-6] or [0]) for time in times
    ]
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
    for name, codec in (("no_frames.mp4", "libx264"), ("no_frames.mkv", "mpeg4"), ("no_frames.avi", "mpeg4")):
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream(codec, rate=30)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            container.start_encoding()
    return {path.name: path for path in folder.iterdir() if path.name != "whole.mp4"}


def test_what_is_no_video_is_told_with_path_and_reason(tmp_path: Path) -> None:
    reasons = {"empty.mp4": "empty", "folder.mp4": "directory", "audio.mp4": "only audio"}
    for name, path in bad_files(tmp_path).items():
        usual = (
            "no frame can be decoded|no video stream|breaks off" if "no_frames" in name else "not a video, or damaged"
        )
        with pytest.raises(VideoDecodeError, match=reasons.get(name, usual)) as caught:
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


@pytest.mark.parametrize("name", ["h264.mp4", "h264.ts", "vp9.webm", "mpeg4.avi", "animation_alpha.mov"])
@pytest.mark.filterwarnings("ignore:.*is damaged:RuntimeWarning", "ignore:the clock of video:RuntimeWarning")
def test_changed_files_give_frames_or_an_error(tmp_path: Path, name: str) -> None:
    files = {name: fuzz_videos.write(tmp_path / name, **fuzz_videos.SEEDS[name])}
    path = tmp_path / f"changed_{name}"
    read, told = 0, set()
    for seed in range(25):
        rng = random.Random(f"{name} {seed}")
        path.write_bytes(fuzz_videos.changed(name, files, rng))
        try:
            read += fuzz_videos.read(path.read_bytes() if seed % 2 else path, rng) > 0
        except VideoDecodeError as error:
            told.add(error.path)
    assert 0 < read < 25
    assert told == {str(path), "<bytes>"}
