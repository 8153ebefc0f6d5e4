"""A video with what was seen in it written into every frame."""

from __future__ import annotations

import contextlib
import math
import os
from bisect import bisect
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slowfast_zoo.inference.classify.results import ClipPrediction, Timeline
from slowfast_zoo.utils.files import keep_inputs
from slowfast_zoo.utils.progress import ProgressBar
from slowfast_zoo.video import VideoInput
from slowfast_zoo.video.encode import VideoWriter, check_video_path

from .style import clock, colours_of, fit, load_font, open_again

if TYPE_CHECKING:
    from PIL import ImageDraw

Draw = Callable[[NDArray[np.uint8], float], None]  # into a frame (H, W, 3), in place, at a second

_DIMMED = 0.35  # what lies under letters lets through of the picture
WHITE, PALE = (255, 255, 255), (205, 205, 205)
_TRACK = (95, 95, 95)
_LEGIBLE = 11  # pixels of the smallest letters
_QUALITY = 20  # letters want more of it than pictures
_APART = 1e-4  # seconds at least from one frame to the next
_THREADS = 4  # of the encoder; each holds a few frames


def render_video(
    timeline: Timeline,
    path: str | os.PathLike[str],
    video: VideoInput | None = None,
    *,
    progress: bool = False,
) -> None:
    """Write a video again, with the best class at each moment, its score and the time in a bar along the lower edge.

    A moment shows the window whose middle is nearest to it. Each frame keeps its time, so that a variable frame rate
    stays, and the last one its length; rotation is applied; pixels that are not square stay so; there is no sound.
    Sides of an odd length lose a row or column of pixels, which H.264 demands. One frame after the other is decoded,
    drawn into and encoded, whatever the length of the video.

    Args:
        timeline: from :meth:`VideoClassifier.timeline`.
        path: the new video, ``.mp4``, ``.mkv`` or ``.mov``. Written whole or not at all.
        video: the video, where ``timeline.video`` does not name a file: an array, bytes, a file object.
        progress: show a progress bar on a terminal if it takes long.

    Raises:
        ValueError: the suffix names no known format, ``path`` is the video itself, the video is needed, or it is
            smaller than 16 pixels.
        FileNotFoundError: the folder, or the video, is not there.
        VideoDecodeError: the video can no longer be decoded.
        MissingDependencyError: matplotlib, with whose font is written, or PyAV is not installed.
    """
    render_frames(
        timeline, path, video, lambda height, width: _Caption(timeline, height, width).write, progress=progress
    )


def render_frames(
    result: Any,
    path: str | os.PathLike[str],
    video: VideoInput | None,
    drawing: Callable[[int, int], Draw],
    *,
    progress: bool = False,
) -> None:
    """Write the video of a result again, with something drawn into every frame, one frame after the other.

    Args:
        result: what was seen in the video, which its ``video`` names.
        path: the new video.
        video: the video, where the result does not name a file.
        drawing: from the height and width of the new frames to what draws into each, in the order of time.
        progress: show a progress bar on a terminal if it takes long.

    Raises:
        ValueError: as :func:`render_video`, like all others.
    """
    target = check_render_path(path)
    keep_inputs([target], (result.video, video))
    with open_again(result, video) as source:
        height, width = source.height - source.height % 2, source.width - source.width % 2
        draw = drawing(height, width)
        bar = ProgressBar("frames", round(source.duration * source.fps), show=progress, delay=2)
        shown = -1.0
        settings: dict[str, Any] = {
            "crf": _QUALITY,
            "threads": _THREADS,
            "pixel_aspect": getattr(source, "pixel_aspect", 1.0),  # readers of others need not know
            "duration": source.duration,
            "say_colours": True,
        }
        with VideoWriter(target, min(max(source.fps, 1.0), 1000.0), **settings) as writer, bar:
            for time, frame in source.frames():
                pixels = np.array(frame[:, :height, :width].permute(1, 2, 0).numpy())
                draw(pixels, time)
                shown = max(time, shown + _APART)  # damaged files show two frames at once
                writer.add(pixels, shown)
                bar.advance()


@contextlib.contextmanager
def drawing_into(pixels: NDArray[np.uint8]) -> Iterator[ImageDraw.ImageDraw]:
    """Darken a part (h, w, 3) of a frame, and draw into it, in place."""
    from PIL import Image, ImageDraw

    image = Image.fromarray((pixels * _DIMMED).astype(np.uint8))
    yield ImageDraw.Draw(image)
    pixels[:] = np.asarray(image)


def check_render_path(path: str | os.PathLike[str]) -> Path:
    """The path of a video that can be rendered, known before the work that leads up to it.

    Raises:
        ValueError: the suffix names no known format.
        FileNotFoundError: the folder is not there.
        OSError: nothing can be written there.
        MissingDependencyError: matplotlib, with whose font is written, is not installed.
    """
    load_font(_LEGIBLE)
    return check_video_path(path)


class _Caption:
    """A bar along the lower edge of frames of one size: the label, and below it a score bar, the score and the time."""

    def __init__(self, timeline: Timeline, height: int, width: int) -> None:
        self._windows, self._duration = timeline.windows, timeline.duration
        middles = [(window.start + window.end) / 2 for window in timeline]
        self._borders = [(before + after) / 2 for before, after in pairwise(middles)]
        self._colours = colours_of([label for _, label in timeline.best()] + [window.label for window in timeline])
        size = max(_LEGIBLE, round(6 + 0.03 * min(height, width)))
        self._large, self._small = load_font(size, bold=True), load_font(round(0.8 * size))
        edge = round(0.35 * size)
        self._left, self._right, self._top = 2 * edge, width - 2 * edge, edge
        self._second_row = edge + round(1.25 * size)
        self._tall = self._second_row + size + edge
        self._score_end = self._right - round(self._small.getlength(self._clock(self._duration))) - 2 * edge
        self._bar_end = self._score_end - round(self._small.getlength("100 %")) - 2 * edge

    def at(self, time: float) -> ClipPrediction:
        """The window whose middle is nearest to a moment."""
        return self._windows[bisect(self._borders, time)]

    def write(self, pixels: NDArray[np.uint8], time: float) -> None:
        """Into a frame (H, W, 3), in place."""
        window = self.at(time)
        label = fit(window.label, self._large, self._right - self._left)
        size, long = self._small.size, self._bar_end - self._left
        upper, under = self._second_row + round(0.4 * size), self._second_row + round(0.85 * size)
        with drawing_into(pixels[-self._tall :]) as draw:
            draw.text((self._left, self._top), label, WHITE, self._large)
            draw.text((self._right, self._second_row), self._clock(time), PALE, self._small, anchor="ra")
            score = f"{100 * window.score:.0f} %"
            draw.text((self._score_end, self._second_row), score, WHITE, self._small, anchor="ra")
            for end, colour in ((long, _TRACK), (round(window.score * long), self._colours[window.label])):
                if end > 0:
                    draw.rectangle((self._left, upper, self._left + end, under), colour)

    def _clock(self, time: float) -> str:
        return f"{time:.1f} s" if self._duration < 120 else clock(math.floor(time), self._duration)
