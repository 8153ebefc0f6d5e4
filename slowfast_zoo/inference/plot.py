"""A picture of a prediction: what each pathway saw, what each clip was taken for, and the scores."""

from __future__ import annotations

import errno
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from slowfast_zoo.errors import MissingDependencyError
from slowfast_zoo.video import VideoReader

from .classifier import ClipPrediction, Prediction, describe_views

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 11.0  # of the picture, in inches, as all lengths here
_MARGIN = 0.45
_HEADING = 0.72
_TITLE = 0.40  # above a panel
_AIR = 0.24  # below a panel
_ROW = 0.30  # a clip in the timeline
_BAR = 0.50  # a class among the scores
_SLOW_COLOUR, _FAST_COLOUR = "#1f6f8b", "#d9822b"
_INK, _PALE, _OTHER = "#222222", "#8a8a8a", "#a0a0a0"
_CLASS_COLOURS = (
    "#1f6f8b", "#d9822b", "#5a9367", "#b5495b", "#7d6ba0", "#c9a227",
    "#4f9ec4", "#8c6d4f", "#d17ba8", "#3d4f7c", "#9bb04c", "#c76b4a",
)  # fmt: skip
_MAX_CLIPS = 60  # rows of the timeline that can still be told apart
_PIXELS = 240  # height of a frame in the picture's data; drawn smaller


def save_prediction_plot(prediction: Prediction, path: str | os.PathLike[str]) -> None:
    """Draw a prediction: frames of both pathways, the clips along the video, the best classes.

    The frames are those of the clip that speaks most for the best class. They are read from the video again.

    Args:
        prediction: from :class:`VideoClassifier`.
        path: the picture, in a format that matplotlib writes (.png, .pdf, .svg, ...). Written whole or not at all.

    Raises:
        ValueError: the suffix names no known format.
        FileNotFoundError: the folder, or the video, is not there.
        VideoDecodeError: the video can no longer be decoded.
        MissingDependencyError: matplotlib is not installed.
    """
    target = check_plot_path(path)
    from matplotlib.figure import Figure

    figure = Figure(dpi=120, facecolor="white")
    _draw(figure, prediction)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    try:
        figure.savefig(temporary)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(target)
    finally:
        Path(temporary).unlink(missing_ok=True)


