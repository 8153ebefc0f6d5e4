"""From decoded frames to the clip a network wants.

The rule is PySlowFast's, because most published weights were trained and tested by it: the shorter side is resized to
``scale`` and the longer one truncated to a whole pixel, bilinear without antialiasing, on float values. Other weights
differ in mean, standard deviation and sizes only. torchvision does the work and is imported when it is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slowfast_zoo._torchvision import require_torchvision

# The paper's scale jitter in training: the shorter side drawn from [256, 320] where testing has 256.
_JITTER = 320 / 256


@dataclass(frozen=True)
class ClipTransform:
    """uint8 frames (T, C, H, W) -> normalised float clip (C, T, crop, crop).

    Testing takes the centre crop, or three crops along the longer side (left, centre, right, or top, centre, bottom),
    stacked in front: (3, C, T, crop, crop). Training takes one random crop, after a random resize, and may mirror it;
    the random numbers are torch's, so ``torch.manual_seed`` makes them repeat.

    Attributes:
        mean: one value for each channel in ``channel_order``, of a scale from 0 to 1.
        std: likewise.
        scale: the shorter side after resizing, in pixels.
        crop: side of the square crop, in pixels.
        channel_order: order of the channels that the weights want, "rgb" or "bgr"; frames come as RGB.
        crops: 1 or 3, in testing.
        training: random resize (1 to 1.25 times ``scale``), crop and mirroring.
        flip: mirror half of the training clips; switch off where classes know left from right.

    Raises:
        ValueError: the settings contradict each other; on a call, frames of the wrong shape.
        TypeError: on a call, something other than a uint8 tensor.
        MissingDependencyError: on a call, torchvision is absent or broken.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: int
    crop: int
    channel_order: str = "rgb"
    crops: int = 1
    training: bool = False
    flip: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if not self.mean or len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise ValueError(
                f"mean and std need one value for each channel, std above 0; got {self.mean} and {self.std}"
            )
        if not 1 <= self.crop <= self.scale:
            raise ValueError(f"crop must lie between 1 and scale, got crop {self.crop} and scale {self.scale}")
        if self.channel_order not in ("rgb", "bgr"):
            raise ValueError(f'channel_order must be "rgb" or "bgr", got {self.channel_order!r}')
        if self.crops not in (1, 3):
            raise ValueError(f"crops must be 1 or 3, got {self.crops}")
        if self.training and self.crops != 1:
            raise ValueError("training takes one random crop; crops=3 is for testing")

    @classmethod
    def from_record(cls, record: Mapping[str, Any], **overrides: Any) -> ClipTransform:
        """The transform that a weights record (``model.pretrained_cfg``) describes.

        Args:
            record: has mean, std, scale, crop, and may have channel_order and flip.
            **overrides: any attribute of the class, in place of the record's.

        Raises:
            TypeError: an override that is no attribute.
            ValueError: the record lacks an entry, or the settings contradict each other.
        """
        known = ("mean", "std", "scale", "crop", "channel_order", "flip")
        settings = {key: record[key] for key in known if key in record}
        settings.update(overrides)
        missing = [key for key in ("mean", "std", "scale", "crop") if settings.get(key) is None]
        if missing:
            raise ValueError(f"the weights record does not say {', '.join(missing)}: pass it by name")
        return cls(**settings)

    def __str__(self) -> str:
        size = f"{self.scale} to {int(self.scale * _JITTER)}" if self.training else f"{self.scale}"
        which = "a random crop" if self.training else "the centre crop" if self.crops == 1 else "3 crops"
        after = ", mirrored half of the time" if self.training and self.flip else ""
        if self.crops == 3:
            after = " along the longer side"
        return (
            f"shorter side to {size} (bilinear), {which} of {self.crop} x {self.crop}{after}, "
            f"{self.channel_order.upper()} / 255, minus {_numbers(self.mean)}, divided by {_numbers(self.std)}"
        )

    def __call__(self, frames: Tensor) -> Tensor:
        """The clip (C, T, crop, crop), or with ``crops=3`` three of them (3, C, T, crop, crop), on the frames' device.

        Args:
            frames: uint8 (T, C, H, W), RGB.
        """
        self._check(frames)
        require_torchvision()
        from torchvision.transforms.v2 import functional

        scale, flip = self.scale, False
        if self.training:
            scale = int(torch.randint(self.scale, int(self.scale * _JITTER) + 1, ()))
            flip = self.flip and bool(torch.rand(()) < 0.5)
        size = resized_size(frames.shape[-2], frames.shape[-1], scale)
        corners = self._corners(*size)
        views: list[Tensor] = []
        for few in torch.split(frames, 8):  # a whole clip of large frames in float32 would need four times its memory
            resized = functional.resize(few.float(), list(size), antialias=False)
            views.append(torch.stack([functional.crop(resized, y, x, self.crop, self.crop) for y, x in corners]))
        clip = torch.cat(views, dim=1)  # (crops, T, C, crop, crop)
        if flip:
            clip = clip.flip(-1)
        if self.channel_order == "bgr":
            clip = clip.flip(2)
        normalised: Tensor = functional.normalize(clip / 255, list(self.mean), list(self.std))
        normalised = normalised.transpose(1, 2).contiguous()  # (crops, C, T, crop, crop)
        return normalised if self.crops == 3 else normalised[0]

    def _corners(self, height: int, width: int) -> list[tuple[int, int]]:
        """(y, x) of each crop's upper left corner."""
        down, right = height - self.crop, width - self.crop
        if self.training:
            return [(int(torch.randint(down + 1, ())), int(torch.randint(right + 1, ())))]
        y, x = math.ceil(down / 2), math.ceil(right / 2)
        if self.crops == 1:
            return [(y, x)]
        return [(0, x), (y, x), (down, x)] if height > width else [(y, 0), (y, x), (y, right)]

    def _check(self, frames: Tensor) -> None:
        wanted = f"uint8 frames (T, {len(self.mean)}, H, W)"
        if not isinstance(frames, Tensor):
            raise TypeError(f"expected a tensor of {wanted}, got {type(frames).__name__}")
        if frames.dtype != torch.uint8:
            raise TypeError(f"expected {wanted} with values 0..255, got {frames.dtype}: the transform does the scaling")
        if frames.ndim != 4 or frames.shape[1] != len(self.mean) or 0 in frames.shape:
            channels_last = frames.ndim == 4 and frames.shape[3] == len(self.mean)
            hint = "; for frames (T, H, W, C) call frames.permute(0, 3, 1, 2)" if channels_last else ""
            raise ValueError(f"expected {wanted}, got shape {tuple(frames.shape)}{hint}")


def resized_size(height: int, width: int, scale: int) -> tuple[int, int]:
    """(height, width) with the shorter side at ``scale`` and the longer one truncated to a whole pixel."""
    if height <= width:
        return scale, int(width / height * scale)
    return int(height / width * scale), scale


def _numbers(values: Sequence[float]) -> str:
    """One number where all channels agree."""
    shown = [f"{value:g}" for value in values]
    return shown[0] if len(set(shown)) == 1 else "(" + ", ".join(shown) + ")"
