"""A part of a video, read as if it were a video of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from slowfast_zoo.errors import VideoDecodeError

if TYPE_CHECKING:
    from typing_extensions import Self

    from .source import VideoSource

# A frame is on the screen a little before its time already, where containers round times: so much before the end of a
# segment, the frame that begins there is not.
_BEFORE = 0.001


@dataclass(frozen=True)
class Segment:
    """A part of a video, which everything that takes a video takes in its place.

    Attributes:
        video: the video, in any form that :func:`~slowfast_zoo.video.open_video` takes.
        start: where it begins, in seconds from the video's first frame.
        end: where it ends, likewise; None is the video's own end.

    Raises:
        ValueError: it does not begin at 0 s or later, or not end after its beginning.
    """

    video: Any
    start: float = 0.0
    end: float | None = None

    def __post_init__(self) -> None:
        end = float("inf") if self.end is None else self.end
        if not 0 <= self.start < end or self.start == float("inf") or self.end == float("inf"):
            raise ValueError(f"a segment begins at 0 s or later and ends after that, not {self._span()}")

    def __str__(self) -> str:
        named = isinstance(self.video, (str, os.PathLike))
        name = os.fspath(self.video) if named else getattr(self.video, "name", f"<{type(self.video).__name__}>")
        return f"{name} ({self._span()})"

    def _span(self) -> str:
        return f"from {self.start:g} s to {'the end' if self.end is None else f'{self.end:g} s'}"


class SegmentReader:
    """Reads a segment: second 0 is its beginning. The attributes and methods are those of ``VideoSource``.

    Args:
        source: the whole video; closed with this one.
        segment: the part of it.

    Raises:
        VideoDecodeError: the video ends before the segment begins.
    """

    def __init__(self, source: VideoSource, segment: Segment) -> None:
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
    def frames_decoded(self) -> int:
        """How often a frame was decoded so far."""
        return self._source.frames_decoded

    @frames_decoded.setter
    def frames_decoded(self, count: int) -> None:
        self._source.frames_decoded = count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._source.__exit__(kind, error, tb)

    def close(self) -> None:
        """Let go of the video."""
        self._source.close()

    def frames_at(self, times: Sequence[float]) -> Tensor:
        """The frames shown at some times: uint8 RGB (T, 3, H, W)."""
        return self._source.frames_at([self._shifted(float(time)) for time in times])

    def clips_at(
        self, clips: Sequence[Sequence[float]], transform: Callable[[Tensor], Tensor] | None = None
    ) -> Iterator[Tensor]:
        """Several clips, as of a whole video."""
        shifted: Sequence[Sequence[float]] = _Shifted(clips, self._shifted)
        return self._source.clips_at(list(shifted) if isinstance(clips, (list, tuple)) else shifted, transform)

    def frame_times(self) -> Sequence[float]:
        """When each stored frame is shown, in seconds from the beginning, the first one's 0."""
        later = (time - self._start for time in self._source.frame_times() if time <= self._last)
        return [0.0, *(time for time in later if time > _BEFORE)]

    def frames(self, start: float = 0.0) -> Iterator[tuple[float, Tensor]]:
        """All frames in order from the one shown at ``start`` on."""
        for time, frame in self._source.frames(self._shifted(start)):
            if time > self._last:
                return
            yield max(time - self._start, 0.0), frame

    def _shifted(self, time: float) -> float:
        # Not by max and min, which lose what is no number.
        shifted = self._start + (0.0 if time < 0 else time)
        return self._last if shifted > self._last else shifted


class _Shifted(Sequence[Sequence[float]]):
    """Clips by the clock of the whole video, made as they are asked for."""

    def __init__(self, clips: Sequence[Sequence[float]], shifted: Callable[[float], float]) -> None:
        self._clips, self._time = clips, shifted

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: Any) -> Any:
        return [self._time(float(time)) for time in self._clips[index]]

    def __iter__(self) -> Iterator[Sequence[float]]:
        return ([self._time(float(time)) for time in times] for times in self._clips)
