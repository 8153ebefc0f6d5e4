"""Writing a video file with PyAV (H.264 in MP4, Matroska or QuickTime)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slowfast_zoo.utils.files import check_target, whole_file

from .pyav import require_av

if TYPE_CHECKING:
    from typing_extensions import Self

SUFFIXES = (".mp4", ".mkv", ".mov")
# Seconds in which time stamps are counted: a frame at 24, 25, 30, 50 or 60 fps, at their NTSC variants (23.976, ...),
# and a millisecond are whole numbers of it.
_TICK = Fraction(1, 120000)
_BT601 = 6  # FFmpeg's number (SMPTE 170M) for the matrix by which RGB is converted here


class VideoWriter:
    """Compresses frames with H.264 (yuv420p) as they come, into a file that appears whole or not at all.

    The file takes its place when the ``with`` block is left; after an exception in it, what was there before stays::

        with VideoWriter("copy.mp4", reader.fps) as writer:
            for time, frame in reader.frames():
                writer.add(frame.permute(1, 2, 0).numpy(), time)

    Args:
        path: file to write; ``.mp4``, ``.mkv`` or ``.mov``. An existing file is replaced.
        fps: frames per second; fractions such as ``30000 / 1001`` are kept. Only nominal if frames come with times.
        crf: constant rate factor, 0 (lossless) to 51 (worst).
        preset: x264's speed preset, "ultrafast" to "veryslow".
        keyframe_interval: most frames between key frames; None is x264's own choice.
        threads: encoder threads; 1 makes the file's bytes repeatable.
        pixel_aspect: width of a pixel divided by its height, which players heed.
        duration: second at which the last frame ends, where frames come with times; None is one frame after it begins.
        say_colours: note in the file by which matrix (BT.601) its colours were converted; without a note players go by
            the size of the picture, and show large ones in slightly other colours.

    Raises:
        ValueError: for frames, a rate, a quality, a preset or a suffix that cannot be encoded.
        FileNotFoundError: when the folder of ``path`` does not exist.
        MissingDependencyError: PyAV is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fps: float | Fraction,
        *,
        crf: float = 23,
        preset: str = "veryfast",
        keyframe_interval: int | None = None,
        threads: int = 1,
        pixel_aspect: float | Fraction = 1,
        duration: float | None = None,
        say_colours: bool = False,
    ) -> None:
        self.path = check_video_path(path)
        if not 0 < float(fps) <= 1000:
            raise ValueError(f"fps must lie between 0 and 1000, not {fps}")
        if not 0 <= crf <= 51:
            raise ValueError(f"crf must lie between 0 and 51, not {crf}")
        if not 0 < pixel_aspect < 1000:
            raise ValueError(f"pixel_aspect must lie between 0 and 1000, not {pixel_aspect}")
        self._av: Any = require_av()
        self._rate = Fraction(fps).limit_denominator(1001)
        self._preset, self._say_colours = preset, say_colours
        self._options = {"crf": str(crf), "preset": preset, "threads": str(threads)}
        if keyframe_interval is not None:
            self._options["g"] = str(keyframe_interval)
        self._pixel_aspect, self._duration = Fraction(pixel_aspect).limit_denominator(1000), duration
        if duration is not None:
            # Where frames are decoded out of order, what a container says of a frame's length belongs to another one.
            self._options["bf"] = "0"
        self._stream: Any = None
        self._shape: tuple[int, ...] = ()
        self._has_times = False
        self._last_packet: Any = None
        self._last_stamp = -1

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(whole_file(self.path))
            with self._translate_errors():
                self._container = self._av.open(str(temporary), "w")
            self._file = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None:
            with contextlib.suppress(self._av.FFmpegError):
                self._container.close()
            self._file.__exit__(kind, error, tb)
            return
        with contextlib.ExitStack() as stack:
            stack.push(self._file)
            if self._stream is None:
                raise ValueError(f"cannot write {self.path}: no frame was added")
            with self._translate_errors():
                self._mux(self._stream.encode())
                if self._last_packet is not None:
                    if self._duration is not None and self._has_times:
                        self._last_packet.duration = max(round(self._duration / _TICK) - self._last_stamp, 1)
                    self._container.mux(self._last_packet)
                self._container.close()

    def add(self, frame: NDArray[np.uint8], time: float | None = None) -> None:
        """Add the next frame.

        Args:
            frame: uint8 RGB (H, W, 3), H and W even, the same for all frames.
            time: second at which it is shown, later than that of the frame before; None for all frames spaces them
                evenly.

        Raises:
            ValueError: the frame differs in kind or size from what can be encoded, or its time is not later.
        """
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3:
            raise ValueError(f"a frame must be uint8 (H, W, 3), not {frame.dtype} {frame.shape}")
        if self._stream is None:
            self._add_stream(frame.shape, timed=time is not None)
        if frame.shape != self._shape:
            raise ValueError(f"all frames must be of one size: this one is {frame.shape}, those before {self._shape}")
        if self._has_times != (time is not None):
            raise ValueError("either all frames come with their times, or none")
        picture = self._av.VideoFrame.from_ndarray(frame, format="rgb24")
        if time is not None:
            stamp = round(time / _TICK)
            if stamp <= self._last_stamp:
                raise ValueError(f"frames must come in the order of their times, but one at {time} s is not later")
            picture.pts, picture.time_base, self._last_stamp = stamp, _TICK, stamp
        with self._translate_errors():
            self._mux(self._stream.encode(picture))

    def _mux(self, packets: Iterable[Any]) -> None:
        """All but the last one, whose length is known at the end."""
        for packet in packets:
            if self._last_packet is not None:
                self._container.mux(self._last_packet)
            self._last_packet = packet

    def _add_stream(self, shape: tuple[int, ...], *, timed: bool) -> None:
        height, width = shape[:2]
        if height % 2 or width % 2 or min(height, width) < 16:
            even = f"{max(16, height - height % 2)} x {max(16, width - width % 2)}"
            raise ValueError(f"H.264 needs even sides of 16 or more, not {height} x {width}; crop or pad to {even}")
        self._shape, self._has_times = shape, timed
        self._stream = self._container.add_stream("libx264", rate=self._rate, options=self._options)
        self._stream.height, self._stream.width, self._stream.pix_fmt = height, width, "yuv420p"
        if timed:
            self._stream.codec_context.time_base = _TICK
        if self._pixel_aspect != 1:
            self._stream.codec_context.sample_aspect_ratio = self._pixel_aspect
        if self._say_colours:
            self._stream.codec_context.colorspace = _BT601

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except self._av.FFmpegError as error:
            raise ValueError(f"cannot encode {self.path} (preset {self._preset!r}): {error.strerror}") from error


