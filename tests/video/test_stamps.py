"""Streams whose clock is none: every stored frame is shown, on one timeline without leaps."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from videos import coded_image, read_code, write_video

from slowfast_zoo.video import VideoReader, sample_clips, sliding_windows
from slowfast_zoo.video.sampling import sliding_frames
from slowfast_zoo.video.source import FrameReader
from slowfast_zoo.video.stamps import StoredPacket, read_clock

MILLISECOND = Fraction(1, 1000)
HOUR = 3600 * 1000


def stored(path: Path, stamps: Callable[[int], int | None], frames: int = 50, rate: int = 25) -> Path:
    """A file of JPEGs whose packets carry any stamps (milliseconds) that the muxer takes."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 128, 96, "yuvj420p", MILLISECOND
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(coded_image(index), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, rate)
            for packet in stream.encode(frame):
                packet.pts = packet.dts = stamps(index)
                packet.time_base = MILLISECOND
                container.mux(packet)
    return path


def joined(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def playlist(path: Path, groups: list[list[tuple[Path, float]]]) -> Path:
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:2", "#EXT-X-MEDIA-SEQUENCE:0"]
    for number, group in enumerate(groups):
        lines += ["#EXT-X-DISCONTINUITY"] * (number > 0)
        lines += [line for part, seconds in group for line in (f"#EXTINF:{seconds},", part.name)]
    path.write_text("\n".join([*lines, "#EXT-X-ENDLIST", ""]))
    return path


def make(folder: Path, kind: str) -> tuple[Path, list[int]]:
    """A file, and the codes of all its frames in the order in which they are stored; 25 of them a second."""
    once, steps = list(range(50)), (lambda index: 40 * index)
    options = {"g": "12", "bf": "2"}
    if kind.startswith(("joined", "playlist")):
        first = write_video(folder / "first.ts", 50, fps=25, options=options)
        later = [HOUR * 90 + 3600 * index for index in range(30)]
        ahead = {"stamps": [stamp + 90000 * 3600 for stamp in later], "time_base": Fraction(1, 90000)}
        second = write_video(folder / "second.ts", 30, fps=25, options=options, **(ahead if "ahead" in kind else {}))
        if kind.startswith("playlist"):
            return playlist(folder / f"{kind}.m3u8", [[(first, 2.0)], [(second, 1.2)]]), [*once, *range(30)]
        parts = [second, first] if "behind" in kind else [first, second]
        codes = [*range(30), *once] if "behind" in kind else [*once, *range(30)]
        return joined(folder / f"{kind}.ts", *parts), codes
    path, stamps = {
        "leap": ("leap.mkv", lambda index: steps(index) + HOUR * (index >= 20)),
        "unset at first": ("unset.mkv", lambda index: steps(index) + 1_700_000_000_000 * (index >= 5)),
        "leap in mp4": ("leap.mp4", lambda index: steps(index) + HOUR * (index >= 20)),
        "all zero": ("zero.mkv", lambda _: 0),
        "in pairs": ("pairs.mkv", lambda index: steps(index - index % 2)),
        "two of one stamp": ("two.mkv", lambda index: steps(index - (index == 21))),
    }[kind]
    return stored(folder / path, stamps), once


KINDS = [
    "joined",
    "joined ahead",
    "joined ahead and behind",
    "playlist",
    "playlist ahead",
    "leap",
    "leap in mp4",
    "unset at first",
    "all zero",
    "in pairs",
    "two of one stamp",
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_stored_frame_is_shown_without_leaps(tmp_path: Path, kind: str) -> None:
    path, codes = make(tmp_path, kind)
    with av.open(str(path)) as container:  # all that decoding in sequence gives
        assert [read_code_of(frame) for frame in container.decode(video=0)] == codes
    with pytest.warns(RuntimeWarning, match="the clock of video") as told:
        reader = VideoReader(path)
    assert len(told) == 1
    with reader:
        assert reader.fps == pytest.approx(25)
        assert reader.duration == pytest.approx(len(codes) / 25, abs=0.002)
        shown = [(time, read_code(frame)) for time, frame in reader.frames()]
        assert [code for _, code in shown] == codes
        assert [time for time, _ in shown] == pytest.approx([index / 25 for index in range(len(codes))], abs=0.002)
        assert list(reader.frame_times()) == pytest.approx([time for time, _ in shown])
        # By time, in any order.
        for index in (47, 3, 30, len(codes) - 1, 0):
            assert read_code(reader.frames_at([(index + 0.5) / 25])[0]) == codes[index]


def read_code_of(frame: Any) -> int:
    return read_code(torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1))


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".ts"])
def test_a_pause_is_no_leap(tmp_path: Path, suffix: str) -> None:
    stamps = [3600 * index + 90000 * 5 * (index >= 30) for index in range(60)]
    path = write_video(tmp_path / f"pause{suffix}", 60, stamps=stamps, time_base=Fraction(1, 90000), fps=25)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with VideoReader(path) as reader:
            assert reader.duration == pytest.approx(60 / 25 + 5, abs=0.05)


