"""A picture of scores over time: the video as a film strip, the best class at each moment, a lane for each class."""

from __future__ import annotations

import os
import textwrap
from functools import partial
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

from torch import Tensor

from slowfast_zoo.errors import in_line
from slowfast_zoo.inference.classify.results import Timeline
from slowfast_zoo.video import VideoInput, VideoSource

from . import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMES = 2.0  # width of the column of names on the left, in inches, as all lengths here
_LINE = 19  # characters of a name in a line
_FRAME = 1.0  # height of a frame, about
_PIXELS = 240  # height of a frame in the picture's data; drawn smaller
_RIBBON = 0.30
_LANE = 0.60
_AIR = 0.16  # between lanes, and the other panels
_AXIS = 0.55  # below the last lane
_FEWEST, _MOST = 4, 24  # frames
_CHARACTER = 0.075  # width of one, about, in the ribbon
_DOTTED = 80  # more windows than that are not marked one by one


def save_timeline_plot(timeline: Timeline, path: str | os.PathLike[str], video: VideoInput | None = None) -> None:
    """Draw a timeline: frames along the video, the best class at each moment, the scores of the best classes.

    Time runs from left to right, the same in all panels. A score stands at the middle of its window, and lines join
    them; the best class at a moment is that of the window whose middle is nearest.

    Args:
        timeline: from :meth:`VideoClassifier.timeline`. Its ``top_k`` best classes get a lane each.
        path: the picture, in a format that matplotlib writes (.png, .pdf, .svg, ...). Written whole or not at all.
        video: the video, where ``timeline.video`` does not name a file: an array, bytes, a file object.

    Raises:
        ValueError: the suffix names no known format, or the video is needed.
        FileNotFoundError: the folder, or the video, is not there.
        VideoDecodeError: the video can no longer be decoded.
        MissingDependencyError: matplotlib is not installed.
    """
    with style.drawn_picture(path) as figure, style.open_again(timeline, video) as source:
        _draw(figure, timeline, source)


def best_segments(timeline: Timeline) -> list[tuple[float, float, str]]:
    """Which class is the best from when to when: (start, end, label), without gaps from the first frame to the last."""
    middles = ((timeline.starts + timeline.ends) / 2).tolist()
    borders = [0.0, *((before + after) / 2 for before, after in pairwise(middles)), timeline.duration]
    pieces = zip(pairwise(borders), (window.label for window in timeline), strict=True)
    runs = [(label, [span for span, _ in run]) for label, run in groupby(pieces, key=lambda piece: piece[1])]
    return [(spans[0][0], spans[-1][1], label) for label, spans in runs]


def wrap_name(name: str) -> list[str]:
    """A name in lines of the column on the left, two at most; words that are joined by "_" are words."""
    name = in_line(name)
    if len(name) <= _LINE:
        return [name]
    lines = textwrap.wrap(name.replace("_", "_ "), _LINE, max_lines=2, placeholder="\N{HORIZONTAL ELLIPSIS}")
    return [line.replace("_ ", "_") for line in lines] or [name]


def _draw(figure: Figure, timeline: Timeline, source: VideoSource) -> None:
    """All panels, from top to bottom, into a figure that is given the height they need."""
    best = timeline.best()
    pieces = best_segments(timeline)
    colours = style.colours_of([label for _, label in best] + [label for _, _, label in pieces])
    wide = style.WIDTH - 2 * style.MARGIN - _NAMES
    aspect = source.width / source.height
    count = min(max(round(wide / (_FRAME * aspect)), _FEWEST), _MOST)
    times = [timeline.duration * (index + 0.5) / count for index in range(count)]
    frames = next(source.clips_at([times], partial(style.at_height, height=_PIXELS)))

    strip_height = wide / count / aspect
    height = style.HEADING + strip_height + _RIBBON + len(best) * (_AIR + _LANE) + 2 * _AIR + _AXIS
    figure.set_size_inches(style.WIDTH, height)

    def panel(top: float, tall: float) -> Axes:
        """Axes ``top`` inches below the heading, right of the names, which are as long as the whole video."""
        axes = style.add_panel(figure, style.MARGIN + _NAMES, style.HEADING + top, wide, tall)
        axes.set_xlim(0, timeline.duration)
        return axes

    window = timeline.windows[0]
    length = (
        style.clock(timeline.duration, timeline.duration) if timeline.duration >= 120 else f"{timeline.duration:.2f} s"
    )
    number = f"{len(timeline)} window{'s' if len(timeline) > 1 else ''} of {window.end - window.start:.2f} s"
    lines = ["   ".join((length, timeline.model, number)), *timeline.notes()]
    style.put_heading(figure, style.cut(style.file_name(timeline.video)), lines)
    _draw_strip(panel(0, strip_height), frames, timeline.duration)
    top = strip_height + _AIR / 2
    _draw_ribbon(panel(top, _RIBBON), pieces, colours, timeline.duration / wide)
    top += _RIBBON + _AIR
    highest = float(timeline.probabilities.max())
    scale = next(scale for scale in (0.1, 0.2, 0.5, 1.0) if highest <= scale or scale == 1.0)
    for row, (index, label) in enumerate(best):
        axes = panel(top + row * (_LANE + _AIR), _LANE)
        _draw_lane(axes, timeline, index, colours[label], scale)
        _put_name(axes, label, f"up to {100 * float(timeline.probabilities[:, index].max()):.0f} %", colours[label])
        _put_time_axis(axes, timeline.duration, numbered=row == len(best) - 1)


