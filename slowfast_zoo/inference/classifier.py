"""A video file in, labelled scores out, by the paper's protocol."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from slowfast_zoo.factory import create_model, create_transform
from slowfast_zoo.video import ClipSpan, VideoReader, sample_clips, whole_video
from slowfast_zoo.weights import class_names


@dataclass(frozen=True, eq=False)
class ClipPrediction:
    """What one clip of a video shows.

    Attributes:
        span: where the clip lies in the video, and the moments of its frames.
        probabilities: (num_classes,), averaged over the clip's crops.
        label: name of the best class.
        score: its probability.
    """

    span: ClipSpan
    probabilities: Tensor = field(repr=False)
    label: str
    score: float

    @property
    def start(self) -> float:
        """Second at which the clip begins."""
        return self.span.start

    @property
    def end(self) -> float:
        """Second at which the clip ends."""
        return self.span.end


@dataclass(frozen=True, eq=False)
class Prediction(Sequence[tuple[str, float]]):
    """What a video shows: a sequence of (label, score), the best first, ``top_k`` long.

    Attributes:
        video: the file.
        model: name of the model.
        duration: length of the video in seconds.
        labels: names of all classes in the order of ``probabilities``.
        labels_known: False if the model came without class names; then the labels are "class 0", "class 1", ...
        probabilities: (num_classes,), averaged over all clips and crops.
        clips: the clips one by one, in the order of time.
        crops: crops that each clip was seen in.
        top_k: length of the sequence.
        slow_frames: which frames of a clip the Slow pathway takes; all, in a network of one pathway.
    """

    video: str
    model: str
    duration: float
    labels: tuple[str, ...] = field(repr=False)
    labels_known: bool
    probabilities: Tensor = field(repr=False)
    clips: tuple[ClipPrediction, ...] = field(repr=False)
    crops: int
    top_k: int
    slow_frames: tuple[int, ...] = field(repr=False)

    @property
    def short(self) -> bool:
        """Whether the video is shorter than a clip, so that its last frame was repeated."""
        return any(clip.span.short for clip in self.clips)

    def __len__(self) -> int:
        return self.top_k

    def __getitem__(self, index: Any) -> Any:
        scores, classes = self.probabilities.topk(self.top_k)
        return [(self.labels[c], s) for s, c in zip(scores.tolist(), classes.tolist(), strict=True)][index]

    def __str__(self) -> str:
        width = max(len(label) for label, _ in self)
        lines = [f"{self.video} ({self.duration:.1f} s, {self.model}, {describe_views(self)})"]
        lines += [f"  {label:<{width}}  {100 * score:5.1f} %" for label, score in self]
        lines += [f"  note: {note}" for note in self.notes()]
        return "\n".join(lines)

    def notes(self) -> list[str]:
        """What a reader of the scores has to know about them, in sentences."""
        notes = []
        if self.short:
            notes.append("the video is shorter than a clip, its last frame was repeated")
        if not self.labels_known:
            notes.append("this model comes without class names, classes are given by their index")
        return notes

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; times in seconds."""
        return {
            "video": self.video,
            "model": self.model,
            "duration": self.duration,
            "short": self.short,
            "labels_known": self.labels_known,
            "crops": self.crops,
            "predictions": [{"label": label, "score": score} for label, score in self],
            "clips": [
                {"start": clip.start, "end": clip.end, "label": clip.label, "score": clip.score} for clip in self.clips
            ],
        }


