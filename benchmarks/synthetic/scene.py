"""Random pictures for the generator of camera moves: textures, layers with holes, and objects.

All are float tensors with values in [0, 1]. Every random choice comes from the generator that is handed in.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def _noise(rng: np.random.Generator, channels: int, side: int, coarsest: int, persistence: float) -> Tensor:
    """(channels, side, side) noise: octaves from ``coarsest`` cells a side, each ``persistence`` as strong."""
    total = torch.zeros(1, channels, side, side)
    cells, height = coarsest, 1.0
    while cells < side:
        octave = torch.from_numpy(rng.standard_normal((1, channels, cells, cells), dtype=np.float32))
        total += height * F.interpolate(octave, size=(side, side), mode="bilinear", align_corners=False)
        cells, height = cells * 2, height * persistence
    low, high = total.amin(dim=(2, 3), keepdim=True), total.amax(dim=(2, 3), keepdim=True)
    return ((total - low) / (high - low))[0]


def texture(rng: np.random.Generator, side: int, unit: float) -> Tensor:
    """(3, side, side) picture: coloured noise under overlapping shapes of all sizes, ``unit`` pixels the largest.

    Shapes that hide one another, with sizes from a power law ("dead leaves"), have the edge and scale statistics of
    photographs, which is what carries over to real video.
    """
    mix = _noise(rng, 1, side, int(rng.integers(2, 7)), rng.uniform(0.4, 0.95)).numpy()
    first, second = rng.random((2, 3, 1, 1)).astype(np.float32)
    canvas = first + (second - first) * mix
    grain = _noise(rng, 1, side, int(rng.integers(12, 40)), rng.uniform(0.5, 1.0)).numpy()[0] - 0.5
    canvas += rng.uniform(0, 0.5) * grain
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32)
    for _ in range(int(math.exp(rng.uniform(math.log(8), math.log(110))))):
        radius = unit * 0.5 * math.exp(rng.uniform(math.log(0.03), math.log(0.7)))
        cx, cy = rng.uniform(0, side, 2)
        stretch, turn = math.exp(rng.normal(0, 0.6)), rng.choice((0.0, rng.uniform(0, math.pi)))
        reach = radius * max(stretch, 1 / stretch) * 1.5
        box = np.s_[max(0, int(cy - reach)) : int(cy + reach) + 1, max(0, int(cx - reach)) : int(cx + reach) + 1]
        u, v = columns[box] - cx, rows[box] - cy
        along, across = u * math.cos(turn) + v * math.sin(turn), v * math.cos(turn) - u * math.sin(turn)
        a, b = np.abs(along) / (radius * stretch), np.abs(across) * stretch / radius
        kind = rng.integers(4)
        edge = np.maximum(a, b) if kind < 2 else np.hypot(a, b) if kind == 2 else a + b  # box, ellipse, diamond
        cover = np.clip((1 - edge) * radius * 0.7 + 0.5, 0, 1) * (1.0 if rng.random() < 0.8 else rng.uniform(0.3, 1))
        paint = rng.random((3, 1, 1)).astype(np.float32) + np.zeros_like(cover)
        fill = rng.integers(6)
        if fill == 0:  # stripes or, seen from afar, lines of text
            wave = np.sin(along * (2 * math.pi / rng.uniform(3, 4 + radius)))
            if rng.random() < 0.5:
                wave = wave * np.sin(across * (2 * math.pi / rng.uniform(3, 20)))
            paint = paint + rng.uniform(0.2, 1) * np.clip(wave * rng.uniform(0.5, 4), -0.5, 0.5)
        elif fill == 1:  # shading
            paint = paint + rng.uniform(-0.5, 0.5) * along / radius
        elif fill < 5:  # the scene's own grain, at another strength
            paint = paint + rng.uniform(0.1, 1.0) * grain[box]
        under = canvas[:, box[0], box[1]]
        under += cover * (paint - under)
    return torch.from_numpy(canvas.astype(np.float32)).clamp_(0, 1)


def soften(picture: Tensor, factor: float) -> Tensor:
    """Defocus: shrink by ``factor`` and enlarge again."""
    small = F.interpolate(picture[None], scale_factor=1 / factor, mode="bilinear", antialias=True)
    return F.interpolate(small, size=picture.shape[1:], mode="bilinear")[0]


def layer(rng: np.random.Generator, side: int, unit: float) -> Tensor:
    """(4, side, side): a texture with holes, to be seen in front of the background (colour premultiplied by alpha)."""
    field = _noise(rng, 1, side, int(rng.integers(3, 9)), rng.uniform(0.2, 0.6))
    threshold = float(np.quantile(field.numpy()[0, ::4, ::4], rng.uniform(0.6, 0.92)))
    alpha = ((field - threshold) * rng.uniform(20, 80)).clamp(0, 1)
    return torch.cat([texture(rng, side, unit) * alpha, alpha])


def sprite(rng: np.random.Generator, side: int) -> Tensor:
    """(4, side, side): one blob with a texture of its own (colour premultiplied by alpha)."""
    rows, columns = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    reach = np.hypot(rows, columns * rng.uniform(1, 2.5)) + rng.uniform(0, 0.5) * _noise(rng, 1, side, 4, 0.5).numpy()
    alpha = torch.from_numpy(np.clip((0.95 - reach) * side * 0.4, 0, 1).astype(np.float32))
    return torch.cat([texture(rng, side, side / 1.5) * alpha, alpha])
