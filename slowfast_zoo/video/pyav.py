"""What reading files and reading streams with PyAV have in common."""

from __future__ import annotations

import math
import queue
import struct
import threading
import weakref
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from slowfast_zoo.errors import MissingDependencyError, VideoDecodeError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream


# FFmpeg's numbers: BT.709, FCC, SMPTE 240M and BT.2020; BT.601; JPEG's range.
_MATRICES = (1, 4, 7, 9)
_BT601 = 5
_FULL_RANGE = 2

# FFmpeg's flag of formats that know no times. It gives their frames some, from a frame rate that it makes up.
NO_TIMES = 0x80

# Seconds from one look for Ctrl-C to the next.
_POLL = 0.2

# FFmpeg's decoders of text for terminals, which draw what any text file says.
_TEXT_DECODERS = ("ansi", "bintext", "idf", "xbin")


def require_av() -> ModuleType:
    """PyAV, or a MissingDependencyError that names the extra."""
    try:
        import av
        import av.video.reformatter
    except ImportError as error:
        raise MissingDependencyError(
            f'reading and writing video needs PyAV ({error}): pip install "slowfast-zoo[video]"'
        ) from error
    return av


class ToRgb:
    """Turns decoded frames into uint8 RGB (3, H, W), upright, on one thread, without alpha.

    The matrix and range are those that a frame is tagged with, and BT.601 and limited range where it is not. Streams
    that change size half-way keep the size of the first frame given.
    """

    def __init__(self, av: ModuleType) -> None:
        self._reformatter = av.video.reformatter.VideoReformatter()
        self._size: tuple[int, int] | None = None
        self._reads_tags = _major_version(av) >= 17
        # Otherwise one for each core.
        self._settings = {"format": "rgb24", "threads": 1} if self._reads_tags else {"format": "rgb24"}

    def __call__(self, frame: VideoFrame) -> Tensor:
        """The pixels of a frame."""
        self._size = self._size or (frame.height, frame.width)
        rgb = self._reformatter.reformat(frame, **self._settings, **self._tags(frame)).to_ndarray()
        pixels = torch.from_numpy(rgb).permute(2, 0, 1)
        if pixels.shape[1:] != self._size:  # not scaled by FFmpeg, with which older versions of PyAV may crash
            pixels = F.interpolate(pixels[None], self._size, mode="bilinear", antialias=True)[0]
        return _turn_upright(pixels, *_read_display_matrix(frame))

    def _tags(self, frame: VideoFrame) -> dict[str, int]:
        """Colours of a frame, for an older PyAV, which takes all frames to be BT.601 in limited range."""
        if self._reads_tags or (frame.colorspace not in _MATRICES and frame.color_range != _FULL_RANGE):
            return {}
        return {"src_colorspace": frame.colorspace, "dst_colorspace": _BT601, "src_color_range": frame.color_range}


def open_container(av: ModuleType, media: Any, **options: Any) -> InputContainer:
    """A video opened for reading by ``av.open``. Text in it that is not UTF-8 is no error.

    Args:
        av: PyAV.
        media: what ``av.open`` reads: a name, or an open file.
        **options: further arguments of ``av.open``, of which every version has those used here.
    """
    if _major_version(av) < 19:  # from 19 on it has no such argument, and keeps the bytes of such text as surrogates
        options["metadata_errors"] = "replace"
    container: InputContainer = av.open(media, **options)
    return container


# Demuxers that open what a text names (other files, addresses, ports on which they listen).
_OPENERS = (
    *("concat", "dash", "hls", "hds", "imf", "rtsp", "sap", "sdp", "smoothstreaming", "vapoursynth", "avisynth"),
    *("image2", "lavfi", "webm_dash_manifest", "dvdvideo", "vobsub"),
)


def restrict_formats(av: ModuleType) -> dict[str, str]:
    """Options of a container that keep FFmpeg from taking a file for one that names others to be opened."""
    names = [name for name in sorted(av.formats_available) if name not in _OPENERS]
    return {"format_whitelist": ",".join(names)}


