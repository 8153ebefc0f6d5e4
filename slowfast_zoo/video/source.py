"""What a video may be given as, and what all readers of one have in common.

A video is a file, an array or a folder of images; whatever it is, its frames are asked for by the second at which they
are shown, so that nothing above this module has to know.
"""

from __future__ import annotations

import errno
import heapq
import math
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slowfast_zoo.errors import VideoDecodeError
from slowfast_zoo.utils.checks import is_positive

from .segment import Segment

if TYPE_CHECKING:
    from typing_extensions import Self

VideoFile = str | os.PathLike[str] | bytes | BinaryIO
VideoInput = VideoFile | NDArray[Any] | Tensor | Segment

# What a folder is searched for. A file of any other name can be given by itself.
VIDEO_SUFFIXES = (
    *(".264", ".265", ".266", ".3g2", ".3gp", ".3gpp", ".amv", ".apng", ".asf", ".avi", ".avif", ".avs2", ".avs3"),
    *(".bik", ".cavs", ".cine", ".cpk", ".dif", ".divx", ".drc", ".dv", ".dvr-ms", ".evo", ".f4v", ".flc", ".fli"),
    *(".flv", ".gif", ".gxf", ".h261", ".h263", ".h264", ".h265", ".h266", ".hevc", ".insv", ".ismv", ".ivf", ".lrv"),
    *(".m1v", ".m2p", ".m2t", ".m2ts", ".m2v", ".m4v", ".mj2", ".mjpeg", ".mjpg", ".mk3d", ".mkv", ".mov", ".mp4"),
    *(".mp4v", ".mpe", ".mpeg", ".mpg", ".mpg4", ".mpv", ".mts", ".mxf", ".nsv", ".nut", ".obu", ".ogm", ".ogv"),
    *(".ogx", ".qt", ".rm", ".rmvb", ".roq", ".smk", ".swf", ".tod", ".tp", ".trp", ".ts", ".vc1", ".viv", ".vob"),
    *(".vvc", ".webm", ".wmv", ".wtv", ".y4m"),
)

# What a folder of images is searched for; anything else in it is left alone.
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

# What systems and programs leave in folders, besides what is hidden by a dot.
_LEFTOVERS = ("__macosx", "__pycache__", "@eadir", "$recycle.bin", "system volume information", "lost+found")

# Clips that are looked at ahead of the one being read, so that their frames are read in one pass.
_AHEAD = 1024


