"""From decoded frames to the clip a network wants.

The rule is PySlowFast's, unless the weights come from MMAction2: the shorter side is resized to ``scale`` and the
longer one truncated to a whole pixel, bilinear without antialiasing, on float values. MMAction2 rounds the longer side
and puts its crops half a pixel elsewhere. Weights also differ in mean, standard deviation and sizes. torchvision does
the work and is imported when it is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from slowfast_zoo.utils.torchvision_guard import require_torchvision

# The paper's scale jitter in training: the shorter side drawn from [256, 320] where testing has 256.
_JITTER = 320 / 256

# How the longer side is rounded and where crops lie.
_CONVENTIONS = ("pyslowfast", "mmaction2")

_CROPS = (1, 3, "full")

# From this ratio of the sides on, only those parts of a frame are resized that crops show: a strip of 4000 x 2 pixels
# would become one of 512000 x 256.
_STRIP = 16


@dataclass(frozen=True)
class ClipTransform:
    """uint8 frames (T, C, H, W) -> normalised float clip (C, T, crop, crop).

    Testing takes the centre crop, or three crops along the longer side (left, centre, right, or top, centre, bottom),
    stacked in front: (3, C, T, crop, crop), or the full frame: (C, T, h, w). Training takes one random crop, after a
    random resize, and may mirror it; the random numbers are torch's, so ``torch.manual_seed`` makes them repeat.

    Where clips share frames, :meth:`resize` and :meth:`views` do the same in two steps, so that each frame is resized
    once.

    Attributes:
        mean: one value for each channel in ``channel_order``, of a scale from 0 to 1.
        std: one value for each channel in ``channel_order``, of the same scale.
        scale: the shorter side after resizing, in pixels.
        crop: side of the square crop, in pixels.
        channel_order: order of the channels that the weights want, "rgb" or "bgr"; frames come as RGB.
        crops: in testing: 1, 3, or "full" for the whole resized frame, which need not be square.
        training: random resize (1 to 1.25 times ``scale``), crop and mirroring.
        flip: mirror half of the training clips; switch off where classes know left from right.
        convention: in testing, how the longer side is rounded and where crops lie: as in "pyslowfast"
            (``random_short_side_scale_jitter`` and ``uniform_crop`` in slowfast/datasets/transform.py) or "mmaction2"
            (``Resize``, ``CenterCrop`` and ``ThreeCrop`` in mmaction/datasets/transforms/processing.py; its frames are
            whole numbers after resizing, these are not).

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
    crops: int | str = 1
    training: bool = False
    flip: bool = True
    convention: str = "pyslowfast"

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
        if isinstance(self.crops, (bool, float)) or self.crops not in _CROPS:  # True == 1
            raise ValueError(f'crops must be 1, 3 or "full", got {self.crops!r}')
        if self.training and self.crops != 1:
            raise ValueError(f"training takes one random crop; crops={self.crops!r} is for testing")
        if self.convention not in _CONVENTIONS:
            raise ValueError(f"convention must be one of {', '.join(_CONVENTIONS)}; got {self.convention!r}")

    @classmethod
    def from_record(cls, record: Mapping[str, Any], **overrides: Any) -> ClipTransform:
        """The transform that a weights record (``model.pretrained_cfg``) describes.

        Args:
            record: has mean, std, scale, crop, and may have channel_order, flip and convention. Without the last, it
                is "mmaction2" where clips are placed so too (``clip_sampling``), and "pyslowfast" otherwise.
            **overrides: any attribute of the class, in place of the record's.

        Raises:
            TypeError: an override that is no attribute.
            ValueError: the record lacks an entry, or the settings contradict each other.
        """
        known = ("mean", "std", "scale", "crop", "channel_order", "flip", "convention")
        settings = {key: record[key] for key in known if key in record}
        if record.get("clip_sampling") == "mmaction2":
            settings.setdefault("convention", "mmaction2")
        settings.update(overrides)
        missing = [key for key in ("mean", "std", "scale", "crop") if settings.get(key) is None]
        if missing:
            raise ValueError(f"the weights record does not say {', '.join(missing)}: pass it by name")
        return cls(**settings)

    def __str__(self) -> str:
        size = f"{self.scale} to {int(self.scale * _JITTER)}" if self.training else f"{self.scale}"
        crop = f"{self.crop} x {self.crop}"
        if self.training:
            which = f"a random crop of {crop}" + (", mirrored half of the time" if self.flip else "")
        elif self.crops == "full":
            which = "the full frame"
        else:
            which = f"the centre crop of {crop}" if self.crops == 1 else f"3 crops of {crop} along the longer side"
        mean, std = _format_numbers(self.mean), _format_numbers(self.std)
        return (
            f"shorter side to {size} (bilinear), {which}, "
            f"{self.channel_order.upper()} / 255, minus {mean}, divided by {std}"
        )

    def __call__(self, frames: Tensor) -> Tensor:
        """The clip (C, T, crop, crop), or with ``crops=3`` three of them (3, C, T, crop, crop), on the frames' device.

        Args:
            frames: uint8 (T, C, H, W), RGB.

        Returns:
            float32; with ``crops="full"`` (C, T, h, w), the shorter of h and w being ``scale``.
        """
        self._check(frames)
        height, width = frames.shape[-2:]
        scale, flip = self.scale, False
        if self.training:
            scale = int(torch.randint(self.scale, int(self.scale * _JITTER) + 1, ()))
            flip = self.flip and bool(torch.rand(()) < 0.5)
        size = self._resized_size(height, width, scale)
        boxes = self._place_crops(*size)
        self.check_shape(height, width)
        # Few at a time: a whole clip of large frames in float32 would need four times its memory.
        if _is_strip(height, width):
            views = [torch.stack([_resize_part(few, size, box) for box in boxes]) for few in torch.split(frames, 8)]
        else:
            views = [_crop(_resize(few, size), boxes) for few in torch.split(frames, 8)]
        clip = torch.cat(views, dim=1)  # (crops, T, C, crop, crop)
        normalised = self._normalise(clip.flip(-1) if flip else clip)
        return normalised if self.crops == 3 else normalised[0]

    def resize(self, frames: Tensor) -> Tensor:
        """The first half of testing: frames with their shorter side at ``scale``, still RGB with values 0 to 255.

        Of a frame that is a strip, one side 16 times as long as the other or more, only the parts are given that crops
        show, one behind another.

        Args:
            frames: uint8 (C, H, W) or (T, C, H, W), RGB.

        Returns:
            float32 (C, h, w) or (T, C, h, w).

        Raises:
            ValueError: frames of the wrong shape, or a transform for training, which resizes every clip anew.
            TypeError: something other than a uint8 tensor.
        """
        self._check_testing()
        self._check(frames, single=True)
        height, width = frames.shape[-2:]
        self.check_shape(height, width)
        size = self._resized_size(height, width, self.scale)
        if not _is_strip(height, width):
            return _resize(frames, size)
        # Three crops side by side are where crops of a whole frame of that size would be.
        boxes = replace(self, crops=3)._place_crops(*size)
        whole = [(y, 0, self.crop, size[1]) if height > width else (0, x, size[0], self.crop) for y, x, *_ in boxes]
        return torch.cat([_resize_part(frames, size, box) for box in whole], dim=-2 if height > width else -1)

    def views(self, frames: Tensor) -> Tensor:
        """The second half of testing: the normalised views of a clip whose frames :meth:`resize` has resized.

        Args:
            frames: float32 (T, C, h, w), RGB with values 0 to 255.

        Returns:
            float32 (V, C, T, crop, crop) with V = 1 or 3 crops; (1, C, T, h, w) for the full frame.

        Raises:
            ValueError: frames of the wrong shape, or a transform for training.
            TypeError: something other than a tensor of floating-point numbers.
        """
        self._check_testing()
        wanted = f"float frames (T, {len(self.mean)}, h, w) as resize gives them"
        if not isinstance(frames, Tensor):
            raise TypeError(f"expected {wanted}, got {type(frames).__name__}")
        if not frames.is_floating_point():
            raise TypeError(f"expected {wanted}, got {frames.dtype}: for decoded frames call the transform itself")
        least = 1 if self.crops == "full" else self.crop
        if frames.ndim != 4 or frames.shape[1] != len(self.mean) or not len(frames) or min(frames.shape[2:]) < least:
            raise ValueError(f"expected {wanted}, h and w at least {least}; got shape {tuple(frames.shape)}")
        return self._normalise(_crop(frames, self._place_crops(frames.shape[2], frames.shape[3])))

    def check_shape(self, height: int, width: int) -> None:
        """Refuse frames that are strips where the whole of them would be seen.

        Raises:
            ValueError: they are, and it would.
        """
        if self.crops == "full" and _is_strip(height, width):
            size = self._resized_size(height, width, self.scale)
            raise ValueError(
                f"frames of {width} x {height} pixels would be {size[1]} x {size[0]} with their shorter side at "
                f"{self.scale}: too many for the full frame, so use 1 or 3 crops"
            )

    def _resized_size(self, height: int, width: int, scale: int) -> tuple[int, int]:
        return resized_size(height, width, scale, "pyslowfast" if self.training else self.convention)

    def _place_crops(self, height: int, width: int) -> list[tuple[int, int, int, int]]:
        """(y, x, height, width) of each crop, y and x being its upper left corner."""
        if self.crops == "full":
            return [(0, 0, height, width)]
        down, right = height - self.crop, width - self.crop
        if self.training:
            return [(int(torch.randint(down + 1, ())), int(torch.randint(right + 1, ())), self.crop, self.crop)]
        if self.convention == "mmaction2":
            y, x = down // 2, right // 2
            down, right = 2 * y, 2 * x
        else:
            y, x = math.ceil(down / 2), math.ceil(right / 2)
        corners = [(y, x)]
        if self.crops == 3:
            corners = [(0, x), (y, x), (down, x)] if height > width else [(y, 0), (y, x), (y, right)]
        return [(y, x, self.crop, self.crop) for y, x in corners]

    def _normalise(self, views: Tensor) -> Tensor:
        """RGB of 0 to 255 (V, T, C, H, W) -> what the network wants (V, C, T, H, W)."""
        require_torchvision()
        from torchvision.transforms.v2 import functional

        if self.channel_order == "bgr":
            views = views.flip(2)
        normalised: Tensor = functional.normalize(views / 255, list(self.mean), list(self.std))
        return normalised.transpose(1, 2).contiguous()

    def _check_testing(self) -> None:
        if self.training:
            raise ValueError("resize and views are for testing; a transform with training=True is called with the clip")

    def _check(self, frames: Tensor, single: bool = False) -> None:
        channels = len(self.mean)
        wanted = f"uint8 frames (T, {channels}, H, W)" + (f" or one ({channels}, H, W)" if single else "")
        if not isinstance(frames, Tensor):
            raise TypeError(f"expected a tensor of {wanted}, got {type(frames).__name__}")
        if frames.dtype != torch.uint8:
            raise TypeError(f"expected {wanted} with values 0..255, got {frames.dtype}: the transform does the scaling")
        dims = (3, 4) if single else (4,)
        if frames.ndim not in dims or frames.shape[-3] != channels or 0 in frames.shape:
            channels_last = frames.ndim in dims and frames.shape[-1] == channels
            order = "0, 3, 1, 2" if frames.ndim == 4 else "2, 0, 1"
            layout = "T, H, W, C" if frames.ndim == 4 else "H, W, C"
            hint = f"; for frames ({layout}) call frames.permute({order})" if channels_last else ""
            raise ValueError(f"expected {wanted}, got shape {tuple(frames.shape)}{hint}")


