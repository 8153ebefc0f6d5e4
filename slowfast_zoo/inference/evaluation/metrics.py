"""Accuracies, average precision, their confidence intervals, and which class was taken for which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

_NORMAL_975 = 1.959963984540054  # the normal distribution's quantile that leaves 2.5 % above it
_RESAMPLES = 1000
_CHUNK = 100  # resamples at once: what they take stays in the processor's cache

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]


class Measure(NamedTuple):
    """A number from 0 to 1 with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.2f} % (95 % interval {100 * self.low:.2f} to {100 * self.high:.2f} %)"


@dataclass(frozen=True)
class ClassResult:
    """How one class fared.

    Attributes:
        label: its name.
        videos: how many videos show it.
        value: the part of them that was recognised (top-1), or with several labels a video the average precision; None
            where no video shows the class.
        taken_for: the classes that its other videos were taken for, the most frequent first, each with the number of
            videos; empty where videos have several labels.
    """

    label: str
    videos: int
    value: float | None
    taken_for: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, eq=False)
class Metrics:
    """What the scores of many videos are worth.

    Attributes:
        multi_label: whether a video may have several labels; decides which of the numbers there are.
        videos: how many were counted.
        top1: the part of the videos whose best class is the right one; interval after Wilson.
        top5: the part whose right class is among the best five, of however many there are; interval after Wilson.
        mean_class_accuracy: mean of the classes' top-1, over classes that have videos; interval from the bootstrap.
        mean_average_precision: mean of the classes' average precision, over classes that have videos; interval from the
            bootstrap.
        classes: one result a class, in the order of the scores.
        confusion: (classes, classes), how many videos of the row's class were taken for the column's; None with several
            labels a video.
    """

    multi_label: bool
    videos: int
    top1: Measure | None
    top5: Measure | None
    mean_class_accuracy: Measure | None
    mean_average_precision: Measure | None
    classes: tuple[ClassResult, ...] = field(repr=False)
    confusion: Integers | None = field(repr=False)

    def worst(self, count: int) -> list[ClassResult]:
        """The classes that do worst, among those that have videos; of two that do equally, the larger one first."""
        shown = [(entry.value, -entry.videos, entry) for entry in self.classes if entry.value is not None]
        return [entry for _, _, entry in sorted(shown, key=lambda row: row[:2])[:count]]

    def most_confused(self, count: int) -> list[tuple[str, str, int]]:
        """The pairs that are confused most often: (class, what it was taken for, number of videos)."""
        pairs = [(entry.label, other, videos) for entry in self.classes for other, videos in entry.taken_for]
        return sorted(pairs, key=lambda pair: -pair[2])[:count]


def measure(scores: ArrayLike, targets: Sequence[Sequence[int]], labels: Sequence[str], multi_label: bool) -> Metrics:
    """Compare scores with labels.

    Args:
        scores: (videos, classes), finite; higher is surer.
        targets: for each video the indices of its classes: exactly one, or any number with ``multi_label``.
        labels: names of the classes.
        multi_label: whether a video may have several labels.

    Raises:
        ValueError: no videos, shapes that do not fit, or scores that are not finite.
    """
    table = np.asarray(scores)
    if table.shape != (len(targets), len(labels)) or not len(targets):
        raise ValueError(
            f"scores must have a row a video and a column a class, ({len(targets)}, {len(labels)}) with at least one "
            f"video, got {table.shape}"
        )
    if not np.isfinite(table).all():
        raise ValueError("scores must be finite, but some are NaN or infinite")
    if multi_label:
        return _measure_sets(table, targets, labels)
    if any(len(target) != 1 for target in targets):
        raise ValueError("every video must have exactly one label, unless multi_label is set")
    return _measure_single(table, np.array([target[0] for target in targets]), labels)


def _measure_single(scores: Floats, targets: Integers, labels: Sequence[str]) -> Metrics:
    count, classes = scores.shape
    places = rank_of(scores, targets)
    confusion = confusion_counts(targets, scores.argmax(1), classes)
    totals, right = confusion.sum(1), confusion.diagonal()

    def class_mean(weights: Integers) -> float:
        shown = np.bincount(targets, weights, classes)
        return float((np.bincount(targets, weights * (places == 0), classes)[shown > 0] / shown[shown > 0]).mean())

    return Metrics(
        multi_label=False,
        videos=count,
        top1=_proportion(int((places < 1).sum()), count),
        top5=_proportion(int((places < 5).sum()), count),
        mean_class_accuracy=_bootstrap(lambda rows: np.array([class_mean(row) for row in rows]), count),
        mean_average_precision=None,
        classes=tuple(
            ClassResult(
                label, int(total), int(hits) / int(total) if total else None, _list_mistakes(row, index, labels)
            )
            for index, (label, total, hits, row) in enumerate(zip(labels, totals, right, confusion, strict=True))
        ),
        confusion=confusion,
    )


