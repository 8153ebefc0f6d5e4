"""Boxes that the user gives: arrays, JSON and AVA's CSV, read and checked."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slowfast_zoo.inference.evaluation.ava import read_lines

GivenBoxes = Mapping[float, Any]  # seconds -> (N, 4) or (N, 5)

_NAMED = 8  # videos in a message
_DETECTED = 8  # columns of a file of boxes with confidences


def check_boxes(given: Any, size: tuple[int, int], what: str, *, strict: bool = True) -> Tensor:
    """Boxes as float32 (N, 5): pixels x1, y1, x2, y2 inside the frame, and a confidence, 1 unless given.

    Args:
        given: (N, 4) or (N, 5), an array, a tensor or lists; empty for none.
        size: width and height of the frame.
        what: whose boxes they are, for the messages.
        strict: whether a box without area, outside the frame or with values that are not finite is an error; otherwise
            it is left out.

    Raises:
        TypeError: no numbers.
        ValueError: another shape; with ``strict``, values that are not finite, or a box without anything of the frame.
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
    from torchvision.ops import clip_boxes_to_image

    finite = torch.isfinite(boxes).all(dim=1)
    if strict and not bool(finite.all()):
        raise ValueError(f"{what} hold values that are not finite")
    boxes = boxes[finite]
    if boxes.shape[1] == 4:
        boxes = torch.cat([boxes, torch.ones(len(boxes), 1)], dim=1)
    width, height = size
    inside = torch.cat([clip_boxes_to_image(boxes[:, :4], (height, width)), boxes[:, 4:]], dim=1)
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
            columns. Of these, only the last of eight counts, as a confidence, where the action before it is empty (the
            files of found people that PySlowFast uses).
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


def sort_by_second(boxes: Mapping[Any, Any]) -> dict[float, Any]:
    """What is given for each second, in the order of time.

    Raises:
        ValueError: a key is no finite number of seconds, or two are the same second.
    """
    found: dict[float, Any] = {}
    for key, given in boxes.items():
        try:
            second = float(key)
        except (TypeError, ValueError):
            second = math.nan
        if not math.isfinite(second):
            raise ValueError(f"boxes are given for seconds, numbers, not for {key!r}")
        if second in found:
            raise ValueError(f"boxes are given twice for second {second:g}")
        found[second] = given
    return dict(sorted(found.items()))


def _from_json(file: Path) -> dict[float, Tensor]:
    try:
        content = sort_by_second(json.loads(file.read_text(encoding="utf-8")))
        return {second: _table(rows) for second, rows in content.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        wanted = '{"seconds": [[x1, y1, x2, y2], ...], ...}'
        raise ValueError(f"{file} must be JSON like {wanted}, boxes in pixels: {error}") from error


def _table(rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), -1) if rows else torch.zeros(0, 5)


def _from_csv(file: Path, video: str, size: tuple[int, int]) -> dict[float, Tensor]:
    found: dict[float, dict[tuple[float, ...], float]] = {}
    others: dict[str, None] = {}
    for number, row in read_lines(file):
        others[row[0]] = None
        if row[0] != video:
            continue
        try:
            boxes = found.setdefault(float(row[1]), {})
            if any(row[2:]):  # otherwise a key frame without people
                x1, y1, x2, y2 = map(float, row[2:6])
                sure = float(row[7]) if len(row) == _DETECTED and not row[6] else 1.0
                boxes[x1, y1, x2, y2] = max(sure, boxes.get((x1, y1, x2, y2), 0.0))
        except (ValueError, IndexError) as error:
            wanted = "video,second,x1,y1,x2,y2 with boxes from 0 to 1"
            raise ValueError(f"{file}, line {number}: expected {wanted}, got {','.join(row)!r}") from error
    if not found:
        names = list(others)
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        raise ValueError(f"{file} holds no boxes of {video!r}, only of {', '.join(names[:_NAMED]) or 'nobody'}{more}")
    scale = torch.tensor([*size, *size, 1])
    return {
        second: torch.tensor([(*box, sure) for box, sure in boxes.items()]).reshape(-1, 5) * scale
        for second, boxes in sorted(found.items())
    }
