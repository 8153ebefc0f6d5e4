"""A picture of a prediction: what each pathway saw, what each clip was taken for, and the scores."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from slowfast_zoo.errors import MissingDependencyError, in_line
from slowfast_zoo.video import VideoInput, VideoSource, open_video
from slowfast_zoo.video.encode import check_target, whole_file
from slowfast_zoo.video.source import FrameSequence

from .results import ClipPrediction, Prediction, Timeline, describe_views

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 11.0  # of a picture, in inches, as all lengths here
MARGIN = 0.45
HEADING = 0.72
TITLE = 0.40  # above a panel
AIR = 0.24  # below a panel
INK, PALE = "#222222", "#8a8a8a"
_CLASS_COLOURS = (
    "#1f6f8b", "#d9822b", "#5a9367", "#b5495b", "#7d6ba0", "#c9a227",
    "#4f9ec4", "#8c6d4f", "#d17ba8", "#3d4f7c", "#9bb04c", "#c76b4a",
)  # fmt: skip
_OTHER = "#a0a0a0"
_SLOW_COLOUR, _FAST_COLOUR = "#1f6f8b", "#d9822b"
_ROW = 0.30  # a clip in the timeline
_BAR = 0.50  # a class among the scores
_MAX_CLIPS = 60  # rows of the timeline that can still be told apart
_PIXELS = 240  # height of a frame in the picture's data; drawn smaller


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
    target = check_plot_path(path)
    from matplotlib.figure import Figure

    figure = Figure(dpi=120, facecolor="white")
    with open_again(prediction, video) as source:
        _draw(figure, prediction, source)
    with whole_file(target) as temporary:
        figure.savefig(temporary)


def check_plot_path(path: str | os.PathLike[str]) -> Path:
    """The path of a picture that can be drawn, known before the work that leads up to it.

    Raises:
        ValueError: the suffix names no known format.
        FileNotFoundError: the folder is not there.
        OSError: nothing can be written there.
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
    return check_target(target)


def open_again(result: Prediction | Timeline, video: VideoInput | None = None) -> VideoSource:
    """The video that a result is of, its frames at the same moments.

    Args:
        result: what was seen in it.
        video: as it was given then; needed unless the result names a file, folder or URL.

    Raises:
        ValueError: the video is needed, but was not given.
        FileNotFoundError: there is no such file.
        VideoDecodeError: it cannot be decoded.
    """
    if video is None and result.video.startswith("<"):
        raise ValueError(f"the result is of {result.video}, not of a file: pass the video once more, as video=")
    video = result.video if video is None else video
    source = open_video(video, fps=1.0)
    if isinstance(source, FrameSequence):  # at 1 fps as many seconds as frames
        source = open_video(video, fps=source.duration / result.duration)
    return source


def _draw(figure: Figure, prediction: Prediction, source: VideoSource) -> None:
    """All panels, from top to bottom, into a figure that is given the height they need."""
    best_class = int(prediction.probabilities.argmax())
    shown = max(prediction.clips, key=lambda clip: float(clip.probabilities[best_class]))
    frames = next(source.clips_at([shown.span.times], thumbnail))
    chosen = prediction.slow_frames
    two_pathways = len(chosen) < len(frames)
    clips = prediction.clips[:: math.ceil(len(prediction.clips) / _MAX_CLIPS)]
    full = WIDTH - 2 * MARGIN

    slow_height = _strip_height(frames, len(chosen), min(len(chosen), 8), at_most=3.0)
    fast_height = _strip_height(frames, len(frames), 16, at_most=1.4) if two_pathways else 0.0
    chart_height = max(len(clips) * _ROW, len(prediction) * _BAR, 3 * _BAR)
    panels = [slow_height, fast_height, chart_height] if two_pathways else [slow_height, chart_height]
    height = HEADING + sum(panels) + len(panels) * (TITLE + AIR) + 0.35
    figure.set_size_inches(WIDTH, height)

    def panel(top: float, tall: float, left: float = 0.0, wide: float = 1.0) -> Axes:
        """Axes ``top`` inches below the heading, their left side and width given as parts of the full width."""
        axes: Axes = figure.add_axes(
            (
                (MARGIN + left * full) / WIDTH,
                1 - (HEADING + top + TITLE + tall) / height,
                wide * full / WIDTH,
                tall / height,
            )
        )
        return axes

    label, score = prediction[0]
    about = "   ".join((f"{prediction.duration:.2f} s", prediction.model, describe_views(prediction)))
    lines = [cut(short_name(prediction), 50), about, *prediction.notes()]
    put_heading(figure, height, f"{cut(label, 24)}  {100 * score:.0f} %", lines)
    name = "Slow pathway" if two_pathways else "The network"
    title = f"{name}: {len(chosen)} frames of the clip from {shown.start:.2f} to {shown.end:.2f} s"
    times = [f"{min(shown.span.times[index], prediction.duration):.2f} s" for index in chosen]
    _strip(panel(0, slow_height), [frames[i] for i in chosen], 8, title, _SLOW_COLOUR, captions=times)
    top = slow_height + TITLE + AIR
    if two_pathways:
        title = f"Fast pathway: {len(frames)} frames of it, {len(frames) / len(chosen):g} times the frame rate"
        _strip(panel(top, fast_height), list(frames), 16, title, _FAST_COLOUR, framed=chosen)
        top += fast_height + TITLE + AIR
    colours = colours_of([label for label, _ in prediction] + [clip.label for clip in prediction.clips])
    _timeline(panel(top, chart_height, wide=0.40), clips, prediction.duration, colours, chart_height / _ROW)
    _bars(panel(top, chart_height, left=0.68, wide=0.32), list(prediction), colours, chart_height / _BAR)


