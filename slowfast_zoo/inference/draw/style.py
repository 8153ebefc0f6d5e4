"""What all pictures have in common: palette, sizes, headings, letters, and opening a result's video again."""

from __future__ import annotations

import contextlib
import errno
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from slowfast_zoo.errors import MissingDependencyError, in_line
from slowfast_zoo.inference.classify.results import Prediction, Timeline
from slowfast_zoo.utils.files import check_target, whole_file
from slowfast_zoo.video import VideoInput, VideoSource, open_video
from slowfast_zoo.video.source import FrameSequence

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.ImageFont import FreeTypeFont

Pixels = NDArray[np.uint8]  # (H, W, 3)

# Lengths in inches.
WIDTH = 11.0  # of a picture
MARGIN = 0.45
HEADING = 0.72
TITLE = 0.40  # above a panel
AIR = 0.24  # below a panel

INK, PALE, EMPTY = "#222222", "#8a8a8a", "#eeeeee"  # letters, lesser letters, what is left of a bar
TEAL, ORANGE = "#1f6f8b", "#d9822b"
_LINES, _AXIS = "#e6e6e6", "#cccccc"
_CLASS_COLOURS = (
    TEAL, ORANGE, "#5a9367", "#b5495b", "#7d6ba0", "#c9a227",
    "#4f9ec4", "#8c6d4f", "#d17ba8", "#3d4f7c", "#9bb04c", "#c76b4a",
)  # fmt: skip
_OTHER_CLASSES = "#a0a0a0"
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


# Files


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


@contextlib.contextmanager
def drawn_picture(path: str | os.PathLike[str], dpi: int = 120) -> Iterator[Figure]:
    """An empty figure, which is written, whole or not at all, when it has been drawn into.

    Raises:
        ValueError: as :func:`check_plot_path`, like the other errors, before the figure is drawn into.
    """
    target = check_plot_path(path)
    from matplotlib.figure import Figure

    figure = Figure(dpi=dpi, facecolor="white")
    yield figure
    with whole_file(target) as temporary:
        figure.savefig(temporary)


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


def at_height(picture: Tensor, height: int) -> Tensor:
    """(C, H, W) at another height, and an even width; uint8 stays uint8."""
    size = height, max(2, 2 * round(height * picture.shape[2] / picture.shape[1] / 2))
    resized = F.interpolate(picture[None].float(), size=size, mode="bilinear", antialias=True)[0]
    return resized if picture.is_floating_point() else resized.round().clamp(0, 255).to(picture.dtype)


# Panels


def add_panel(figure: Figure, left: float, top: float, wide: float, tall: float) -> Axes:
    """Axes at a place in inches from the picture's upper left corner."""
    width, height = figure.get_size_inches()
    axes: Axes = figure.add_axes((left / width, 1 - (top + tall) / height, wide / width, tall / height))
    return axes


def put_heading(figure: Figure, text: str, lines: Sequence[str]) -> None:
    """Large letters on the left of a picture; on the right small lines about it."""
    height = figure.get_size_inches()[1]
    left, last = MARGIN / WIDTH, max(0.5, 0.17 * len(lines))
    figure.text(left, 1 - 0.5 / height, in_line(text), size=19, weight="bold", color=INK, parse_math=False)
    for row, line in enumerate(map(in_line, reversed(lines))):
        y = 1 - (last - 0.17 * row) / height
        figure.text(1 - left, y, line, size=9, color=PALE, ha="right", parse_math=False)


def put_title(axes: Axes, text: str, colour: str = INK) -> None:
    """Above the panel, from its left edge on; it may be wider than the panel."""
    style: dict[str, Any] = {"size": 11, "color": colour, "weight": "bold", "ha": "left", "va": "bottom"}
    axes.annotate(text, (0, 1), (0, 7), xycoords="axes fraction", textcoords="offset points", **style)


