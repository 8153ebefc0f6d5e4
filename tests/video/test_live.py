"""Frames from real streams, over HTTP from this machine and from FFmpeg's own test source, while they go on."""

from __future__ import annotations

import gc
import itertools
import math
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Iterator
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest
import torch
from videos import add_silence, coded_image, read_code, write_audio_only, write_video

from slowfast_zoo.errors import VideoDecodeError
from slowfast_zoo.inference.classify.stream import cut_windows
from slowfast_zoo.video import live
from slowfast_zoo.video.decode import VideoReader
from slowfast_zoo.video.live import LiveReader

QUICK = {"probesize": "4096", "analyzeduration": "0"}
lavfi = pytest.mark.skipif("lavfi" not in av.formats_available, reason="this PyAV has no test sources")


class Stream:
    """A server that sends parts of a stream of unknown length, each when it is let go, then hangs up.

    Attributes:
        parts: what it sends; with None among them, it has said that more would come.
        go: how many parts may be sent.
        kind: what it says that it sends.
    """

    def __init__(self, *parts: bytes | None, go: int = 99, kind: str = "video/mp2t") -> None:
        stream, self.parts, self.go, self._changed = self, parts, go, threading.Condition()

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                if None in parts:
                    self.send_header("Content-Length", "1000000")
                self.end_headers()
                for number, part in enumerate(parts):
                    with stream._changed:
                        stream._changed.wait_for(lambda number=number: stream.go > number)
                    if stream.go > 1000 or part is None:
                        break
                    self.wfile.write(part)
                    self.wfile.flush()

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that hang up are no news
        self.url = f"http://127.0.0.1:{self._http.server_port}/live.ts"

    def send(self, count: int = 1) -> None:
        with self._changed:
            self.go += count
            self._changed.notify_all()

    def __enter__(self) -> Stream:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.send(9999)
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """60 frames at 30 fps as a transport stream that can be joined anywhere."""
    path = tmp_path_factory.mktemp("live") / "live.ts"
    return write_video(path, 60, codec="mpeg2video", options={"g": "6", "bf": "0"}).read_bytes()


def packets(content: bytes, *fractions: float) -> Iterator[bytes]:
    """A transport stream cut between its packets."""
    cuts = [0, *(188 * int(len(content) * fraction / 188) for fraction in fractions), len(content)]
    return (content[cuts[index] : cuts[index + 1]] for index in range(len(cuts) - 1))


def indices(reader: LiveReader) -> list[int]:
    return [read_code(frame) for _, frame in reader]


def test_every_frame_arrives(content: bytes) -> None:
    with Stream(*packets(content, 0.2, 0.21, 0.7)) as server, LiveReader(server.url, keep=99) as reader:
        shown = list(reader)
        assert reader.name == server.url
        assert reader.fps == 30
        assert reader.dropped == 0
        assert list(reader) == []
    assert [read_code(frame) for _, frame in shown] == list(range(60))
    assert [seconds for seconds, _ in shown] == pytest.approx([index / 30 for index in range(60)])
    assert all(frame.shape == (3, 96, 128) and frame.dtype == torch.uint8 for _, frame in shown)
    assert "live.ts" in repr(reader)


def test_a_slow_taker_gets_the_newest_and_memory_is_bounded(content: bytes) -> None:
    with Stream(*packets(content, 0.5), go=1) as server, LiveReader(server.url, keep=4, options=QUICK) as reader:
        tracemalloc.start()
        frames = iter(reader)
        first, _ = next(frames)
        server.send()
        reader._thread.join()  # all has come while nobody took any
        newest = reader.newest()
        rest = list(frames)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert [read_code(frame) for _, frame in rest] == [56, 57, 58, 59]
    assert [seconds - first for seconds, _ in rest] == pytest.approx([index / 30 - first for index in range(56, 60)])
    assert newest == rest[-1][0]
    assert reader.newest() == -math.inf
    assert reader.dropped == 60 - 1 - 4
    assert peak < 10 * 3 * 96 * 128