def put_heading(figure: Figure, height: float, text: str, lines: Sequence[str]) -> None:
    """Large letters on the left of a picture ``height`` inches high; on the right small lines about it."""
    left, last = MARGIN / WIDTH, max(0.5, 0.17 * len(lines))
    figure.text(left, 1 - 0.5 / height, in_line(text), size=19, weight="bold", color=INK, parse_math=False)
    for row, line in enumerate(map(in_line, reversed(lines))):
        y = 1 - (last - 0.17 * row) / height
        figure.text(1 - left, y, line, size=9, color=PALE, ha="right", parse_math=False)


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
    put_title(axes, title, colour)


def _timeline(
    axes: Axes, clips: Sequence[ClipPrediction], duration: float, colours: dict[str, str], rows: float
) -> None:
    """One bar a clip, from its start to its end, paler the less sure; beside it the best class."""
    for row, clip in enumerate(clips):
        colour = colours[clip.label]
        axes.barh(row, clip.end - clip.start, left=clip.start, height=0.72, color=colour, alpha=0.4 + 0.6 * clip.score)
        style: dict[str, Any] = {"size": 9, "color": INK, "va": "center", "parse_math": False}
        for text, x, side in ((f"{100 * clip.score:.0f} %", 40, "right"), (cut(clip.label), 48, "left")):
            style.update(xycoords=axes.get_yaxis_transform(), textcoords="offset points", ha=side)
            axes.annotate(text, (1, row), (x, 0), **style)
    axes.set_xlim(0, duration)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_yticks([])
    axes.set_xlabel("seconds", size=9, color=PALE)
    axes.tick_params(axis="x", labelsize=9, colors=PALE)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#cccccc")
    put_title(axes, "Clips along the video")


def _bars(axes: Axes, scores: Sequence[tuple[str, float]], colours: dict[str, str], rows: float) -> None:
    """The best classes, each name above its bar."""
    for row, (label, score) in enumerate(scores):
        axes.barh(row, 1.0, height=0.30, color="#eeeeee")
        axes.barh(row, score, height=0.30, color=colours[label])
        style: dict[str, Any] = {"size": 9.5, "color": INK, "va": "bottom", "parse_math": False}
        axes.text(0, row - 0.2, cut(label), ha="left", **style)
        axes.text(1, row - 0.2, f"{100 * score:.1f} %", ha="right", **style)
    axes.set_xlim(0, 1)
    axes.set_ylim(rows - 0.5, -0.65)
    axes.set_axis_off()
    put_title(axes, "All clips together")


def put_title(axes: Axes, text: str, colour: str = INK) -> None:
    """Above the panel, from its left edge on, however narrow that is which it holds."""
    style: dict[str, Any] = {"size": 11, "color": colour, "weight": "bold", "ha": "left", "va": "bottom"}
    axes.annotate(text, (0, 1), (0, 7), xycoords="axes fraction", textcoords="offset points", **style)


def colours_of(labels: Iterable[str]) -> dict[str, str]:
    """A colour for each class, the same wherever it is shown; gray when colours run out."""
    distinct = enumerate(dict.fromkeys(labels))
    return {label: _CLASS_COLOURS[index] if index < len(_CLASS_COLOURS) else _OTHER for index, label in distinct}


def thumbnail(frame: Tensor) -> Tensor:
    """A uint8 frame (3, H, W) at the height that a picture needs."""
    size = _PIXELS, max(1, round(_PIXELS * frame.shape[2] / frame.shape[1]))
    small = F.interpolate(frame[None].float(), size=size, mode="bilinear", antialias=True)[0]
    return small.round().clamp(0, 255).to(torch.uint8)


def _strip_height(frames: Tensor, count: int, columns: int, at_most: float) -> float:
    """Inches that ``count`` frames in rows take across the full width."""
    height, width = frames.shape[2:]
    return min((WIDTH - 2 * MARGIN) * math.ceil(count / columns) * height / (columns * width), at_most)


def short_name(result: Prediction | Timeline) -> str:
    """Of its video; the names of files may be in no encoding at all."""
    return Path(result.video).name.encode(errors="replace").decode()


def cut(label: str, length: int = 28) -> str:
    """The beginning of a label that is longer than there is room for."""
    label = in_line(label)
    return label if len(label) <= length else label[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"