def check_plot_path(path: str | os.PathLike[str]) -> Path:
    """The path of a picture that can be drawn, known before the work that leads up to it.

    Raises:
        ValueError: the suffix names no known format.
        FileNotFoundError: the folder is not there.
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise MissingDependencyError(f'drawing needs matplotlib ({error}): pip install "slowfast-zoo[plot]"') from error
    target = Path(path)
    formats = sorted(FigureCanvasBase.get_supported_filetypes())
    if target.suffix[1:].lower() not in formats:
        raise ValueError(f"cannot draw {target.name!r}: the suffix must be one of .{', .'.join(formats)}")
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no folder to draw into", str(target.parent))
    return target


def _draw(figure: Figure, prediction: Prediction) -> None:
    """All panels, from top to bottom, into a figure that is given the height they need."""
    best_class = int(prediction.probabilities.argmax())
    shown = max(prediction.clips, key=lambda clip: float(clip.probabilities[best_class]))
    with VideoReader(prediction.video) as reader:
        frames = _thumbnails(reader.frames_at(shown.span.times))
    chosen = prediction.slow_frames
    two_pathways = len(chosen) < len(frames)
    clips = prediction.clips[:: math.ceil(len(prediction.clips) / _MAX_CLIPS)]
    full = _WIDTH - 2 * _MARGIN

    slow_height = _strip_height(frames, len(chosen), min(len(chosen), 8), at_most=3.0)
    fast_height = _strip_height(frames, len(frames), 16, at_most=1.4) if two_pathways else 0.0
    chart_height = max(len(clips) * _ROW, len(prediction) * _BAR, 3 * _BAR)
    panels = [slow_height, fast_height, chart_height] if two_pathways else [slow_height, chart_height]
    height = _HEADING + sum(panels) + len(panels) * (_TITLE + _AIR) + 0.35
    figure.set_size_inches(_WIDTH, height)

    def panel(top: float, tall: float, left: float = 0.0, wide: float = 1.0) -> Axes:
        """Axes ``top`` inches below the heading, their left side and width given as parts of the full width."""
        axes: Axes = figure.add_axes(
            (
                (_MARGIN + left * full) / _WIDTH,
                1 - (_HEADING + top + _TITLE + tall) / height,
                wide * full / _WIDTH,
                tall / height,
            )
        )
        return axes

    _heading(figure, prediction, height)
    name = "Slow pathway" if two_pathways else "The network"
    title = f"{name}: {len(chosen)} frames of the clip from {shown.start:.2f} to {shown.end:.2f} s"
    times = [f"{min(shown.span.times[index], prediction.duration):.2f} s" for index in chosen]
    _strip(panel(0, slow_height), [frames[i] for i in chosen], 8, title, _SLOW_COLOUR, captions=times)
    top = slow_height + _TITLE + _AIR
    if two_pathways:
        title = f"Fast pathway: {len(frames)} frames of it, {len(frames) / len(chosen):g} times the frame rate"
        _strip(panel(top, fast_height), list(frames), 16, title, _FAST_COLOUR, framed=chosen)
        top += fast_height + _TITLE + _AIR
    colours = _colours(prediction)
    _timeline(panel(top, chart_height, wide=0.40), clips, prediction.duration, colours, chart_height / _ROW)
    _bars(panel(top, chart_height, left=0.68, wide=0.32), list(prediction), colours, chart_height / _BAR)


def _heading(figure: Figure, prediction: Prediction, height: float) -> None:
    """The best class in large letters; on the right what was classified, and how."""
    label, score = prediction[0]
    left = _MARGIN / _WIDTH
    best = f"{_cut(label)}  {100 * score:.0f} %"
    figure.text(left, 1 - 0.5 / height, best, size=19, weight="bold", color=_INK, parse_math=False)
    file = Path(prediction.video).name
    about = (_cut(file, 40), f"{prediction.duration:.2f} s", prediction.model, describe_views(prediction))
    lines = ["   ".join(about), *prediction.notes()]
    for row, line in enumerate(lines):
        y = 1 - (0.5 if len(lines) == 1 else 0.3 + 0.17 * row) / height
        figure.text(1 - left, y, line, size=9, color=_PALE, ha="right", parse_math=False)


def _strip(
    axes: Axes,
    frames: Sequence[Tensor],
    columns: int,
    title: str,
    colour: str,
    *,
    captions: Sequence[str] = (),
    framed: Sequence[int] = (),
) -> None:
    """Frames (3, H, W) side by side, in rows; some with a caption, some with a frame around them."""
    from matplotlib.patches import Rectangle

    height, width = frames[0].shape[1:]
    gap = _PIXELS / 40
    for index, frame in enumerate(frames):
        x, y = index % columns * (width + gap), index // columns * (height + gap)
        axes.imshow(frame.permute(1, 2, 0).numpy(), extent=(x, x + width, y + height, y), interpolation="antialiased")
        if index in framed:
            outline: dict[str, Any] = {"linewidth": 2, "edgecolor": _SLOW_COLOUR, "facecolor": "none", "clip_on": False}
            axes.add_patch(Rectangle((x, y), width, height, **outline))
        if captions:
            box = {"facecolor": "black", "alpha": 0.45, "edgecolor": "none", "pad": 1.5}
            style: dict[str, Any] = {"size": 7.5, "color": "white", "bbox": box}
            axes.annotate(captions[index], (x, y + height), (4, 5), textcoords="offset points", **style)
    axes.set_xlim(0, min(columns, len(frames)) * (width + gap) - gap)
    axes.set_ylim(math.ceil(len(frames) / columns) * (height + gap) - gap, 0)
    axes.set_aspect("equal")
    axes.set_anchor("W")
    axes.set_axis_off()
    # Above the panel's own left edge, where the frames begin however narrow they are.
    axes.annotate(title, (0, 1), (0, 7), "axes fraction", textcoords="offset points", **_title_style(colour))


def _timeline(
    axes: Axes, clips: Sequence[ClipPrediction], duration: float, colours: dict[str, str], rows: float
) -> None:
    """One bar a clip, from its start to its end, paler the less sure; beside it the best class."""
    for row, clip in enumerate(clips):
        colour = colours[clip.label]
        axes.barh(row, clip.end - clip.start, left=clip.start, height=0.72, color=colour, alpha=0.4 + 0.6 * clip.score)
        text = f"{100 * clip.score:3.0f} %  {_cut(clip.label)}"
        style: dict[str, Any] = {"size": 9, "color": _INK, "va": "center", "parse_math": False}
        axes.annotate(text, (1, row), (10, 0), axes.get_yaxis_transform(), textcoords="offset points", **style)
    axes.set_xlim(0, duration)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_yticks([])
    axes.set_xlabel("seconds", size=9, color=_PALE)
    axes.tick_params(axis="x", labelsize=9, colors=_PALE)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#cccccc")
    axes.annotate(
        "Clips along the video", (0, 1), (0, 7), "axes fraction", textcoords="offset points", **_title_style(_INK)
    )


def _bars(axes: Axes, scores: Sequence[tuple[str, float]], colours: dict[str, str], rows: float) -> None:
    """The best classes, each name above its bar."""
    for row, (label, score) in enumerate(scores):
        axes.barh(row, 1.0, height=0.30, color="#eeeeee")
        axes.barh(row, score, height=0.30, color=colours[label])
        style: dict[str, Any] = {"size": 9.5, "color": _INK, "va": "bottom", "parse_math": False}
        axes.text(0, row - 0.2, _cut(label), ha="left", **style)
        axes.text(1, row - 0.2, f"{100 * score:.1f} %", ha="right", **style)
    axes.set_xlim(0, 1)
    axes.set_ylim(rows - 0.5, -0.65)
    axes.set_axis_off()
    axes.annotate(
        "All clips together", (0, 1), (0, 7), "axes fraction", textcoords="offset points", **_title_style(_INK)
    )


def _title_style(colour: str) -> dict[str, Any]:
    return {"size": 11, "color": colour, "weight": "bold", "ha": "left", "va": "bottom"}


def _colours(prediction: Prediction) -> dict[str, str]:
    """A colour for each class on show, the same in both charts; the best classes first, gray when colours run out."""
    labels = dict.fromkeys([label for label, _ in prediction] + [clip.label for clip in prediction.clips])
    return {
        label: _CLASS_COLOURS[index] if index < len(_CLASS_COLOURS) else _OTHER for index, label in enumerate(labels)
    }


def _thumbnails(frames: Tensor) -> Tensor:
    """uint8 frames (T, 3, H, W) at the height that the picture needs."""
    width = max(1, round(_PIXELS * frames.shape[3] / frames.shape[2]))
    small = [F.interpolate(f[None].float(), size=(_PIXELS, width), mode="bilinear", antialias=True) for f in frames]
    return torch.cat(small).round().clamp(0, 255).to(torch.uint8)


def _strip_height(frames: Tensor, count: int, columns: int, at_most: float) -> float:
    """Inches that ``count`` frames in rows take across the full width."""
    height, width = frames.shape[2:]
    return min((_WIDTH - 2 * _MARGIN) * math.ceil(count / columns) * height / (columns * width), at_most)


def _cut(label: str, length: int = 28) -> str:
    return label if len(label) <= length else label[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"
