"""Procedural videos of camera moves with known labels: what the bundled model is trained and tested on.

A video is made in three steps, each usable alone:

1. :func:`camera_path` draws, for a label, where the camera points at every frame (:class:`CameraPath`);
2. :func:`render_scene` looks along that path at a random scene: a textured background, up to two nearer layers
   (parallax), objects that move on their own, light that changes, blur and sensor noise;
3. :func:`slowfast_zoo.video.encode.write_video` compresses the frames with H.264.

:func:`generate_motion_video` does the first two from a seed. :func:`warp` alone applies a path to given pictures, so
the same code moves a virtual camera over the frames of a real video.

Lengths are in *short sides*: 1.0 is the shorter side of the frame, whatever its shape, so that a definition means the
same in landscape and in portrait. Labels say what the **camera** does: in ``pan_right`` the camera turns to the right
and the picture's content moves to the left; in ``roll_clockwise`` the camera turns clockwise as its operator sees it
and the content turns counter-clockwise. The figures are those of the clip of 1.07 s from a video's middle, and hold
for 98 videos of 100:

=========================  =====================================================================================
label                      what the farthest layer shows
=========================  =====================================================================================
static                     drift at most 0.004 short sides/s, jitter at most 0.0014 (rms); objects may move
pan_left, pan_right        horizontal speed 0.07 to 0.7 short sides/s, vertical at most 0.15 of it
tilt_up, tilt_down         the same, vertically
zoom_in, zoom_out          the logarithm of the magnification changes by 0.1 to 0.8 a second (factor 1.10 to 2.2)
roll_clockwise,            7 to 75 degrees/s about a point near the centre
roll_counterclockwise
shake                      hand-held: 1.5 to 7 Hz, zero mean, 0.006 to 0.045 short sides (rms)
whip_pan, whip_tilt        mean speed 1.5 to 4.5 short sides/s, either way; the frame is mostly motion blur
=========================  =====================================================================================

Between the ranges lie gaps that belong to no class: no pan is faster than 0.9 short sides/s, no whip slower than 1.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.synthetic.scene import layer, soften, sprite, texture

MOTION_CLASSES: tuple[str, ...] = (
    "static",
    "pan_left",
    "pan_right",
    "tilt_up",
    "tilt_down",
    "zoom_in",
    "zoom_out",
    "roll_clockwise",
    "roll_counterclockwise",
    "shake",
    "whip_pan",
    "whip_tilt",
)
FRAME_RATES = (30.0, 30000 / 1001, 25.0, 24.0, 60.0, 50.0, 15.0)
_FRAME_RATE_ODDS = (0.32, 0.15, 0.22, 0.18, 0.03, 0.02, 0.08)
_CHUNK = 4  # frames rendered at a time: few enough to stay in the processor's cache
_ASPECTS = (1.0, 4 / 3, 3 / 2, 16 / 9, 3 / 4, 9 / 16)
_ASPECT_ODDS = (0.15, 0.3, 0.15, 0.25, 0.1, 0.05)

# Per label: direction of the camera's own motion as (right, down, zoom, roll clockwise). A whip's sign is drawn.
_DIRECTIONS: dict[str, tuple[int, int, int, int]] = {
    "static": (0, 0, 0, 0),
    "pan_left": (-1, 0, 0, 0),
    "pan_right": (1, 0, 0, 0),
    "tilt_up": (0, -1, 0, 0),
    "tilt_down": (0, 1, 0, 0),
    "zoom_in": (0, 0, 1, 0),
    "zoom_out": (0, 0, -1, 0),
    "roll_clockwise": (0, 0, 0, 1),
    "roll_counterclockwise": (0, 0, 0, -1),
    "shake": (0, 0, 0, 0),
    "whip_pan": (1, 0, 0, 0),
    "whip_tilt": (0, 1, 0, 0),
}
Array = NDArray[np.float64]


@dataclass(frozen=True)
class CameraPath:
    """Where a camera points, frame by frame.

    Attributes:
        x: (N,) horizontal position of the view's centre in the scene, in short sides, positive to the right.
        y: (N,) vertical position, positive downwards.
        log_scale: (N,) natural logarithm of the magnification, positive when zoomed in.
        angle: (N,) roll in radians, positive when the camera is turned clockwise as its operator sees it.
    """

    x: Array
    y: Array
    log_scale: Array
    angle: Array

    def __len__(self) -> int:
        return len(self.x)

    def at(self, frames: Array) -> CameraPath:
        """The path at fractional frame numbers (linear between frames, held at the ends)."""
        known = np.arange(len(self))
        return CameraPath(*(np.interp(frames, known, v) for v in (self.x, self.y, self.log_scale, self.angle)))

    def matrices(self, depth: float = 1.0) -> Array:
        """(N, 3, 3) maps from frame to scene coordinates, both centred, in short sides, y downwards.

        ``depth`` is the parallax of the layer looked at: 1 for the farthest, more for nearer ones.
        """
        scale = np.exp(-self.log_scale * depth)
        cos, sin = np.cos(self.angle) * scale, np.sin(self.angle) * scale
        out = np.zeros((len(self), 3, 3))
        out[:, 0, 0], out[:, 0, 1], out[:, 0, 2] = cos, -sin, self.x * depth
        out[:, 1, 0], out[:, 1, 1], out[:, 1, 2] = sin, cos, self.y * depth
        out[:, 2, 2] = 1
        return out


def transformed_label(
    label: str, *, mirror: bool = False, flip: bool = False, transpose: bool = False, reverse: bool = False
) -> str:
    """The class of a video after exact changes of its frames, which multiply a training set by 16.

    Args:
        label: the class before.
        mirror: left and right were exchanged.
        flip: top and bottom were exchanged.
        transpose: rows and columns were exchanged, after the two above.
        reverse: the frames were put in the opposite order.

    Raises:
        ValueError: for an unknown label.
    """
    right, down, zoom, roll = _DIRECTIONS[_known(label)]
    right, down = -right if mirror else right, -down if flip else down
    right, down = (down, right) if transpose else (right, down)
    roll = -roll if mirror ^ flip ^ transpose else roll
    if label.startswith("whip"):
        return "whip_pan" if right else "whip_tilt"
    if label == "shake":
        return label
    sign = -1 if reverse else 1
    moved = (sign * right, sign * down, sign * zoom, sign * roll)
    return next(name for name, direction in _DIRECTIONS.items() if direction == moved)


def _known(label: str) -> str:
    if label not in _DIRECTIONS:
        raise ValueError(f"unknown camera motion {label!r}; expected one of {', '.join(MOTION_CLASSES)}")
    return label


def _uneven(rng: np.random.Generator, t: Array, depth: float) -> Array:
    """A smooth positive factor around 1 that varies by up to ``depth``: nobody pans at a constant speed."""
    rates, phases = rng.uniform(0.1, 1.2, 2), rng.uniform(0, 2 * math.pi, 2)
    ramp = rng.uniform(-0.5, 0.5) * (2 * t / max(t[-1], 1e-6) - 1)
    wave = 0.5 * np.sin(2 * math.pi * np.outer(t, rates) + phases).mean(axis=1)
    return np.asarray(1 + depth * (ramp + wave))


def _shake(rng: np.random.Generator, t: Array, rms: float, slowest: float = 1.5, fastest: float = 7.0) -> Array:
    """Zero-mean oscillation of the given rms: a few sines between ``slowest`` and ``fastest`` Hz."""
    rates, phases = rng.uniform(slowest, fastest, 4), rng.uniform(0, 2 * math.pi, 4)
    heights = rng.uniform(0.3, 1, 4) * (slowest / rates) ** 0.5  # faster tremors are smaller
    wave = np.sin(2 * math.pi * np.outer(t, rates) + phases) @ heights
    return np.asarray(rms * wave / math.sqrt((heights**2).sum() / 2))


def camera_path(label: str, seconds: float, fps: float, rng: np.random.Generator) -> CameraPath:
    """A random camera path of one class, as the table in this module's docstring defines it.

    Args:
        label: one of :data:`MOTION_CLASSES`.
        seconds: length; the path has ``ceil(seconds * fps)`` frames.
        fps: frames per second.
        rng: source of every random choice.

    Raises:
        ValueError: for an unknown label, or a length or rate that gives fewer than two frames.
    """
    direction = _DIRECTIONS[_known(label)]
    frames = math.ceil(seconds * fps) if seconds > 0 and fps > 0 else 0
    if frames < 2:
        raise ValueError(f"a camera path needs two frames or more; {seconds} s at {fps} frames/s give {frames}")
    t = np.arange(frames) / fps
    right, down, zoom, roll = (float(d) for d in direction)
    vx, vy, vz, vr = (np.zeros(frames) for _ in range(4))  # camera speeds in the frame's own axes, per second
    tremor = 0.0 if rng.random() < 0.4 else rng.uniform(0, 0.003)  # a hand on the camera, far below "shake"
    offset = rng.uniform(-0.2, 0.2, 2)  # zooms and rolls are about a point near the centre
    if label == "static":
        tremor = 0.0 if rng.random() < 0.5 else rng.uniform(0, 0.0012)
        vx, vy = vx + rng.uniform(-0.0028, 0.0028), vy + rng.uniform(-0.0028, 0.0028)
    elif label == "shake":
        tremor = math.exp(rng.uniform(math.log(0.008), math.log(0.045)))
        vx, vy = vx + rng.uniform(-0.02, 0.02), vy + rng.uniform(-0.02, 0.02)
    elif zoom:
        vz = zoom * math.exp(rng.uniform(math.log(0.11), math.log(0.75))) * _uneven(rng, t, 0.8)
        vx, vy = offset[0] * vz, offset[1] * vz
        vr = vr + rng.normal(0, 0.01)
    elif roll:
        vr = roll * math.radians(math.exp(rng.uniform(math.log(7.5), math.log(70)))) * _uneven(rng, t, 0.8)
        vx, vy = offset[0] * vr, offset[1] * vr
        vz = vz + rng.normal(0, 0.008)
    else:
        whip = label.startswith("whip")
        low, high = (1.6, 4.2) if whip else (0.08, 0.65)
        along = math.exp(rng.uniform(math.log(low), math.log(high))) * _uneven(rng, t, 0.6 if whip else 0.8)
        along = along * (rng.choice((-1.0, 1.0)) if whip else 1.0)
        across = along * rng.uniform(-0.14, 0.14)
        vx, vy = (along * right, across) if right else (across, along * down)
        vz, vr = vz + rng.normal(0, 0.008), vr + rng.normal(0, 0.01)
    log_scale, angle = np.cumsum(vz) / fps, np.cumsum(vr) / fps
    log_scale, angle = log_scale - log_scale.mean(), angle - angle[0]
    vx = vx + np.gradient(_shake(rng, t, tremor), t)
    vy = vy + np.gradient(_shake(rng, t, tremor * rng.uniform(0.5, 1)), t)
    angle = angle + _shake(rng, t, tremor * rng.uniform(0, 0.5))
    # The speeds are along the frame's axes; the position is in the scene's, which are turned and scaled against them.
    cos, sin, scale = np.cos(angle), np.sin(angle), np.exp(-log_scale)
    x, y = np.cumsum((cos * vx - sin * vy) * scale) / fps, np.cumsum((sin * vx + cos * vy) * scale) / fps
    return CameraPath(x - x.mean(), y - y.mean(), log_scale, angle)


def warp(pictures: Tensor, matrices: Array, size: tuple[int, int], unit: float, padding: str = "reflection") -> Tensor:
    """Look at pictures through a moving camera.

    Args:
        pictures: float (C, H, W), one picture for all frames, or (N, C, H, W), one per frame.
        matrices: (N, 3, 3) from frame to picture coordinates, both centred, in short sides of the frame
            (:meth:`CameraPath.matrices`).
        size: height and width of the frames to make, in pixels.
        unit: how many pixels of the picture one short side is.
        padding: what lies outside the pictures, as for ``torch.nn.functional.grid_sample``. Mirrored content moves the
            same way as the content it mirrors, so "reflection" gives an endless scene.

    Returns:
        float (N, C, height, width).
    """
    height, width = size
    short = min(size)
    if pictures.ndim == 3:
        pictures = pictures.expand(len(matrices), -1, -1, -1)
    to_picture = np.diag([2 * unit / pictures.shape[3], 2 * unit / pictures.shape[2], 1.0])
    from_frame = np.diag([width / (2 * short), height / (2 * short), 1.0])
    theta = torch.from_numpy((to_picture @ matrices @ from_frame)[:, :2].astype(np.float32))
    grid = F.affine_grid(theta, [len(matrices), 1, height, width], align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode=padding, align_corners=False)


def _object_matrices(rng: np.random.Generator, t: Array, reach: float) -> Array:
    """(N, 3, 3) from scene to sprite coordinates for an object that crosses, sways, turns and grows on its own."""
    radius = math.exp(rng.uniform(math.log(0.06), math.log(0.38)))
    start, speed = rng.uniform(-reach, reach, 2), rng.normal(0, 0.35, 2) * (rng.random() < 0.85)
    sway = _shake(rng, t, radius * rng.uniform(0, 0.25), 0.3, 2.0)
    wander = np.outer(t - t.mean(), speed) + np.outer(sway, rng.normal(0, 1, 2))
    growth = (t - t.mean()) * rng.normal(0, 0.25)
    spin = (t - t.mean()) * rng.normal(0, 1.0) * (rng.random() < 0.4)
    pose = CameraPath(start[0] + wander[:, 0], start[1] + wander[:, 1], -(math.log(2 * radius) + growth), spin)
    return np.asarray(np.linalg.inv(pose.matrices()), dtype=np.float64)


def render_scene(path: CameraPath, size: tuple[int, int], fps: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Film a random scene along a camera path.

    Args:
        path: N frames of camera positions.
        size: height and width of the frames, in pixels.
        fps: frames per second, which sets how far objects move and light changes from frame to frame.
        rng: source of every random choice.

    Returns:
        uint8 RGB frames (N, height, width, 3).
    """
    height, width = size
    unit, frames = float(min(size)), len(path)
    side = int(unit * 2.6)
    t = np.arange(frames) / fps
    sharpness = rng.choice((1.0, rng.uniform(1, 3)))

    def finish(picture: Tensor) -> Tensor:
        return soften(picture, sharpness) if sharpness > 1.3 else picture

    layers = [(finish(texture(rng, side, unit)), 1.0)]
    layers += [(finish(layer(rng, side, unit)), rng.uniform(1.05, 1.5)) for _ in range(rng.choice((0, 0, 1, 1, 2)))]
    count = rng.choice((0, 1, 1, 2, 3))
    objects = [(finish(sprite(rng, int(unit * 0.6))), _object_matrices(rng, t, 0.7)) for _ in range(count)]

    # Motion blur: the mean of several moments within the time that the shutter is open.
    shutter = rng.uniform(0.1, 0.9)
    smear = float(np.hypot(np.diff(path.x), np.diff(path.y)).mean()) * unit * shutter
    moments = min(6, math.ceil(smear / 1.7)) if smear > 1 else 1
    film = torch.zeros(frames, 3, height, width)
    for first in range(0, frames, _CHUNK):
        chunk: Any = np.arange(first, min(first + _CHUNK, frames))
        for moment in range(moments):
            seen = path.at(chunk + shutter * moment / moments)
            shot = warp(layers[0][0], seen.matrices(), size, unit)
            for thing, pose in objects:
                front = warp(thing, pose[chunk] @ seen.matrices(), size, thing.shape[1], "zeros")
                shot.mul_(1 - front[:, 3:]).add_(front[:, :3])
            for nearer, depth in layers[1:]:
                front = warp(nearer, seen.matrices(depth), size, unit)
                shot.mul_(1 - front[:, 3:]).add_(front[:, :3])
            film[chunk] += shot / moments

    return _expose(film, t, rng)


