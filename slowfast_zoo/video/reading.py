"""Opening a video, whatever it is given as."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from slowfast_zoo.errors import VideoDecodeError

from .decode import VideoReader
from .media import local_path
from .segment import Segment
from .source import FrameReader, FrameSequence, VideoInput, VideoSource

# A frame is on the screen a little before its time already, where containers round times: so much before the end of a
# segment, the frame that begins there is not.
_BEFORE = 0.001


def open_video(video: VideoInput, *, fps: float | None = None, threads: int = 2) -> VideoSource:
    """Open a video of any kind for reading frames by time.

    Args:
        video: a path or URL of a video file, the path of a folder of images (in the natural order of their names), the
            content of a file as bytes, a file opened in binary mode, uint8 RGB frames (T, H, W, 3) as an array or
            tensor, or a :class:`~slowfast_zoo.video.Segment` of any of these.
        fps: frames per second; needed for an array, 30 unless given for a folder of images, and without effect on a
            file, which says itself when a frame is shown.
        threads: decoder threads at most, for files (:class:`~slowfast_zoo.video.VideoReader`).

    Raises:
        FileNotFoundError: there is no such file.
        VideoDecodeError: the file cannot be decoded, or the folder holds no images.
        TypeError: ``video`` is none of these.
        ValueError: an array of another shape or type, or ``fps`` missing or not above 0, or ``threads`` less than
            1, or a file object that is closed.
        MissingDependencyError: PyAV is not installed (files only).
    """
    if isinstance(video, Segment):
        source = cast(FrameReader, open_video(video.video, fps=fps, threads=threads))
        try:
            return SegmentReader(source, video)
        except BaseException:
            source.close()
            raise
    if isinstance(video, (np.ndarray, Tensor)):
        if fps is None:
            raise ValueError("an array of frames carries no frame rate: give fps=")
        return FrameSequence(video, fps)
    if isinstance(video, (str, os.PathLike)):
        place = local_path(os.fspath(video))
        if place is not None and os.path.isdir(place):
            return FrameSequence.from_folder(place, 30.0 if fps is None else fps)
    return VideoReader(video, threads=threads)


class SegmentReader(FrameReader):
    """Reads a segment: second 0 is its beginning.

    Args:
        source: the whole video; closed with this one.
        segment: the part of it.

    Raises:
        VideoDecodeError: the video ends before the segment begins.
    """

    def __init__(self, source: FrameReader, segment: Segment) -> None:
        self._source, self._start = source, float(segment.start)
        self.name = str(segment)
        if self._start >= source.duration:
            raise VideoDecodeError(self.name, f"the video ends before, after {source.duration:.2f} s")
        is_cut = segment.end is not None and segment.end < source.duration
        self._end = float(segment.end) if segment.end is not None and is_cut else source.duration
        self._last = max(self._start, self._end - _BEFORE) if is_cut else float("inf")
        self.duration = self._end - self._start
        self.fps, self.pixel_aspect = source.fps, source.pixel_aspect
        self.width, self.height = source.width, source.height

    @property
    def frames_decoded(self) -> int:  # type: ignore[override]  # only to be read here
        """How often a frame was decoded so far."""
        return self._source.frames_decoded

    def close(self) -> None:
        """Let go of the video."""
        self._source.close()

    def _frame_at(self, time: float) -> Any:
        return self._source._frame_at(self._shift(time))

    def _pixels(self, frame: Any) -> Tensor:
        return self._source._pixels(frame)

    def frame_times(self) -> Sequence[float]:
        """When each stored frame is shown, in seconds from the beginning, the first one's 0."""
        later = (time - self._start for time in self._source.frame_times() if time <= self._last)
        return [0.0, *(time for time in later if time > _BEFORE)]

    def frames(self, start: float = 0.0) -> Iterator[tuple[float, Tensor]]:
        """All frames in order from the one shown at ``start`` on."""
        for time, frame in self._source.frames(self._shift(start)):
            if time > self._last:
                return
            yield max(time - self._start, 0.0), frame

    def _shift(self, time: float) -> float:
        return min(self._start + max(time, 0.0), self._last)


def sample_clip() -> Path:
    """A short video of several camera moves, one after another, to try things on."""
    return Path(str(files("slowfast_zoo.video") / "samples" / "camera_moves.mp4"))