class VideoClassifier:
    """Classifies video files: decoding, clip sampling, transform, network, average.

    The paper's protocol (section 4, Inference): clips spread evenly over the video, each in three crops along the
    longer side; the probabilities of all views are averaged. Where the weights' record says so (``view_average`` in
    ``model.pretrained_cfg``), their maximum is taken instead (Charades), or logits are averaged (GluonCV).

    Args:
        model_or_name: the name of a model, with its pretrained weights, or a network made by ``create_model``, which is
            switched to evaluation and, if ``device`` or ``dtype`` say so, moved.
        device: where to compute. None leaves a network where it is, and puts a named one on the GPU if there is one.
        dtype: floating-point type to compute in; None is the network's own.
        batch_size: views that go through the network at once; memory grows with it.
        labels: class names in the order of the outputs; None takes those of the weights.
        pretrained: load the weights of a named model; False gives a random network, for trying things out.

    Raises:
        ValueError: an unknown name, a network without a classifier or for boxes, the wrong number of labels.
        TypeError: a network that is not from ``create_model``.
        WeightsError: the weights cannot be found or loaded.
    """

    def __init__(
        self,
        model_or_name: str | nn.Module = "slowfast_tiny_4x8.motion",
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int = 4,
        labels: Sequence[str] | None = None,
        pretrained: bool = True,
    ) -> None:
        _at_least_one(batch_size, "batch_size")
        model: Any = model_or_name
        if isinstance(model_or_name, str):
            model = create_model(model_or_name, pretrained=pretrained)
            device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if not all(hasattr(model, name) for name in ("config", "pretrained_cfg", "probabilities")):
            raise TypeError(f"expected a model name or a network from create_model, got {type(model).__name__}")
        if model.config.roi:
            raise ValueError("the network detects actions in boxes: call it as model(clip, boxes)")
        if model.num_classes < 1:
            raise ValueError("the network has no classifier (num_classes=0), so there is nothing to predict")
        self.model = model.to(device=_checked(device), dtype=dtype).eval()
        self.batch_size = batch_size
        self.name = _model_name(model)
        self.transform = create_transform(model)
        self.view_average = model.pretrained_cfg.get("view_average", "scores")
        known = _labels_of(model) if labels is None else tuple(labels)
        if known is not None and len(known) != model.num_classes:
            raise ValueError(f"the network has {model.num_classes} classes, but {len(known)} labels were given")
        self.labels_known = known is not None
        self.labels = known or tuple(f"class {index}" for index in range(model.num_classes))

    def __repr__(self) -> str:
        return f"VideoClassifier({self.name!r}, {len(self.labels)} classes)"

    def __call__(
        self,
        video: str | os.PathLike[str],
        clips: int | None = None,
        crops: int | None = None,
        top_k: int = 5,
        *,
        progress: bool = False,
    ) -> Prediction:
        """Classify a video.

        Args:
            video: path of a file.
            clips: clips spread evenly from start to end; 1 is the centre. A video no longer than a clip is one clip,
                and so is any video for weights that see it whole (Something-Something). None takes what the weights'
                publisher tests with, or the paper's 10.
            crops: 3 along the longer side, or 1 in the centre. None takes what the weights are best seen with, and the
                paper's 3 where their record does not say.
            top_k: how many classes to list, at most as many as there are.
            progress: show a progress bar on a terminal if it takes long.

        Raises:
            FileNotFoundError: there is no such file.
            VideoDecodeError: it cannot be decoded.
            ValueError: ``clips``, ``crops`` or ``top_k`` make no sense.
        """
        if crops is None:
            crops = self.model.pretrained_cfg.get("crops", 3)
        if clips is None:
            clips = self.model.pretrained_cfg.get("clips", 10)
        for name, value in (("clips", clips), ("crops", crops), ("top_k", top_k)):
            _at_least_one(value, name)
        transform = replace(self.transform, crops=crops)
        config = self.model.config
        with VideoReader(video) as reader:
            spans = self._spans(reader.duration, clips)
            frames = reader.clips_at([span.times for span in spans])
            views = (
                view
                for clip in _with_progress(frames, len(spans), progress)
                for view in (transform(clip) if crops > 1 else transform(clip)[None])
            )
            scores = torch.cat(list(self._scores(views)))  # (clips x crops, num_classes)
        by_clip = torch.stack([self._together(clip) for clip in scores.view(len(spans), crops, -1)])
        best, classes = by_clip.max(1)
        return Prediction(
            video=os.fspath(video),
            model=self.name,
            duration=reader.duration,
            labels=self.labels,
            labels_known=self.labels_known,
            probabilities=self._together(scores),
            clips=tuple(
                ClipPrediction(span, row, self.labels[index], score)
                for span, row, index, score in zip(spans, by_clip, classes.tolist(), best.tolist(), strict=True)
            ),
            crops=crops,
            top_k=min(top_k, len(self.labels)),
            slow_frames=config.slow_indices(),
        )

    def _spans(self, duration: float, clips: int) -> list[ClipSpan]:
        config = self.model.config
        if self.model.pretrained_cfg.get("clip_sampling") == "segments":
            return [whole_video(duration, config.clip_frames)]
        return sample_clips(duration, clips, clip_frames=config.clip_frames, clip_stride=config.clip_stride)

    @torch.inference_mode()
    def _scores(self, views: Iterator[Tensor]) -> Iterator[Tensor]:
        """(batch, num_classes) in float32 on the CPU, for at most ``batch_size`` views (C, T, S, S) at a time."""
        parameter = next(self.model.parameters())
        score = self.model if self.view_average == "logits" else self.model.probabilities
        while batch := list(itertools.islice(views, self.batch_size)):
            clip = torch.stack(batch).to(device=parameter.device, dtype=parameter.dtype)
            yield score(clip).float().cpu()

    def _together(self, scores: Tensor) -> Tensor:
        """Probabilities (num_classes,) from the scores of views (views, num_classes)."""
        if self.view_average == "max":
            return scores.amax(0)
        mean = scores.mean(0)
        if self.view_average == "scores":
            return mean
        return mean.softmax(0) if self.model.config.head_activation == "softmax" else mean.sigmoid()


def _at_least_one(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


def _checked(device: str | torch.device | None) -> torch.device | None:
    """A device that is really there."""
    if device is None:
        return None
    try:
        checked = torch.device(device)
        torch.empty(0, device=checked)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from error
    return checked


def _model_name(model: Any) -> str:
    record = model.pretrained_cfg
    return ".".join(part for part in (record.get("architecture"), record.get("tag")) if part) or type(model).__name__


def _labels_of(model: Any) -> tuple[str, ...] | None:
    """The class names of the model's weights, unless it has got another classifier since."""
    labels = class_names(model.pretrained_cfg.get("labels"))
    return labels if labels is not None and len(labels) == model.num_classes else None


def _with_progress(clips: Iterator[Tensor], total: int, show: bool) -> Iterator[Tensor]:
    if not show:
        return clips
    from tqdm import tqdm

    return iter(tqdm(clips, total=total, unit="clip", delay=2, leave=False, disable=None))


def describe_views(prediction: Prediction) -> str:
    """In words, how many views were averaged."""
    clips, crops = len(prediction.clips), prediction.crops
    return f"{clips} clip{'s' if clips > 1 else ''} x {crops} crop{'s' if crops > 1 else ''}"
