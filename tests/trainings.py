"""Videos of two classes and a network for them, small enough to train in tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

import slowfast_zoo as sfz
from slowfast_zoo.video.encode import write_video


def write_two_classes(folder: Path) -> Path:
    """Dark and light noise: four videos of each to train on, one to validate on."""
    for label in range(2):
        for index in range(5):
            path = folder / ("train" if index < 4 else "val") / "ab"[label] / f"{index}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            frames = np.random.default_rng([label, index]).integers(0, 90, (12, 36, 48, 3)).astype(np.uint8)
            write_video(path, frames + np.uint8(120 * label), 30, preset="ultrafast")
    return folder


def network(**settings: Any) -> Any:
    """The same weights each time."""
    torch.manual_seed(0)
    return sfz.create_model("slow_tiny_4x8", **{"width": 4, "crop": 32, "num_classes": 2, **settings})