def put_caption(axes: Axes, text: str, place: tuple[float, float]) -> None:
    """In a dark box, right above a place in the panel's data: the lower left corner of a frame."""
    box = {"facecolor": "black", "alpha": 0.45, "edgecolor": "none", "pad": 1.5}
    style: dict[str, Any] = {"size": 7.5, "color": "white", "bbox": box, "annotation_clip": False}
    axes.annotate(text, place, (4, 5), textcoords="offset points", **style)


def put_frames(
    axes: Axes,
    frames: Sequence[Pixels],
    columns: int,
    captions: Sequence[str] = (),
    framed: Sequence[int] = (),
    colour: str = INK,
) -> None:
    """Frames (H, W, 3) of one size in rows, all of them with a caption or none, some framed in a colour."""
    from matplotlib.patches import Rectangle

    height, width = frames[0].shape[:2]
    gap = height / 40
    for index, frame in enumerate(frames):
        x, y = index % columns * (width + gap), index // columns * (height + gap)
        axes.imshow(frame, extent=(x, x + width, y + height, y), interpolation="antialiased")
        if index in framed:
            axes.add_patch(
                Rectangle((x, y), width, height, linewidth=2, edgecolor=colour, facecolor="none", clip_on=False)
            )
        if captions:
            put_caption(axes, captions[index], (x, y + height))
    axes.set_xlim(0, min(columns, len(frames)) * (width + gap) - gap)
    axes.set_ylim(math.ceil(len(frames) / columns) * (height + gap) - gap, 0)
    axes.set_aspect("equal")
    axes.set_anchor("NW")
    axes.set_axis_off()


def put_bar(axes: Axes, place: float, share: float, colour: str, thick: float) -> None:
    """A bar from 0 to 1, of which a share is filled."""
    axes.barh(place, 1.0, height=thick, color=EMPTY)
    axes.barh(place, share, height=thick, color=colour)


def tidy_axes(axes: Axes, grid: str = "both") -> None:
    """A line below the panel and none around it, pale numbers, a pale grid behind what is drawn."""
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(_AXIS)
    axes.grid(axis=grid, color=_LINES, linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", labelsize=9, colors=PALE)


# Words and colours


def colours_of(labels: Iterable[str]) -> dict[str, str]:
    """A colour for each class, the same wherever it is shown; gray when colours run out."""
    distinct = enumerate(dict.fromkeys(labels))
    return {
        label: _CLASS_COLOURS[index] if index < len(_CLASS_COLOURS) else _OTHER_CLASSES for index, label in distinct
    }


def load_font(size: int, *, bold: bool = False) -> FreeTypeFont:
    """The font of the pictures; Pillow's own has no accents, let alone Greek or Cyrillic letters."""
    try:
        from matplotlib import get_data_path
        from PIL import ImageFont
    except ImportError as error:
        raise MissingDependencyError(
            f'writing into videos needs matplotlib and Pillow ({error}): pip install "slowfast-zoo[plot]"'
        ) from error
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", name)), size)


def fit(label: str, font: FreeTypeFont, room: int) -> str:
    """As much of a label as there is room for, in pixels."""
    label = in_line(label)
    shortened = (label[:length].rstrip() + _ELLIPSIS for length in range(len(label) - 1, 0, -1))
    return next((text for text in (label, *shortened) if font.getlength(text) <= room), "")


def cut(label: str, length: int = 28) -> str:
    """A label, or its beginning where it has more letters than there is room for."""
    label = in_line(label)
    return label if len(label) <= length else label[: length - 1] + _ELLIPSIS


def file_name(video: str) -> str:
    """The name of a result's video without its folder; names of files may be in no encoding at all."""
    return Path(video).name.encode(errors="replace").decode()


def clock(second: float, duration: float) -> str:
    """A moment of a video: seconds, or from two minutes on minutes (and hours) and seconds."""
    if duration < 120:
        return f"{second:g}"
    minutes, seconds = divmod(round(second), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if duration >= 3600 else f"{minutes}:{seconds:02}"
