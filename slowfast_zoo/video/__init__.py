"""Video in: decoding by time, clip sampling, transforms, class labels."""

from .dataset import LabelledVideo, read_class_folders, read_dataset
from .decode import VideoReader
from .labels import load_labels, sample_clip
from .live import LiveReader
from .sampling import (
    CONVENTIONS,
    SOURCE_FPS,
    ClipSpan,
    clip_indices,
    clip_starts,
    frame_times,
    keyframe_clips,
    random_clip,
    sample_clips,
    sliding_windows,
    whole_video,
)
from .segment import Segment
from .source import VideoInput, VideoSource, open_video, video_name
from .transforms import ClipTransform

__all__ = [
    "CONVENTIONS",
    "SOURCE_FPS",
    "ClipSpan",
    "ClipTransform",
    "LabelledVideo",
    "LiveReader",
    "Segment",
    "VideoInput",
    "VideoReader",
    "VideoSource",
    "clip_indices",
    "clip_starts",
    "frame_times",
    "keyframe_clips",
    "load_labels",
    "open_video",
    "random_clip",
    "read_class_folders",
    "read_dataset",
    "sample_clip",
    "sample_clips",
    "sliding_windows",
    "video_name",
    "whole_video",
]