def test_windows_of_a_slow_taker_are_the_newest(content: bytes) -> None:
    settings = {"window": 0.2, "stride": 0.1, "clip_frames": 4}
    with Stream(*packets(content, 0.5), go=1) as server, LiveReader(server.url, options=QUICK) as reader:
        found = cut_windows(iter(reader), lambda frame: frame, skip=reader.newest, **settings)  # type: ignore[arg-type]
        before, _ = next(found)
        server.send()
        reader._thread.join()
        rest = [(span, [read_code(frame) for frame in clip]) for span, clip in found]
    assert before.end < 1.0
    assert [span.end for span, _ in rest] == pytest.approx([2.0])
    assert rest[0][1] == [int(30 * time + 1e-3) for time in rest[0][0].times]


def test_closing_stops_the_thread_while_the_source_is_silent(content: bytes) -> None:
    with Stream(*packets(content, 0.5), go=1) as server:
        reader = LiveReader(server.url, timeout=0.5, options=QUICK)
        next(iter(reader))
        reader.close()
        assert not reader._thread.is_alive()
        assert list(reader) == []
        reader.close()


def test_a_source_that_falls_silent_is_told_after_its_frames(content: bytes) -> None:
    with Stream(*packets(content, 0.5), go=1) as server, LiveReader(server.url, timeout=0.5, options=QUICK) as reader:
        got = []
        with pytest.raises(VideoDecodeError, match=r"live\.ts': nothing came for 0\.5 s") as caught:
            got.extend(seconds for seconds, _ in reader)
        assert caught.value.path == server.url
        assert len(got) >= 25


def test_a_source_that_breaks_off(content: bytes) -> None:
    with Stream(*packets(content), None) as server, LiveReader(server.url, keep=99) as reader:
        got = []
        with pytest.raises(VideoDecodeError, match=r"live\.ts'"):
            got.extend(read_code(frame) for _, frame in reader)
    assert got[:50] == list(range(50))


def test_a_forgotten_reader_lets_go(content: bytes) -> None:
    with Stream(*packets(content, 0.5), go=1) as server:
        reader = LiveReader(server.url, timeout=0.5, options=QUICK)
        gone, thread = weakref.ref(reader), reader._thread
        del reader
        gc.collect()
        assert gone() is None
        thread.join(60)
        assert not thread.is_alive()


def test_stamps_that_start_again_go_on(content: bytes) -> None:
    with Stream(content, content) as server, LiveReader(server.url, keep=999) as reader:
        shown = list(reader)
    times = [seconds for seconds, _ in shown]
    assert [read_code(frame) for _, frame in shown[-30:]] == list(range(30, 60))
    assert len(shown) > 110
    assert all(0 < later - now < 0.2 for now, later in itertools.pairwise(times))


