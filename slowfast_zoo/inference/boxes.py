"""Boxes that somebody else found: from arrays, JSON and AVA's CSV, checked."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

GivenBoxes = Mapping[float, Any]  # seconds -> (N, 4) or (N, 5)

_NAMED = 8  # videos in a message


def checked_boxes(given: Any, size: tuple[int, int], what: str, *, strict: bool = True) -> Tensor:
    """Boxes as float32 (N, 5): pixels x1, y1, x2, y2 inside the frame, and a confidence, 1 unless given.

    Args:
        given: (N, 4) or (N, 5), an array, a tensor or lists; empty for none.
        size: width and height of the frame.
        what: whose boxes they are, for the messages.
        strict: whether a box without area, or outside the frame, is an error; otherwise it is left out.

    Raises:
        TypeError: no numbers.
        ValueError: another shape; values that are not finite; with ``strict``, a box with nothing of the frame in it.
    """
    try:
        boxes = torch.as_tensor(given, dtype=torch.float32).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{what} must be numbers (N, 4), pixels x1, y1, x2, y2; got {type(given).__name__}") from error
    if boxes.numel() == 0:
        return torch.zeros(0, 5)
    if boxes.ndim != 2 or boxes.shape[1] not in (4, 5):
        raise ValueError(
            f"{what} must be (N, 4), pixels x1, y1, x2, y2, or (N, 5) with a confidence, not {tuple(boxes.shape)}"
        )
    if not bool(torch.isfinite(boxes).all()):
        raise ValueError(f"{what} hold values that are not finite")
    if boxes.shape[1] == 4:
        boxes = torch.cat([boxes, torch.ones(len(boxes), 1)], dim=1)
    width, height = size
    limits = torch.tensor([width, height, width, height])
    inside = torch.cat([boxes[:, :4].clamp(min=0).minimum(limits), boxes[:, 4:]], dim=1)
    empty = (inside[:, 2] <= inside[:, 0]) | (inside[:, 3] <= inside[:, 1])
    if strict and bool(empty.any()):
        raise ValueError(
            f"{what} must be x1, y1, x2, y2 in pixels with x1 < x2 and y1 < y2, and lie in the frame of {width} x "
            f"{height}; the first that does not: {boxes[empty][0, :4].tolist()}"
        )
    return inside[~empty]


def read_boxes(path: str | os.PathLike[str], video: str, size: tuple[int, int]) -> dict[float, Tensor]:
    """Boxes of one video from a file.

    Args:
        path: a JSON file, ``{"seconds": [[x1, y1, x2, y2], ...], ...}`` in pixels, each box with or without a
            confidence behind it; or a CSV in AVA's format: video, second, x1, y1, x2, y2 from 0 to 1, and any further
            columns, which have no effect.
        video: name of the video; of a CSV with several, the rows count whose video is its file name without the suffix.
        size: width and height of the frame in pixels.

    Returns:
        (N, 4) or (N, 5) for each second, in the order of time; boxes that stand in several rows, one for each action,
        once.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of another format, or a CSV of several videos without this one.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file of boxes", str(file))
    if file.suffix.lower() == ".json":
        return _from_json(file)
    return _from_csv(file, Path(video).stem, size)


def _from_json(file: Path) -> dict[float, Tensor]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {float(time): _table(rows) for time, rows in sorted(content.items(), key=lambda item: float(item[0]))}
    except (ValueError, TypeError, AttributeError) as error:
        wanted = '{"seconds": [[x1, y1, x2, y2], ...], ...}'
        raise ValueError(f"{file} must be JSON like {wanted}, boxes in pixels: {error}") from error


def _table(rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), -1) if rows else torch.zeros(0, 5)


def _from_csv(file: Path, video: str, size: tuple[int, int]) -> dict[float, Tensor]:
    from .ava import read_ava_csv

    rows = read_ava_csv(file)
    found: dict[int, dict[tuple[float, ...], None]] = {}
    for row in rows:
        if row.video == video:
            found.setdefault(row.timestamp, {})[row.box] = None
    if not found:
        names = list(dict.fromkeys(row.video for row in rows))
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        raise ValueError(f"{file} holds no boxes of {video!r}, only of {', '.join(names[:_NAMED]) or 'nobody'}{more}")
    scale = torch.tensor([*size, *size])
    return {float(second): torch.tensor(list(boxes)) * scale for second, boxes in sorted(found.items())}
