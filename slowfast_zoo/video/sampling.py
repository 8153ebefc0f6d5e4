"""Which moments of a video a clip is made of. Everything is in seconds: the frames are found by time (``decode``)."""

from __future__ import annotations

from dataclasses import dataclass

# The rate at which the paper's temporal strides are counted (Kinetics videos resampled to 30 fps).
SOURCE_FPS = 30.0


@dataclass(frozen=True)
class ClipSpan:
    """Where a clip lies in its video.

    Attributes:
        start: second at which it begins.
        end: second at which it ends, at most the end of the video.
        times: the moments of its frames, in seconds, ascending.
        short: the video ends before the last of them, so that its last frame is repeated.
    """

    start: float
    end: float
    times: tuple[float, ...]
    short: bool


def clip_starts(duration: float, clip_seconds: float, clips: int) -> list[float]:
    """Start times of clips spread evenly from the beginning of a video to its end; a single clip is centred.

    Args:
        duration: length of the video in seconds.
        clip_seconds: length of a clip in seconds.
        clips: how many. A video that is no longer than a clip has room for one place only, the beginning, and gets a
            single clip: more would be copies of it.

    Raises:
        ValueError: an argument is not positive.
    """
    if not duration > 0 or not clip_seconds > 0:
        raise ValueError(f"duration and clip length must be positive, got {duration} s and {clip_seconds} s")
    if clips < 1:
        raise ValueError(f"clips must be at least 1, got {clips}")
    room = duration - clip_seconds
    if room <= 0:
        return [0.0]
    if clips == 1:
        return [room / 2]
    return [room * index / (clips - 1) for index in range(clips)]


def frame_times(start: float, clip_frames: int, clip_stride: int, fps: float = SOURCE_FPS) -> list[float]:
    """The moments of a clip's frames: ``clip_frames`` of them, ``clip_stride / fps`` seconds apart.

    Each stands for ``1 / fps`` seconds and is taken in their middle, as far as can be from the neighbouring frames:
    there a time stamp that was rounded, or 29.97 fps instead of 30, does not change which frame is shown.
    """
    return [start + (index * clip_stride + 0.5) / fps for index in range(clip_frames)]


def whole_video(duration: float, clip_frames: int) -> ClipSpan:
    """One clip of the whole video: as many segments as frames, and the middle of each.

    How weights for Something-Something see a video, whose labels tell how it goes on and ends (PySlowFast,
    slowfast/datasets/ssv2.py), whatever the clip's stride.

    Args:
        duration: length of the video in seconds.
        clip_frames: frames in the clip.

    Raises:
        ValueError: an argument is not positive.
    """
    if not duration > 0 or clip_frames < 1:
        raise ValueError(f"duration and clip_frames must be positive, got {duration} s and {clip_frames}")
    times = tuple(duration * (index + 0.5) / clip_frames for index in range(clip_frames))
    return ClipSpan(0.0, duration, times, short=False)


def sample_clips(
    duration: float, clips: int = 10, *, clip_frames: int, clip_stride: int, fps: float = SOURCE_FPS
) -> list[ClipSpan]:
    """Clips spread evenly over a video (the paper's inference, section 4: 10 of them).

    Args:
        duration: length of the video in seconds.
        clips: how many (one only if the video is no longer than a clip, see :func:`clip_starts`).
        clip_frames: frames in a clip, those of the Fast pathway.
        clip_stride: distance between them in frames at ``fps``.
        fps: the frame rate in which strides are counted, not that of the video.

    Raises:
        ValueError: an argument is not positive.
    """
    if clip_frames < 1 or clip_stride < 1 or not fps > 0:
        raise ValueError(f"clip_frames, clip_stride and fps must be positive, got {clip_frames}, {clip_stride}, {fps}")
    length = clip_frames * clip_stride / fps
    spans = []
    for start in clip_starts(duration, length, clips):
        times = tuple(frame_times(start, clip_frames, clip_stride, fps))
        spans.append(ClipSpan(start, min(start + length, duration), times, short=times[-1] >= duration))
    return spans
