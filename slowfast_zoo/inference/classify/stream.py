"""Frames that come one by one, from a camera or a generator, cut into windows as they arrive."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slowfast_zoo.video import SOURCE_FPS, ClipSpan, LiveReader, Segment, open_video, sliding_windows

Frame = Tensor | NDArray[np.uint8]
_ROUNDING = 1e-6  # seconds
_LIVE = ("rtsp://", "rtsps://", "rtmp://", "rtp://", "udp://", "tcp://", "srt://", "/dev/video")


def open_frames(
    source: Any, fps: float | None, live: bool | None
) -> tuple[Iterator[tuple[float, Tensor]], Callable[[], float] | None]:
    """Frames with their times from whatever gives frames, and what :func:`cut_windows` takes as ``skip``.

    Args:
        source: a video, a camera or stream URL, a :class:`LiveReader`, or an iterable of uint8 RGB frames (H, W, 3) or
            of pairs (seconds, frame).
        fps: frame rate, above 0, of an iterable of frames without times, and of a folder of images.
        live: whether the source goes on while the network computes; None decides by the source.

    Raises:
        TypeError: not a source of frames.
        ValueError: while iterating over an iterable: frames without times and no ``fps``, times that do not increase,
            or frames of another shape, type or size.
    """
    if isinstance(source, LiveReader):
        return iter(source), None if live is False else source.newest
    name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else ""
    text = name if isinstance(name, str) else ""
    if live or (live is None and text.startswith(_LIVE)):
        if not text:
            given = type(source).__name__
            raise TypeError(
                f'live=True takes the URL of a stream, a camera such as "/dev/video0", or a LiveReader, not {given}'
            )
        reader = LiveReader(text, format="v4l2" if text.startswith("/dev/video") else None)
        return _frames_of(reader), reader.newest
    if _is_video(source):
        return _frames_of(open_video(source, fps=fps)), None
    if not isinstance(source, Iterable):
        raise TypeError(
            'expected a video, the URL of a stream, a camera such as "/dev/video0", a LiveReader, or an iterable of '
            f"frames, got {source!r}"
        )
    return _stamp_frames(source, fps), None


def cut_windows(
    frames: Iterator[tuple[float, Tensor]],
    prepare: Callable[[Tensor], Tensor],
    *,
    window: float,
    stride: float,
    clip_frames: int,
    skip: Callable[[], float] | None,
) -> Iterator[tuple[ClipSpan, Tensor]]:
    """The windows of a stream, each as soon as its last frame is there.

    Held are the newest frame and, prepared, those that a window to come shows: about ``clip_frames * window / stride``
    where windows overlap. Windows in which no frame came are left out. A stream that ends before the first window is
    full gives one window with the last frame repeated.

    Args:
        frames: (seconds, frame), in the order of time.
        prepare: called once with each frame that a window shows.
        window: length of a window in seconds.
        stride: from the start of a window to that of the next one, in seconds.
        clip_frames: frames in a clip, spread evenly over the window.
        skip: the time of the newest frame that waits to be taken, minus infinity where none does. All that wait are
            taken before a window is cut, and only the last window that is then over is. None leaves no window out.

    Yields:
        The window, and its frames (clip_frames, C, h, w).
    """
    held: deque[tuple[float, Tensor]] = deque()
    newest: tuple[float, Tensor] | None = None
    offsets = sliding_windows(window, window=window, stride=stride, clip_frames=clip_frames)[0].times
    origin, waiting = None, None
    now, before, number = 0.0, 0.0, 0
    shortest = math.inf  # from one frame to the next

    def shows(since: float, until: float) -> bool:
        """Whether a window to come shows a frame that is on the screen from one time until another."""
        since -= 2 * _ROUNDING
        return any(max(number, math.ceil((since - at) / stride)) * stride + at < until for at in offsets)

    def empty(number: int) -> bool:
        """Whether no frame came in a window that is over."""
        return before + _ROUNDING < number * stride <= now - window + _ROUNDING

    def cut() -> tuple[ClipSpan, Tensor]:
        nonlocal newest, number
        start = number * stride
        times = tuple(start + offset for offset in offsets)
        if newest is not None and newest[0] <= times[-1] + _ROUNDING:
            held.append((newest[0], prepare(newest[1])))
            newest = None
        shown = [next((p for at, p in reversed(held) if at <= time + _ROUNDING), held[0][1]) for time in times]
        number += 1
        first = number * stride + offsets[0]
        while len(held) > 1 and held[1][0] <= first + _ROUNDING:
            held.popleft()
        return ClipSpan(start, start + window, times, short=False), torch.stack(shown)

    # held has (second, prepared frame) in the order of time, newest the last frame as it came: which windows show that
    # one is known only when the frame after it is there, and ends its time on the screen. number is the next window's,
    # which begins at number * stride. Times are compared with a tolerance: sums of frame times and of strides are
    # rounded differently.
    for stamp, frame in frames:
        if origin is None:
            origin = stamp
        else:
            before, now = now, stamp - origin
            shortest = min(shortest, now - before)
        if newest is not None and shows(newest[0], now):
            held.append((newest[0], prepare(newest[1])))
        newest = (now, frame)
        # Which frame is on the screen at the last moment of a window is known when one after it is there.
        over = now - offsets[-1] + _ROUNDING
        if skip is not None and over >= number * stride:
            # Asked once: frames that come as fast as they are taken must not put the window off for ever.
            waiting = skip() if waiting is None else waiting
            if stamp < waiting:
                continue
            waiting = None
            last = math.floor(over / stride)
            number = max(number, math.floor((before + _ROUNDING) / stride) if empty(last) else last)
        while over >= number * stride:
            if empty(number):  # and so are all up to this frame
                number = math.floor((now - window + _ROUNDING) / stride) + 1
                if over < number * stride:
                    break
            yield cut()
    if origin is None:
        return
    end = now + (shortest if 0 < shortest < math.inf else 1 / SOURCE_FPS)  # the last frame stays for a moment
    last = math.floor((min(end - window, now) + _ROUNDING) / stride)  # the last one that is over and has a frame
    if skip is not None:
        number = max(number, last)
    while number <= last:
        yield cut()
    if number == 0:
        span, clip = cut()
        yield replace(span, end=end, short=True), clip


def _frames_of(source: Any) -> Generator[tuple[float, Tensor], None, None]:
    """The frames of a source that is closed behind the last one."""
    with source:
        yield from source if isinstance(source, LiveReader) else source.frames()


def _is_video(source: Any) -> bool:
    known = (str, bytes, bytearray, memoryview, np.ndarray, Tensor, os.PathLike, Segment)
    # Cameras of other libraries have a method read, too, but cannot be searched.
    return isinstance(source, known) or (hasattr(source, "read") and hasattr(source, "seekable"))


def _stamp_frames(frames: Iterable[Any], fps: float | None) -> Iterator[tuple[float, Tensor]]:
    before, size = -math.inf, None
    for index, item in enumerate(frames):
        if isinstance(item, (tuple, list)) and len(item) == 2:
            stamp, frame = float(item[0]), item[1]
        elif fps is not None:
            stamp, frame = index / fps, item
        else:
            raise ValueError("frames without times need their frame rate: pass fps=, or pairs (seconds, frame)")
        if not before < stamp < math.inf:
            after = f", after {before} s" if index else ""
            raise ValueError(f"times must be finite and increase, but frame {index} is at {stamp} s{after}")
        pixels = _check_frame(frame)
        size = size or pixels.shape[1:]
        if pixels.shape[1:] != size:
            (height, width), (h, w) = size, pixels.shape[1:]
            raise ValueError(f"frames must be of one size, but frame {index} is {w}x{h}, after {width}x{height}")
        before = stamp
        yield stamp, pixels


def _check_frame(frame: Any) -> Tensor:
    """uint8 (3, H, W) from uint8 RGB (H, W, 3)."""
    pixels = torch.from_numpy(np.ascontiguousarray(frame)) if isinstance(frame, np.ndarray) else frame
    if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8 or pixels.ndim != 3 or pixels.shape[-1] != 3:
        kind = f"{pixels.dtype} {tuple(pixels.shape)}" if isinstance(pixels, Tensor) else type(frame).__name__
        raise ValueError(f"expected uint8 RGB frames (H, W, 3), got {kind}")
    return pixels.permute(2, 0, 1).clone()  # a copy: the caller may write the next frame into the same memory