def test_a_clock_that_wraps_around(tmp_path: Path) -> None:
    last = 2**33
    stamps = [last - 3600 * 25 + 3600 * index for index in range(50)]
    path = tmp_path / "wraps.ts"
    write_video(path, 50, fps=25, stamps=stamps, time_base=Fraction(1, 90000), options={"bf": "0"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with VideoReader(path) as reader:
            assert reader.duration == pytest.approx(2.0, abs=0.001)
            assert [read_code(frame) for _, frame in reader.frames()] == list(range(50))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("bare.h264", {}),
        ("bare_b.h264", {"options": {"bf": "2"}}),
        ("bare.m1v", {"codec": "mpeg1video", "options": {"bf": "2"}}),
        ("bare.m4v", {"codec": "mpeg4", "options": {"bf": "2"}}),
    ],
)
def test_a_bare_stream_has_the_length_of_its_frames(tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    path = write_video(tmp_path / name, 60, fps=30, **settings)
    with VideoReader(path) as reader:
        assert (reader.duration, reader.fps, len(reader.frame_times())) == pytest.approx((2.0, 30.0, 60))
        shown = [(time, read_code(frame)) for time, frame in reader.frames()]
    assert [code for _, code in shown] == list(range(60))
    assert [time for time, _ in shown] == pytest.approx([index / 30 for index in range(60)])


def reclocked(path: Path, clock: Callable[[int], int]) -> Path:
    """An FLV file whose tags say, for the packet of each number, another time of decoding (milliseconds)."""
    content, place, number = bytearray(path.read_bytes()), 13, 0
    while place < len(content):
        if content[place] == 9 and content[place + 12] == 1:  # a picture, not the settings of its decoder
            stamp = clock(number)
            content[place + 4 : place + 8] = (stamp & 0xFFFFFF).to_bytes(3, "big") + bytes([stamp >> 24])
            number += 1
        place += 15 + int.from_bytes(content[place + 1 : place + 4], "big")
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "clock",
    [
        lambda index: 40 * index + HOUR * (index >= 50),
        lambda index: 40 * index - 2000 * (index >= 75),
        lambda index: 40 * index + HOUR * (25 <= index < 50),
        lambda index: 40 * (index % 30),
        lambda index: 40 * index + 1_000_000_000 * (index < 3),
        lambda _: 0,
    ],
    ids=["ahead", "back", "ahead and back", "again and again", "unset at first", "still"],
)
def test_a_leap_among_frames_that_are_decoded_in_another_order(tmp_path: Path, clock: Callable[[int], int]) -> None:
    options = {"bf": "3", "b_strategy": "0", "g": "20"}
    path = reclocked(write_video(tmp_path / "a.flv", 100, fps=25, options=options), clock)
    with pytest.warns(RuntimeWarning, match="the clock of video"):
        reader = VideoReader(path)
    with reader:
        assert reader.duration == pytest.approx(4.0, abs=0.002)
        shown = [(time, read_code(frame)) for time, frame in reader.frames()]
    assert [code for _, code in shown] == list(range(100))
    assert [time for time, _ in shown] == pytest.approx([index / 25 for index in range(100)], abs=0.002)


