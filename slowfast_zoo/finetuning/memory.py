"""What to do where memory does not suffice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from slowfast_zoo.inference.pipeline import is_out_of_memory
from slowfast_zoo.models import VideoNetwork

from .settings import Settings

_SMALLER = "take a smaller crop or network"


@contextmanager
def told_of_memory(
    settings: Settings, network: VideoNetwork[Any], device: torch.device, *, validating: bool = False
) -> Iterator[None]:
    """Out of memory says what to lower.

    Raises:
        MemoryError: something in the context did not fit.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if "DataLoader worker" in str(error):
            raise MemoryError(
                "a process that decodes videos was ended, probably for its memory: lower workers"
            ) from error
        if not is_out_of_memory(error):
            raise
        config = network.config
        # In validation the classifier has tried fewer clips by itself, down to one.
        clips = "a single clip of validation" if validating else f"a batch of {settings.batch_size} clips"
        remedies = _of_validation(settings) if validating else _of_training(settings, network)
        raise MemoryError(
            f"{clips} ({config.clip_frames} frames, crop {config.crop}) does not fit in the memory of {device}: "
            f"{', or '.join(remedies)}"
        ) from error


def _of_validation(settings: Settings) -> list[str]:
    return ["set crops to 1"] if settings.crops == "full" else [_SMALLER]


def _of_training(settings: Settings, network: VideoNetwork[Any]) -> list[str]:
    remedies = []
    if settings.batch_size > settings.least_batch:
        remedies.append("lower batch_size and raise accumulate as much")
    if not any(getattr(module, "grad_checkpointing", False) for module in network.modules()):
        remedies.append("set grad_checkpointing")
    if settings.amp is None:
        remedies.append('set amp to "bfloat16"')
    return remedies or [_SMALLER]
