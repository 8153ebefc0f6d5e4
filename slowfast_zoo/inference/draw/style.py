"""What all pictures have in common: palette, sizes, headings, letters, and opening a result's video again."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL.ImageFont import FreeTypeFont
from torch import Tensor

from slowfast_zoo.errors import MissingDependencyError, in_line
from slowfast_zoo.inference.classify.results import Prediction, Timeline
from slowfast_zoo.utils.files import check_target
from slowfast_zoo.video import VideoInput, VideoSource, open_video
from slowfast_zoo.video.source import FrameSequence


def fitted(label: str, font: FreeTypeFont, room: int) -> str:
    """As much of a label as there is room for."""
    label = in_line(label)
    shortened = (label[:length].rstrip() + "\N{HORIZONTAL ELLIPSIS}" for length in range(len(label) - 1, 0, -1))
    return next((text for text in (label, *shortened) if font.getlength(text) <= room), "")


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


_PIXELS = 240  # height of a frame in the picture's data; drawn smaller


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


def put_heading(figure: Figure, height: float, text: str, lines: Sequence[str]) -> None:
    """Large letters on the left of a picture ``height`` inches high; on the right small lines about it."""
    left, last = MARGIN / WIDTH, max(0.5, 0.17 * len(lines))
    figure.text(left, 1 - 0.5 / height, in_line(text), size=19, weight="bold", color=INK, parse_math=False)
    for row, line in enumerate(map(in_line, reversed(lines))):
        y = 1 - (last - 0.17 * row) / height
        figure.text(1 - left, y, line, size=9, color=PALE, ha="right", parse_math=False)


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


def short_name(result: Prediction | Timeline) -> str:
    """Of its video; the names of files may be in no encoding at all."""
    return Path(result.video).name.encode(errors="replace").decode()


def cut(label: str, length: int = 28) -> str:
    """The beginning of a label that is longer than there is room for."""
    label = in_line(label)
    return label if len(label) <= length else label[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


def clock(second: float, duration: float) -> str:
    """A moment of a video: seconds, or from two minutes on minutes (and hours) and seconds."""
    if duration < 120:
        return f"{second:g}"
    minutes, seconds = divmod(round(second), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if duration >= 3600 else f"{minutes}:{seconds:02}"
