"""A video in, labelled scores out: by the paper's protocol, over time, from a stream, or as features."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from slowfast_zoo.inference.prepare import load_network, prepare_network
from slowfast_zoo.utils.checks import is_positive, needs_count
from slowfast_zoo.utils.progress import ProgressBar
from slowfast_zoo.video import (
    CONVENTIONS,
    SOURCE_FPS,
    ClipSpan,
    VideoInput,
    VideoSource,
    sample_clips,
    sliding_windows,
)
from slowfast_zoo.video.sampling import COUNTING_CONVENTIONS, sliding_frames

from .pipeline import BatchRunner, OnError, Scored, not_finite_error, score_videos
from .results import ClipPrediction, Features, Prediction, Timeline
from .stream import cut_windows, open_frames

_FEATURE_STRIDE = 16  # frames between the windows of features, as most projects that use them have it
_MOST_WORKERS = 256  # threads: more would only fill the memory with frames


class VideoClassifier:
    """Classifies videos: decoding, clip sampling, transform, network, average.

    The paper's protocol (section 4, Inference): clips spread over the video, each in three crops along the longer side;
    the probabilities of all views are averaged. Where the weights' record says so (``view_average`` in
    ``model.pretrained_cfg``), their maximum is taken instead (Charades), or logits are averaged (GluonCV).

    Args:
        model_or_name: the name of a model, with its pretrained weights, or a network made by ``create_model``, which is
            switched to evaluation and, if ``device`` or ``dtype`` say so, moved.
        device: where to compute. None leaves a network where it is, and puts a named one on the GPU if there is one.
        dtype: floating-point type to compute in; None is the network's own.
        batch_size: views that go through the network at once; memory grows with it. None is 4 on a CPU and 16 on a GPU.
            Where they do not fit in memory, they are halved, with a warning.
        labels: class names in the order of the outputs; None takes those of the weights.
        pretrained: load the weights of a named model; False gives a random network, for trying things out.
        sampling: where clips lie: "uniform" (from the first to the last, by time), or as PySlowFast ("pyslowfast"),
            MMAction2 ("mmaction2") or GluonCV ("gluoncv") place them, or "segments" (one clip of the whole video,
            Something-Something). None is the weights' own.
        workers: threads that decode videos, at most 256; None is 1 on a CPU and up to 4 on a GPU.
        optimize: use a copy made by :func:`~slowfast_zoo.optimize_for_inference`, which is faster and gives the same
            scores to within rounding. None does so for a name on a CPU, and takes a network as it is.

    Attributes:
        model: the network in use.
        labels: class names in the order of the outputs.
        transform: what is done to the frames of a clip.

    Raises:
        ValueError: an unknown name, a network for boxes, the wrong number of labels.
        TypeError: a network that is not from ``create_model``.
        WeightsError: the weights cannot be found or loaded.
    """

    def __init__(
        self,
        model_or_name: str | nn.Module = "slowfast_tiny_4x8.motion",
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int | None = None,
        labels: Sequence[str] | None = None,
        pretrained: bool = True,
        sampling: str | None = None,
        workers: int | None = None,
        optimize: bool | None = None,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("workers", workers)):
            if value is not None:
                needs_count(value, name)
        if workers is not None and workers > _MOST_WORKERS:
            raise ValueError(f"workers is at most {_MOST_WORKERS}, a thread each, got {workers}")
        model = load_network(model_or_name, pretrained)
        if model.config.roi:
            raise ValueError("the network detects actions in boxes: call it as model(clip, boxes)")
        prepared = prepare_network(model, isinstance(model_or_name, str), device, dtype, optimize, labels)
        self.model, self.device, self.name = prepared.network, prepared.device, prepared.name
        self.transform, self.score_rule = prepared.transform, prepared.score_rule
        self.labels, self.labels_known = prepared.labels, prepared.labels_known
        on_gpu = self.device.type != "cpu"
        self._run = BatchRunner(self.model, int(batch_size or (16 if on_gpu else 4)))
        self.workers = int(workers or (min(4, os.cpu_count() or 1) if on_gpu else 1))
        self.sampling = sampling or model.pretrained_cfg.get("clip_sampling", "uniform")
        if self.sampling not in CONVENTIONS:
            raise ValueError(f"sampling must be one of {', '.join(CONVENTIONS)}, got {self.sampling!r}")

    def __repr__(self) -> str:
        return f"VideoClassifier({self.name!r}, {len(self.labels)} classes)"

    @property
    def batch_size(self) -> int:
        """Views that go through the network at once; smaller than asked for after a batch did not fit in memory."""
        return self._run.size

    @overload
    def __call__(
        self,
        video: VideoInput,
        clips: int | None = None,
        crops: int | str | None = None,
        top_k: int = 5,
        *,
        fps: float | None = None,
        progress: bool = False,
    ) -> Prediction: ...

    @overload
    def __call__(
        self,
        video: list[Any] | tuple[VideoInput, ...],
        clips: int | None = None,
        crops: int | str | None = None,
        top_k: int = 5,
        *,
        fps: float | None = None,
        progress: bool = False,
    ) -> list[Prediction]: ...

    def __call__(
        self,
        video: VideoInput | list[Any] | tuple[VideoInput, ...],
        clips: int | None = None,
        crops: int | str | None = None,
        top_k: int = 5,
        *,
        fps: float | None = None,
        progress: bool = False,
    ) -> Prediction | list[Prediction]:
        """Classify a video, or several.

        Args:
            video: a path, a URL, the bytes of a file, an open binary file, a folder of images, or uint8 RGB frames
                (T, H, W, 3) as an array or tensor. A list or tuple of them is several videos; see also
                :meth:`predict_many`.
            clips: clips spread over the video; 1 is the centre, but for weights that put it elsewhere. A video no
                longer than a clip is one clip, and so is any video for weights that see it whole (Something-Something).
                None takes what the weights' publisher tests with, or the paper's 10.
            crops: 3 along the longer side, 1 in the centre, or "full", the whole frame in one, of which the network
                sees each pixel once. None takes what the weights are best seen with, and the paper's 3 where their
                record does not say.
            top_k: how many classes to list, at most as many as there are.
            fps: frame rate of an array or tensor, which need it, or of a folder of images (30 unless given).
            progress: show a progress bar on a terminal if it takes long.

        Returns:
            A :class:`Prediction`; for several videos a list of them.

        Raises:
            FileNotFoundError: there is no such file.
            VideoDecodeError: it cannot be decoded.
            ValueError: an argument makes no sense, the network has no classifier, or its scores are not finite.
            MemoryError: not even one view at a time fits in memory.
        """
        several = isinstance(video, (list, tuple))
        videos: Sequence[VideoInput] = video if isinstance(video, (list, tuple)) else [video]
        found = list(self._predict(videos, clips, crops, top_k, fps, None, progress))
        return found if several else found[0]

    def predict_many(
        self,
        videos: Iterable[VideoInput],
        clips: int | None = None,
        crops: int | str | None = None,
        top_k: int = 5,
        *,
        on_error: OnError | None = None,
        fps: float | None = None,
    ) -> Iterator[Prediction]:
        """Classify videos one after another, while the next ones are being decoded.

        Batches are filled across videos, but a finished video does not wait for one that is slow to come. Which videos
        share a batch thus depends on timing, and scores may differ in the last digits of float32 from run to run.

        Args:
            videos: what :meth:`__call__` takes, taken from the iterable as they are needed.
            clips: clips spread over each video, as for :meth:`__call__`.
            crops: 1, 3 or "full", as for :meth:`__call__`.
            top_k: how many classes to list, at most as many as there are.
            on_error: called with a video that is left out, and the exception: it cannot be read (VideoDecodeError or
                OSError), is no video or lacks ``fps`` (TypeError or ValueError), or its scores are not finite
                (ValueError; of a video in memory only the name is left then). Without it the exception is raised.
            fps: frame rate of arrays and tensors, which need it, and of folders of images (30 unless given).

        Yields:
            Predictions in the order of the videos; ``position`` is that among them.

        Raises:
            TypeError: ``videos`` is one video, or not iterable.
            ValueError: an argument makes no sense, or the network has no classifier.
        """
        one = isinstance(videos, (str, bytes, bytearray, memoryview, os.PathLike, np.ndarray, Tensor))
        if one or hasattr(videos, "read") or not isinstance(videos, Iterable):
            given = type(videos).__name__
            raise TypeError(f"expected several videos, got {given}; for one, call the classifier itself")
        return self._predict(videos, clips, crops, top_k, fps, on_error, False)

    def timeline(
        self,
        video: VideoInput,
        window: float | None = None,
        stride: float | None = None,
        *,
        crops: int | str = 1,
        top_k: int = 5,
        fps: float | None = None,
        progress: bool = False,
    ) -> Timeline:
        """Scores over time: one prediction for each window of a video.

        Args:
            video: one video, as :meth:`__call__` takes it.
            window: length of a window in seconds, over which the frames of a clip are spread; None is the length that
                the network was trained with.
            stride: from the start of a window to that of the next one, in seconds; None is half a window. The last
                window ends with the video.
            crops: 1, 3 or "full", as for :meth:`__call__`.
            top_k: classes that the result shows.
            fps: frame rate of an array or tensor, which need it, or of a folder of images (30 unless given).
            progress: show a progress bar on a terminal if it takes long.

        Raises:
            FileNotFoundError: there is no such file.
            VideoDecodeError: it cannot be decoded.
            ValueError: an argument makes no sense, the network has no classifier, or its scores are not finite.
        """
        top_k = needs_count(top_k, "top_k")
        window, stride = self._resolve_window(window, stride)
        _check_rate(fps, "fps")

        def spans_of(source: VideoSource) -> Sequence[ClipSpan]:
            return self._slide_window(source.duration, window, stride, cover_end=True)

        self._require_classifier()
        (scored,) = self._score([video], spans_of, crops, self._score_views, fps, None, progress)
        return Timeline(
            video=scored.name,
            model=self.name,
            duration=scored.duration,
            labels=self.labels,
            labels_known=self.labels_known,
            windows=tuple(self._clip_predictions(scored)),
            crops=crops,
            top_k=min(top_k, len(self.labels)),
        )

    def stream(
        self,
        source: Any,
        window: float | None = None,
        stride: float | None = None,
        *,
        crops: int | str = 1,
        fps: float | None = None,
        live: bool | None = None,
    ) -> Iterator[ClipPrediction]:
        """Predictions as frames arrive, one for each window, in bounded memory.

        Args:
            source: the URL of a stream or the device of a camera (``rtsp://...``, ``/dev/video0``), a
                :class:`~slowfast_zoo.video.LiveReader`, a video as for :meth:`__call__`, or any iterable of uint8 RGB
                frames (H, W, 3) or of pairs (seconds, frame).
            window: length of a window in seconds; None is the length that the network was trained with.
            stride: from the start of a window to that of the next one, in seconds; None is half a window.
            crops: 1, 3 or "full", as for :meth:`__call__`.
            fps: frame rate of an iterable of frames without times.
            live: the source does not wait: when the network cannot keep up, frames and windows are left out, so that a
                prediction is never older than it must be. None: for streams and cameras, not for files and iterables.

        Yields:
            A prediction as soon as the last frame of its window is there; ``start`` and ``end`` are seconds from the
            first frame.

        Raises:
            VideoDecodeError: the source cannot be opened, or breaks.
            ValueError: an argument makes no sense, a frame is of the wrong shape or type, or scores are not finite.
        """
        self._require_classifier()
        window, stride = self._resolve_window(window, stride)
        _check_rate(fps, "fps")
        transform = replace(self.transform, crops=crops)
        frames, skip = open_frames(source, fps, live)
        cut = cut_windows(
            frames,
            transform.resize,
            window=window,
            stride=stride,
            clip_frames=self.model.config.clip_frames,
            skip=skip,
        )

        def predictions() -> Iterator[ClipPrediction]:
            for span, clip in cut:
                scores = self._run(self._score_views, transform.views(clip))
                if not bool(scores.isfinite().all()):
                    raise not_finite_error(source if isinstance(source, str) else "the stream")
                yield self._clip_prediction(span, scores)

        return predictions()

    def extract_features(
        self,
        video: VideoInput,
        window: int | None = None,
        stride: int | None = None,
        fps: float | None = SOURCE_FPS,
        *,
        crops: int | str = 1,
        cover_end: bool = False,
        video_fps: float | None = None,
        progress: bool = False,
    ) -> Features:
        """Pooled features of sliding windows: what the classifier would be applied to, 2304 numbers for SlowFast R50.

        Args:
            video: one video, as :meth:`__call__` takes it.
            window: length of a window in frames at ``fps``, over which the frames of a clip are spread evenly: with 32
                frames a clip, 64 takes every second frame. None is the length that the network was trained with.
            stride: from the start of a window to that of the next one, in frames at ``fps``; None is 16.
            fps: the frame rate in which they count; a video of another is resampled by time. None counts
                the frames that the video stores, whatever it says of their rate.
            crops: 1, 3 or "full", as for :meth:`__call__`; features of several crops are averaged.
            cover_end: add a window that ends with the video, where whole strides leave a part of it over.
            video_fps: frame rate of an array or tensor, which need it, or of a folder of images (30 unless given).
            progress: show a progress bar on a terminal if it takes long.

        Returns:
            features (windows, num_features) and times (windows, 2): start and end of each window in seconds. A video
            shorter than a window has one, in which its last frame is repeated, and a RuntimeWarning says so.

        Raises:
            FileNotFoundError: there is no such file.
            VideoDecodeError: it cannot be decoded.
            ValueError: an argument makes no sense, or features are not finite.
        """
        config = self.model.config
        window = config.clip_frames * config.clip_stride if window is None else window
        stride = _FEATURE_STRIDE if stride is None else stride
        length, step = needs_count(window, "window"), needs_count(stride, "stride")
        _check_rate(fps, "fps")
        _check_rate(video_fps, "video_fps")
        if video_fps is None and isinstance(video, (np.ndarray, Tensor)):
            raise ValueError("an array of frames carries no frame rate: give video_fps=")

        def spans_of(source: VideoSource) -> Sequence[ClipSpan]:
            if fps is not None:
                return self._slide_window(source.duration, length / fps, step / fps, cover_end=cover_end)
            return sliding_frames(
                source.frame_times(),
                source.duration,
                window=length,
                stride=step,
                clip_frames=config.clip_frames,
                cover_end=cover_end,
            )

        (scored,) = self._score([video], spans_of, crops, self._pool_views, video_fps, None, progress)
        if scored.spans[0].short:
            message = f"{scored.name} is shorter than a window, its last frame was repeated"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        times = [(span.start, span.end) for span in scored.spans]
        return Features(scored.by_clip().mean(1).numpy(), np.array(times, np.float64))

    # What the methods share

    def _predict(
        self,
        videos: Iterable[VideoInput],
        clips: int | None,
        crops: int | str | None,
        top_k: int,
        fps: float | None,
        on_error: OnError | None,
        progress: bool,
    ) -> Iterator[Prediction]:
        """Checks its arguments at once, not when the first prediction is asked for."""
        self._require_classifier()
        config = self.model.config
        wanted, seen = resolve_views(self, clips, crops)
        top_k = needs_count(top_k, "top_k")
        _check_rate(fps, "fps")

        def spans_of(source: VideoSource) -> Sequence[ClipSpan]:
            return sample_clips(
                source.duration,
                wanted,
                clip_frames=config.clip_frames,
                clip_stride=config.clip_stride,
                convention=self.sampling,
                video_fps=source.fps,
                frame_times=source.frame_times() if self.sampling in COUNTING_CONVENTIONS else None,
            )

        found = self._score(videos, spans_of, seen, self._score_views, fps, on_error, progress)
        return (
            Prediction(
                video=scored.name,
                model=self.name,
                duration=scored.duration,
                labels=self.labels,
                labels_known=self.labels_known,
                probabilities=self.score_rule.over_views(torch.stack(scored.rows)),
                clips=tuple(self._clip_predictions(scored)),
                crops=seen,
                top_k=min(top_k, len(self.labels)),
                slow_frames=config.slow_indices(),
                position=scored.index,
            )
            for scored in found
        )

    def _score(
        self,
        videos: Iterable[VideoInput],
        spans_of: Callable[[VideoSource], Sequence[ClipSpan]],
        crops: int | str,
        score: Callable[[Tensor], Tensor],
        fps: float | None,
        on_error: OnError | None,
        progress: bool,
    ) -> Iterator[Scored]:
        """Checks ``crops`` at once; the rest is :func:`score_videos`, with a progress bar."""
        transform = replace(self.transform, crops=crops)
        settings: dict[str, Any] = {"workers": self.workers, "fps": fps, "on_error": on_error}

        def scored() -> Iterator[Scored]:
            with ProgressBar("views", show=progress, delay=2) as bar:
                yield from score_videos(videos, spans_of, transform, score, self._run, bar=bar, **settings)

        return scored()

    def _require_classifier(self) -> None:
        if self.model.num_classes < 1:
            raise ValueError("the network has no classifier (num_classes=0): only extract_features works with it")

    def _resolve_window(self, window: float | None, stride: float | None) -> tuple[float, float]:
        """Both in seconds."""
        config = self.model.config
        window = config.clip_frames * config.clip_stride / SOURCE_FPS if window is None else window
        for name, value in (("window", window), ("stride", 1 if stride is None else stride)):
            if not is_positive(value):
                raise ValueError(f"{name} must be a positive number of seconds, got {value!r}")
        return float(window), float(window / 2 if stride is None else stride)

    def _slide_window(self, duration: float, window: float, stride: float, *, cover_end: bool) -> Sequence[ClipSpan]:
        frames = self.model.config.clip_frames
        return sliding_windows(duration, window=window, stride=stride, clip_frames=frames, cover_end=cover_end)

    def _score_views(self, clips: Tensor) -> Tensor:
        return self.score_rule.of_views(self.model, clips)

    def _pool_views(self, clips: Tensor) -> Tensor:
        pooled: Tensor = self.model.forward_head(self.model.forward_features(clips), pre_logits=True)
        return pooled

    def _clip_predictions(self, scored: Scored) -> Iterator[ClipPrediction]:
        for span, views in zip(scored.spans, scored.by_clip(), strict=True):
            yield self._clip_prediction(span, views)

    def _clip_prediction(self, span: ClipSpan, views: Tensor) -> ClipPrediction:
        """From the scores of a clip's crops, (crops, num_classes)."""
        probabilities = self.score_rule.over_views(views)
        score, index = probabilities.max(0)
        return ClipPrediction(span, probabilities, self.labels[int(index)], float(score))


def resolve_views(classifier: VideoClassifier, clips: int | None, crops: int | str | None) -> tuple[int, int | str]:
    """Clips of a video and crops of a clip, where None stands for what the weights are tested with."""
    record = classifier.model.pretrained_cfg
    clips = needs_count(record.get("clips", 10) if clips is None else clips, "clips")
    return 1 if classifier.sampling == "segments" else clips, record.get("crops", 3) if crops is None else crops


def _check_rate(value: Any, name: str) -> None:
    if value is not None and not is_positive(value):
        raise ValueError(f"{name} must be None or a positive number of frames per second, got {value!r}")