def test_damaged_parts_are_left_out(content: bytes) -> None:
    damaged = bytearray(content)
    damaged[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    with Stream(bytes(damaged)) as server, LiveReader(server.url, keep=99) as reader:
        got = indices(reader)
    assert got[:15] == list(range(15))
    assert got[-20:] == list(range(40, 60))


def test_a_live_stream_is_no_file(content: bytes) -> None:
    with Stream(content) as server, pytest.raises(VideoDecodeError, match=r"live stream.*LiveReader"):
        VideoReader(server.url)


def test_what_cannot_be_opened(content: bytes, tmp_path: Path) -> None:
    with Stream(b"no video\n" * 1000) as server, pytest.raises(VideoDecodeError, match=r"live\.ts'"):
        LiveReader(server.url)
    with Stream(content, go=0) as server, pytest.raises(VideoDecodeError, match="no data came in time"):
        LiveReader(server.url, timeout=0.2)
    with pytest.raises(VideoDecodeError, match=r"'http://127\.0\.0\.1:9/': Connection refused"):
        LiveReader("http://127.0.0.1:9/")
    with pytest.raises(VideoDecodeError, match="No such file"):
        LiveReader(tmp_path / "video0")
    with pytest.raises(VideoDecodeError, match="no video stream in it, only audio"):
        LiveReader(write_audio_only(tmp_path / "audio.mp4"))
    with pytest.raises(TypeError, match=r'such as "/dev/video0", got 0'):
        LiveReader(0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no format 'camera'"):
        LiveReader("0", format="camera")
    if sys.platform == "linux":
        with pytest.raises(VideoDecodeError, match=r"video99': No such file"):
            LiveReader(tmp_path / "video99", format="v4l2", options={"framerate": "30"})
    for wrong in ({"timeout": 0}, {"keep": 0}):
        with pytest.raises(ValueError, match="must be above 0"):
            LiveReader("http://127.0.0.1:9/", **wrong)  # type: ignore[arg-type]


def test_sound_that_begins_later(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.ts"), "w") as container:
        add_silence(container, 1.0)
    video = write_video(tmp_path / "video.ts", 30, codec="mpeg2video", options={"g": "6"}).read_bytes()
    with (
        Stream(video, (tmp_path / "sound.ts").read_bytes(), video) as server,
        LiveReader(server.url, keep=99) as reader,
    ):
        got = indices(reader)
    assert got[:25] == list(range(25))
    assert got[-5:] == list(range(25, 30))


@lavfi
def test_a_device() -> None:
    source = "testsrc2=size=64x48:rate=25:duration=0.4"
    with LiveReader(source, format="lavfi", keep=99) as reader:
        assert reader.fps == 25
        shown = list(reader)
    assert [seconds for seconds, _ in shown] == pytest.approx([index / 25 for index in range(10)])
    assert len({frame.float().mean() for _, frame in shown}) == 10
    assert shown[0][1].shape == (3, 48, 64)


@lavfi
def test_a_device_that_never_ends_is_closed() -> None:
    with LiveReader("testsrc2=size=64x48:rate=25", format="lavfi", keep=2, timeout=5) as reader:
        before = -1.0
        for number, (seconds, _) in enumerate(reader):
            assert seconds > before
            before = seconds
            if number == 10:
                break
    assert not reader._thread.is_alive()


def test_closing_ends_the_iteration_in_another_thread(content: bytes) -> None:
    with Stream(*packets(content, 0.5), go=1) as server:
        reader = LiveReader(server.url, timeout=0.5, options=QUICK)
        frames = iter(reader)
        next(frames)
        got: list[object] = []
        taker = threading.Thread(target=lambda: got.extend(frames))
        taker.start()
        reader.close()
        taker.join(60)
        assert not taker.is_alive()


@pytest.mark.parametrize("is_multipart", [True, False])
def test_cameras_without_times_go_by_the_clock(is_multipart: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    codec: Any = av.CodecContext.create("mjpeg", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = 128, 96, "yuvj420p", Fraction(1, 25)
    parts = []
    for index in range(30):
        frame = av.VideoFrame.from_ndarray(coded_image(index), format="rgb24").reformat(format="yuvj420p")
        image = b"".join(bytes(packet) for packet in codec.encode(frame))
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(image)}\r\n\r\n".encode()
        parts.append(head + image + b"\r\n" if is_multipart else image)
    kind = "multipart/x-mixed-replace; boundary=frame" if is_multipart else "image/jpeg"
    now = itertools.count(1000, 0.25)  # a clock that goes on by as much whenever it is looked at
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: next(now)))
    settings: dict[str, Any] = {} if is_multipart else {"format": "mjpeg", "options": QUICK}
    with Stream(*parts, kind=kind, go=20) as server, LiveReader(server.url, keep=99, **settings) as reader:
        server.send(99)
        shown = list(reader)
    assert [read_code(frame) for _, frame in shown] == list(range(len(shown)))
    assert len(shown) >= 29  # the last one of a stream without lengths may not be known to be whole
    assert [seconds for seconds, _ in shown] == pytest.approx([0.25 * index for index in range(len(shown))])
