"""Procedural videos of moving objects with known labels and boxes, under a camera that stands still or hardly drifts.

Two kinds, both made from a seed:

- :func:`generate_object_video`: one label a video, for classification;
- :func:`generate_objects_scene`: two to five objects, each with an action of its own and its box in every frame, for
  action detection. The bundled detector is trained and tested on these.

Lengths are in *short sides*: 1.0 is the shorter side of the frame. Labels say what is seen: in ``spin_clockwise`` an
object turns clockwise for the viewer. The figures are those of the second around a video's middle:

=====================  =============================================================================================
label                  what the object does
=====================  =============================================================================================
move_left, move_right  goes that way at 0.13 to 0.65 short sides/s, and across it at most 0.15 as fast
move_up, move_down     the same, vertically
approach, recede       the logarithm of its size changes by 0.35 to 1.1 a second (factor 1.4 to 3), in its place
spin_clockwise,        turns by 60 to 260 degrees/s, in its place
spin_counterclockwise
bounce                 hops like a ball, 0.08 to 0.25 short sides high, 0.4 to 0.75 s a hop, in its place
still                  nothing
meet, part             two objects come together until they touch, or touch and then go apart, at 0.2 to 0.6 short
                       sides/s along any line; one of the two may stand. Only in :func:`generate_object_video`
=====================  =============================================================================================

"In its place" allows for 0.03 short sides/s; the camera adds at most 0.02.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.synthetic.motion import FRAME_RATES, Array, CameraPath, warp
from benchmarks.synthetic.scene import soften, sprite, texture

OBJECT_ACTIONS: tuple[str, ...] = (
    "move_left",
    "move_right",
    "move_up",
    "move_down",
    "approach",
    "recede",
    "spin_clockwise",
    "spin_counterclockwise",
    "bounce",
    "still",
)
OBJECT_CLASSES: tuple[str, ...] = (*OBJECT_ACTIONS, "meet", "part")
_DIRECTIONS = {"move_left": (-1, 0), "move_right": (1, 0), "move_up": (0, -1), "move_down": (0, 1)}
_FRAME_RATE_ODDS = (0.35, 0.15, 0.22, 0.18, 0.02, 0.02, 0.06)
_ASPECTS = (1.0, 4 / 3, 3 / 2, 16 / 9, 3 / 4)
_APART = 0.53  # seconds before and after the middle in which objects keep apart: half a clip of the bundled networks
_INSIDE = 0.4  # and in which they are wholly inside the frame
_OVERLAP = 0.1  # part of the smaller of two boxes that the other may cover then
_VISIBLE = 1 / 3  # part of an object's box that has to be inside the frame
_TRIES = 60


@dataclass(frozen=True)
class ObjectsScene:
    """A video of several objects, and what each of them does.

    Attributes:
        frames: uint8 RGB (T, H, W, 3).
        fps: frames per second.
        boxes: float32 (T, N, 4), x1, y1, x2, y2 in pixels: tight around the whole of each object, whatever hides it,
            clipped to the frame; zeros where it is not visible.
        labels: int64 (N,), indices into :data:`OBJECT_ACTIONS`.
        visible: bool (T, N), whether at least a third of the box is inside the frame.
    """

    frames: NDArray[np.uint8]
    fps: float
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    visible: NDArray[np.bool_]


def generate_object_video(
    label: str,
    seed: int,
    *,
    seconds: float | None = None,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[NDArray[np.uint8], float]:
    """A random video of one action; the same arguments give the same frames.

    Beside an object that acts alone there may be another that is still, so that their number does not give it away.

    Args:
        label: one of :data:`OBJECT_CLASSES`.
        seed: a whole number, 0 or more.
        seconds: length; drawn from 1.1 to 1.5 when None.
        fps: frames per second; one of :data:`~benchmarks.synthetic.motion.FRAME_RATES` when None.
        size: height and width in pixels, even and at least 32; a short side of 112 to 160 in a common shape when None.

    Returns:
        uint8 RGB frames (T, height, width, 3), and the frames per second.

    Raises:
        ValueError: for an unknown label, a negative seed, or a size, length or rate that cannot be rendered.
    """
    if label not in OBJECT_CLASSES:
        raise ValueError(f"unknown object action {label!r}; expected one of {', '.join(OBJECT_CLASSES)}")
    stage = _Stage((OBJECT_CLASSES.index(label), _checked(seed)), (1.1, 1.5), seconds, fps, size)
    if label in ("meet", "part"):
        stage.place(label, (0.12, 0.2), insist=True)
    else:
        stage.place(label, (0.13, 0.28), insist=True)
        if stage.rng.random() < 0.45:
            stage.place("still", (0.1, 0.22))
    return stage.film(), stage.fps


def generate_objects_scene(
    seed: int,
    *,
    seconds: float | None = None,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
) -> ObjectsScene:
    """A random video of two to five objects, each with an action and boxes; the same arguments give the same scene.

    In the second around its middle the objects hardly overlap, and for most of it all are wholly inside the frame.
    Before and after they may hide one another and leave.

    Args:
        seed: a whole number, 0 or more.
        seconds: length; drawn from 1.2 to 1.8 when None.
        fps: frames per second; one of :data:`~benchmarks.synthetic.motion.FRAME_RATES` when None.
        size: height and width in pixels, even and at least 32; a short side of 112 to 160 in a common shape when None.

    Raises:
        ValueError: for a negative seed, or a size, length or rate that cannot be rendered.
    """
    stage = _Stage((len(OBJECT_CLASSES), _checked(seed)), (1.2, 1.8), seconds, fps, size)
    labels: list[int] = []
    for index in stage.rng.integers(len(OBJECT_ACTIONS), size=stage.rng.integers(2, 6)).tolist():
        if stage.place(OBJECT_ACTIONS[index], (0.1, 0.2), insist=len(labels) < 2):
            labels.append(index)
    whole = np.stack([thing.boxes for thing in stage.things], axis=1)
    height, width = stage.size
    boxes = whole.clip(0, [width, height, width, height])
    visible = _area(boxes) >= _VISIBLE * _area(whole)
    boxes[~visible] = 0
    return ObjectsScene(stage.film(), stage.fps, boxes.astype(np.float32), np.array(labels, np.int64), visible)


def _checked(seed: int) -> int:
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, not {seed}")
    return seed


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _area(boxes: Array) -> Array:
    sides: Array = (boxes[..., 2:] - boxes[..., :2]).clip(0)
    return sides[..., 0] * sides[..., 1]


def _overlap(a: Array, b: Array) -> float:
    """The largest part of the smaller of two boxes that the other covers, over all frames (T, 4)."""
    common = np.concatenate([np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])], axis=1)
    return float((_area(common) / np.minimum(_area(a), _area(b)).clip(1e-9)).max())


def _pose(label: str, t: Array, radius: float, rng: np.random.Generator) -> CameraPath:
    """Where an object is that acts around the origin, and how large and turned; ``t`` is 0 in the middle."""
    drift = rng.uniform(-0.02, 0.02, 2)
    x, y, size, angle = drift[0] * t, drift[1] * t, np.zeros(len(t)), np.full(len(t), rng.uniform(-math.pi, math.pi))
    if label in _DIRECTIONS:
        right, down = _DIRECTIONS[label]
        along, across = _log_uniform(rng, 0.16, 0.5) * _hurried(t, rng), rng.uniform(-0.13, 0.13)
        x, y = (along * right, along * across) if right else (along * across, along * down)
    elif label in ("approach", "recede"):
        size = (1 if label == "approach" else -1) * _log_uniform(rng, 0.45, 0.9) * _hurried(t, rng)
    elif label in ("spin_clockwise", "spin_counterclockwise"):
        turn = math.radians(_log_uniform(rng, 75, 210)) * _hurried(t, rng)
        angle = angle + (turn if label == "spin_clockwise" else -turn)
    elif label == "bounce":
        hop = (t / rng.uniform(0.4, 0.75) + rng.random()) % 1.0
        y = rng.uniform(0.08, 0.25) * ((2 * hop - 1) ** 2 - 0.5)
    return CameraPath(x, y, -(math.log(2 * radius) + size), angle)


def _hurried(t: Array, rng: np.random.Generator) -> Array:
    """The times, passing a little faster and slower: nothing moves quite evenly."""
    rates, phases = rng.uniform(0.1, 1.0, 2), rng.uniform(0, 2 * math.pi, 2)
    speed = 1 + 0.12 * np.sin(2 * math.pi * np.outer(t, rates) + phases).sum(axis=1)
    passed = np.cumsum(speed) * (t[1] - t[0])
    return np.asarray(passed - passed[len(t) // 2])


def _meeting(label: str, t: Array, radius: float, rng: np.random.Generator) -> tuple[CameraPath, CameraPath]:
    """The two objects of "meet" or "part", touching at the origin."""
    turn, share = rng.uniform(0, 2 * math.pi), rng.choice((0.0, 1.0, rng.uniform(0.2, 0.8)))
    before = np.maximum(rng.uniform(0.25, 0.5) - (t if label == "meet" else -t), 0)
    gap = rng.uniform(0.22, 0.55) * before
    poses = []
    for along in (-gap * share - 0.7 * radius, gap * (1 - share) + 0.7 * radius):
        size, angle = np.full(len(t), -math.log(2 * radius)), np.full(len(t), turn)
        poses.append(CameraPath(along * math.cos(turn), along * math.sin(turn), size, angle))
    return poses[0], poses[1]


def _picture(rng: np.random.Generator, side: int) -> Tensor:
    """(4, side, side): a blob, or a polygon, star or cog wheel; with a rim, which sets it off from what is behind."""
    if rng.random() < 0.4:
        return sprite(rng, side)
    rows, columns = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    columns = columns * rng.uniform(1, 1.8)
    corners, kind, around = int(rng.integers(3, 7)), rng.integers(3), np.arctan2(rows, columns)
    if kind == 0:  # polygon
        part = around % (2 * math.pi / corners) - math.pi / corners
        outline = math.cos(math.pi / corners) / np.cos(part)
    else:
        depth = rng.uniform(0.2, 0.3) if kind == 1 else 0.12
        outline = 1 - depth + depth * np.cos(corners * around)
        outline = outline if kind == 1 else np.clip(outline * 2 - 0.85, 0.75, 1)
    inward = torch.from_numpy((0.95 * outline - np.hypot(rows, columns)).astype(np.float32)) * side * 0.4
    colour = texture(rng, side, side / 1.5)
    rim = (1.5 - (inward - 1.5).abs()).clamp(0, 1) * float(rng.random() < 0.7)
    colour = colour + rim * (float(rng.choice((0.0, 1.0))) - colour)
    alpha = inward.clamp(0, 1)[None]
    return torch.cat([colour * alpha, alpha])


class _Thing:
    """An object in a scene.

    Attributes:
        picture: (4, side, side), colour premultiplied by the alpha that follows it, covering a square of side 1.
        matrices: (T, 3, 3) from there to the frame in short sides, both centred.
        boxes: (T, 4) around it in pixels of the frame, not clipped.
    """

    def __init__(self, picture: Tensor, pose: CameraPath, camera: CameraPath, size: tuple[int, int]) -> None:
        self.picture = picture
        self.matrices: Array = np.linalg.inv(camera.matrices()) @ pose.matrices()
        seen = np.pad(picture[3].numpy() > 0.4, 1)
        inner = seen[:-2, 1:-1] & seen[2:, 1:-1] & seen[1:-1, :-2] & seen[1:-1, 2:]
        edge = np.argwhere(seen[1:-1, 1:-1] & ~inner)[:, ::-1]  # columns and rows
        places = np.concatenate([(edge + 0.5) / len(inner) - 0.5, np.ones((len(edge), 1))], axis=1)
        found = self.matrices[:, :2] @ places.T * min(size) + np.array([[size[1] / 2], [size[0] / 2]])
        self.boxes: Array = np.concatenate([found.min(axis=2), found.max(axis=2)], axis=1)

    def draw(self, frames: Tensor) -> None:
        """Put it into the frames (T, 3, H, W)."""
        height, width = frames.shape[2:]
        short = min(height, width)
        largest = max(np.linalg.norm(self.matrices[:, :2, 0], axis=1)) * short
        picture = self.picture[None]
        if largest < picture.shape[3]:  # no smaller than it is seen, so that it does not shimmer
            picture = F.interpolate(picture, size=[math.ceil(largest)] * 2, mode="bilinear", antialias=True)
        inverse = np.diag([2.0, 2.0, 1.0]) @ np.linalg.inv(self.matrices)
        corners = np.concatenate([np.floor(self.boxes[:, :2]) - 2, np.ceil(self.boxes[:, 2:]) + 2], axis=1)
        for frame, to_picture, window in zip(frames, inverse, corners, strict=True):
            x1, y1, x2, y2 = window.clip(0, [width, height, width, height]).astype(int).tolist()
            if x1 >= x2 or y1 >= y2:
                continue
            centre = ((x1 + x2 - width) / 2 / short, (y1 + y2 - height) / 2 / short)
            to_window = np.array(
                [[(x2 - x1) / 2 / short, 0, centre[0]], [0, (y2 - y1) / 2 / short, centre[1]], [0, 0, 1]]
            )
            theta = torch.from_numpy((to_picture @ to_window)[None, :2].astype(np.float32))
            grid = F.affine_grid(theta, [1, 1, y2 - y1, x2 - x1], align_corners=False)
            front = F.grid_sample(picture, grid, padding_mode="zeros", align_corners=False)[0]
            frame[:, y1:y2, x1:x2].mul_(1 - front[3:]).add_(front[:3])


class _Stage:
    """A frame with its background and camera, and the objects placed in it."""

    def __init__(
        self,
        seed: Sequence[int],
        lengths: tuple[float, float],
        seconds: float | None,
        fps: float | None,
        size: tuple[int, int] | None,
    ) -> None:
        self.rng = rng = np.random.default_rng([*seed, 0x0B])
        drawn_seconds, drawn_fps = rng.uniform(*lengths), float(rng.choice(FRAME_RATES, p=_FRAME_RATE_ODDS))
        short, aspect = rng.uniform(112, 160), float(rng.choice(_ASPECTS))
        sides = (short, short * aspect) if aspect >= 1 else (short / aspect, short)
        seconds = drawn_seconds if seconds is None else seconds
        self.fps = drawn_fps if fps is None else fps
        self.size = (round(sides[0] / 2) * 2, round(sides[1] / 2) * 2) if size is None else size
        if min(self.size) < 32 or self.size[0] % 2 or self.size[1] % 2:
            raise ValueError(f"size must be two even numbers (height, width) of 32 or more, not {self.size}")
        frames = math.ceil(seconds * self.fps) if seconds > 0 and self.fps > 0 else 0
        if frames < 2:
            raise ValueError(f"a video needs two frames or more; {seconds} s at {self.fps} frames/s give {frames}")
        self.t: Array = np.asarray((np.arange(frames) - (frames - 1) / 2) / self.fps, dtype=np.float64)
        drift, still = rng.uniform(-0.014, 0.014, 2) * (rng.random() < 0.5), np.zeros(frames)
        self.camera = CameraPath(drift[0] * self.t, drift[1] * self.t, still, still)
        self.things: list[_Thing] = []

    def place(self, label: str, radii: tuple[float, float], *, insist: bool = False) -> bool:
        """Find a place for an action's object, or two, where it is seen and apart from the others.

        Gives up after a while, or with ``insist`` takes any place.
        """
        rng, short = self.rng, min(self.size)
        pair = label in ("meet", "part")
        pictures = [_picture(rng, math.ceil(2 * radii[1] * short)) for _ in range(2 if pair else 1)]
        for tries in range(_TRIES):
            radius = _log_uniform(rng, *radii)
            poses = _meeting(label, self.t, radius, rng) if pair else (_pose(label, self.t, radius, rng),)
            x, y = rng.uniform(-0.5, 0.5, 2) * np.array(self.size[::-1]) / short
            moved = [CameraPath(pose.x + x, pose.y + y, pose.log_scale, pose.angle) for pose in poses]
            things = [_Thing(*each, self.camera, self.size) for each in zip(pictures, moved, strict=True)]
            if all(self._fits(thing) for thing in things) or (insist and tries == _TRIES - 1):
                self.things += things
                return True
        return False

    def _fits(self, thing: _Thing) -> bool:
        inside, apart = thing.boxes[np.abs(self.t) <= _INSIDE], np.abs(self.t) <= _APART
        height, width = self.size
        if inside.min() < 0 or inside[:, 2].max() > width or inside[:, 3].max() > height:
            return False
        return all(_overlap(thing.boxes[apart], other.boxes[apart]) <= _OVERLAP for other in self.things)

    def film(self) -> NDArray[np.uint8]:
        """The frames (T, H, W, 3)."""
        rng, short = self.rng, min(self.size)
        behind = soften(texture(rng, short * 2, float(short)), rng.uniform(1.2, 2.5))
        mean = behind.mean(dim=(1, 2), keepdim=True)
        behind = mean + float(rng.uniform(0.25, 0.6)) * (behind - mean)  # calmer than what happens in front of it
        frames = warp(behind, self.camera.matrices(), self.size, short)
        for thing in self.things:
            thing.draw(frames)
        return _exposed(frames, self.t, rng)


def _exposed(frames: Tensor, t: Array, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(T, 3, H, W) in [0, 1] to uint8 (T, H, W, 3), with what light and sensor add."""
    contrast = float(rng.uniform(0.7, 1.1))
    gain = contrast * (1 + rng.uniform(0, 0.04) * np.sin(2 * math.pi * (t * rng.uniform(0.2, 2) + rng.random())))
    level = float(0.5 * (1 - contrast) + rng.uniform(-0.08, 0.08))
    if rng.random() < 0.1:  # black and white
        frames = frames.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    height, width = frames.shape[2:]
    strength = _log_uniform(rng, 0.003, 0.03)
    grain = torch.from_numpy(rng.standard_normal((height + 16, width + 16), dtype=np.float32)) * strength + level
    out = torch.empty(len(t), height, width, 3, dtype=torch.uint8)
    for i, (top, left) in enumerate(rng.integers(0, 16, (len(t), 2))):
        frame = frames[i] * float(gain[i]) + grain[top : top + height, left : left + width]
        out[i] = frame.mul_(255).clamp_(0, 255).byte().permute(1, 2, 0)
    return out.numpy()