def test_recordings_of_several_rates_follow_one_another(tmp_path: Path) -> None:
    rates = {25: 50, 50: 20, 30: 30}
    parts = [write_video(tmp_path / f"{fps}.ts", count, fps=fps, options={"bf": "2"}) for fps, count in rates.items()]
    with pytest.warns(RuntimeWarning, match="the clock of video"):
        reader = VideoReader(joined(tmp_path / "all.ts", *parts))
    with reader:
        times = [*(i / 25 for i in range(50)), *(2 + i / 50 for i in range(20)), *(2.4 + i / 30 for i in range(30))]
        assert list(reader.frame_times()) == pytest.approx(times, abs=1e-4)
        assert reader.duration == pytest.approx(3.4, abs=1e-4)
        assert [time for time, _ in reader.frames()] == pytest.approx(times, abs=1e-4)


def test_packets_of_program_streams_in_places_of_others() -> None:
    # An I-frame without a time of its own before two B-frames, and what FFmpeg then makes of it until the next stamp.
    shown = [3 * (index // 3) + (3 if index % 3 == 0 else index % 3) for index in range(48)]  # I B B P B B ...
    packets = []
    for index, place in enumerate(shown):
        early = 2 * (12 <= index < 30 and index not in (13, 14))
        packets.append(StoredPacket(3600 * (place - early), 3600 * (index - early), 3600, index % 12 == 0))
    clock = read_clock(packets, 3600, 1 / 90000, 25.0, can_join=True, is_sparse=True)
    assert clock.times == pytest.approx([index / 25 for index in range(48)])
    assert clock.end == pytest.approx(48 / 25)
    assert [clock.place(index - 1, stamp) for index, stamp in enumerate([None, 7200, 3600])] == [0, 1, 2]


def test_neighbours_are_told_apart_at_a_thousand_frames_a_second(tmp_path: Path) -> None:
    path = write_video(tmp_path / "fast.avi", 50, fps=1000, codec="mjpeg", pix_fmt="yuvj420p")
    with VideoReader(path) as reader:
        for index in (30, 10, 40):
            assert read_code(reader.frames_at([(index + 0.5) / 1000])[0]) == index


# Counting stored frames


def camera(path: Path) -> tuple[Path, list[float]]:
    """A Matroska file without a rate, as browsers record a camera: about 30 frames a second, unevenly."""
    gaps = itertools.accumulate(33 + 9 * (index % 3) - 3 * (index % 2) + 60 * (index == 40) for index in range(99))
    stamps = [0, *gaps]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=1000)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 128, 96, "yuvj420p", MILLISECOND
        for index, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(coded_image(index), format="rgb24")
            frame.pts, frame.time_base = stamp, MILLISECOND
            for packet in stream.encode(frame):
                packet.pts = packet.dts = stamp
                container.mux(packet)
    return path, [stamp / 1000 for stamp in stamps]


def test_conventions_that_count_take_the_stored_frames(tmp_path: Path) -> None:
    path, times = camera(tmp_path / "camera.mkv")
    with VideoReader(path) as reader:
        assert list(reader.frame_times()) == pytest.approx(times)
        assert 20 < reader.fps < 40
        spans = sample_clips(
            reader.duration,
            3,
            clip_frames=8,
            clip_stride=4,
            convention="mmaction2",
            video_fps=reader.fps,
            frame_times=reader.frame_times(),
        )
        found = [[read_code(frame) for frame in clip] for clip in reader.clips_at([span.times for span in spans])]
    # MMAction2's rule on 100 frames: a clip covers 29, clips start at 0, 35.5 rounded to even, and 71.
    assert found == [[start + 4 * index for index in range(8)] for start in (0, 36, 71)]


def test_windows_of_stored_frames(tmp_path: Path) -> None:
    path, times = camera(tmp_path / "camera.mkv")
    with VideoReader(path) as reader:
        spans = sliding_frames(
            reader.frame_times(), reader.duration, window=16, stride=10, clip_frames=8, cover_end=True
        )
        found = [[read_code(frame) for frame in clip] for clip in reader.clips_at([span.times for span in spans])]
    starts = [0, 10, 20, 30, 40, 50, 60, 70, 80, 84]
    assert found == [[start + 2 * index for index in range(8)] for start in starts]
    assert [span.start for span in spans] == pytest.approx([times[start] for start in starts])
    assert [span.end for span in spans][:-1] == pytest.approx([times[start + 16] for start in starts[:-1]])


# Planning


class Numbers(FrameReader):
    """30 frames a second, each of which is its number; notes the times that it is asked for."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def _frame_at(self, time: float) -> int:
        self.asked.append(time)
        return int(time * 30 + 1e-6)

    def _pixels(self, frame: int) -> torch.Tensor:
        return torch.tensor(frame)


def test_windows_are_made_as_they_are_asked_for() -> None:
    spans = sliding_windows(1.7e9, window=2.0, stride=1 / 30, clip_frames=32)
    assert len(spans) == pytest.approx(1.7e9 * 30, rel=1e-6)
    assert spans[3].start == pytest.approx(0.1)
    made = []

    def moments() -> Iterator[tuple[float, ...]]:
        for span in spans:
            made.append(span.start)
            yield span.times

    class Lazy:
        def __len__(self) -> int:
            return len(spans)

        def __iter__(self) -> Iterator[tuple[float, ...]]:
            return moments()

    clips = Numbers().clips_at(Lazy())  # type: ignore[arg-type]
    first, second = next(clips), next(clips)
    assert (first[0], second[0]) == (0, 1)
    assert len(made) < 5000


def test_a_frame_that_windows_share_is_read_once() -> None:
    spans = sliding_windows(400.0, window=60.0, stride=0.1, clip_frames=16)

    class Lazy:
        def __len__(self) -> int:
            return len(spans)

        def __iter__(self) -> Iterator[tuple[float, ...]]:
            return (span.times for span in spans)

    numbers = Numbers()
    clips = list(numbers.clips_at(Lazy()))  # type: ignore[arg-type]
    assert [clip.tolist() for clip in clips] == [[int(t * 30 + 1e-6) for t in span.times] for span in spans]
    assert numbers.asked == sorted(set(numbers.asked))


# Reading in about one pass


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".flv"])
@pytest.mark.parametrize("kind", ["refreshed piece by piece", "one keyframe"])
def test_clips_of_files_without_keyframes_are_read_in_about_one_pass(tmp_path: Path, suffix: str, kind: str) -> None:
    options = {"g": "9999"} if kind == "one keyframe" else {"x264-params": "intra-refresh=1:keyint=20"}
    path = write_video(tmp_path / f"a{suffix}", 240, options=options)
    with VideoReader(path) as reader:
        spans = sample_clips(reader.duration, 10, clip_frames=4, clip_stride=1)
        found = [[read_code(frame) for frame in clip] for clip in reader.clips_at([span.times for span in spans])]
        assert found == [[int(time * 30) for time in span.times] for span in spans]
        assert reader.frames_decoded < 1.3 * 240


@pytest.mark.parametrize(("suffix", "codec"), [(".swf", "flv"), (".asf", "wmv2"), (".nut", "mjpeg")])
def test_jumps_that_lead_back_are_given_up(tmp_path: Path, suffix: str, codec: str) -> None:
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write_video(tmp_path / f"a{suffix}", 240, fps=8, codec=codec, pix_fmt=pix_fmt, options={"g": "10"})
    with VideoReader(path) as reader:
        clips = [[place, place + 0.2] for place in (0.1, 6.1, 10.6, 12.1, 14.6, 20.1, 23.6, 25.1, 28.1)]
        found = [[read_code(frame) for frame in clip] for clip in reader.clips_at(clips)]
        assert found == [[int(8 * time) for time in clip] for clip in clips]
        assert reader.frames_decoded < 1.3 * 240


@pytest.mark.parametrize("name", ["a.ts", "b.ts"])
def test_jumps_in_transport_streams_land_on_keyframes(tmp_path: Path, name: str) -> None:
    more = {"codec": "mpeg2video"} if name == "b.ts" else {}
    path = write_video(tmp_path / name, 240, options={"g": "12", "bf": "2"}, **more)
    with VideoReader(path) as reader:
        opening = reader.frames_decoded
        for index in (200, 60, 130):
            assert read_code(reader.frames_at([(index + 0.5) / 30])[0]) == index
        assert reader.frames_decoded - opening < 3 * (12 + 12)


# Files that are cut


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("a.mp4", {"container_options": {"movflags": "faststart"}}),
        ("b.mp4", {"container_options": {"movflags": "faststart"}, "options": {"bf": "2", "g": "10"}}),
        ("c.flv", {}),
        ("d.mkv", {"codec": "ffv1"}),
    ],
)
def test_a_cut_file_gives_all_that_one_thread_gives(
    tmp_path: Path, name: str, settings: dict[str, Any], threads: int
) -> None:
    path = write_video(tmp_path / name, 60, **settings)
    content = path.read_bytes()
    for part in (0.83, 0.9):
        path.write_bytes(content[: int(len(content) * part)])
        expected = []
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            with contextlib.suppress(av.FFmpegError):
                for packet in container.demux(stream):
                    with contextlib.suppress(av.FFmpegError):
                        expected += [read_code_of(frame) for frame in packet.decode()]
        assert len(expected) > 30
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with VideoReader(path, threads=threads) as reader:
                assert [read_code(frame) for _, frame in reader.frames()] == expected


@pytest.mark.parametrize(
    "settings",
    [{"codec": "mjpeg", "pix_fmt": "yuvj422p"}, {"codec": "mpeg4", "options": {"g": "12"}}, {"options": {"bf": "0"}}],
)
def test_avi_that_leaves_frames_out_has_its_times(tmp_path: Path, settings: dict[str, Any]) -> None:
    gaps = [1 + 3 * (index % 7 == 3) + 5 * (index == 20) for index in range(39)]
    stamps = [0, *itertools.accumulate(gaps)]
    path = write_video(tmp_path / "gaps.avi", 40, stamps=stamps, time_base=Fraction(1, 30), **settings)
    with VideoReader(path) as reader:
        shown = [(round(30 * time, 3), read_code(frame)) for time, frame in reader.frames()]
        assert reader.duration == pytest.approx((stamps[-1] + 1) / 30)
    assert shown == [(stamp, index) for index, stamp in enumerate(stamps)]


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_avi_that_leaves_frames_out_among_others_that_are_reordered(tmp_path: Path, codec: str) -> None:
    stamps = [0, *itertools.accumulate(1 + 3 * (index % 7 == 3) for index in range(39))]
    options = {"bf": "2", "b_strategy": "0", "g": "12"}
    path = write_video(tmp_path / "a.avi", 40, stamps=stamps, time_base=Fraction(1, 30), codec=codec, options=options)
    with VideoReader(path) as reader:
        shown = [(time, read_code(frame)) for time, frame in reader.frames()]
        assert list(reader.frame_times()) == pytest.approx([time for time, _ in shown])
    assert [code for _, code in shown] == list(range(40))
    assert all(before < after for (before, _), (after, _) in itertools.pairwise(shown))
    # Such a file says nothing of how long the last ones are shown.
    assert [time for time, _ in shown][:37] == pytest.approx([stamp / 30 for stamp in stamps][:37])
