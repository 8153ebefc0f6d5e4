"""Which moments of a video a clip is made of. Everything is in seconds: the frames are found by time (``decode``).

Projects that count frames place their clips by their own rules; :func:`clip_indices` has those, as frame indices, and
:func:`sample_clips` turns them into times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch

# The rate at which the paper's temporal strides are counted (Kinetics videos resampled to 30 fps).
SOURCE_FPS = 30.0

# How clips can be placed, as a weights record names it (``clip_sampling``).
CONVENTIONS = ("uniform", "pyslowfast", "mmaction2", "gluoncv", "segments")

# Those of them that count the video's own frames.
COUNTING_CONVENTIONS = ("pyslowfast", "mmaction2", "gluoncv")

# Sums of seconds are off by rounding; less of a video than this is none.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class ClipSpan:
    """Where a clip lies in its video.

    Attributes:
        start: second at which it begins.
        end: second at which it ends, at most the end of the video.
        times: the moments of its frames, in seconds, ascending unless ``looped``.
        short: the video ends before the last of them, so that its last frame is repeated, or the video starts again.
        looped: the video starts again where it ends before the clip does.
    """

    start: float
    end: float
    times: tuple[float, ...]
    short: bool
    looped: bool = False


class Windows(Sequence[ClipSpan]):
    """Windows of a video, each made when it is asked for: there may be millions.

    Args:
        count: how many.
        window: from an index to the window.
    """

    def __init__(self, count: int, window: Callable[[int], ClipSpan]) -> None:
        self._count, self._window = count, window

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> ClipSpan: ...

    @overload
    def __getitem__(self, index: slice) -> list[ClipSpan]: ...

    def __getitem__(self, index: int | slice) -> ClipSpan | list[ClipSpan]:
        if isinstance(index, slice):
            return [self._window(place) for place in range(self._count)[index]]
        return self._window(range(self._count)[index])

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(own == its for own, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # like a list's

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._count} windows)"


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
    _check_positive(duration=duration, clip_seconds=clip_seconds)
    _check_counts(clips=clips)
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
    _check_positive(duration=duration)
    _check_counts(clip_frames=clip_frames)
    times = tuple(duration * (index + 0.5) / clip_frames for index in range(clip_frames))
    return ClipSpan(0.0, duration, times, short=False)


def sample_clips(
    duration: float,
    clips: int = 10,
    *,
    clip_frames: int,
    clip_stride: int,
    fps: float = SOURCE_FPS,
    convention: str = "uniform",
    video_fps: float | None = None,
    use_offset: bool = False,
    frame_times: Sequence[float] | None = None,
) -> list[ClipSpan]:
    """Clips spread over a video for testing (the paper, section 4: 10 of them).

    Args:
        duration: length of the video in seconds.
        clips: how many; a single one is centred ("pyslowfast" without ``use_offset`` and "gluoncv" put it at the
            beginning). Where all would be copies of one, as in a video no longer than a clip, it is given once.
        clip_frames: frames in a clip, as the Fast pathway takes them.
        clip_stride: distance between them in frames at ``fps``; for "mmaction2" and "gluoncv" in frames of the video.
        fps: the frame rate in which strides are counted, not that of the video.
        convention: who says where clips lie. "uniform": evenly from the first possible place to the last, by time.
            "pyslowfast", "mmaction2", "gluoncv": the frames that the project takes, see :func:`clip_indices`.
            "segments": one clip of the whole video, see :func:`whole_video`.
        video_fps: the video's own frame rate, which the projects' rules count in; ``fps`` if not given.
        use_offset: PySlowFast's ``DATA.USE_OFFSET_SAMPLING``.
        frame_times: when each frame of the video is shown, in seconds, for rules that count frames. None takes them to
            be ``1 / video_fps`` apart, which is wrong for variable rates, and where a container has no rate.

    Raises:
        ValueError: an argument is not positive, or an unknown convention.
    """
    _check_convention(convention, CONVENTIONS)
    _check_positive(duration=duration, fps=fps)
    _check_counts(clips=clips, clip_frames=clip_frames, clip_stride=clip_stride)
    if convention == "segments":
        return [whole_video(duration, clip_frames)]
    if convention == "uniform":
        length = clip_frames * clip_stride / fps
        return [
            _make_span(start, duration, clip_frames, clip_stride, fps) for start in clip_starts(duration, length, clips)
        ]
    video_fps = fps if video_fps is None else video_fps
    _check_positive(video_fps=video_fps)
    if frame_times is None:
        video_frames = max(round(duration * video_fps), 1)
        rate = video_fps
        shown = _StoredFrames(video_frames, lambda index: index / rate, duration)
    else:
        video_frames = len(frame_times)
        _check_counts(frames=video_frames)
        if abs(video_frames - duration * video_fps) > 1:
            video_fps = video_frames / duration
        shown = _StoredFrames(video_frames, frame_times.__getitem__, duration)
    placed = clip_indices(
        video_frames,
        clips,
        clip_frames=clip_frames,
        clip_stride=clip_stride,
        convention=convention,
        video_fps=video_fps,
        target_fps=fps,
        use_offset=use_offset,
    )
    # Some of the clips may coincide and not all of them: then each counts in the average as often as upstream.
    if all(indices == placed[0] for indices in placed):
        placed = placed[:1]
    covered = _count_covered_frames(clip_frames, clip_stride, convention, video_fps, fps)
    short = int(covered) > video_frames
    looped = short and convention == "mmaction2"
    spans = []
    for indices in placed:
        end = duration if short else min(shown.start(indices[-1] + 1), duration)
        times = tuple(min(shown.middle(index), end) for index in indices)
        spans.append(ClipSpan(shown.start(indices[0]), end, times, short, looped))
    return spans


def clip_indices(
    video_frames: int,
    clips: int = 10,
    *,
    clip_frames: int,
    clip_stride: int,
    convention: str,
    video_fps: float = SOURCE_FPS,
    target_fps: float = SOURCE_FPS,
    use_offset: bool = False,
) -> list[list[int]]:
    """The frames that a project's own test takes of a video, for every clip, also where clips coincide.

    - "pyslowfast" (``get_start_end_idx`` and ``temporal_sampling`` in slowfast/datasets/decoder.py): the clip is as
      long as at ``target_fps``; clip i of n starts at i / n of the room that is left, or with ``use_offset`` at a
      multiple of a whole number of frames, from the first possible place to the last, and a single one in the middle.
      Frames past the end are the last one.
    - "mmaction2" (``SampleFrames`` in mmaction/datasets/transforms/loading.py, in test mode): every
      ``clip_stride``-th frame of the video itself, clips from the first possible place to the last, a single one in
      the middle. Past the end the video starts again.
    - "gluoncv" (``VideoClsDataset`` in gluoncv/torch/data/video_cls/dataset_classification.py, in test mode): every
      ``clip_stride``-th frame too, but clips start at frames that are a multiple of ``clip_stride``, and the last such
      frame is repeated. Upstream cannot take a single clip (it divides by zero); here it is the first.

    Args:
        video_frames: frames in the video.
        clips: how many.
        clip_frames: frames in a clip, as the Fast pathway takes them.
        clip_stride: distance between them.
        convention: "pyslowfast", "mmaction2" or "gluoncv".
        video_fps: the video's frame rate; only "pyslowfast" uses it.
        target_fps: the frame rate in which "pyslowfast" counts ``clip_stride``.
        use_offset: PySlowFast's ``DATA.USE_OFFSET_SAMPLING``.

    Returns:
        For each clip the indices of its frames, from 0.

    Raises:
        ValueError: an argument is not positive, or a convention that does not count frames.
    """
    _check_convention(convention, COUNTING_CONVENTIONS)
    _check_counts(video_frames=video_frames, clips=clips, clip_frames=clip_frames, clip_stride=clip_stride)
    _check_positive(video_fps=video_fps, target_fps=target_fps)
    if convention == "gluoncv":
        kept = range(0, video_frames, clip_stride)
        step = max((len(kept) - clip_frames) / max(clips - 1, 1), 0)
        starts = [int(clip * step) for clip in range(clips)]
        return [[kept[min(start + frame, len(kept) - 1)] for frame in range(clip_frames)] for start in starts]
    covered = _count_covered_frames(clip_frames, clip_stride, convention, video_fps, target_fps)
    room = max(video_frames - covered, 0)
    if convention == "mmaction2":
        step = room / max(clips - 1, 1)
        starts = [round(clip * step) for clip in range(clips)] if clips > 1 else [int(room // 2)]
        return [[(start + frame * clip_stride) % video_frames for frame in range(clip_frames)] for start in starts]
    placed = []
    for clip in range(clips):
        if not use_offset:
            start = room * clip / clips
        else:
            start = math.floor(room / 2) if clips == 1 else clip * math.floor(room / (clips - 1))
        # Upstream's single precision decides on which side of a whole number an index falls.
        along = torch.linspace(start, start + covered - 1, clip_frames, dtype=torch.float32, device="cpu")
        placed.append(along.clamp(0, video_frames - 1).long().tolist())
    return placed


def random_clip(
    duration: float,
    *,
    clip_frames: int,
    clip_stride: int,
    fps: float = SOURCE_FPS,
    generator: torch.Generator | None = None,
) -> ClipSpan:
    """A clip from anywhere in a video, for training (the paper, section 4.1); every place is as likely.

    Args:
        duration: length of the video in seconds. A video no longer than a clip gives its beginning.
        clip_frames: frames in a clip, as the Fast pathway takes them.
        clip_stride: distance between them in frames at ``fps``.
        fps: the frame rate in which strides are counted, not that of the video.
        generator: source of the random number; torch's own (``torch.manual_seed``) if not given.

    Raises:
        ValueError: an argument is not positive.
    """
    _check_positive(duration=duration, fps=fps)
    _check_counts(clip_frames=clip_frames, clip_stride=clip_stride)
    room = max(duration - clip_frames * clip_stride / fps, 0.0)
    device = "cpu" if generator is None else generator.device
    place = float(torch.rand((), dtype=torch.float64, device=device, generator=generator))
    return _make_span(place * room, duration, clip_frames, clip_stride, fps)


def sliding_windows(
    duration: float, *, window: float, stride: float, clip_frames: int, cover_end: bool = False
) -> Windows:
    """Windows of one length that begin at 0, ``stride``, 2 ``stride``, ... seconds, as long as a whole one fits.

    They are made as they are asked for, and take no memory before.

    Args:
        duration: length of the video in seconds. A video shorter than a window is one window, and ``short``.
        window: length of a window in seconds.
        stride: seconds from the beginning of one to that of the next.
        clip_frames: frames taken of each, at equal distances from its beginning on; each is taken in its middle, as
            :func:`frame_times` does.
        cover_end: add one that ends with the video if some of it would be left over.

    Raises:
        ValueError: an argument is not positive.
    """
    _check_positive(duration=duration, window=window, stride=stride)
    _check_counts(clip_frames=clip_frames)
    is_short = duration < window - _ROUNDING

    def window_at(start: float) -> ClipSpan:
        end = min(start + window, duration)
        return ClipSpan(start, end, _place_frames(start, window, clip_frames), short=is_short)

    return _slide(max(duration - window, 0.0), stride, cover_end, window_at)


def sliding_frames(
    frame_times: Sequence[float],
    duration: float,
    *,
    window: int,
    stride: int,
    clip_frames: int,
    cover_end: bool = False,
) -> Windows:
    """Windows of ``window`` frames of the video itself, from its frames 0, ``stride``, 2 ``stride``, ... on.

    Args:
        frame_times: when each frame is shown, in seconds.
        duration: length of the video in seconds.
        window: frames in a window. A video of fewer is one window, and ``short``: its last frame is repeated.
        stride: frames from the beginning of one to that of the next.
        clip_frames: frames taken of each, at equal distances from its first one on.
        cover_end: add one that ends with the video if some of it would be left over.

    Raises:
        ValueError: an argument is not positive.
    """
    _check_positive(duration=duration)
    frames = len(frame_times)
    _check_counts(frames=frames, window=window, stride=stride, clip_frames=clip_frames)
    shown = _StoredFrames(frames, frame_times.__getitem__, duration)

    def window_at(first: int) -> ClipSpan:
        places = [first + frame * window // clip_frames for frame in range(clip_frames)]
        times = tuple(map(shown.middle, places))
        return ClipSpan(shown.start(first), shown.start(first + window), times, short=frames < window)

    return _slide(max(frames - window, 0), stride, cover_end, window_at)


def _slide(room: float, stride: float, cover_end: bool, window_at: Callable[[Any], ClipSpan]) -> Windows:
    """Windows that begin at 0, ``stride``, ... up to ``room``, where the last possible one begins.

    With ``cover_end`` there is one at ``room`` too, if the others leave some of the video over.
    """
    whole = math.floor((room + _ROUNDING) / stride) + 1
    has_rest = cover_end and (whole - 1) * stride < room - _ROUNDING
    return Windows(whole + has_rest, lambda index: window_at(index * stride if index < whole else room))


class _StoredFrames:
    """From the index of a stored frame to seconds."""

    def __init__(self, count: int, time: Callable[[int], float], duration: float) -> None:
        self._count, self._time, self._duration = count, time, duration

    def start(self, index: int) -> float:
        """When a frame begins; the end of the video past the last one."""
        return self._time(index) if index < self._count else self._duration

    def middle(self, index: int) -> float:
        """A moment at which a frame is on the screen; past the end the last one."""
        index = min(index, self._count - 1)
        return (self._time(index) + max(self.start(index + 1), self._time(index))) / 2


def keyframe_clips(
    duration: float, times: Sequence[float], *, clip_frames: int, clip_stride: int, fps: float = SOURCE_FPS
) -> Windows:
    """One clip around each key frame, as action detection has them (section 5 of the paper), made when asked for.

    The key frame is frame ``clip_frames // 2`` of its clip (PySlowFast, slowfast/datasets/utils.py, ``get_sequence``;
    MMAction2, ``SampleAVAFrames``). What lies before the video's beginning or after its end is its first or last frame.

    Args:
        duration: length of the video in seconds.
        times: the key frames, in seconds.
        clip_frames: frames in a clip, as the Fast pathway takes them.
        clip_stride: distance between them in frames at ``fps``.
        fps: the frame rate in which strides are counted.

    Raises:
        ValueError: an argument is not positive, or a key frame lies outside the video.
    """
    _check_positive(duration=duration, fps=fps)
    _check_counts(clip_frames=clip_frames, clip_stride=clip_stride)
    for time in times:
        if not 0 <= time <= duration:
            raise ValueError(f"a key frame at {time} s lies outside the video, which is {duration:.3f} s long")
    step, first = clip_stride / fps, clip_frames // 2

    def around(index: int) -> ClipSpan:
        time = times[index]
        moments = tuple(min(max(time + (i - first) * step, 0.0), duration) for i in range(clip_frames))
        begin, end = time - first * step, time + (clip_frames - first) * step
        return ClipSpan(max(begin, 0.0), min(end, duration), moments, short=end - begin > duration)

    return Windows(len(times), around)


def _make_span(start: float, duration: float, clip_frames: int, clip_stride: int, fps: float) -> ClipSpan:
    times = tuple(frame_times(start, clip_frames, clip_stride, fps))
    end = min(start + clip_frames * clip_stride / fps, duration)
    return ClipSpan(start, end, times, short=times[-1] >= duration)


def _place_frames(start: float, window: float, clip_frames: int) -> tuple[float, ...]:
    """``clip_frames`` moments, each half a frame behind the beginning of one of the window's equal parts."""
    part = window / clip_frames
    return tuple(start + part * index + min(part, 1 / SOURCE_FPS) / 2 for index in range(clip_frames))


def _count_covered_frames(
    clip_frames: int, clip_stride: int, convention: str, video_fps: float, target_fps: float
) -> float:
    """Length of a clip in frames of the video."""
    if convention == "pyslowfast":
        return max(clip_stride * clip_frames / target_fps * video_fps, 1.0)
    return (clip_frames - 1) * clip_stride + 1


def _check_convention(convention: str, known: tuple[str, ...]) -> None:
    if convention not in known:
        hint = ""
        if convention == "keyframe":
            hint = ": a clip around the frame whose boxes are given is not sampled"
        elif convention in CONVENTIONS:
            hint = ", which goes by time and has no frame indices: sample_clips places its clips"
        raise ValueError(f"convention must be one of {', '.join(known)}; got {convention!r}{hint}")


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")


def _check_counts(**values: int) -> None:
    for name, value in values.items():
        if not value >= 1 or value % 1:
            raise ValueError(f"{name} must be at least 1 and a whole number, got {value}")
