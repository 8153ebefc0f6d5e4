"""A video with boxes drawn into it, and next to each box what happens there."""

from __future__ import annotations

import math
import os
from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slowfast_zoo.utils.checks import needs_count
from slowfast_zoo.video import VideoInput

from .captions import WHITE, Draw, drawing_into, render_frames
from .style import colours_of, fit, load_font

if TYPE_CHECKING:
    from slowfast_zoo.inference.detect.detector import Detections

_LEGIBLE = 9  # pixels of the smallest letters
_SAME = 0.1  # the least overlap (IoU) of boxes at successive key frames that are one actor's
_TOLERANCE = 1e-3  # seconds
_COVERED = 0.2  # part of a frame that plates may hide
_FILLED = 0.75  # how much of its colour a score's bar has, under white letters
_NOTHING = (160, 160, 160)
_INK = (20, 20, 20)

_Box = tuple[float, float, float, float]
_Actions = Sequence[tuple[str, float]]  # labels and scores


def render_detections(
    detections: Detections,
    path: str | os.PathLike[str],
    video: VideoInput | None = None,
    *,
    top_k: int = 3,
    threshold: float = 0.3,
    progress: bool = False,
) -> None:
    """Write a video again, with a box around each actor and next to it a plate with its best actions and their scores.

    A moment shows the boxes and actions of the nearest key frame, up to half of ``detections.every`` away. Between key
    frames no further apart than that, boxes that overlap most with one another (IoU of at least 0.1) move evenly from
    one to the next. A box without an action is gray. Frames are written as :func:`render_video` does: each keeps its
    time, and there is no sound.

    Args:
        detections: from :class:`ActionDetector`.
        path: the new video, ``.mp4``, ``.mkv`` or ``.mov``. Written whole or not at all.
        video: the video, where ``detections.video`` does not name a file: an array, bytes, a file object. It may be a
            copy of another size.
        top_k: actions of a box at most; fewer where they would hide too much of the picture.
        threshold: their least score.
        progress: show a progress bar on a terminal if it takes long.

    Raises:
        ValueError: the suffix names no known format, ``path`` is the video itself, the video is needed, or it is
            smaller than 16 pixels.
        FileNotFoundError: the folder, or the video, is not there.
        VideoDecodeError: the video can no longer be decoded.
        MissingDependencyError: matplotlib, with whose font is written, or PyAV is not installed.
    """

    needs_count(top_k, "top_k")

    def drawing(height: int, width: int) -> Draw:
        return _Overlay(_Scene(detections, height, width, top_k, threshold), height, width).write

    render_frames(detections, path, video, drawing, progress=progress)


@dataclass(frozen=True)
class _Actor:
    """Somebody at a moment.

    Attributes:
        track: a number that is kept from key frame to key frame.
        box: x1, y1, x2, y2 in pixels of the new frames.
        actions: labels and scores, the best first.
    """

    track: int
    box: _Box
    actions: _Actions


