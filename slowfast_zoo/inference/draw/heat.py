"""A picture or a video of where a network looks: heat over the frames of both pathways, and over time."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from slowfast_zoo.inference.explain import VideoExplanation
from slowfast_zoo.utils.files import keep_inputs, whole_file
from slowfast_zoo.video.encode import SUFFIXES, VideoWriter

from .captions import check_render_path
from .style import AIR, HEADING, INK, MARGIN, PALE, TITLE, WIDTH, check_plot_path, cut, put_heading, put_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.ImageFont import FreeTypeFont

Pixels = NDArray[np.uint8]

_COLOURS = {"slow": "#1f6f8b", "fast": "#d9822b", "network": "#1f6f8b"}  # of the pathways, as in the other pictures
_NAMES = {"slow": "Slow pathway", "fast": "Fast pathway", "network": "network"}
_HEAT = "inferno"  # as even to the eye as to the number
_LOWEST, _FULL = 0.15, 0.6  # no colour up to the one, and no more of it beyond the other
_STRONGEST = 0.75  # of the colour, beside the picture
_COLOURED = 0.35  # what is left of the frame's own colours, which would mix with those of the heat
_PIXELS, _BETWEEN = 180, 5  # an inch in a picture's data, which is drawn smaller; and between its frames
_STRIP, _CURVE = 3.0, 1.2  # inches
_CAPTIONED = 8  # columns

# Of videos, in pixels.
_SLOWER = 4  # times
_PANEL, _WIDEST = 288, 1280  # height of the clip, and width of the whole, at most
_GAP, _CAPTION, _LINE, _FOOT = 12, 32, 40, 72  # between panels, above them, of the line below, of the curves
_TIME = 100  # for the time
_DARK, _WHITE, _PALE = "#16181c", "#ffffff", "#9aa0a6"
_LIGHT = {"slow": "#5fb4d2", "fast": "#f0a04b", "network": "#5fb4d2"}  # the pathways' colours, on dark


def save_explanation(explanation: VideoExplanation, path: str | os.PathLike[str]) -> None:
    """Draw where a network looked, as a picture or as a video.

    A picture has the frames of each pathway under its heat, and a curve of how much each moment counts. A video plays
    the clip at a quarter of its speed: as it is, and under the heat of each pathway. Each pathway's heat is on a scale
    of its own, from none (transparent) to the most (bright).

    Args:
        explanation: from :func:`~slowfast_zoo.inference.explain_video`.
        path: a picture in a format that matplotlib writes (.png, .pdf, .svg, ...), or a video (.mp4, .mkv, .mov).
            Written whole or not at all.

    Raises:
        ValueError: the suffix names no known format, or ``path`` is the video itself.
        FileNotFoundError: the folder is not there.
        MissingDependencyError: matplotlib, or for a video PyAV, is not installed.
    """
    target = check_explanation_path(path)
    keep_inputs([target], [explanation.video])
    if target.suffix.lower() in SUFFIXES:
        _write_video(explanation, target)
        return
    from matplotlib.figure import Figure

    figure = Figure(dpi=120, facecolor="white")
    _draw(figure, explanation)
    with whole_file(target) as temporary:
        figure.savefig(temporary)


def check_explanation_path(path: str | os.PathLike[str]) -> Path:
    """The path of a picture or video that can be written, known before the work that leads up to it.

    Raises:
        ValueError: the suffix names no known format.
        FileNotFoundError: the folder is not there.
        MissingDependencyError: matplotlib is not installed.
    """
    if Path(path).suffix.lower() in SUFFIXES:
        return check_render_path(path)
    try:
        return check_plot_path(path)
    except ValueError as error:
        raise ValueError(f"{error}, or for a video {', '.join(SUFFIXES)}") from None


def overlay(frame: Tensor, heat: Tensor) -> Pixels:
    """A uint8 frame (3, H, W), its colours paled, under heat (H, W) in 0..1: RGB (H, W, 3)."""
    from matplotlib import colormaps

    picture = frame.permute(1, 2, 0).double().numpy()
    grey = picture @ [[0.299], [0.587], [0.114]]
    picture = grey + _COLOURED * (picture - grey)
    warm = heat.double().clamp(0, 1).numpy()
    colour = 255 * colormaps[_HEAT](warm)[..., :3]
    share = _STRONGEST * np.clip((warm - _LOWEST) / (_FULL - _LOWEST), 0, 1)[..., None]
    return np.asarray(np.round((1 - share) * picture + share * colour), np.uint8)


# Pictures


def _draw(figure: Figure, explanation: VideoExplanation) -> None:
    """All panels, from top to bottom, into a figure that is given the height they need."""
    found, span = explanation.explanation, explanation.span
    full = WIDTH - 2 * MARGIN
    strips = []
    for name, frames in found.frames.items():
        columns, tall = _layout(len(frames), explanation.frames.shape[3] / explanation.frames.shape[2], full)
        pixels = math.ceil(_PIXELS * tall / math.ceil(len(frames) / columns))
        tiles = [
            overlay(_at_height(explanation.frames[frame], pixels), _at_height(heat[None], pixels)[0])
            for frame, heat in zip(frames, found.maps[name][0], strict=True)
        ]
        strips.append((name, _montage(tiles, columns), columns, tall))
    height = HEADING + sum(tall + TITLE + AIR for *_, tall in strips) + TITLE + _CURVE + 0.55
    figure.set_size_inches(WIDTH, height)

    def panel(top: float, tall: float) -> Axes:
        """Axes ``top`` inches below the heading, as wide as the picture."""
        place = (MARGIN / WIDTH, 1 - (HEADING + top + TITLE + tall) / height, full / WIDTH, tall / height)
        axes: Axes = figure.add_axes(place)
        return axes

    about = f"{span.start:.2f} to {span.end:.2f} s of {explanation.duration:.2f} s   {explanation.model}"
    video = Path(explanation.video).name.encode(errors="replace").decode()  # names may be in no encoding at all
    lines = [cut(video, 50), about, *explanation.notes()]
    put_heading(figure, height, f"{cut(explanation.label, 24)}  {100 * explanation.score:.0f} %", lines)
    top, shares = 0.0, explanation.shares()
    for name, picture, columns, tall in strips:
        axes = panel(top, tall)
        axes.imshow(picture, interpolation="antialiased")
        axes.set_anchor("NW")
        axes.set_axis_off()
        share = f": {100 * shares[name]:.0f} % of the heat" if len(strips) > 1 else ""
        count = len(found.frames[name])
        about = f"{found.layers[name]}, {count} frame{'s' if count > 1 else ''}"
        put_title(axes, f"Where the {_NAMES[name]} looks ({about}){share}", _COLOURS[name])
        if columns <= _CAPTIONED:
            times = [min(span.times[frame], explanation.duration) for frame in found.frames[name]]
            _captions(axes, picture, columns, times)
        top += tall + TITLE + AIR
    _scale(figure, height)
    _curve(panel(top, _CURVE), explanation)


def _captions(axes: Axes, picture: Pixels, columns: int, times: Sequence[float]) -> None:
    """The second of each frame of a montage, in its lower left corner."""
    rows = math.ceil(len(times) / columns)
    for index, time in enumerate(times):
        x = index % columns * (picture.shape[1] + _BETWEEN) / columns
        y = (index // columns + 1) * (picture.shape[0] + _BETWEEN) / rows - _BETWEEN
        box = {"facecolor": "black", "alpha": 0.45, "edgecolor": "none", "pad": 1.5}
        style: dict[str, Any] = {"size": 7.5, "color": "white", "bbox": box}
        axes.annotate(f"{time:.2f} s", (x, y), (4, 9), textcoords="offset points", annotation_clip=False, **style)


def _scale(figure: Figure, height: float) -> None:
    """What the colours mean, on the right above the first panel."""
    grey = torch.full((3, 8, 100), 150, dtype=torch.uint8)
    wide, tall, right = 0.9, 0.12, WIDTH - MARGIN - 0.5
    bottom = height - HEADING - TITLE + 0.1
    axes = figure.add_axes(((right - wide) / WIDTH, bottom / height, wide / WIDTH, tall / height))
    axes.imshow(overlay(grey, torch.linspace(0, 1, 100).expand(8, -1)), aspect="auto")
    axes.set_axis_off()
    for text, x, side in (("less", right - wide - 0.08, "right"), ("more", right + 0.08, "left")):
        figure.text(x / WIDTH, (bottom + 0.02) / height, text, size=9, color=PALE, ha=side)


def _layout(count: int, aspect: float, full: float) -> tuple[int, float]:
    """Columns and height in inches of so many frames: as large as they can be without making the picture long."""
    for columns in (1, 2, 4, 8, 16):
        tall = full * math.ceil(count / columns) / (columns * aspect)
        if tall <= _STRIP and columns <= count:
            return columns, tall
    columns = min(16, count)
    return columns, min(full * math.ceil(count / columns) / (columns * aspect), _STRIP)


def _montage(tiles: Sequence[Pixels], columns: int) -> Pixels:
    """Pictures (H, W, 3) of one size in rows, with white between them."""
    height, width = tiles[0].shape[:2]
    rows = math.ceil(len(tiles) / columns)
    whole = np.full((rows * (height + _BETWEEN) - _BETWEEN, columns * (width + _BETWEEN) - _BETWEEN, 3), 255, np.uint8)
    for index, tile in enumerate(tiles):
        y, x = index // columns * (height + _BETWEEN), index % columns * (width + _BETWEEN)
        whole[y : y + height, x : x + width] = tile
    return whole


def _curve(axes: Axes, explanation: VideoExplanation) -> None:
    """How much each moment counts, a line for each pathway."""
    moments = explanation.moments()
    for name, points in moments.items():
        times, values = zip(*points, strict=True)
        axes.fill_between(times, 0, values, color=_COLOURS[name], alpha=0.2, linewidth=0)
        axes.plot(times, values, "o-", color=_COLOURS[name], linewidth=1.6, markersize=3.5, clip_on=False)
    highest = max(value for points in moments.values() for _, value in points)
    axes.set_xlim(explanation.span.start, explanation.span.end)
    axes.set_ylim(0, 1.05 * highest or 1.0)
    axes.set_yticks([])
    axes.set_xlabel("seconds", size=9, color=PALE)
    axes.tick_params(axis="x", labelsize=9, colors=PALE)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#cccccc")
    put_title(axes, "How much each moment counts", INK)


def _at_height(picture: Tensor, height: int) -> Tensor:
    """(C, H, W) at another height; uint8 stays uint8."""
    size = height, max(2, 2 * round(height * picture.shape[2] / picture.shape[1] / 2))
    resized = F.interpolate(picture[None].float(), size=size, mode="bilinear", antialias=True)[0]
    return resized if picture.is_floating_point() else resized.round().clamp(0, 255).to(picture.dtype)


# Videos


def _write_video(explanation: VideoExplanation, target: Path) -> None:
    """The clip beside each pathway's heat, with captions above and, below, class, score, time and the curves."""
    from PIL import Image, ImageDraw

    maps = {name: x[0] for name, x in explanation.explanation.over_clip().items()}
    tall, wide = explanation.frames.shape[2:]
    count = 1 + len(maps)
    height = 2 * max(round(min(_PANEL, (_WIDEST / count - _GAP) * tall / wide) / 2), 8)
    frames = [_at_height(frame, height) for frame in explanation.frames]
    heats = {name: _at_height(x, height) for name, x in maps.items()}
    wide = frames[0].shape[2]
    lefts = [_GAP + index * (wide + _GAP) for index in range(count)]
    width = max(lefts[-1] + wide + _GAP, 320)
    base = _surroundings(explanation, lefts, width, height)
    span, times = explanation.span, explanation.span.times
    rate = min(max(len(times) / (span.end - span.start) / _SLOWER, 1.0), 30.0)
    with VideoWriter(target, rate, crf=18, say_colours=True) as writer:
        for index, (frame, time) in enumerate(zip(frames, times, strict=True)):
            panels = [np.asarray(frame.permute(1, 2, 0)), *(overlay(frame, heat[index]) for heat in heats.values())]
            pixels = base.copy()
            for left, panel in zip(lefts, panels, strict=True):
                pixels[_CAPTION : _CAPTION + height, left : left + wide] = panel
            image = Image.fromarray(pixels)
            draw = ImageDraw.Draw(image)
            shown = min(time, explanation.duration)
            right, line = width - _GAP, _CAPTION + height + _LINE // 2
            draw.text((right, line), f"{shown:.2f} s", _WHITE, _font(15), anchor="rm")
            x = _GAP + round((width - 2 * _GAP - 1) * _along(explanation, shown))
            draw.line((x, image.height - _FOOT - 4, x, image.height - _GAP + 2), _WHITE, 2)
            writer.add(np.asarray(image))


