"""What comes out of a classifier: predictions of videos and of their clips, scores over time, features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slowfast_zoo.errors import in_line
from slowfast_zoo.video import ClipSpan


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

    def to_dict(self) -> dict[str, Any]:
        """Start and end in seconds, best class and its score."""
        return {"start": self.start, "end": self.end, "label": self.label, "score": self.score}


@dataclass(frozen=True, eq=False)
class Prediction(Sequence[tuple[str, float]]):
    """What a video shows: a sequence of (label, score), the best first, ``top_k`` long.

    Attributes:
        video: the file, or what else the video came from (``"<array>"``, ``"<bytes>"``).
        model: name of the model.
        duration: length of the video in seconds.
        labels: names of all classes in the order of ``probabilities``.
        labels_known: False if the model came without class names; then the labels are "class 0", "class 1", ...
        probabilities: (num_classes,), averaged over all clips and crops.
        clips: the clips one by one, in the order of time.
        crops: crops that each clip was seen in, 1 or 3, or "full" for the whole frame.
        top_k: length of the sequence.
        slow_frames: which frames of a clip the Slow pathway takes; all, in a network of one pathway.
        position: of the video among those that were given.
    """

    video: str
    model: str
    duration: float
    labels: tuple[str, ...] = field(repr=False)
    labels_known: bool
    probabilities: Tensor = field(repr=False)
    clips: tuple[ClipPrediction, ...] = field(repr=False)
    crops: int | str
    top_k: int
    slow_frames: tuple[int, ...] = field(repr=False)
    position: int = 0

    @property
    def short(self) -> bool:
        """Whether the video is shorter than a clip, so that frames were repeated."""
        return any(clip.span.short for clip in self.clips)

    def __len__(self) -> int:
        return self.top_k

    @overload
    def __getitem__(self, index: int) -> tuple[str, float]: ...

    @overload
    def __getitem__(self, index: slice) -> list[tuple[str, float]]: ...

    def __getitem__(self, index: int | slice) -> tuple[str, float] | list[tuple[str, float]]:
        scores, classes = self.probabilities.topk(self.top_k)
        return [(self.labels[c], s) for s, c in zip(scores.tolist(), classes.tolist(), strict=True)][index]

    def __str__(self) -> str:
        rows = [(in_line(label), score) for label, score in self]
        width = max(len(label) for label, _ in rows)
        lines = [f"{in_line(self.video)} ({self.duration:.1f} s, {self.model}, {describe_views(self)})"]
        lines += [f"  {label:<{width}}  {100 * score:5.1f} %" for label, score in rows]
        lines += [f"  note: {note}" for note in self.notes()]
        return "\n".join(lines)

    def notes(self) -> list[str]:
        """What a reader of the scores has to know about them, in sentences."""
        return _notes(self.clips, self.labels_known, "clip")

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
            "clips": [clip.to_dict() for clip in self.clips],
        }


@dataclass(frozen=True, eq=False)
class Timeline(Sequence[ClipPrediction]):
    """What a video shows from moment to moment: a sequence of windows, in the order of time.

    Attributes:
        video: the file, or what else the video came from.
        model: name of the model.
        duration: length of the video in seconds.
        labels: names of all classes in the order of the probabilities.
        labels_known: False if the model came without class names.
        windows: what was seen in each.
        crops: crops that each window was seen in, 1 or 3, or "full".
        top_k: how many classes :meth:`best` and :meth:`to_dict` give.
    """

    video: str
    model: str
    duration: float
    labels: tuple[str, ...] = field(repr=False)
    labels_known: bool
    windows: tuple[ClipPrediction, ...] = field(repr=False)
    crops: int | str
    top_k: int

    @property
    def starts(self) -> Tensor:
        """(windows,) seconds at which the windows begin, in float64."""
        return torch.tensor([window.start for window in self.windows], dtype=torch.float64)

    @property
    def ends(self) -> Tensor:
        """(windows,) seconds at which the windows end, in float64."""
        return torch.tensor([window.end for window in self.windows], dtype=torch.float64)

    @property
    def probabilities(self) -> Tensor:
        """(windows, num_classes)."""
        return torch.stack([window.probabilities for window in self.windows])

    def __len__(self) -> int:
        return len(self.windows)

    @overload
    def __getitem__(self, index: int) -> ClipPrediction: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[ClipPrediction, ...]: ...

    def __getitem__(self, index: int | slice) -> ClipPrediction | tuple[ClipPrediction, ...]:
        return self.windows[index]

    def __str__(self) -> str:
        seconds = len(f"{self.duration:.2f}")
        width = max(len(in_line(window.label)) for window in self)
        lines = [f"{in_line(self.video)} ({self.duration:.1f} s, {self.model}, {len(self)} windows)"]
        lines += [
            f"  {w.start:{seconds}.2f} to {w.end:{seconds}.2f} s  {in_line(w.label):<{width}}  {100 * w.score:5.1f} %"
            for w in self
        ]
        lines += [f"  note: {note}" for note in self.notes()]
        return "\n".join(lines)

    def notes(self) -> list[str]:
        """What a reader of the scores has to know about them, in sentences."""
        return _notes(self.windows, self.labels_known, "window")

    def best(self, k: int | None = None) -> list[tuple[int, str]]:
        """(index, label) of the classes that reach the highest scores anywhere in the video, the best first.

        Args:
            k: how many; None is ``top_k``.
        """
        peaks = self.probabilities.amax(0)
        order = peaks.argsort(descending=True, stable=True)[: self.top_k if k is None else k]
        return [(index, self.labels[index]) for index in order.tolist()]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; times in seconds. Each window has the scores of the classes of :meth:`best`."""
        best = self.best()
        return {
            "video": self.video,
            "model": self.model,
            "duration": self.duration,
            "labels_known": self.labels_known,
            "crops": self.crops,
            "classes": [label for _, label in best],
            "windows": [
                {**window.to_dict(), "scores": [float(window.probabilities[index]) for index, _ in best]}
                for window in self
            ],
        }


class Features(NamedTuple):
    """Pooled features of a video's windows, as :meth:`VideoClassifier.extract_features` gives them.

    Attributes:
        features: float32 (windows, num_features), Slow channels first.
        times: float64 (windows, 2), start and end of each window in seconds.
    """

    features: NDArray[np.float32]
    times: NDArray[np.float64]


def describe_views(prediction: Prediction) -> str:
    """In words, how many views were averaged."""
    return count_views(len(prediction.clips), prediction.crops)


def count_views(clips: int, crops: int | str) -> str:
    """In words, how many views there are with these clips of a video, and crops of a clip."""
    seen = "full frame" if isinstance(crops, str) else f"{crops} crop{'s' if crops > 1 else ''}"
    return f"{clips} clip{'s' if clips > 1 else ''} x {seen}"


def short_notes(spans: Iterable[ClipSpan], what: str) -> list[str]:
    """A sentence if the video is shorter than a clip or window."""
    short = next((span for span in spans if span.short), None)
    if short is None:
        return []
    how = "it was repeated from its start" if short.looped else "its last frame was repeated"
    return [f"the video is shorter than a {what}, {how}"]


def _notes(clips: Iterable[ClipPrediction], labels_known: bool, what: str) -> list[str]:
    unknown = [] if labels_known else ["this model comes without class names, classes are given by their index"]
    return [*short_notes((clip.span for clip in clips), what), *unknown]
