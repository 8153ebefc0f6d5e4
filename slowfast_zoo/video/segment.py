"""A part of a video, read as if it were a video of its own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Segment:
    """A part of a video, which everything that takes a video takes in its place.

    Attributes:
        video: the video, in any form that :func:`~slowfast_zoo.video.open_video` takes.
        start: where it begins, in seconds from the video's first frame.
        end: where it ends, in seconds from the video's first frame; None is the video's own end.

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
