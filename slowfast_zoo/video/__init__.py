"""Video in: decoding by time, clip sampling, transforms, class labels."""

from slowfast_zoo.transforms import ClipTransform
from slowfast_zoo.utils.labels import load_labels

from .dataset import LabelledVideo, read_class_folders, read_dataset
from .decode import VideoReader
from .live import LiveReader
from .reading import open_video, sample_clip
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
from .source import VideoInput, VideoSource, video_name

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