def _draw_strip(axes: Axes, frames: Tensor, duration: float) -> None:
    """Frames (T, 3, H, W), each over the part of the video that it stands for."""
    step = duration / len(frames)
    for index, frame in enumerate(frames):
        edges = (index * step + step / 60, (index + 1) * step - step / 60, 0, 1)
        axes.imshow(frame.permute(1, 2, 0).numpy(), extent=edges, aspect="auto", interpolation="antialiased")
    axes.set_xlim(0, duration)
    axes.set_ylim(0, 1)
    axes.set_axis_off()


def _draw_ribbon(
    axes: Axes, pieces: list[tuple[float, float, str]], colours: dict[str, str], seconds_per_inch: float
) -> None:
    """The best class at each moment, named where there is room."""
    for start, end, label in pieces:
        edge = 1 if (end - start) / seconds_per_inch > 0.1 else 0
        axes.barh(0, end - start, left=start, height=1, color=colours[label], edgecolor="white", linewidth=edge)
        room = int((end - start) / seconds_per_inch / _CHARACTER) - 1
        if room >= min(len(label), 6):
            letters: dict[str, Any] = {"size": 8.5, "color": "white", "ha": "center", "va": "center_baseline"}
            axes.text((start + end) / 2, 0, style.cut(label, room), parse_math=False, **letters)
    axes.set_ylim(-0.5, 0.5)
    axes.set_axis_off()
    _put_name(axes, "best class", "at each moment", style.INK)


def _draw_lane(axes: Axes, timeline: Timeline, index: int, colour: str, scale: float) -> None:
    """The score of one class over time."""
    middles = ((timeline.starts + timeline.ends) / 2).tolist()
    scores = timeline.probabilities[:, index].tolist()
    x = [0.0, *middles, timeline.duration]
    y = [scores[0], *scores, scores[-1]]
    axes.fill_between(x, 0, y, color=colour, alpha=0.25, linewidth=0)
    axes.plot(x, y, color=colour, linewidth=1.6, solid_joinstyle="round", clip_on=False)
    if len(timeline) <= _DOTTED:
        axes.plot(middles, scores, "o", color=colour, markersize=3, clip_on=False)
    axes.set_ylim(0, scale)
    axes.set_yticks([scale], [f"{100 * scale:.0f} %"])
    axes.tick_params(axis="y", labelsize=8, colors=style.PALE, length=0)
    style.tidy_axes(axes)


def _put_name(axes: Axes, name: str, remark: str, colour: str) -> None:
    """In the column on the left: what a panel shows."""
    x = -72 * _NAMES
    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "parse_math": False}
    axes.annotate(
        "\n".join(wrap_name(name)), (0, 0.5), (x, 1), size=9.5, color=colour, weight="bold", va="bottom", **place
    )
    axes.annotate(remark, (0, 0.5), (x, -1), size=8.5, color=style.PALE, va="top", **place)


def _put_time_axis(axes: Axes, duration: float, *, numbered: bool) -> None:
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
    if duration > 2:
        axes.xaxis.set_major_locator(MultipleLocator(next((s for s in steps if duration / s <= 12), duration / 8)))
    if not numbered:
        axes.tick_params(axis="x", length=0, labelbottom=False)
        return
    axes.xaxis.set_major_formatter(FuncFormatter(lambda second, _: style.clock(second, duration)))
    axes.tick_params(axis="x", length=3)
    axes.set_xlabel("seconds" if duration < 120 else "time", size=9, color=style.PALE)