class VideoSource(Protocol):
    """Frames by time. Times are seconds from the first frame; the frame at a time is the one on the screen then.

    Attributes:
        name: the video as the caller named it (:func:`video_name`).
        duration: seconds from the first frame to the end of the last one.
        fps: nominal frame rate.
        pixel_aspect: width of a pixel divided by its height.
        width: width of the frames, in pixels.
        height: height of the frames, in pixels.
        frames_decoded: how often a frame was decoded so far.
    """

    name: str
    duration: float
    fps: float
    pixel_aspect: float
    width: int
    height: int
    frames_decoded: int

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the video; frames already returned stay valid."""

    def frames_at(self, times: Sequence[float]) -> Tensor:
        """The frames shown at some times.

        Args:
            times: seconds from the first frame, in any order. Before the start means the first frame, past the end
                the last one.

        Returns:
            uint8 RGB frames (T, 3, H, W), in the order of ``times``.

        Raises:
            ValueError: ``times`` is empty, or the video is closed.
            VideoDecodeError: the frames cannot be decoded.
        """
        return next(self.clips_at([times]))

    def clips_at(
        self, clips: Sequence[Sequence[float]], transform: Callable[[Tensor], Tensor] | None = None
    ) -> Iterator[Tensor]:
        """Several clips in one pass over the video: a frame that clips share is decoded once.

        Clips in the order of their times need the least memory: only frames that a later clip wants are held.

        Args:
            clips: for each clip the times of its frames, as for :meth:`frames_at`.
            transform: applied once to each frame that the clips hold, uint8 RGB (3, H, W). Making frames small here
                keeps large ones from being held.

        Yields:
            For each clip, in the order given, uint8 RGB frames (T, 3, H, W), or stacked results of ``transform``.

        Raises:
            ValueError: a clip has no times, or the video is closed.
            VideoDecodeError: the frames cannot be decoded.
        """

    def frame_times(self) -> Sequence[float]:
        """When each stored frame is shown, in seconds from the first one, in the order of presentation.

        Raises:
            ValueError: the video is closed.
            VideoDecodeError: the file cannot be read.
        """

    def frames(self, start: float = 0.0) -> Iterator[tuple[float, Tensor]]:
        """All frames in the order of presentation, from the one on the screen at some time on.

        Args:
            start: seconds from the first frame.

        Yields:
            For each frame the second at which it is shown, and its pixels, uint8 RGB (3, H, W).

        Raises:
            ValueError: the video is closed.
            VideoDecodeError: the frames cannot be decoded.
        """


class FrameReader(VideoSource):
    """What the sources of this package share: from a frame that is found by its time to clips of frames."""

    def _frame_at(self, time: float) -> Any:
        """The frame on the screen at a time, in the source's own form: the same object or number for the same frame."""
        raise NotImplementedError

    def _pixels(self, frame: Any) -> Tensor:
        """What :meth:`_frame_at` gave as uint8 RGB (3, H, W)."""
        raise NotImplementedError

    def clips_at(
        self, clips: Sequence[Sequence[float]], transform: Callable[[Tensor], Tensor] | None = None
    ) -> Iterator[Tensor]:
        """Several clips in one pass over the video.

        Of clips that are made as they are asked for, not held in a list, only some are looked at ahead: where those are
        not in the order of their times, frames may be read again.
        """
        if isinstance(clips, (list, tuple)):
            checked = [_check_times(times) for times in clips]
            return self._stack_clips(iter(checked), len(checked), transform)
        return self._stack_clips(map(_check_times, clips), _AHEAD, transform)

    def _stack_clips(
        self, clips: Iterator[list[float]], least: int, transform: Callable[[Tensor], Tensor] | None
    ) -> Iterator[Tensor]:
        """The clips, one after another; ``least`` of them are looked at ahead.

        Clips may overlap and lie in any order, but a file is read fast in one direction only. So all times that are
        known stand in one heap, and frames are read in the order of time until the clip whose turn it is is complete. A
        frame is held as long as a clip that is known and not yet given wants one of its times.
        """
        uses: Counter[float] = Counter()  # how many places of known clips want a time
        held: dict[float, Tensor] = {}
        pending: list[float] = []
        ahead: deque[list[float]] = deque()
        last: Any = None
        pixels: Tensor | None = None

        def look_ahead() -> bool:
            """Whether there is a clip; all that begin before it ends are known then."""
            while not ahead or len(ahead) < least or min(ahead[-1]) <= max(ahead[0]):
                times = next(clips, None)
                if times is None:
                    break
                ahead.append(times)
                for time in times:
                    if not uses[time]:
                        heapq.heappush(pending, time)
                    uses[time] += 1
            return bool(ahead)

        while look_ahead():
            times = ahead.popleft()
            while not all(time in held for time in times):
                time = heapq.heappop(pending)
                frame = self._frame_at(time)
                if pixels is None or frame != last:
                    last, pixels = frame, self._pixels(frame)
                    pixels = pixels if transform is None else transform(pixels)
                held[time] = pixels
            yield torch.stack([held[time] for time in times])
            uses.subtract(times)
            for time in set(times):
                if not uses[time]:
                    del held[time], uses[time]


def video_name(video: VideoInput) -> str:
    """How results and errors name a video: as the caller did, or "<bytes>", "<file>" or "<array>" without a name."""
    if isinstance(video, Segment):
        return str(video)
    if isinstance(video, (np.ndarray, Tensor)):
        return "<array>"
    if isinstance(video, (bytes, bytearray, memoryview)):
        return "<bytes>"
    if isinstance(video, (str, os.PathLike)):
        return os.fspath(video)
    if hasattr(video, "read"):
        name = getattr(video, "name", None)
        return name if isinstance(name, str) else "<file>"
    raise TypeError(
        "expected a video as a path, URL, bytes, binary file object or uint8 array or tensor (T, H, W, 3), "
        f"got {type(video).__name__}"
    )