def _measure_sets(scores: Floats, targets: Sequence[Sequence[int]], labels: Sequence[str]) -> Metrics:
    positives = np.zeros(scores.shape, bool)
    for row, target in zip(positives, targets, strict=True):
        row[list(target)] = True
    if not positives.any():
        raise ValueError("no video has a label, so there is no average precision")
    precisions = average_precision(scores, positives)
    order = [_Ranking(scores[:, index], positives[:, index]) for index in positives.any(0).nonzero()[0]]

    def mean_precision(weights: Integers) -> Floats:
        by_class = np.stack([ranking.average_precision(weights) for ranking in order])
        shown = (~np.isnan(by_class)).sum(0)  # a resample may lack a class, or all of them
        mean: Floats = np.where(shown > 0, np.nansum(by_class, 0) / np.maximum(shown, 1), np.nan)
        return mean

    return Metrics(
        multi_label=True,
        videos=len(scores),
        top1=None,
        top5=None,
        mean_class_accuracy=None,
        mean_average_precision=_bootstrap(mean_precision, len(scores)),
        classes=tuple(
            ClassResult(label, int(videos), float(value) if videos else None)
            for label, videos, value in zip(labels, positives.sum(0), precisions, strict=True)
        ),
        confusion=None,
    )


def rank_of(scores: ArrayLike, targets: ArrayLike) -> Integers:
    """How many classes come before the right one, (videos,): 0 where it is the best. Equal scores keep their order.

    Args:
        scores: (videos, classes).
        targets: (videos,), indices of the right classes.
    """
    table, right = np.asarray(scores), np.asarray(targets)[:, None]
    own = np.take_along_axis(table, right, 1)
    before = np.arange(table.shape[1]) < right
    places: Integers = ((table > own) | ((table == own) & before)).sum(1)
    return places


def confusion_counts(targets: ArrayLike, predicted: ArrayLike, classes: int) -> Integers:
    """(classes, classes): how many videos of the row's class were taken for the column's."""
    cells = np.asarray(targets) * classes + np.asarray(predicted)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def average_precision(scores: ArrayLike, positives: ArrayLike) -> Floats:
    """The average precision of each class, (classes,); NaN for a class without positives.

    The sum, over the distinct scores from high to low, of the precision down to that score times the recall gained by
    it; equal scores count as one step. It is what scikit-learn's ``average_precision_score`` computes, which PySlowFast
    (slowfast/utils/meters.py, ``get_map``) tests Charades with.

    Args:
        scores: (videos, classes).
        positives: (videos, classes), true where a video shows a class.
    """
    table, shown = np.asarray(scores), np.asarray(positives, bool)
    once = np.ones((1, len(table)), int)
    return np.array([_Ranking(s, p).average_precision(once)[0] for s, p in zip(table.T, shown.T, strict=True)])


class _Ranking:
    """The videos in the order of one class's scores; only the positives' places matter, and are found once."""

    def __init__(self, scores: Floats, positives: NDArray[np.bool_]) -> None:
        self.order = np.argsort(-scores, kind="stable")
        falling = -scores[self.order]
        self.positives = positives[self.order].nonzero()[0]
        self.ends = np.searchsorted(falling, falling[self.positives], side="right") - 1  # last of the equal scores

    def average_precision(self, weights: Integers) -> Floats:
        """(resamples,), for weights (resamples, videos) that say how often each video is there."""
        sorted_weights = weights[:, self.order]
        seen = sorted_weights.cumsum(1, dtype=np.int64)[:, self.ends]
        hits = sorted_weights[:, self.positives]
        found = hits.cumsum(1, dtype=np.int64)[:, np.searchsorted(self.positives, self.ends, side="right") - 1]
        total = hits.sum(1)
        # Where nothing was seen there are no hits either.
        precision: Floats = (hits * (found / np.maximum(seen, 1))).sum(1)
        return np.where(total > 0, precision / np.maximum(total, 1), np.nan)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % confidence interval of a proportion, after Wilson (1927): sensible also near 0 and 1."""
    z2 = _NORMAL_975**2
    share = successes / trials
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _NORMAL_975 / (1 + z2 / trials) * float(np.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2)))
    # At the ends it holds the proportion itself, but for rounding.
    return min(max(0.0, centre - half), share), max(min(1.0, centre + half), share)


def _proportion(successes: int, trials: int) -> Measure:
    return Measure(successes / trials, *wilson(successes, trials))


def _bootstrap(statistic: Callable[[Integers], Floats], videos: int) -> Measure:
    """The statistic of all videos, and its 95 % confidence interval from resamples, drawn with replacement.

    The interval is the basic one (Davison and Hinkley 1997, section 5.2), which reflects the resamples' quantiles at
    the statistic: average precision is too high on few videos, and higher still on a resample, which has fewer
    different ones; the percentile interval would have both errors. The seed is fixed: the same scores have the same
    interval.
    """
    random = np.random.default_rng(0)
    values = []
    for _ in range(_RESAMPLES // _CHUNK):
        drawn = [np.bincount(random.integers(videos, size=videos), minlength=videos) for _ in range(_CHUNK)]
        values.append(statistic(np.stack(drawn)))
    low, high = np.nanquantile(np.concatenate(values), (0.025, 0.975))
    value = float(statistic(np.ones((1, videos), int))[0])
    # Within 0 to 1, and around the value.
    return Measure(value, min(max(2 * value - float(high), 0.0), value), max(min(2 * value - float(low), 1.0), value))


def _list_mistakes(row: Integers, own: int, labels: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """Of a row of the confusion matrix, the other classes that are not 0, the most frequent first."""
    others = sorted((-int(row[index]), int(index)) for index in row.nonzero()[0] if index != own)
    return tuple((labels[index], -count) for count, index in others)