class _Scene:
    """Who is where and does what, at any moment of a video of frames of some size."""

    def __init__(self, detections: Detections, height: int, width: int, top_k: int, threshold: float) -> None:
        scale = torch.tensor([_scale_between(width, detections.width), _scale_between(height, detections.height)] * 2)
        self._reach = detections.every / 2 + _TOLERANCE
        self._times = [key_frame.time for key_frame in detections]
        self._borders = [(before + after) / 2 for before, after in pairwise(self._times)]
        self._actions = [
            [key_frame.actions(index, top_k, threshold) for index in range(len(key_frame))] for key_frame in detections
        ]
        self._boxes = [key_frame.boxes * scale for key_frame in detections]
        # Where each box is at the key frame before, and at the one after; if that is not known, where it is now.
        self._behind, self._ahead = ([boxes.clone() for boxes in self._boxes] for _ in range(2))
        number = count()
        self._tracks = [[next(number) for _ in boxes] for boxes in self._boxes]
        for this in range(len(self._borders)):
            if self._times[this + 1] - self._times[this] <= 2 * self._reach:
                for mine, its in _match(self._boxes[this], self._boxes[this + 1]):
                    self._ahead[this][mine] = self._boxes[this + 1][its]
                    self._behind[this + 1][its] = self._boxes[this][mine]
                    self._tracks[this + 1][its] = self._tracks[this][mine]

    def at(self, time: float) -> list[_Actor]:
        """The actors of the nearest key frame, on their way from the one before or to the one after."""
        nearest = bisect(self._borders, time)
        if not self._times or abs(time - self._times[nearest]) > self._reach:
            return []
        later = time > self._times[nearest]
        other = nearest + 1 if later else nearest - 1
        boxes = self._boxes[nearest]
        if 0 <= other < len(self._times):
            part = (time - self._times[nearest]) / (self._times[other] - self._times[nearest])
            boxes = torch.lerp(boxes, (self._ahead if later else self._behind)[nearest], part)
        actors = zip(self._tracks[nearest], boxes.tolist(), self._actions[nearest], strict=True)
        return [_Actor(track, tuple(box), actions) for track, box, actions in actors]

    def labels(self) -> list[str]:
        """All that are shown, those first that are the best of most boxes."""
        all_actions = [actions for key_frame in self._actions for actions in key_frame]
        first = Counter(label for actions in all_actions for label, _ in actions[:1])
        others = Counter(label for actions in all_actions for label, _ in actions[1:])
        return [label for labels in (first, others) for label, _ in labels.most_common()]


def _scale_between(new: int, old: int) -> float:
    """From the pixels of a video to those of a copy of it; 1 if that merely lost a row or column of them."""
    return 1.0 if abs(new - old) < 2 else new / old


def _match(before: Tensor, after: Tensor) -> list[tuple[int, int]]:
    """Indices of boxes (N, 4) and boxes (M, 4) of which each overlaps most with the other."""
    from torchvision.ops import box_iou

    if not len(before) or not len(after):
        return []
    overlap = box_iou(before, after)
    back = overlap.argmax(0).tolist()
    pairs = enumerate(overlap.argmax(1).tolist())
    return [(mine, its) for mine, its in pairs if back[its] == mine and overlap[mine, its] >= _SAME]