def _surroundings(explanation: VideoExplanation, lefts: Sequence[int], width: int, height: int) -> Pixels:
    """What stays the same in all frames."""
    from PIL import Image, ImageDraw

    names, shares = list(explanation.explanation.maps), explanation.shares()
    # Drawn at twice the size, so that scaling down smooths the lines.
    image = Image.new("RGB", (2 * width, 2 * (_CAPTION + height + _LINE + _FOOT)), _DARK)
    draw = ImageDraw.Draw(image, "RGBA")
    draw.text((2 * lefts[0], _CAPTION), "the clip", _WHITE, _font(26), anchor="lm")
    for name, left in zip(names, lefts[1:], strict=True):
        texts = [f"the {_NAMES[name]}"]
        if len(names) > 1:
            percent = f"{100 * shares[name]:.0f} %"
            texts = [f"{_NAMES[name]}, {percent} of the heat", f"{name}, {percent}", name]
        room = 2 * (lefts[1] - lefts[0] - _GAP)
        text = next((text for text in texts if _font(26).getlength(text) <= room), texts[-1])
        draw.text((2 * left, _CAPTION), text, _LIGHT[name], _font(26), anchor="lm")
    middle, bold, small = 2 * (_CAPTION + height) + _LINE, _font(36, bold=True), _font(24)
    room = 2 * (width - _TIME)  # the time stands on the right
    label = f"{cut(explanation.label, room // 30)}  {100 * explanation.score:.0f} %"
    draw.text((2 * _GAP, middle), label, _WHITE, bold, anchor="lm")
    about = "how much each moment counts"
    if 2 * _GAP + bold.getlength(label) + 40 + small.getlength(about) < room:
        draw.text((room, middle), about, _PALE, small, anchor="rm")
    moments = explanation.moments()
    highest = max(value for points in moments.values() for _, value in points) or 1.0
    floor, tall = image.height - 2 * _GAP, 2 * (_FOOT - _GAP)
    for name, points in moments.items():
        curve = [
            (2 * (_GAP + (width - 2 * _GAP) * _along(explanation, time)), floor - tall * value / highest)
            for time, value in points
        ]
        ends = [(curve[0][0], floor), *curve, (curve[-1][0], floor)]
        draw.polygon(ends, fill=_LIGHT[name] + "40")
        draw.line(curve, _LIGHT[name], 4, joint="curve")
    return np.asarray(image.resize((width, image.height // 2), Image.Resampling.LANCZOS))


def _along(explanation: VideoExplanation, time: float) -> float:
    """How far into the clip a moment lies, from 0 to 1."""
    span = explanation.span
    return (time - span.start) / (span.end - span.start)


def _font(size: int, *, bold: bool = False) -> FreeTypeFont:
    """The font of the pictures."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", name)), size)
