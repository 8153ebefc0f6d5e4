"""Video in: decoding by time, clip sampling, transforms, class labels."""

from .decode import VideoReader
from .labels import load_labels, sample_clip
from .sampling import ClipSpan, clip_starts, frame_times, sample_clips, whole_video
from .transforms import ClipTransform

__all__ = [
    "ClipSpan",
    "ClipTransform",
    "VideoReader",
    "clip_starts",
    "frame_times",
    "load_labels",
    "sample_clip",
    "sample_clips",
    "whole_video",
]
