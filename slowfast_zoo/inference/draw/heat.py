"""A picture or a video of where a network looks: heat over the frames of both pathways, and over time."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from slowfast_zoo.inference.explain import VideoExplanation
from slowfast_zoo.utils.files import keep_inputs
from slowfast_zoo.video.encode import SUFFIXES, VideoWriter

from . import style
from .captions import check_render_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {"slow": style.TEAL, "fast": style.ORANGE, "network": style.TEAL}
_NAMES = {"slow": "Slow pathway", "fast": "Fast pathway", "network": "network"}
_HEAT = "inferno"  # as even to the eye as to the number
_LOWEST, _FULL = 0.15, 0.6  # no colour up to the one, and no more of it beyond the other
_STRONGEST = 0.75  # share of the colour where the frame shows through
_COLOURED = 0.35  # what is left of the frame's own colours, which would mix with those of the heat
_PIXELS = 180  # an inch in a picture's data, which is drawn smaller
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
    with style.drawn_picture(target) as figure:
        _draw(figure, explanation)


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
        return style.check_plot_path(path)
    except ValueError as error:
        raise ValueError(f"{error}, or for a video {', '.join(SUFFIXES)}") from None


def overlay(frame: Tensor, heat: Tensor) -> style.Pixels:
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
    full = style.WIDTH - 2 * style.MARGIN
    strips = []
    for name, frames in found.frames.items():
        columns, tall = _choose_columns(len(frames), explanation.frames.shape[3] / explanation.frames.shape[2], full)
        pixels = math.ceil(_PIXELS * tall / math.ceil(len(frames) / columns))
        tiles = [
            overlay(style.at_height(explanation.frames[frame], pixels), style.at_height(heat[None], pixels)[0])
            for frame, heat in zip(frames, found.maps[name][0], strict=True)
        ]
        strips.append((name, tiles, columns, tall))
    height = style.HEADING + sum(tall + style.TITLE + style.AIR for *_, tall in strips) + style.TITLE + _CURVE + 0.55
    figure.set_size_inches(style.WIDTH, height)

    def panel(top: float, tall: float) -> Axes:
        """Axes ``top`` inches below the heading, as wide as the picture."""
        return style.add_panel(figure, style.MARGIN, style.HEADING + top + style.TITLE, full, tall)

    about = f"{span.start:.2f} to {span.end:.2f} s of {explanation.duration:.2f} s   {explanation.model}"
    lines = [style.cut(style.file_name(explanation.video), 50), about, *explanation.notes()]
    style.put_heading(figure, f"{style.cut(explanation.label, 24)}  {100 * explanation.score:.0f} %", lines)
    top, shares = 0.0, explanation.shares()
    for name, tiles, columns, tall in strips:
        axes = panel(top, tall)
        times = [f"{min(span.times[frame], explanation.duration):.2f} s" for frame in found.frames[name]]
        style.put_frames(axes, tiles, columns, captions=times if columns <= _CAPTIONED else ())
        share = f": {100 * shares[name]:.0f} % of the heat" if len(strips) > 1 else ""
        count = len(found.frames[name])
        about = f"{found.layers[name]}, {count} frame{'s' if count > 1 else ''}"
        style.put_title(axes, f"Where the {_NAMES[name]} looks ({about}){share}", _COLOURS[name])
        top += tall + style.TITLE + style.AIR
    _draw_scale(figure)
    _draw_curve(panel(top, _CURVE), explanation)


def _draw_scale(figure: Figure) -> None:
    """What the colours mean, on the right above the first panel."""
    height = figure.get_size_inches()[1]
    grey = torch.full((3, 8, 100), 150, dtype=torch.uint8)
    wide, tall, right = 0.9, 0.12, style.WIDTH - style.MARGIN - 0.5
    bottom = height - style.HEADING - style.TITLE + 0.1
    axes = style.add_panel(figure, right - wide, height - bottom - tall, wide, tall)
    axes.imshow(overlay(grey, torch.linspace(0, 1, 100).expand(8, -1)), aspect="auto")
    axes.set_axis_off()
    for text, x, side in (("less", right - wide - 0.08, "right"), ("more", right + 0.08, "left")):
        figure.text(x / style.WIDTH, (bottom + 0.02) / height, text, size=9, color=style.PALE, ha=side)


def _choose_columns(count: int, aspect: float, full: float) -> tuple[int, float]:
    """Columns of a number of frames, and their height in inches: large, but without making the picture long."""

    def height(columns: int) -> float:
        return full * math.ceil(count / columns) / (columns * aspect)

    fitting = (columns for columns in (1, 2, 4, 8, 16) if columns <= count and height(columns) <= _STRIP)
    columns = next(fitting, min(16, count))
    return columns, min(height(columns), _STRIP)


def _draw_curve(axes: Axes, explanation: VideoExplanation) -> None:
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
    axes.set_xlabel("seconds", size=9, color=style.PALE)
    style.tidy_axes(axes, grid="x")
    style.put_title(axes, "How much each moment counts", style.INK)


# Videos


def _write_video(explanation: VideoExplanation, target: Path) -> None:
    """The clip next to each pathway's heat, with captions above and, below, class, score, time and the curves."""
    from PIL import Image, ImageDraw

    maps = {name: x[0] for name, x in explanation.explanation.over_clip().items()}
    tall, wide = explanation.frames.shape[2:]
    count = 1 + len(maps)
    height = 2 * max(round(min(_PANEL, (_WIDEST / count - _GAP) * tall / wide) / 2), 8)
    frames = [style.at_height(frame, height) for frame in explanation.frames]
    heats = {name: style.at_height(x, height) for name, x in maps.items()}
    wide = frames[0].shape[2]
    lefts = [_GAP + index * (wide + _GAP) for index in range(count)]
    width = max(lefts[-1] + wide + _GAP, 320)
    base = _draw_background(explanation, lefts, width, height)
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
            draw.text((right, line), f"{shown:.2f} s", _WHITE, style.load_font(15), anchor="rm")
            x = _GAP + round((width - 2 * _GAP - 1) * _part_of_clip(explanation, shown))
            draw.line((x, image.height - _FOOT - 4, x, image.height - _GAP + 2), _WHITE, 2)
            writer.add(np.asarray(image))