def write_video(
    path: str | os.PathLike[str],
    frames: ArrayLike,
    fps: float | Fraction,
    *,
    crf: float = 23,
    preset: str = "veryfast",
    keyframe_interval: int | None = None,
    threads: int = 1,
) -> None:
    """Compress frames with H.264 (yuv420p) into a file that is written whole or not at all.

    Args:
        path: file to write; ``.mp4``, ``.mkv`` or ``.mov``. An existing file is replaced.
        frames: uint8 RGB frames (T, H, W, 3), H and W even.
        fps: frames per second; fractions such as ``30000 / 1001`` are kept.
        crf: constant rate factor, 0 (lossless) to 51 (worst).
        preset: x264's speed preset, "ultrafast" to "veryslow".
        keyframe_interval: most frames between key frames; None is x264's own choice.
        threads: encoder threads; 1 makes the file's bytes repeatable.

    Raises:
        ValueError: for frames, a rate, a quality, a preset or a suffix that cannot be encoded.
        FileNotFoundError: when the folder of ``path`` does not exist.
    """
    array = np.asarray(frames)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3 or len(array) == 0:
        raise ValueError(f"frames must be uint8 (T, H, W, 3) with T >= 1, not {array.dtype} {array.shape}")
    with VideoWriter(path, fps, crf=crf, preset=preset, keyframe_interval=keyframe_interval, threads=threads) as writer:
        for frame in array:
            writer.add(frame)


def check_video_path(path: str | os.PathLike[str]) -> Path:
    """The path of a video that can be written, known before the work that leads up to it.

    Raises:
        ValueError: the suffix names no container, or what is there is no file.
        FileNotFoundError: the folder is not there.
        OSError: nothing can be written there.
    """
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise ValueError(f"cannot write {target.name!r}: the suffix must be one of {', '.join(SUFFIXES)}")
    return check_target(target)
