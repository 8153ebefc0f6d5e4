"""A clip seen as images or planes, without moving memory where its layout allows."""

from __future__ import annotations

from torch import Tensor


def channels_last(x: Tensor) -> Tensor:
    """x, with the channels, its second axis, last in memory."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def as_images(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B T, C, H, W)."""
    return x.movedim(1, -1).flatten(0, 1).movedim(-1, 1)


def from_images(x: Tensor, frames: int) -> Tensor:
    """(B T, C, H, W) -> (B, C, T, H, W)."""
    return unflatten(x.movedim(1, -1), 0, (-1, frames)).movedim(-1, 1)


def as_planes(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B, C, T, H W)."""
    return x.movedim(1, -1).flatten(2, 3).movedim(-1, 1)


def from_planes(x: Tensor, width: int) -> Tensor:
    """(B, C, T, H W) -> (B, C, T, H, W)."""
    return unflatten(x.movedim(1, -1), 2, (-1, width)).movedim(-1, 1)


def unflatten(x: Tensor, axis: int, sizes: tuple[int, ...]) -> Tensor:
    """Tensor.unflatten, typed."""
    return x.unflatten(axis, sizes)  # type: ignore[no-any-return, no-untyped-call]