def _draw_background(explanation: VideoExplanation, lefts: Sequence[int], width: int, height: int) -> style.Pixels:
    """What stays the same in all frames."""
    from PIL import Image, ImageDraw

    names, shares = list(explanation.explanation.maps), explanation.shares()
    # Drawn at twice the size, so that scaling down smooths the lines.
    image = Image.new("RGB", (2 * width, 2 * (_CAPTION + height + _LINE + _FOOT)), _DARK)
    draw = ImageDraw.Draw(image, "RGBA")
    draw.text((2 * lefts[0], _CAPTION), "the clip", _WHITE, style.load_font(26), anchor="lm")
    for name, left in zip(names, lefts[1:], strict=True):
        texts = [f"the {_NAMES[name]}"]
        if len(names) > 1:
            percent = f"{100 * shares[name]:.0f} %"
            texts = [f"{_NAMES[name]}, {percent} of the heat", f"{name}, {percent}", name]
        room = 2 * (lefts[1] - lefts[0] - _GAP)
        text = next((text for text in texts if style.load_font(26).getlength(text) <= room), texts[-1])
        draw.text((2 * left, _CAPTION), text, _LIGHT[name], style.load_font(26), anchor="lm")
    middle, bold, small = 2 * (_CAPTION + height) + _LINE, style.load_font(36, bold=True), style.load_font(24)
    room = 2 * (width - _TIME)  # the time stands on the right
    label = f"{style.cut(explanation.label, room // 30)}  {100 * explanation.score:.0f} %"
    draw.text((2 * _GAP, middle), label, _WHITE, bold, anchor="lm")
    about = "how much each moment counts"
    if 2 * _GAP + bold.getlength(label) + 40 + small.getlength(about) < room:
        draw.text((room, middle), about, _PALE, small, anchor="rm")
    moments = explanation.moments()
    highest = max(value for points in moments.values() for _, value in points) or 1.0
    floor, tall = image.height - 2 * _GAP, 2 * (_FOOT - _GAP)
    for name, points in moments.items():
        curve = [
            (2 * (_GAP + (width - 2 * _GAP) * _part_of_clip(explanation, time)), floor - tall * value / highest)
            for time, value in points
        ]
        ends = [(curve[0][0], floor), *curve, (curve[-1][0], floor)]
        draw.polygon(ends, fill=_LIGHT[name] + "40")
        draw.line(curve, _LIGHT[name], 4, joint="curve")
    return np.asarray(image.resize((width, image.height // 2), Image.Resampling.LANCZOS))


def _part_of_clip(explanation: VideoExplanation, time: float) -> float:
    """How far into the clip a moment lies, from 0 to 1."""
    span = explanation.span
    return (time - span.start) / (span.end - span.start)
