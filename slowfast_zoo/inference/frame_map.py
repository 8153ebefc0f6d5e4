"""The former place of :mod:`slowfast_zoo.inference.evaluation.frame_map`."""

import warnings

from .evaluation.frame_map import FrameMAP, frame_map

__all__ = ["FrameMAP", "frame_map"]

warnings.warn(
    "slowfast_zoo.inference.frame_map is now slowfast_zoo.inference.evaluation.frame_map",
    DeprecationWarning,
    stacklevel=2,
)
