"""Frames from a camera or a stream while it goes on."""

from __future__ import annotations

import errno
import math
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from slowfast_zoo.errors import VideoDecodeError

from .pyav import (
    NO_TIMES,
    Interruptible,
    ToRgb,
    close_container,
    demux,
    describe_error,
    find_video_stream,
    open_container,
    read_size,
    require_av,
)

if TYPE_CHECKING:
    from av import VideoFrame
    from typing_extensions import Self


# Seconds for which closing waits for the thread that reads.
_CLOSE_TIMEOUT = 0.5


class LiveReader:
    """A camera or a stream, read by a thread that never waits for whoever takes the frames.

    Only the newest frames are kept: whoever takes them too slowly misses the oldest, and memory stays bounded.
    Iterating gives ``(seconds, frame)``: the time since the first frame by the stream's own time stamps (by the clock
    where it has none, as cameras that send JPEGs over HTTP; where they start again, they are taken to go on), and uint8
    RGB (3, H, W), upright, in the size of the first frame. It ends when the stream ends. Frames that are damaged are
    left out.

    A file is not live: all that it holds comes at once, so read it with :func:`~slowfast_zoo.video.open_video`.

    Attributes:
        name: the source.
        fps: nominal frame rate, as far as the stream tells.
        dropped: frames that came and were not taken in time.

    Args:
        source: a URL (``rtsp://...``, ``http://...``, ``udp://...``) or, with ``format``, a device.
        format: FFmpeg's name of the device's interface: ``LiveReader("/dev/video0", format="v4l2")`` on Linux,
            ``LiveReader("0", format="avfoundation")`` on macOS, ``LiveReader("video=NAME", format="dshow")`` on
            Windows. None finds out by the data.
        options: FFmpeg's options of the format, such as ``{"video_size": "640x480", "framerate": "30"}`` or
            ``{"rtsp_transport": "tcp"}``.
        timeout: seconds without data after which the source counts as broken.
        keep: frames kept at most.

    Raises:
        VideoDecodeError: the source cannot be opened or has no video; while iterating, that it broke off.
        TypeError: ``source`` is no text.
        ValueError: ``timeout`` or ``keep`` is not above 0, or PyAV does not know the format.
        MissingDependencyError: PyAV is not installed.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        format: str | None = None,  # noqa: A002  # FFmpeg's and PyAV's word for it
        options: Mapping[str, str] | None = None,
        timeout: float = 10.0,
        keep: int = 32,
    ) -> None:
        if not isinstance(source, (str, os.PathLike)):
            raise TypeError(f'expected a URL or a device such as "/dev/video0", got {source!r}')
        if not (timeout > 0 and keep > 0):
            raise ValueError(f"timeout and keep must be above 0, not {timeout} and {keep}")
        av = require_av()
        # Some have several names, joined by commas.
        if format is not None and format not in ",".join(av.formats_available).split(","):
            raise ValueError(f"this PyAV has no format {format!r}; those of cameras are v4l2, avfoundation and dshow")
        self.name = os.fspath(source)
        self._to_rgb = ToRgb(av)
        settings = {name: str(value) for name, value in (options or {}).items()}
        start = time.monotonic()
        try:
            container = Interruptible()(
                open_container, av, self.name, format=format, container_options=settings, timeout=timeout
            )
        except av.FFmpegError as error:
            raise VideoDecodeError(self.name, describe_error(error, time.monotonic() - start > timeout)) from error
        stream = find_video_stream(container, self.name)
        stream.thread_type = "SLICE"  # threads that take a frame each would hold frames back
        stream.codec_context.thread_count = 2
        self.fps = float(stream.average_rate or stream.guessed_rate or 30)
        self._newest = _Newest(keep)
        self._thread = threading.Thread(
            target=_read_frames,
            args=(container, stream, self._newest, self.fps, timeout),
            name="LiveReader",
            daemon=True,
        )
        weakref.finalize(self, self._newest.close)  # the thread must not outlive a reader that was never closed
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"LiveReader({self.name!r}: {self.fps:.4g} fps, {self.dropped} frames dropped)"

    @property
    def dropped(self) -> int:
        """Frames that came and were not taken in time."""
        return self._newest.dropped

    def newest(self) -> float:
        """The time of the newest frame that waits to be taken, in seconds; minus infinity where none does."""
        return self._newest.stamp()

    def close(self) -> None:
        """Stop reading and let go of the source. May be called twice, and from another thread."""
        self._newest.close()
        # A source that is silent must not hold up its user; the thread closes it when it wakes.
        self._thread.join(_CLOSE_TIMEOUT)

    def __iter__(self) -> Iterator[tuple[float, Tensor]]:
        while (item := self._newest.take(self.name)) is not None:
            yield item[0], self._to_rgb(item[1])


class _Newest:
    """The newest of what one thread puts and another takes."""

    def __init__(self, keep: int) -> None:
        self.dropped = 0
        self.closed = False
        self._frames: deque[tuple[float, VideoFrame]] = deque(maxlen=keep)
        self._changed = threading.Condition()
        self._ended = False
        self._failure: str | None = None

    def put(self, seconds: float, frame: VideoFrame) -> None:
        with self._changed:
            if self.closed:
                return
            self.dropped += len(self._frames) == self._frames.maxlen
            self._frames.append((seconds, frame))
            self._changed.notify_all()

    def end(self, failure: str | None) -> None:
        with self._changed:
            self._ended, self._failure = True, failure
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self.closed = self._ended = True
            self._frames.clear()
            self._changed.notify_all()

    def stamp(self) -> float:
        with self._changed:
            return self._frames[-1][0] if self._frames else -math.inf

    def take(self, name: str) -> tuple[float, VideoFrame] | None:
        """The oldest that is left, waiting for one if need be; None at the end."""
        with self._changed:
            while not self._changed.wait_for(lambda: self._frames or self._ended, timeout=0.5):
                pass  # Windows hears of Ctrl-C only between two waits
            if self._frames:
                return self._frames.popleft()
            if self._failure is not None and not self.closed:
                raise VideoDecodeError(name, self._failure)
            return None


def _read_frames(container: Any, stream: Any, newest: _Newest, fps: float, timeout: float) -> None:
    """The thread: all frames into ``newest``, until the stream ends or the reader is closed."""
    av = require_av()
    seconds = 0.0
    before: float | None = None
    good = time.monotonic()
    failure: str | None = "it broke off"
    is_timed = not (container.format.flags & NO_TIMES or container.format.name.endswith(("_pipe", "image2pipe")))
    try:
        for packet in _read_packets(container, stream):
            try:
                frames = stream.decode(packet)
            except (av.FFmpegError, ValueError) as error:  # PyAV 19: after a decoder that would not open
                if time.monotonic() - good > timeout:
                    failure = f"no frame could be decoded for {timeout:g} s ({describe_error(error)})"
                    return
                continue
            for frame in frames:
                good = time.monotonic()
                stamp = float(frame.pts * stream.time_base) if is_timed and frame.pts is not None else good
                if before is not None:
                    # Longer silence would have been the end: other steps are stamps that start again.
                    step = stamp - before
                    seconds += step if 0 < step <= timeout else 1 / fps
                before = stamp
                newest.put(seconds, frame)
            if newest.closed:
                break
        failure = None
    except av.FFmpegError as error:
        failure = f"nothing came for {timeout:g} s" if isinstance(error, av.error.ExitError) else describe_error(error)
    finally:
        close_container(container, stream)
        newest.end(failure)


def _read_packets(container: Any, stream: Any) -> Iterator[Any]:
    """All packets; the last one is empty, or None, and makes the decoder give what it holds."""
    try:
        yield from demux(container, stream)
    except OSError as error:
        # Hanging up is how an HTTP stream of no stated length ends.
        if error.errno != errno.EIO or not container.name.startswith("http") or read_size(container) is not None:
            raise
        yield None
