"""Reading frames from a video file by the time at which they are shown.

Everything here goes by presentation time stamps, never by counted frames: frame counts are missing from WebM and
Matroska, wrong in many other files, and mean nothing at a variable frame rate. PyAV (FFmpeg) does the decoding and is
imported only when a video is opened.
"""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from slowfast_zoo.errors import MissingDependencyError, VideoDecodeError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream
    from typing_extensions import Self

# Without an index of keyframes, jumping this far ahead (seconds) is tried by a seek, anything nearer by decoding on.
_SEEK_AHEAD = 4.0
# Indices go by decoding time, which runs ahead of the time of display by a few frames where there are B-frames.
_REORDERED_FRAMES = 5
# A seek may land after the wanted time (MPEG-TS, open groups of pictures): then it is tried again this much earlier.
_SEEK_MARGINS = (0.0, 0.5, 5.0)


@dataclass(frozen=True)
class _Stamped:
    """A decoded frame and the second, counted from the first frame, at which it is shown."""

    time: float
    frame: VideoFrame


class VideoReader:
    """A video file, open for reading frames by time.

    Times are seconds from the first frame of the video, whatever time stamp the container gives that frame. The frame
    at time ``t`` is the one on the screen then: the last whose presentation time stamp is at most ``t``. Rotation
    metadata is applied. Use as a context manager, or call :meth:`close`.

    Attributes:
        path: the file as the caller named it.
        duration: seconds from the first frame to the end of the last one.
        fps: nominal frame rate. Only information: no frame is found by it.
        width: width of the frames returned, in pixels.
        height: height of the frames returned, in pixels.

    Args:
        path: a video file in any format that FFmpeg reads.
        threads: decoder threads at most; memory grows by about one frame for each.

    Raises:
        FileNotFoundError: there is no such file.
        VideoDecodeError: the file is not a video, is damaged, or has no video stream; also raised while reading.
        MissingDependencyError: PyAV is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int = 2) -> None:
        self.path = os.fspath(path)
        self._av = require_av()
        self._threads = threads
        self._damage: str | None = None
        self._ready = False
        _check_file(self.path)
        self._reformatter = self._av.video.reformatter.VideoReformatter()
        self._container: InputContainer | None = None
        self._current: _Stamped | None = None
        self._next: _Stamped | None = None
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self.close)
            with self._translated():
                self._open()
                self._read_facts()
            on_failure.pop_all()
        self._ready = True
        self._warn_of_damage()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"VideoReader({self.path!r}: {self.width} x {self.height}, {self.duration:.2f} s at {self.fps:.4g} fps)"

    def close(self) -> None:
        """Close the file. May be called twice; frames already returned stay valid."""
        self._current = self._next = None
        self._frames: Iterator[_Stamped] = iter(())
        if self._container is not None:
            self._container.close()
        self._container = None

    def frames_at(self, times: Sequence[float]) -> Tensor:
        """The frames shown at some times.

        Args:
            times: seconds from the first frame, in any order. Before the start means the first frame, past the end
                the last one.

        Returns:
            uint8 RGB frames (T, 3, H, W), in the order of ``times``.

        Raises:
            ValueError: ``times`` is empty, or the reader is closed.
            VideoDecodeError: the frames cannot be decoded.
        """
        return next(self.clips_at([times]))

    def clips_at(self, clips: Sequence[Sequence[float]]) -> Iterator[Tensor]:
        """Several clips in one pass over the file: a frame that clips share is decoded once.

        Clips in the order of their times need the least memory: only frames that a later clip wants are held.

        Args:
            clips: for each clip the times of its frames, as for :meth:`frames_at`.

        Yields:
            For each clip, in the order given, uint8 RGB frames (T, 3, H, W).

        Raises:
            ValueError: a clip has no times, or the reader is closed.
            VideoDecodeError: the frames cannot be decoded.
        """
        if not all(len(times) for times in clips):
            raise ValueError("a clip needs at least one time")
        uses = Counter(time for times in clips for time in times)
        held: dict[float, Tensor] = {}
        pending = iter(sorted(uses))
        last_frame: VideoFrame | None = None
        pixels: Tensor | None = None
        for times in clips:
            for time in pending if not all(time in held for time in times) else ():
                with self._translated():
                    frame = self._frame_at(time)
                    if frame is not last_frame or pixels is None:
                        last_frame, pixels = frame, self._pixels(frame)
                held[time] = pixels
                if all(time in held for time in times):
                    break
            yield torch.stack([held[time] for time in times])
            uses.subtract(times)
            for time in set(times):
                if not uses[time]:
                    del held[time]

    # Opening

    def _open(self) -> None:
        """Open the container afresh, positioned at its first frame."""
        self.close()
        # The file: prefix keeps FFmpeg from reading a colon in the name as a protocol.
        container = self._av.open(f"file:{Path(self.path).absolute()}", metadata_errors="replace")
        self._container = container
        cover = self._av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not streams:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            raise VideoDecodeError(self.path, f"the file has no video stream, only {kinds}")
        self._stream: VideoStream = streams[0]
        if self._stream.codec_context is None:
            raise VideoDecodeError(self.path, "FFmpeg has no decoder for its video stream")
        self._stream.thread_type = "AUTO"
        self._stream.codec_context.thread_count = self._threads
        self._frames = self._decode()

    @property
    def _file(self) -> InputContainer:
        if self._container is None:
            raise ValueError(f"the reader of {self.path!r} is closed")
        return self._container

    def _read_facts(self) -> None:
        """Duration, frame rate and size, from the stream itself where its header may be silent or wrong."""
        stream = self._stream
        if stream.time_base is None:
            raise VideoDecodeError(self.path, "the video stream has no time base")
        self._tick = float(stream.time_base)
        # Containers that keep milliseconds (Matroska, WebM) round a stamp up as often as down; hence half a tick, but
        # not where a tick is as long as a frame (AVI).
        self._tolerance = min(self._tick / 2, 0.0005) + 1e-6
        self.fps = float(stream.average_rate or stream.guessed_rate or 30)
        self._origin = 0
        self._timed = True
        first = next(self._frames, None)
        if first is None:
            raise VideoDecodeError(self.path, "no frame can be decoded" + (f": {self._damage}" if self._damage else ""))
        self._timed = first.frame.pts is not None
        self._origin = first.frame.pts or 0
        self._coded_size = first.frame.width, first.frame.height
        turned = _quarter_turns(first.frame) % 2 == 1
        self.width, self.height = self._coded_size[::-1] if turned else self._coded_size
        self.duration = max(self._find_end(), 1 / self.fps)

    def _find_end(self) -> float:
        """When the last frame ends, from the last packets; leaves the container at its end.

        Headers are silent (streamed WebM), count the audio too (Matroska) or promise more than a truncated file
        holds. Packets are read, not decoded.
        """
        claimed = self._claimed_duration()
        if claimed is not None and self._timed:
            with contextlib.suppress(self._av.FFmpegError):
                self._seek(max(claimed - 1.0, 0.0))  # the last frame shown need not be in the last packet
                end = self._last_packet_end()
                if end is not None:
                    return end
        self._open()
        end = self._last_packet_end()
        if end is not None and claimed is not None and end < claimed - 1:
            self._note_damage(f"its header says {claimed:.2f} s but the video ends after {end:.2f} s")
        return end or claimed or 0.0

    def _claimed_duration(self) -> float | None:
        if self._stream.duration is not None:
            return self._stream.duration * self._tick
        if self._file.duration is not None:
            return float(self._file.duration / self._av.time_base)
        return None

    def _last_packet_end(self) -> float | None:
        end: float | None = None
        for number, packet in enumerate(self._packets()):
            stamp = packet.pts if packet.pts is not None else packet.dts
            if packet.size == 0 or packet.is_discard or (stamp is None and self._timed):
                continue
            if stamp is not None and self._timed:
                length = packet.duration * self._tick if packet.duration else 1 / self.fps
                end = max(end or 0.0, (stamp - self._origin) * self._tick + length)
            else:
                end = (number + 1) / self.fps
        return end

    # Decoding

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        """Packets from the present position on; a file that breaks off ends there, with a warning."""
        packets = self._file.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except self._av.FFmpegError as error:
                self._note_damage(error.strerror or str(error))
                return
            except IndexError:  # a packet of a stream that PyAV did not see when it opened the file; go on behind it
                packets = self._file.demux(self._stream)
                continue
            if packet is None:
                return
            yield packet

    def _decode(self) -> Iterator[_Stamped]:
        """Frames from the present position on, in the order of presentation; damaged ones are left out."""
        count = 0
        for packet in self._packets():
            try:
                frames = packet.decode()
            except self._av.FFmpegError as error:
                self._note_damage(error.strerror or str(error))
                continue
            for frame in frames:
                if self._timed and frame.pts is not None:
                    yield _Stamped((frame.pts - self._origin) * self._tick, frame)
                else:  # raw streams carry no stamps: what is left is to count, from the start
                    yield _Stamped(count / self.fps, frame)
                count += 1

    def _frame_at(self, time: float) -> VideoFrame:
        """The frame on the screen at ``time``; ascending times decode each frame at most once."""
        wanted = max(time, 0.0) + self._tolerance
        if self._current is None or wanted < self._current.time or self._jump_pays(wanted):
            self._go_to(wanted)
        while self._next is not None and self._next.time <= wanted:
            self._current, self._next = self._next, next(self._frames, None)
        if self._current is None:
            raise VideoDecodeError(self.path, f"no frame can be decoded at {time:.3f} s")
        return self._current.frame

    def _jump_pays(self, wanted: float) -> bool:
        """Whether seeking to ``wanted`` skips frames that decoding on would have to decode."""
        if self._next is None or not self._timed:
            return False
        index = getattr(self._stream, "index_entries", None)  # absent from older PyAV
        if index:
            entry: int = index.search_timestamp(self._stamp(wanted - _REORDERED_FRAMES / self.fps))
            return entry >= 0 and bool((index[entry].timestamp - self._origin) * self._tick > self._next.time)
        return wanted - self._next.time > _SEEK_AHEAD

    def _go_to(self, wanted: float) -> None:
        """Make the next frame one that is shown at or before ``wanted``, as near to it as a keyframe allows."""
        for margin in _SEEK_MARGINS if self._timed else ():
            try:
                self._seek(max(wanted - margin, 0.0))
            except self._av.FFmpegError:
                break
            # Frames shown before the first keyframe may lean on others that the seek has skipped.
            frames = self._decode()
            first = next((stamped for stamped in frames if stamped.frame.key_frame), None)
            if first is not None and first.time <= wanted:
                self._frames, self._current, self._next = frames, None, first
                return
        self._open()
        self._next = next(self._frames, None)

    def _seek(self, time: float) -> None:
        self._file.seek(self._stamp(time), stream=self._stream)

    def _stamp(self, time: float) -> int:
        return min(self._origin + int(time / self._tick), 2**62)  # a damaged header may claim any duration

    def _pixels(self, frame: VideoFrame) -> Tensor:
        """uint8 RGB (3, H, W), upright. Streams that change size half-way keep the size of their first frame."""
        width, height = self._coded_size
        rgb = self._reformatter.reformat(frame, width=width, height=height, format="rgb24").to_ndarray()
        pixels = torch.from_numpy(rgb).permute(2, 0, 1)
        turns = _quarter_turns(frame)
        return torch.rot90(pixels, turns, dims=(1, 2)) if turns else pixels

    # Trouble

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """No exception of PyAV's leaves this module."""
        try:
            yield
        except self._av.FFmpegError as error:
            raise VideoDecodeError(self.path, _reason(error)) from error

    def _note_damage(self, reason: str) -> None:
        """Damage is told once, and not while opening, where it may turn out to be the whole story: an error."""
        if self._damage is None:
            self._damage = reason
            self._warn_of_damage()

    def _warn_of_damage(self) -> None:
        if self._damage and self._ready:
            message = f"video {self.path!r} is damaged, using what can be decoded: {self._damage}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)


def require_av() -> ModuleType:
    """PyAV, or a MissingDependencyError that names the extra."""
    try:
        import av
        import av.video.reformatter
    except ImportError as error:
        raise MissingDependencyError(
            f'reading and writing video needs PyAV ({error}): pip install "slowfast-zoo[video]"'
        ) from error
    return av


def _check_file(path: str) -> None:
    """Say in plain words what FFmpeg would say in its own."""
    file = Path(path)
    if not file.exists():
        raise FileNotFoundError(errno.ENOENT, "no such video file", path)
    if file.is_dir():
        raise VideoDecodeError(path, "it is a directory, not a video file")
    if not os.access(path, os.R_OK):
        raise VideoDecodeError(path, "no permission to read it")
    if file.is_file() and file.stat().st_size == 0:
        raise VideoDecodeError(path, "the file is empty")


def _reason(error: Exception) -> str:
    message = getattr(error, "strerror", None) or str(error)
    return f"not a video, or damaged ({message})" if "Invalid data" in message else message


def _quarter_turns(frame: VideoFrame) -> int:
    """Counter-clockwise quarter turns (0 to 3) that make the frame upright."""
    return round(frame.rotation / 90) % 4