class _Overlay:
    """Boxes and plates in frames of one size, one after the other."""

    def __init__(self, scene: _Scene, height: int, width: int) -> None:
        from PIL.ImageColor import getrgb

        self._scene, self._height, self._width = scene, height, width
        self._colours = {label: getrgb(colour)[:3] for label, colour in colours_of(scene.labels()).items()}
        short = min(height, width)
        size = max(_LEGIBLE, round(5 + 0.02 * short))
        self._font = load_font(size)
        self._row, self._edge = round(1.35 * size), round(0.35 * size)
        self._line = max(2, round(short / 220))
        self._score = round(self._font.getlength("100 %"))
        self._sides: dict[int, int] = {}

    def write(self, pixels: NDArray[np.uint8], time: float) -> None:
        """Into a frame (H, W, 3), in place."""
        actors = self._scene.at(time)
        for actor in actors:
            self._draw_outline(pixels, actor)
        taken: list[_Box] = []
        for actor, actions in zip(actors, self._choose_actions(actors), strict=True):
            if actions:
                others = [other.box for other in actors if other is not actor]
                taken.append(self._choose_place(actor, self._plate_size(actions), others, taken))
                self._draw_plate(pixels, taken[-1], actions)

    def _choose_actions(self, actors: Sequence[_Actor]) -> list[_Actions]:
        """For each actor its best actions, only so many that plates leave most of the frame free, but at least one."""
        rows = max((len(actor.actions) for actor in actors), default=0)
        room = _COVERED * self._height * self._width
        for most in range(rows, 1, -1):
            shown = [actor.actions[:most] for actor in actors]
            if sum(math.prod(self._plate_size(actions)) for actions in shown if actions) <= room:
                return shown
        return [actor.actions[:1] for actor in actors]

    def _draw_outline(self, pixels: NDArray[np.uint8], actor: _Actor) -> None:
        x1, y1, x2, y2 = (round(value) for value in actor.box)
        colour = self._colours[actor.actions[0][0]] if actor.actions else _NOTHING
        # A dark seam around it sets the line off from any picture.
        for line, out, paint in ((self._line + 1, 1, _INK), (self._line, 0, colour)):
            left, top, right, bottom = max(x1 - out, 0), max(y1 - out, 0), x2 + out, y2 + out
            for rows, columns in (
                (slice(top, top + line), slice(left, right)),
                (slice(max(bottom - line, 0), bottom), slice(left, right)),
                (slice(top, bottom), slice(left, left + line)),
                (slice(top, bottom), slice(max(right - line, 0), right)),
            ):
                pixels[rows, columns] = paint

    def _plate_size(self, actions: _Actions) -> tuple[int, int]:
        """Width and height of a plate."""
        longest = max(self._font.getlength(label) for label, _ in actions)
        wide = round(longest) + self._score + 4 * self._edge
        return min(wide, self._width), min(len(actions) * self._row, self._height)

    def _choose_place(self, actor: _Actor, size: tuple[int, int], boxes: Sequence[_Box], taken: Sequence[_Box]) -> _Box:
        """Where a plate hides least: above or below the box, next to it or in it; as before, unless much worse now.

        Each candidate is moved into the frame, and costs the parts of it that lie over other plates (most), other boxes
        and its own box, and its distance from the box. The side that the actor's plate had in the last frame costs
        less, so that plates do not jump to and fro.
        """
        (x1, y1, x2, y2), (wide, high) = actor.box, size
        across = (x1, x2 - wide)
        corners = [(x, y) for y in (y1 - high, y2) for x in across]
        corners += [(x, y) for y in (y1, y2 - high) for x in (x2, x1 - wide, *across)]
        # Above and below other plates, if need be.
        corners += [(x, y) for other in taken for y in (other[1] - high, other[3]) for x in across]
        best, least = (0.0, 0.0, 0.0, 0.0), math.inf
        for side, (x, y) in enumerate(corners):
            left = round(min(max(x, 0), self._width - wide))
            top = round(min(max(y, 0), self._height - high))
            place = (left, top, left + wide, top + high)
            plates, others = (sum(_shared_area(place, other) for other in hidden) for hidden in (taken, boxes))
            cost = (12 * plates + 2 * others + _shared_area(place, actor.box)) / (wide * high) + 3 * (plates > 0)
            cost += max(y1 - place[3], top - y2, x1 - place[2], left - x2, 0) / high  # away from the box
            cost += 0.01 * side - 0.3 * (side == self._sides.get(actor.track))
            if cost < least:
                best, least, chosen = place, cost, side
        self._sides[actor.track] = chosen
        return best

    def _draw_plate(self, pixels: NDArray[np.uint8], place: _Box, actions: _Actions) -> None:
        left, top, right, bottom = (int(value) for value in place)
        wide = right - left
        with drawing_into(pixels[top:bottom, left:right]) as draw:
            for row, (label, score) in enumerate(actions):
                upper = row * self._row
                colour = tuple(round(_FILLED * value) for value in self._colours[label])
                if (filled := round(score * wide)) > 0:
                    draw.rectangle((0, upper, filled - 1, upper + self._row - 2), colour)
                middle = upper + (self._row - 1) / 2
                text = fit(label, self._font, wide - self._score - 3 * self._edge)
                draw.text((self._edge, middle), text, WHITE, self._font, anchor="lm")
                draw.text((wide - self._edge, middle), f"{100 * score:.0f} %", WHITE, self._font, anchor="rm")


def _shared_area(a: _Box, b: _Box) -> float:
    """Area that two boxes share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