def resized_size(height: int, width: int, scale: int, convention: str = "pyslowfast") -> tuple[int, int]:
    """(height, width) with the shorter side at ``scale``.

    The longer one is truncated to a whole pixel, or with the convention "mmaction2" rounded (``rescale_size`` in
    mmcv/image/geometric.py).
    """
    if convention == "mmaction2":
        factor = scale / min(height, width)
        return int(height * factor + 0.5), int(width * factor + 0.5)
    if height <= width:
        return scale, int(width / height * scale)
    return int(height / width * scale), scale


def _is_strip(height: int, width: int) -> bool:
    return max(height, width) >= _STRIP * min(height, width)


def _resize_part(frames: Tensor, size: tuple[int, int], box: tuple[int, int, int, int]) -> Tensor:
    """The crop (y, x, height, width) of what :func:`_resize` gives, from those pixels alone that it shows."""
    y, x, height, width = box
    for dim, (out, start, length) in ((-2, (size[0], y, height)), (-1, (size[1], x, width))):
        old = frames.shape[dim]
        # As torch's own interpolation computes them.
        steps = torch.arange(start, start + length, dtype=torch.float32, device=frames.device)
        places = ((steps + 0.5) * torch.tensor(old / out, dtype=torch.float32) - 0.5).clamp(0, old - 1)
        below = places.floor().long()
        share = (places - below).view(-1, *[1] * (-1 - dim))
        low, high = (frames.index_select(dim, index).float() for index in (below, (below + 1).clamp(max=old - 1)))
        frames = low + (high - low) * share
    return frames


def _resize(frames: Tensor, size: tuple[int, int]) -> Tensor:
    require_torchvision()
    from torchvision.transforms.v2 import functional

    resized: Tensor = functional.resize(frames.float(), list(size), antialias=False)
    return resized


def _crop(frames: Tensor, boxes: Sequence[tuple[int, int, int, int]]) -> Tensor:
    """(T, C, H, W) -> (crops, T, C, h, w)"""
    return torch.stack([frames[..., y : y + height, x : x + width] for y, x, height, width in boxes])


def _format_numbers(values: Sequence[float]) -> str:
    """One number where all channels agree."""
    shown = [f"{value:g}" for value in values]
    return shown[0] if len(set(shown)) == 1 else "(" + ", ".join(shown) + ")"