class FrameSequence(FrameReader):
    """Frames at a constant rate, from memory or from a folder of images, read by time like a video file.

    Frame i is on the screen from second ``i / fps`` to ``(i + 1) / fps``.

    Args:
        frames: uint8 RGB (T, H, W, 3), an array or a tensor on any device. It is not copied.
        fps: frames per second.

    Raises:
        ValueError: frames of another shape or type, or a rate that is not above 0.
    """

    def __init__(self, frames: NDArray[Any] | Tensor, fps: float) -> None:
        shape = tuple(frames.shape)
        if frames.dtype not in (np.uint8, torch.uint8) or len(shape) != 4 or shape[-1] != 3 or 0 in shape:
            raise ValueError(f"frames must be uint8 RGB (T, H, W, 3) with T >= 1, not {frames.dtype} {shape}")
        self._set_up("<array>", len(frames), fps, lambda index: _to_tensor(frames[index]))
        self.height, self.width = shape[1:3]

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str], fps: float = 30.0) -> Self:
        """The images of a folder in the natural order of their names (2 before 10), each read when it is asked for.

        All must be of the size of the first; its orientation tag is applied, alpha is left out.

        Raises:
            FileNotFoundError: there is no such folder.
            VideoDecodeError: it holds no images, or, while reading, one that cannot be read or is of another size.
            ValueError: a rate that is not above 0.
        """
        name = os.fspath(folder)
        if not os.path.isdir(name):
            raise FileNotFoundError(errno.ENOENT, "no such folder of images", name)
        try:
            entries = [entry for entry in Path(name).iterdir() if not is_left_out(entry.name)]
        except OSError as error:
            raise VideoDecodeError(name, error.strerror or str(error)) from error
        images = sorted((entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES), key=_natural_key)
        if not images:
            raise VideoDecodeError(name, f"the folder holds no images ({', '.join(IMAGE_SUFFIXES)})")
        self = cls.__new__(cls)
        first = _read_image(images[0], name)
        self.height, self.width = first.shape[1:]

        def load(index: int) -> Tensor:
            image = _read_image(images[index], name)
            if image.shape != first.shape:
                height, width = image.shape[1:]
                sizes = f"{width} x {height}, the first image {self.width} x {self.height}"
                raise VideoDecodeError(name, f"{images[index].name} is {sizes}: all must have one size")
            return image

        self._set_up(name, len(images), fps, load)
        self.frames_decoded = 1
        return self

    def _set_up(self, name: str, count: int, fps: float, load: Callable[[int], Tensor]) -> None:
        if not is_positive(fps):
            raise ValueError(f"fps must be a number above 0, not {fps!r}")
        self.name = name
        self.pixel_aspect = 1.0
        self.fps = float(fps)
        self.duration = count / self.fps
        self.frames_decoded = 0
        self._count = count
        self._load: Callable[[int], Tensor] | None = load

    def __repr__(self) -> str:
        return f"FrameSequence({self.name!r}: {self.width} x {self.height}, {self._count} frames at {self.fps:.4g} fps)"

    def close(self) -> None:
        """Let go of the frames. May be called twice."""
        self._load = None

    def frame_times(self) -> Sequence[float]:
        """When each frame is shown, in seconds."""
        return [index / self.fps for index in range(self._count)]

    def frames(self, start: float = 0.0) -> Iterator[tuple[float, Tensor]]:
        """All frames from the one at ``start`` on, each with its second."""
        for index in range(self._frame_at(start), self._count):
            yield index / self.fps, self._pixels(index)

    def _frame_at(self, time: float) -> int:
        """The index of the frame at a time."""
        # i / fps, rounded, must not lie before frame i.
        return int(min(max((time + 1e-6) * self.fps, 0.0), self._count - 1))

    def _pixels(self, frame: int) -> Tensor:
        """The frame of an index."""
        if self._load is None:
            raise ValueError(f"the frames of {self.name!r} are closed")
        self.frames_decoded += 1
        return self._load(frame)


def _check_times(times: Sequence[float]) -> list[float]:
    seconds = [float(time) for time in times]
    if not seconds:
        raise ValueError("a clip needs at least one time")
    if any(map(math.isnan, seconds)):
        raise ValueError("a time of a clip is not a number")
    return seconds


def is_left_out(name: str) -> bool:
    """Whether a file or folder of this name is left alone where a folder is searched."""
    return name.startswith(".") or name.lower() in _LEFTOVERS


def _natural_key(path: Path) -> tuple[list[Any], str]:
    """Sorts numbers in names by their value."""
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], path.name


def _to_tensor(frame: NDArray[Any] | Tensor) -> Tensor:
    """(3, H, W) on the CPU from (H, W, 3), sharing its memory where that is possible."""
    if isinstance(frame, np.ndarray):
        # A tensor can be neither read-only nor mirrored.
        plain = frame.flags.writeable and min(frame.strides) >= 0
        frame = torch.from_numpy(frame if plain else frame.copy())
    return frame.cpu().permute(2, 0, 1)


def _read_image(path: Path, folder: str) -> Tensor:
    """uint8 RGB (3, H, W)."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):  # Pillow would clip 16 bits to 8, not scale them
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            return torch.from_numpy(np.array(upright.convert("RGB"))).permute(2, 0, 1)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoDecodeError(folder, f"its image {path.name} cannot be read ({error})") from error