def _expose(film: Tensor, t: Array, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(N, 3, H, W) frames in [0, 1] to uint8, with what lens, light and sensor add; none of it moves with the scene."""
    height, width = film.shape[2:]
    gain = rng.uniform(0.4, 1.1) * np.ones(len(t))  # contrast
    if rng.random() < 0.35:  # clouds, flicker, automatic exposure
        gain *= 1 + _shake(rng, t, rng.uniform(0.02, 0.15), 0.2, rng.choice((1.0, 8.0)))
    level = 0.5 * (1 - gain.mean()) + rng.uniform(-0.15, 0.15)
    shade = torch.ones(1, height, width)
    if rng.random() < 0.25:
        rows, columns = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
        shade = shade - float(rng.uniform(0.1, 0.5)) * (rows**2 + columns**2) / 2
    saturation = rng.choice((0.0, rng.uniform(0, 1)), p=(0.12, 0.88))
    strength = math.exp(rng.uniform(math.log(0.003), math.log(0.05))) * (rng.random() < 0.7)
    grain = torch.from_numpy(rng.standard_normal((int(rng.choice((1, 3))), height + 24, width + 24), dtype=np.float32))
    grain = float(strength) * grain + float(level)
    overlay = np.s_[0:0, 0:0]
    if rng.random() < 0.12:  # a logo or a line of subtitles stays where it is
        h, w = int(height * rng.uniform(0.05, 0.15)), int(width * rng.uniform(0.1, 0.6))
        top, left = int(rng.integers(0, height - h)), int(rng.integers(0, width - w))
        overlay = np.s_[top : top + h, left : left + w]
        sign = texture(rng, max(h, w), h * 2.0)[:, :h, :w].permute(1, 2, 0) * 255
    out = torch.empty(len(t), height, width, 3, dtype=torch.uint8)
    for i, (top, left) in enumerate(rng.integers(0, 24, (len(t), 2))):
        frame = film[i].mean(dim=0, keepdim=True).lerp(film[i], float(saturation))
        frame = frame * (shade * float(gain[i])) + grain[:, top : top + height, left : left + width]
        out[i] = frame.mul_(255).clamp_(0, 255).byte().permute(1, 2, 0)
        if overlay[0].stop:
            out[i][overlay] = sign.byte()
    return out.numpy()


def generate_motion_video(
    label: str,
    seed: int,
    *,
    seconds: float | None = None,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[NDArray[np.uint8], float]:
    """A random video of one camera move; the same arguments give the same frames.

    Args:
        label: one of :data:`MOTION_CLASSES`.
        seed: a whole number, 0 or more.
        seconds: length; drawn from 1.1 to 1.5 when None.
        fps: frames per second; one of :data:`FRAME_RATES` when None.
        size: height and width in pixels, even and at least 32; a short side of 112 to 224 in a common shape when None.

    Returns:
        uint8 RGB frames (N, height, width, 3), and the frames per second.

    Raises:
        ValueError: for an unknown label, a negative seed, or a size, length or rate that cannot be rendered.
    """
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, not {seed}")
    rng = np.random.default_rng([MOTION_CLASSES.index(_known(label)), seed])
    drawn: dict[str, Any] = {
        "seconds": rng.uniform(1.1, 1.5),
        "fps": float(rng.choice(FRAME_RATES, p=_FRAME_RATE_ODDS)),
        "size": _draw_size(rng),
    }
    seconds = drawn["seconds"] if seconds is None else seconds
    fps = drawn["fps"] if fps is None else fps
    size = drawn["size"] if size is None else size
    if min(size) < 32 or size[0] % 2 or size[1] % 2:
        raise ValueError(f"size must be two even numbers (height, width) of 32 or more, not {size}")
    return render_scene(camera_path(label, seconds, fps, rng), size, fps, rng), fps


def _draw_size(rng: np.random.Generator) -> tuple[int, int]:
    short = 112 * 2 ** (rng.random() ** 2)  # small ones more often, because they are quicker to make
    aspect = float(rng.choice(_ASPECTS, p=_ASPECT_ODDS))
    height, width = (short, short * aspect) if aspect >= 1 else (short / aspect, short)
    return round(height / 2) * 2, round(width / 2) * 2
