"""Reading frames from a video file by the time at which they are shown.

Everything here goes by presentation time stamps, never by counted frames: frame counts are missing from WebM and
Matroska, wrong in many other files, and mean nothing at a variable frame rate. Where the stamps themselves are no
clock (``stamps``), the frames are read in sequence and get times of their own. PyAV (FFmpeg) does the decoding and is
imported only when a video is opened.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from slowfast_zoo.errors import VideoDecodeError

from .media import Media
from .pyav import (
    NO_TIMES,
    ToRgb,
    close_container,
    demux,
    describe_error,
    find_video_stream,
    read_pixel_aspect,
    require_av,
)
from .source import FrameReader, VideoFile
from .stamps import NEAR, Clock, StoredPacket, delay_stamps, read_clock

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

# Without an index of keyframes, jumping this far ahead (seconds) is tried by a seek, anything nearer by decoding on.
_SEEK_AHEAD = 4.0
# Indices go by decoding time, which runs ahead of the time of display by a few frames where there are B-frames.
_REORDERED_FRAMES = 5
# A seek may land after the wanted time (MPEG-TS, open groups of pictures): then it is tried again this much earlier.
_SEEK_MARGINS = (0.0, 0.5, 5.0)
# Formats whose packets carry no time of display, never (AVI) or not always.
_WITHOUT_PTS = ("avi", "asf", "mxf")
# Formats whose packets carry only the time of display, from which FFmpeg guesses that of decoding.
_WITHOUT_DTS = ("matroska,webm", "nut")
# Formats that hold a whole number of streams one after another, whose clocks need have nothing to do with each other.
_JOINABLE = ("mpegts", "hls", "mpeg", "concat", "flv", "dv")
# Of other formats, all packets of a file up to this size (bytes) are looked at when it is opened.
_MAX_READ_THROUGH = 256 * 2**20
# A video that claims to be longer (seconds) is looked through whatever its size.
_DOUBTFUL_DURATION = 24 * 3600.0
# A jump has failed if more than this many frames come before the first keyframe.
_LATE_KEYFRAME = 24


@dataclass(frozen=True)
class _ShownFrame:
    """A decoded frame and the second, counted from the first frame, at which it is shown."""

    time: float
    frame: VideoFrame


class VideoReader(FrameReader):
    """A video file, open for reading frames by time.

    Times are seconds from the first frame of the video, whatever time stamp the container gives that frame. The frame
    at time ``t`` is the one on the screen then: the last whose presentation time stamp is at most ``t``. Use as a
    context manager, or call :meth:`close`.

    Frames are turned and mirrored as the file says. Colours become 8-bit RGB by the matrix and range that it is tagged
    with; alpha is left out, and the colours are those stored. A file that is damaged in the middle gives what can be
    decoded, and a RuntimeWarning.

    A stream whose clock jumps, falls back or stands still (recordings put one behind another) gets one timeline
    without leaps, in which every stored frame is shown, and a RuntimeWarning says so.

    A jump decodes from the keyframe before it, except in program streams (.mpg, .vob), which have too few time stamps
    for that, in bare streams (.h264, .m2v), which have none, where the clock falls back, and where there are no
    keyframes to jump to (intra refresh): those are decoded in sequence. To find that out, files up to 256 MiB, and
    transport streams of any size, are read to their end, not decoded, when they are opened; and so is a file that
    does not say how long it is (a streamed WebM).

    A few bytes can claim a frame of 2^28 pixels, FFmpeg's limit, which takes a few GB here: where files come from
    strangers, bound the memory of the process.

    Attributes:
        fps: nominal frame rate, or that of the stored frames where the container says another. Only information: no
            frame is found by it.
        frames_decoded: how many frames were decoded so far; opening decodes the first.

    Args:
        video: a video in any format that FFmpeg reads: a path, a URL with a known end, the content of a file as bytes,
            or a file opened in binary mode, which stays the caller's to close. One that cannot seek is read into
            memory first.
        threads: decoder threads at most; memory grows by about one frame for each.

    Raises:
        FileNotFoundError: there is no such file.
        VideoDecodeError: the file is not a video, is damaged, or has no video stream; also raised while reading.
        TypeError: ``video`` is none of these.
        ValueError: ``threads`` is less than 1, or a file object is closed.
        MissingDependencyError: PyAV is not installed.
    """

    def __init__(self, video: VideoFile, *, threads: int = 2) -> None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        self._media = Media(video)
        self.name = self._media.name
        self.frames_decoded = 0
        self._av = require_av()
        self._threads = threads
        self._damage: str | None = None
        self._is_ready = False
        self._to_rgb = ToRgb(self._av)
        self._opened: tuple[InputContainer, VideoStream] | None = None
        self._clock: Clock | None = None
        self._start_stamp: int | None = None  # the stamp from which is read; None from the start
        self._current: _ShownFrame | None = None
        self._next: _ShownFrame | None = None
        self._least_jump = 0.0  # seconds; shorter jumps have led back
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self.close)
            with self._translate_errors():
                self._open()
                self._read_facts()
            on_failure.pop_all()
        self._is_ready = True
        self._warn_of_damage()

    def __repr__(self) -> str:
        return f"VideoReader({self.name!r}: {self.width} x {self.height}, {self.duration:.2f} s at {self.fps:.4g} fps)"

    @property
    def path(self) -> str:
        """The same as ``name``."""
        return self.name

    def close(self) -> None:
        """Close the file. May be called twice; frames already returned stay valid."""
        self._current = self._next = None
        self._frames: Iterator[_ShownFrame] = iter(())
        if self._opened is not None and not self._media.is_abandoned:
            close_container(*self._opened)
        self._opened = None  # the stream holds the decoder and its threads

    def frame_times(self) -> Sequence[float]:
        """When each stored frame is shown, in seconds from the first one, in the order of presentation.

        From the packets, without decoding; the packets of a large file or a URL are read when this is first called.
        """
        self._open_stream  # noqa: B018  # raises where the reader is closed
        if self._clock is None:
            with self._translate_errors():
                self._use_clock()
                self._open()
        return [0.0] if self._clock is None else self._clock.times

    def frames(self, start: float = 0.0) -> Iterator[tuple[float, Tensor]]:
        """All frames in the order of presentation, each with its second, from the one shown at ``start`` on."""
        self._frame_at(start)
        shown = self._current
        while shown is not None:
            yield shown.time, self._pixels(shown.frame)
            if self._current is not shown:  # the caller has read other frames in between
                self._frame_at(shown.time)
            with self._translate_errors():
                self._advance()
            shown = self._current

    # Opening

    def _open(self) -> None:
        """Open the container, again if it is open, positioned at its first frame."""
        self.close()
        container = self._media.open()
        stream = find_video_stream(container, self.name)
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = self._threads
        self._opened, self._start_stamp = (container, stream), None
        self._frames = self._decode(from_start=True)

    @property
    def _file(self) -> InputContainer:
        return self._open_stream[0]

    @property
    def _stream(self) -> VideoStream:
        return self._open_stream[1]

    @property
    def _open_stream(self) -> tuple[InputContainer, VideoStream]:
        if self._opened is None or self._media.is_abandoned:
            raise ValueError(f"the reader of {self.name!r} is closed")
        return self._opened

    @property
    def _joined(self) -> Clock | None:
        """The timeline of a stream whose stamps alone do not say when frames are shown."""
        return self._clock if self._clock is not None and self._clock.joins else None

    def _read_facts(self) -> None:
        """Duration, frame rate and size, from the stream itself where its header may be silent or wrong."""
        stream = self._stream  # only until _lacks_pts, which opens the file again
        if not stream.time_base:  # None, or 0 in PyAV 19
            raise VideoDecodeError(self.name, "the video stream has no time base")
        self._tick = float(stream.time_base)
        # Containers that keep milliseconds (Matroska, WebM) round a stamp up as often as down; hence half a tick, but
        # not where a tick is as long as a frame (AVI).
        self._tolerance = min(self._tick / 2, 0.0005) + 1e-6
        self.fps = float(stream.average_rate or stream.guessed_rate or 30)
        self._origin, self._delay, self._has_stamps = 0, 0, True
        self._uses_dts = self._lacks_pts()
        first = next(self._frames, None)
        if first is None:
            why = f": {self._damage}" if self._damage else ""
            if "webp" in self._file.format.name:
                why = ": perhaps an animated WebP, which FFmpeg reads from 9 (PyAV 19) on; save it as GIF or MP4"
            raise VideoDecodeError(self.name, self._media.explain_unreachable() or f"no frame can be decoded{why}")
        stamp = self._read_stamp(first.frame)
        self._has_stamps = stamp is not None
        if self._uses_dts:
            self._delay = (stamp or 0) - self._origin
        else:
            self._origin = stamp or 0
        if self._file.format.flags & NO_TIMES:
            self._has_stamps = False  # bare streams: what FFmpeg makes up is wrong where it finds B-frames late
        # After a jump in a program stream (.mpg, .vob), where few packets have stamps, FFmpeg guesses new ones.
        self._can_seek = self._has_stamps and self._file.format.name != "mpeg" and self._media.sends_parts is not False
        self.height, self.width = self._to_rgb(first.frame).shape[1:]
        self.pixel_aspect = read_pixel_aspect(self._stream, first.frame)
        self._find_duration()

    def _find_duration(self) -> None:
        """Duration and frame rate, and whether the stamps are a clock at all."""
        if self._media.is_local and (self._file.format.name in _JOINABLE or self._file.size <= _MAX_READ_THROUGH):
            self._use_clock()
        if self._clock is None or not (self._clock.joins or not self._has_stamps):
            self._open()
            self.duration = max(self._find_end(), 1 / self.fps)
            if self._clock is None and self._has_doubtful_end():
                self._use_clock()
        self._open()

    def _use_clock(self) -> None:
        """Read all packets, and go by what they say; leaves the container at its end."""
        clock = self._clock = self._read_clock()
        if not clock.times:
            self._clock = None
            return
        # Some containers have no rate, and what FFmpeg says is then their tick.
        if not self._has_stamps or (len(clock.times) > 1 and not 0.9 < self.fps * clock.end / len(clock.times) < 1.1):
            self.fps = 1 / clock.frame_time
        self._tolerance = min(self._tolerance, clock.frame_time / 4)
        if clock.joins:
            self._can_seek = self._can_seek and clock.ascends
            warnings.warn(
                f"the clock of video {self.name!r} {clock.joins}: its {len(clock.times)} frames are taken to follow "
                f"one another, {clock.end:.2f} s in all",
                RuntimeWarning,
                stacklevel=2,
            )
        if clock.joins or not self._has_stamps:
            self.duration = clock.end

    def _has_doubtful_end(self) -> bool:
        """Whether the end of what was not read through cannot be right, or is not where the playlist says."""
        claimed = self._read_claimed_duration()
        is_list = "hls" in self._file.format.name and claimed is not None
        return self.duration > _DOUBTFUL_DURATION or (
            is_list and abs(self.duration - (claimed or 0.0)) > 1 + 2 / self.fps
        )

    def _read_clock(self) -> Clock:
        """The timeline, from all packets; leaves the container at its end."""
        self._open()
        is_vp8 = self._stream.codec_context.name in ("vp8", "libvpx")
        packets = [
            StoredPacket(self._read_stamp(packet), packet.dts, packet.duration or 0, packet.is_keyframe)
            for packet in self._shown_packets()
            if not is_vp8 or bytes(packet)[0] & 0x10  # VP8 has frames that are never shown
        ]
        start = self._origin + self._delay
        if self._delay:
            packets = delay_stamps(packets, start, round(1 / (self.fps * self._tick)) or 1)
        container = self._file.format.name
        return read_clock(
            packets,
            start if self._has_stamps else None,
            self._tick,
            self.fps,
            can_join=container in _JOINABLE,
            has_dts=self._has_stamps and not (container in _WITHOUT_DTS and self._stream.codec_context.has_b_frames),
            is_sparse=container == "mpeg",
        )

    def _lacks_pts(self) -> bool:
        """Whether FFmpeg only guesses when frames are shown: wrongly in AVI, elsewhere maybe where there are B-frames.

        Frames then go by the time of decoding, which they get in the order of presentation, all with the same delay.
        """
        container = self._file.format.name
        if container not in _WITHOUT_PTS or not (container == "avi" or self._stream.codec_context.has_b_frames):
            return False
        packets = itertools.islice(self._packets(), 64)
        stamps = [(packet.pts, packet.dts) for packet in packets if packet.pts is not None and packet.dts is not None]
        self._open()
        # B-frames that come in the order of presentation are a guess.
        if not stamps or (container != "avi" and stamps != sorted(stamps)):
            return False
        self._origin = stamps[0][1]
        return True

    def _read_stamp(self, timed: VideoFrame | Packet[VideoStream]) -> int | None:
        """What a packet or frame says of the time of its display, in ticks."""
        if not self._has_stamps:
            return None
        return timed.dts if self._uses_dts else timed.pts

    def _find_end(self) -> float:
        """When the last frame ends, from the last packets; leaves the container at its end.

        Headers are silent (streamed WebM), count the audio too (Matroska) or promise more than a truncated file
        holds. Packets are read, not decoded.
        """
        claimed = self._read_claimed_duration()
        if claimed is not None and self._can_seek:
            with contextlib.suppress(self._av.FFmpegError):
                # The last frame shown need not be in the last packet.
                self._seek_stamp(self._stamp_at(max(claimed - max(1.0, _REORDERED_FRAMES / self.fps), 0.0)))
                end = self._find_last_packet_end()
                if end is not None:
                    return end
        self._open()
        end = self._find_last_packet_end()
        if end is not None and claimed is not None and end < claimed - 1:
            self._note_damage(f"its header says {claimed:.2f} s but the video ends after {end:.2f} s")
        return end or claimed or 0.0

    def _read_claimed_duration(self) -> float | None:
        if self._stream.duration is not None:
            return self._stream.duration * self._tick
        if self._file.duration is not None:
            return float(self._file.duration / self._av.time_base)
        return None

    def _find_last_packet_end(self) -> float | None:
        end: float | None = None
        latest = 0.0
        for packet in self._shown_packets():
            stamp = self._read_stamp(packet)
            if stamp is None:
                end = None if end is None and self._has_stamps else (end or 0.0) + 1 / self.fps
            else:
                length = packet.duration * self._tick if packet.duration else 1 / self.fps
                latest = max(latest, (stamp - self._origin) * self._tick)
                end = max(end or 0.0, (stamp - self._origin) * self._tick + length)
        # With B-frames, what MP4 says of a packet is the time until the next one is decoded.
        if end is not None and self._stream.duration is not None and self._stream.codec_context.has_b_frames:
            stated = self._stream.duration * self._tick
            # It is rounded, so small differences are none.
            return stated if latest < stated < end - 0.5 / self.fps else end
        return end

    # Decoding

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        """Packets from the present position on; a file that breaks off ends there, with a warning."""
        packets = demux(self._file, self._stream)
        try:
            while (packet := self._media.call(next, packets, None)) is not None:
                yield packet
        except self._av.FFmpegError as error:
            self._note_damage(describe_error(error))

    def _shown_packets(self) -> Iterator[Packet[VideoStream]]:
        return (packet for packet in self._packets() if packet.size and not packet.is_discard)

    def _decode(self, from_start: bool = False) -> Iterator[_ShownFrame]:
        """Frames from the present position on, in the order of presentation; damaged ones are left out.

        A frame without a stamp follows the one before it by one frame; where there is none, nothing says when it is
        shown, and it is left out.
        """
        length = 1 / self.fps if self._clock is None else self._clock.frame_time
        shown = -length if from_start else None
        place = -1 if from_start else None
        for frame in self._decode_packets(from_start):
            stamp = self._read_stamp(frame)
            if self._clock is not None and stamp in self._clock.flagged and not (frame.key_frame or self._uses_dts):
                self._can_seek = False  # a picture that is refreshed piece by piece: no jump leads there
            if self._joined is not None:
                place = self._joined.place(place, stamp)
                if place is None:
                    continue
                # Of two that have changed places, the later one is shown in the time of the other.
                shown = max(self._joined.time(place), -math.inf if shown is None else shown + length / NEAR)
            elif stamp is not None:
                shown = (stamp - self._origin - self._delay) * self._tick
            elif shown is not None:
                shown += length
            else:
                continue
            yield _ShownFrame(shown, frame)

    def _decode_packets(self, from_start: bool) -> Iterator[VideoFrame]:
        """All frames from the present position on, however many threads decode.

        Of several threads, one that meets damage discards what others have decoded, and may not even report it. What
        is missing is then decoded again by a single thread.
        """
        given, last, newest = 0, -math.inf, -math.inf
        sought = self._start_stamp
        is_drained, is_whole = False, True
        for packet in itertools.chain(self._packets(), [None]):
            if packet is not None and packet.pts is not None and packet.size and not packet.is_discard:
                newest = max(newest, packet.pts)
            try:
                # Where reading breaks off, the last, empty packet does not come.
                frames = packet.decode() if packet else [] if is_drained else self._stream.decode(None)
                is_drained = packet is not None and packet.size == 0
            except (self._av.FFmpegError, ValueError) as error:  # PyAV 19: after a decoder that would not open
                self._note_damage(describe_error(error))
                is_whole = False
                if self._threads > 1:
                    break
                continue
            for frame in frames:
                self.frames_decoded += 1
                given += 1
                last = last if frame.pts is None else frame.pts
                yield frame
        if self._joined is not None:
            end = self._joined.stamps[-1]
            is_whole = is_whole and (given >= len(self._joined.stamps) if end is None else last == end)
        elif newest > last and not self._uses_dts:
            is_whole = False
        if self._threads > 1 and not is_whole:
            self._threads = 1
            self._reopen(sought)
            rest = self._decode_packets(from_start)
            if last == -math.inf or self._joined is not None or self._uses_dts:
                yield from itertools.islice(rest, given, None)
            else:
                yield from (frame for frame in rest if frame.pts is None or frame.pts > last)

    def _reopen(self, sought: int | None) -> None:
        """Open the file again and seek where reading began, without losing the frames that are held."""
        held = self._current, self._next, self._frames
        self._open()
        if sought is not None:
            self._seek_stamp(sought)
        self._current, self._next, self._frames = held

    def _frame_at(self, time: float) -> VideoFrame:
        """The frame on the screen at ``time``; ascending times decode each frame at most once.

        Two frames are held: the one on the screen, and the next, whose time says how long the first one stays there.
        What lies before the first, or far enough behind the next, is reached by a jump; all else by decoding on.
        """
        wanted = max(time, 0.0) + self._tolerance
        with self._translate_errors():
            if self._current is None or wanted < self._current.time:
                self._jump_to(wanted)
            elif self._next is not None and self._should_jump(wanted, self._next.time):
                here = self._next.time
                self._jump_to(wanted)
                if self._next is not None and self._next.time <= here:  # back, instead of ahead
                    self._least_jump = 2 * (wanted - here)
            while self._next is not None and self._next.time <= wanted:
                self._advance()
        if self._current is None:
            raise VideoDecodeError(self.name, f"no frame can be decoded at {time:.3f} s")
        return self._current.frame

    def _advance(self) -> None:
        self._current = self._next
        self._next = None if self._next is None else next(self._frames, None)

    def _should_jump(self, wanted: float, here: float) -> bool:
        """Whether seeking to ``wanted`` skips frames that decoding on from ``here`` would have to decode."""
        if not self._can_seek or wanted - here < self._least_jump:
            return False
        if self._clock is not None and self._clock.keyframes:
            keyframe = self._clock.keyframe_before(wanted)
            return keyframe is not None and keyframe[1] > here
        index = getattr(self._stream, "index_entries", None)  # absent from older PyAV
        if index and self._joined is None:
            entry: int = index.search_timestamp(self._stamp_at(wanted - _REORDERED_FRAMES / self.fps))
            return entry >= 0 and bool((index[entry].timestamp - self._origin) * self._tick > here)
        return wanted - here > _SEEK_AHEAD

    def _jump_to(self, wanted: float) -> None:
        """Make the next frame one that is shown at or before ``wanted``, as near to it as a keyframe allows.

        Where a seek lands is FFmpeg's guess: an index goes by the time of decoding, an open group of pictures begins
        with frames that cannot be decoded, and MPEG-TS has no index at all. So a landing counts only if it gives a
        keyframe, early enough and after few others; if not, the next target lies further back, and the last resort is
        to read from the start. A file in which no target works is only read in sequence from then on.
        """
        for target in self._find_targets(wanted):
            try:
                self._seek_stamp(target)
            except self._av.FFmpegError:
                self._can_seek = False
                break
            frames = self._decode()
            for count, stamped in enumerate(frames):
                if stamped.time > wanted or count > _LATE_KEYFRAME:
                    break
                # Frames shown before the first keyframe may lean on others that the seek has skipped.
                if stamped.frame.key_frame:
                    self._frames, self._current, self._next = frames, None, stamped
                    return
        else:
            # Nothing to jump to: what has to be read from the start is read once.
            self._can_seek = False
        self._open()
        self._next = next(self._frames, None)

    def _find_targets(self, wanted: float) -> Iterator[int]:
        """Stamps from which decoding may lead to a second, the best first."""
        if not self._can_seek:
            return
        keyframe = None if self._clock is None else self._clock.keyframe_before(wanted)
        # Other formats have an index, and some go by the time of display.
        if keyframe is not None and self._file.format.name in _JOINABLE:
            yield keyframe[0]
        for margin in _SEEK_MARGINS:
            if self._can_seek:
                yield self._stamp_at(max(wanted - margin, 0.0))

    def _seek_stamp(self, stamp: int) -> None:
        # Ends the reading of packets here: where it ended later, it would take the new one's time limit with it.
        self._frames = iter(())
        self._start_stamp = stamp
        self._media.call(self._file.seek, stamp, stream=self._stream)

    def _stamp_at(self, time: float) -> int:
        if self._joined is not None:
            return self._joined.stamp_at(time)
        return self._origin + int(min(time / self._tick, 2.0**61))  # a damaged header may claim any duration

    def _pixels(self, frame: VideoFrame) -> Tensor:
        with self._translate_errors():
            return self._to_rgb(frame)

    # Trouble

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Errors of PyAV, and of reading a file object, become a VideoDecodeError."""
        try:
            yield
        except (self._av.FFmpegError, OSError) as error:
            raise VideoDecodeError(self.name, describe_error(error)) from error

    def _note_damage(self, reason: str) -> None:
        """Warn of damage, once. While the file is being opened, damage may end in an error instead: then it is kept."""
        if self._damage is None:
            self._damage = reason
            self._warn_of_damage()

    def _warn_of_damage(self) -> None:
        if self._damage and self._is_ready:
            message = f"video {self.name!r} is damaged, using what can be decoded: {self._damage}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
