"""From videos to the network's outputs: threads decode while the network computes, in batches and bounded memory."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slowfast_zoo.errors import VideoDecodeError
from slowfast_zoo.utils.progress import ProgressBar
from slowfast_zoo.video import ClipSpan, ClipTransform, VideoInput, VideoSource, open_video, video_name

OnError = Callable[[VideoInput, Exception], None]

# What allocators say that raise no exception of their own: PyTorch's for the CPU, oneDNN's, C++.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "could not create a memory object", "bad_alloc")
_POLL = 0.1  # seconds after which a waiting thread looks whether it is still needed
_PATIENCE = 0.05  # seconds for which a finished video waits for others to fill its batch
_JOIN_TIME = 0.5  # seconds for which the caller waits for its decoders to end; what they are doing may take longer


@dataclass
class Scored:
    """A video that has been through the network.

    Attributes:
        index: its position among the videos.
        video: what was given; of one in memory, which is not to be held any longer, the name.
        name: how results name it.
        duration: its length in seconds.
        spans: its clips.
        rows: the outputs for its views, each float32 (D,) on the CPU: clip by clip, and crop by crop in a clip.
    """

    index: int
    video: VideoInput
    name: str
    duration: float
    spans: Sequence[ClipSpan]
    rows: list[Tensor] = field(default_factory=list)

    def by_clip(self) -> Tensor:
        """(clips, views of a clip, D)."""
        return torch.stack(self.rows).view(len(self.spans), -1, len(self.rows[0]))


@dataclass(frozen=True)
class _View:
    """(C, T, H, W) on the way from a decoder to the network."""

    scored: Scored
    pixels: Tensor


@dataclass(frozen=True)
class _Failed:
    index: int
    video: VideoInput
    error: Exception


class BatchRunner:
    """Runs a function of the network over views, as many at once as fit.

    Attributes:
        size: views that go through the network at once; halved, with a warning, when they do not fit in memory.
    """

    def __init__(self, model: nn.Module, size: int) -> None:
        self._model = model
        self.size = size

    @torch.inference_mode()
    def __call__(self, function: Callable[[Tensor], Tensor], views: Tensor) -> Tensor:
        """float32 outputs (N, D) on the CPU, for views (N, C, T, H, W).

        Raises:
            MemoryError: a single view does not fit in memory.
        """
        parameter = next(self._model.parameters())
        rows: list[Tensor] = []
        while (done := sum(map(len, rows))) < len(views):
            batch = views[done : done + self.size]
            try:
                rows.append(function(batch.to(device=parameter.device, dtype=parameter.dtype)).float().cpu())
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._shrink(len(batch), tuple(views.shape[1:]), parameter.device, error)
        return torch.cat(rows)

    def _shrink(self, tried: int, shape: tuple[int, ...], device: torch.device, error: Exception) -> None:
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if tried == 1:
            raise MemoryError(
                f"a single view of shape {shape} does not fit in the memory of {device}: "
                "use a smaller network, a smaller crop or dtype=torch.bfloat16"
            ) from error
        self.size = tried // 2
        warnings.warn(
            f"{tried} views of shape {shape} do not fit in the memory of {device}: going on with {self.size} at once",
            RuntimeWarning,
            stacklevel=2,
        )


def score_videos(
    videos: Iterable[VideoInput],
    spans_of: Callable[[VideoSource], Sequence[ClipSpan]],
    transform: ClipTransform,
    score: Callable[[Tensor], Tensor],
    run: BatchRunner,
    *,
    workers: int = 1,
    fps: float | None = None,
    on_error: OnError | None = None,
    bar: ProgressBar,
) -> Iterator[Scored]:
    """Decodes videos in threads, and gives them to the network as batches in which videos may be mixed.

    A decoder waits while two batches wait for the network, so that memory does not grow with the length of a video or
    the number of videos. A batch that holds the end of a video is not held back for long: where no more frames come at
    once, it goes through the network as it is. Which views share a batch then depends on timing, and with it the last
    digits of float32.

    Args:
        videos: read lazily, one for each free thread.
        spans_of: which clips of an open video to see.
        transform: the weights' own; its ``crops`` decides how many views a clip has.
        score: views (N, C, T, H, W) -> (N, D).
        run: calls it.
        workers: decoding threads; each opens one video at a time. With one, the batches are the same in every run, as
            long as frames keep coming.
        fps: frame rate of arrays and folders of images.
        on_error: called with a video that cannot be read (VideoDecodeError, OSError), is no video at all (ValueError,
            TypeError), or whose scores are not finite (ValueError), in the order of the videos, which is then left
            out; without it the exception is raised.
        bar: counts views.

    Yields:
        The videos in the order given.
    """
    views_of_clip = 3 if transform.crops == 3 else 1
    # What decoders hand over: the views of a clip; a video, behind its last views; a failure; None when a thread ends.
    found: queue.Queue[list[_View] | Scored | _Failed | BaseException | None]
    found = queue.Queue(max(2, 2 * run.size // views_of_clip))
    stopped = threading.Event()
    source, lock = enumerate(videos), threading.Lock()
    fetching: set[threading.Thread] = set()  # wait for the caller's iterator, which may never answer

    def put(item: Any) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                return found.put(item, timeout=_POLL)
        raise _StoppedError

    def fetch() -> tuple[int, VideoInput] | None:
        fetching.add(threading.current_thread())
        try:
            with lock:
                following = None if stopped.is_set() else next(source, None)
        finally:
            fetching.discard(threading.current_thread())
        if stopped.is_set():
            raise _StoppedError
        return following

    def decode_all() -> None:
        while (following := fetch()) is not None:
            index, video = following
            bad: tuple[type[Exception], ...] = (VideoDecodeError, OSError, ValueError, TypeError)
            try:
                with open_video(video, fps=fps) as reader:
                    transform.check_shape(reader.height, reader.width)
                    bad = (VideoDecodeError, OSError)  # others are no fault of the video's from here on
                    name = video_name(video)
                    kept = name if isinstance(video, (np.ndarray, Tensor, bytes, bytearray, memoryview)) else video
                    scored = Scored(index, kept, name, reader.duration, spans_of(reader))
                    bar.expect(views_of_clip * len(scored.spans))
                    for clip in reader.clips_at(_Times(scored.spans), transform.resize):
                        put([_View(scored, view) for view in transform.views(clip)])
                put(scored)
            except bad as error:
                put(_Failed(index, video, error))
        put(None)

    def decode() -> None:
        try:
            decode_all()
        except _StoppedError:
            pass
        except BaseException as error:  # whatever it is belongs to the caller, who waits in another thread
            with contextlib.suppress(_StoppedError):
                put(error)

    threads = [threading.Thread(target=decode, name=f"slowfast-zoo decoder {n}", daemon=True) for n in range(workers)]
    for thread in threads:
        thread.start()
    try:
        yield from _restore_order(_score_batches(found, workers, score, run, bar), on_error)
    finally:
        stopped.set()
        end = time.monotonic() + _JOIN_TIME
        for thread in threads:
            thread.join(_POLL)
            while thread.is_alive() and thread not in fetching and time.monotonic() < end:
                thread.join(_POLL)


class _Times(Sequence[Sequence[float]]):
    """The moments of clips that are made as they are asked for."""

    def __init__(self, spans: Sequence[ClipSpan]) -> None:
        self._spans = spans

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: Any) -> Any:
        return self._spans[index].times

    def __iter__(self) -> Iterator[Sequence[float]]:
        return (span.times for span in self._spans)


class _StoppedError(Exception):
    """Ends a decoder whose caller has stopped iterating."""


def _score_batches(
    found: queue.Queue[Any],
    workers: int,
    score: Callable[[Tensor], Tensor],
    run: BatchRunner,
    bar: ProgressBar,
) -> Iterator[Scored | _Failed]:
    """Videos and failures as they come, each video when the last of its clips has been through the network.

    Views wait until they fill a batch, whichever videos they are of. Once a video's last views wait, though, they are
    held back for a moment only: the next video may be slow to come, or never come at all.
    """
    waiting: list[_View] = []  # at most a batch, unless a clip has more views than that
    decoded: list[Scored] = []  # videos whose last views are waiting

    def done() -> Iterator[Scored]:
        while decoded and not any(view.scored is decoded[0] for view in waiting):
            yield decoded.pop(0)

    def flush(count: int) -> Iterator[Scored]:
        """The first ``count`` views go through the network."""
        batch, waiting[:count] = waiting[:count], []
        for view, row in zip(batch, run(score, torch.stack([view.pixels for view in batch])), strict=True):
            view.scored.rows.append(row)
        bar.advance(len(batch))
        yield from done()

    while workers:
        try:
            item = found.get(timeout=_PATIENCE if decoded else None)
        except queue.Empty:
            yield from flush(len(waiting))
            continue
        if item is None:
            workers -= 1
        elif isinstance(item, BaseException):
            raise item
        elif isinstance(item, _Failed):
            yield item
        elif isinstance(item, Scored):
            decoded.append(item)
            yield from done()
        else:
            if waiting and waiting[0].pixels.shape != item[0].pixels.shape:
                yield from flush(len(waiting))
            waiting += item
            while len(waiting) >= run.size:
                yield from flush(run.size)
    if waiting:
        yield from flush(len(waiting))


def _restore_order(items: Iterator[Scored | _Failed], on_error: OnError | None) -> Iterator[Scored]:
    """The videos in the order of their indices; failures go to ``on_error``, or are raised, in that order too."""
    early: dict[int, Scored | _Failed] = {}
    wanted = 0
    for item in items:
        if isinstance(item, Scored) and not bool(torch.stack(item.rows).isfinite().all()):
            item = _Failed(item.index, item.video, not_finite_error(item.name))
        early[item.index] = item
        while wanted in early:
            ready = early.pop(wanted)
            wanted += 1
            if isinstance(ready, Scored):
                yield ready
            elif on_error is None:
                raise ready.error
            else:
                on_error(ready.video, ready.error)


class NotFiniteError(ValueError):
    """Scores or features that are not finite."""


def not_finite_error(name: str) -> NotFiniteError:
    """The error for a video or stream whose scores are not finite."""
    return NotFiniteError(
        f"{name}: the network's scores are not finite numbers: try dtype=torch.float32, or other weights"
    )


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocator, of whatever kind, had no more memory."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        sign in str(error) for sign in _OUT_OF_MEMORY
    )