class Interruptible:
    """Makes calls that may wait for a server, so that Ctrl-C is heard meanwhile.

    Python hears of it in the main thread, between two of its own instructions: calls from there are made by another
    thread. After an interruption that thread still waits, and owns what it was given.

    Attributes:
        is_abandoned: whether a call was left alone that may still go on.
    """

    def __init__(self) -> None:
        self.is_abandoned = False
        self._tasks: queue.SimpleQueue[Any] | None = None
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What the function returns or raises."""
        if threading.current_thread() is not threading.main_thread():
            return function(*args, **kwargs)
        if self._tasks is None:
            self._tasks = queue.SimpleQueue()
            work = (self._tasks, self._answers)
            threading.Thread(target=_run_tasks, args=work, name="slowfast-zoo reader", daemon=True).start()
            weakref.finalize(self, self._tasks.put, None)
        self._tasks.put((function, args, kwargs))
        try:
            while True:
                try:
                    value, error = self._answers.get(timeout=_POLL)
                    break
                except queue.Empty:  # Windows hears of Ctrl-C only between two waits
                    continue
        except BaseException:
            self.is_abandoned = True
            self._tasks.put(None)
            self._tasks, self._answers = None, queue.SimpleQueue()
            raise
        if error is not None:
            raise error
        return value


def _run_tasks(tasks: queue.SimpleQueue[Any], answers: queue.SimpleQueue[Any]) -> None:
    while (task := tasks.get()) is not None:
        function, args, kwargs = task
        try:
            answers.put((function(*args, **kwargs), None))
        except BaseException as error:
            answers.put((None, error))
            del error
        del task, function, args, kwargs  # a container must not live longer for it


def close_container(container: InputContainer, stream: VideoStream) -> None:
    """Close a container, once its decoder's threads are at rest.

    Where anyone has called ``av.logging.set_level`` (torchvision did, as long as it read videos), a decoder thread that
    logs waits for Python's lock. PyAV holds it while it waits for those threads as it frees them: for ever. Flushing
    waits for the threads too, without the lock.
    """
    decoder: Any = stream.codec_context
    if decoder is not None:
        decoder.flush_buffers()
    container.close()


def read_size(container: InputContainer) -> int | None:
    """The bytes of what was opened, or None where nothing says how many: a negative number before PyAV 19."""
    size = container.size
    return None if size is None or size < 0 else size


def _major_version(av: ModuleType) -> int:
    return int(av.__version__.split(".")[0])


def find_video_stream(container: InputContainer, name: str) -> VideoStream:
    """The stream of moving pictures that players show, of those that can be decoded.

    The one that the file marks as its default; among several, one that is not a single picture; then the largest.

    Raises:
        VideoDecodeError: there is none in the container, which errors call ``name``, or it is text that FFmpeg draws.
            The container is closed then.
    """
    import av

    kinds = av.stream.Disposition
    aside = kinds.attached_pic | kinds.timed_thumbnails | kinds.still_image
    streams = [stream for stream in container.streams.video if not stream.disposition & aside]
    decodable = [stream for stream in streams if stream.codec_context is not None]
    if decodable:
        best = max(
            decodable,  # the first, where they are equal
            key=lambda stream: (
                bool(stream.disposition & kinds.default),
                stream.frames != 1,
                stream.codec_context.width * stream.codec_context.height,
            ),
        )
        if best.codec_context.name not in _TEXT_DECODERS:
            return best
        fault = "it is text, not a video"
    elif streams:
        fault = "FFmpeg has no decoder for its video stream"
    else:
        # Not by stream.type: asked for an unknown one, PyAV before 17 crashes.
        others = [kind for kind in ("audio", "data", "subtitles") if getattr(container.streams, kind)]
        fault = "there is no video stream in it" + (f", only {' and '.join(others)}" if others else "")
    container.close()
    raise VideoDecodeError(name, fault)


def demux(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """The packets of a stream from the present position on."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except IndexError:  # a packet of a stream that PyAV did not see when it opened the file; go on behind it
            packets = container.demux(stream)
            continue
        if packet is None:
            return
        yield packet


def describe_error(error: Exception, late: bool = False) -> str:
    """What FFmpeg says, in words for whoever has the video; ``late`` if a time limit had passed by then."""
    message = getattr(error, "strerror", None) or str(error)
    if late or "Immediate exit" in message:
        return "no data came in time"
    if "Invalid data" in message:
        return f"not a video, or damaged ({message})"
    return "it breaks off" if message == "End of file" else message


def read_pixel_aspect(stream: VideoStream, frame: VideoFrame) -> float:
    """Width of a pixel divided by its height, of a frame that :class:`ToRgb` has turned upright."""
    stated = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    aspect = float(stated) if stated and stated > 0 else 1.0
    a, b, *_ = _read_display_matrix(frame)
    return 1 / aspect if abs(b) > abs(a) else aspect


def _read_display_matrix(frame: VideoFrame) -> tuple[int, ...]:
    """The matrix (a, b, _, c, d) by which a player takes a point (x, y) to (ax + cy, bx + dy)."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    return (1, 0, 0, 0, 1) if matrix is None else struct.unpack_from("=5i", bytes(matrix))


def _turn_upright(pixels: Tensor, a: int, b: int, _: int, c: int, d: int) -> Tensor:
    """(3, H, W) as a player shows them by a display matrix."""
    mirrored, turns = a * d < b * c, round(-2 * math.atan2(b, a) / math.pi) % 4
    pixels = pixels.flip(1) if mirrored else pixels
    return torch.rot90(pixels, turns, dims=(1, 2)) if turns else pixels  # which would copy for no turns, too
