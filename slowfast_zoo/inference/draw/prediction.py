"""A picture of a prediction: what each pathway saw, what each clip was taken for, and the scores."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from slowfast_zoo.inference.classify.results import ClipPrediction, Prediction, describe_views
from slowfast_zoo.video import VideoInput, VideoSource

from . import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SLOW_COLOUR, _FAST_COLOUR = style.TEAL, style.ORANGE
_PIXELS = 240  # height of a frame in the picture's data; drawn smaller
_ROW = 0.30  # a clip in the timeline
_BAR = 0.50  # a class among the scores
_MAX_CLIPS = 60  # rows of the timeline that can still be told apart


def save_prediction_plot(prediction: Prediction, path: str | os.PathLike[str], video: VideoInput | None = None) -> None:
    """Draw a prediction: frames of both pathways, the clips along the video, the best classes.

    The frames are those of the clip that speaks most for the best class. They are read from the video again.

    Args:
        prediction: from :class:`VideoClassifier`.
        path: the picture, in a format that matplotlib writes (.png, .pdf, .svg, ...). Written whole or not at all.
        video: the video, where ``prediction.video`` does not name a file: an array, bytes, a file object.

    Raises:
        ValueError: the suffix names no known format, or the video is needed.
        FileNotFoundError: the folder, or the video, is not there.
        VideoDecodeError: the video can no longer be decoded.
        MissingDependencyError: matplotlib is not installed.
    """
    with style.drawn_picture(path) as figure, style.open_again(prediction, video) as source:
        _draw(figure, prediction, source)


def _draw(figure: Figure, prediction: Prediction, source: VideoSource) -> None:
    """All panels, from top to bottom, into a figure that is given the height they need."""
    best_class = int(prediction.probabilities.argmax())
    shown = max(prediction.clips, key=lambda clip: float(clip.probabilities[best_class]))
    resized = next(source.clips_at([shown.span.times], partial(style.at_height, height=_PIXELS)))
    frames = resized.permute(0, 2, 3, 1).numpy()
    chosen = prediction.slow_frames
    two_pathways = len(chosen) < len(frames)
    clips = prediction.clips[:: math.ceil(len(prediction.clips) / _MAX_CLIPS)]
    full = style.WIDTH - 2 * style.MARGIN

    slow_height = _strip_height(frames, len(chosen), min(len(chosen), 8), at_most=3.0)
    fast_height = _strip_height(frames, len(frames), 16, at_most=1.4) if two_pathways else 0.0
    chart_height = max(len(clips) * _ROW, len(prediction) * _BAR, 3 * _BAR)
    panels = [slow_height, fast_height, chart_height] if two_pathways else [slow_height, chart_height]
    height = style.HEADING + sum(panels) + len(panels) * (style.TITLE + style.AIR) + 0.35
    figure.set_size_inches(style.WIDTH, height)

    def panel(top: float, tall: float, left: float = 0.0, wide: float = 1.0) -> Axes:
        """Axes ``top`` inches below the heading, their left side and width given as parts of the full width."""
        return style.add_panel(figure, style.MARGIN + left * full, style.HEADING + top + style.TITLE, wide * full, tall)

    label, score = prediction[0]
    about = "   ".join((f"{prediction.duration:.2f} s", prediction.model, describe_views(prediction)))
    lines = [style.cut(style.file_name(prediction.video), 50), about, *prediction.notes()]
    style.put_heading(figure, f"{style.cut(label, 24)}  {100 * score:.0f} %", lines)
    name = "Slow pathway" if two_pathways else "The network"
    title = f"{name}: {len(chosen)} frames of the clip from {shown.start:.2f} to {shown.end:.2f} s"
    times = [f"{min(shown.span.times[index], prediction.duration):.2f} s" for index in chosen]
    axes = panel(0, slow_height)
    style.put_frames(axes, [frames[index] for index in chosen], 8, captions=times)
    style.put_title(axes, title, _SLOW_COLOUR)
    top = slow_height + style.TITLE + style.AIR
    if two_pathways:
        title = f"Fast pathway: {len(frames)} frames of it, {len(frames) / len(chosen):g} times the frame rate"
        axes = panel(top, fast_height)
        style.put_frames(axes, list(frames), 16, framed=chosen, colour=_SLOW_COLOUR)
        style.put_title(axes, title, _FAST_COLOUR)
        top += fast_height + style.TITLE + style.AIR
    colours = style.colours_of([label for label, _ in prediction] + [clip.label for clip in prediction.clips])
    _draw_clips(panel(top, chart_height, wide=0.40), clips, prediction.duration, colours, chart_height / _ROW)
    _draw_scores(panel(top, chart_height, left=0.68, wide=0.32), list(prediction), colours, chart_height / _BAR)


def _draw_clips(
    axes: Axes, clips: Sequence[ClipPrediction], duration: float, colours: dict[str, str], rows: float
) -> None:
    """One bar a clip, from its start to its end, paler the less sure; on its right the best class."""
    for row, clip in enumerate(clips):
        colour = colours[clip.label]
        axes.barh(row, clip.end - clip.start, left=clip.start, height=0.72, color=colour, alpha=0.4 + 0.6 * clip.score)
        letters: dict[str, Any] = {"size": 9, "color": style.INK, "va": "center", "parse_math": False}
        for text, x, side in ((f"{100 * clip.score:.0f} %", 40, "right"), (style.cut(clip.label), 48, "left")):
            letters.update(xycoords=axes.get_yaxis_transform(), textcoords="offset points", ha=side)
            axes.annotate(text, (1, row), (x, 0), **letters)
    axes.set_xlim(0, duration)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_yticks([])
    axes.set_xlabel("seconds", size=9, color=style.PALE)
    style.tidy_axes(axes, grid="x")
    style.put_title(axes, "Clips along the video")


def _draw_scores(axes: Axes, scores: Sequence[tuple[str, float]], colours: dict[str, str], rows: float) -> None:
    """The best classes, each name above its bar."""
    for row, (label, score) in enumerate(scores):
        style.put_bar(axes, row, score, colours[label], 0.30)
        letters: dict[str, Any] = {"size": 9.5, "color": style.INK, "va": "bottom", "parse_math": False}
        axes.text(0, row - 0.2, style.cut(label), ha="left", **letters)
        axes.text(1, row - 0.2, f"{100 * score:.1f} %", ha="right", **letters)
    axes.set_xlim(0, 1)
    axes.set_ylim(rows - 0.5, -0.65)
    axes.set_axis_off()
    style.put_title(axes, "All clips together")


def _strip_height(frames: style.Pixels, count: int, columns: int, at_most: float) -> float:
    """Inches that ``count`` frames in rows take across the full width."""
    height, width = frames.shape[1:3]
    return float(
        min((style.WIDTH - 2 * style.MARGIN) * math.ceil(count / columns) * height / (columns * width), at_most)
    )
