"""Frames that come one by one, from a camera or a generator, cut into windows as they arrive."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slowfast_zoo.video import SOURCE_FPS, ClipSpan, LiveReader, open_video, sliding_windows

Frame = Tensor | NDArray[np.uint8]
_ROUNDING = 1e-6  # seconds
_LIVE = ("rtsp://", "rtsps://", "rtmp://", "rtp://", "udp://", "tcp://", "srt://", "/dev/video")


def timed_frames(source: Any, fps: float | None, live: bool | None) -> tuple[Iterator[tuple[float, Tensor]], bool]:
    """Frames with their times from whatever gives frames, and whether those that come too fast may be left out.

    Args:
        source: a video, a camera or stream URL, a :class:`LiveReader`, or an iterable of uint8 RGB frames (H, W, 3) or
            of pairs (seconds, frame).
        fps: frame rate of an iterable of frames without times, and of a folder of images.
        live: whether the source goes on while the network computes; None decides by the source.

    Raises:
        TypeError: not a source of frames.
        ValueError: frames without times and no ``fps``.
    """
    if isinstance(source, LiveReader):
        return iter(source), live is not False
    text = str(source) if isinstance(source, str) else ""
    if live or (live is None and text.startswith(_LIVE)):
        if not text:
            given = type(source).__name__
            raise TypeError(f"live=True takes the URL of a camera or stream, or a LiveReader, not {given}")
        return _closing(LiveReader(text, format="v4l2" if text.startswith("/dev/video") else None)), True
    if isinstance(source, Iterable) and not _is_video(source):
        return _with_times(source, fps), False
    return _closing(open_video(source, fps=fps)), False


def windows(
    frames: Iterator[tuple[float, Tensor]],
    prepare: Callable[[Tensor], Tensor],
    *,
    window: float,
    stride: float,
    clip_frames: int,
    skip: bool,
) -> Iterator[tuple[ClipSpan, Tensor]]:
    """The windows of a stream, each as soon as its last frame is there.

    Held are the prepared frames of one window. A stream that ends before the first window is full gives one window with
    the last frame repeated.

    Args:
        frames: (seconds, frame), in the order of time.
        prepare: called once with each frame, at once.
        window: length of a window in seconds.
        stride: from the start of a window to that of the next one, in seconds.
        clip_frames: frames in a clip, spread evenly over the window.
        skip: leave windows out that are over by more than a stride when their turn comes.

    Yields:
        The window, and its frames (clip_frames, C, h, w).
    """
    held: deque[tuple[float, Tensor]] = deque()
    offsets = sliding_windows(window, window=window, stride=stride, clip_frames=clip_frames)[0].times
    origin, now, number = None, 0.0, 0
    shortest = math.inf  # from one frame to the next

    def cut() -> tuple[ClipSpan, Tensor]:
        start = number * stride
        times = tuple(start + offset for offset in offsets)
        shown = [next((p for at, p in reversed(held) if at <= time + _ROUNDING), held[0][1]) for time in times]
        return ClipSpan(start, start + window, times, short=False), torch.stack(shown)

    for stamp, frame in frames:
        origin = stamp if origin is None else origin
        if held:
            shortest = min(shortest, stamp - origin - now)
        now = stamp - origin
        held.append((now, prepare(frame)))
        # Which frame is on the screen at the last moment of a window is known when one after it is there.
        while now >= number * stride + offsets[-1] - _ROUNDING:
            if skip:
                number = max(number, math.floor((now - offsets[-1] + _ROUNDING) / stride))
            yield cut()
            number += 1
            first = number * stride + offsets[0]
            while len(held) > 1 and held[1][0] <= first + _ROUNDING:
                held.popleft()
    end = now + (shortest if 0 < shortest < math.inf else 1 / SOURCE_FPS)  # the last frame stays for a moment
    while held and end >= number * stride + window - _ROUNDING:
        yield cut()
        number += 1
    if held and number == 0:
        span, clip = cut()
        yield replace(span, end=end, short=True), clip


def _closing(source: Any) -> Generator[tuple[float, Tensor], None, None]:
    """The frames of something that has to be closed."""
    with source:
        yield from source if isinstance(source, LiveReader) else source.frames()


def _is_video(source: Any) -> bool:
    known = (str, bytes, bytearray, memoryview, np.ndarray, Tensor)
    return isinstance(source, known) or hasattr(source, "read") or hasattr(source, "__fspath__")


def _with_times(frames: Iterable[Any], fps: float | None) -> Iterator[tuple[float, Tensor]]:
    for index, item in enumerate(frames):
        if isinstance(item, tuple):
            stamp, frame = item
        elif fps:
            stamp, frame = index / fps, item
        else:
            raise ValueError("frames without times need their frame rate: pass fps=, or pairs (seconds, frame)")
        yield float(stamp), _as_frame(frame)


def _as_frame(frame: Any) -> Tensor:
    """uint8 (3, H, W) from uint8 RGB (H, W, 3)."""
    pixels = torch.from_numpy(np.ascontiguousarray(frame)) if isinstance(frame, np.ndarray) else frame
    if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8 or pixels.ndim != 3 or pixels.shape[-1] != 3:
        kind = f"{pixels.dtype} {tuple(pixels.shape)}" if isinstance(pixels, Tensor) else type(frame).__name__
        raise ValueError(f"expected uint8 RGB frames (H, W, 3), got {kind}")
    return pixels.permute(2, 0, 1)
