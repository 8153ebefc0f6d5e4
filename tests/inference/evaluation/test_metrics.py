"""Accuracies, average precision and their intervals: against cases done by hand and definitions written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from slowfast_zoo.inference.evaluation.metrics import (
    Measure,
    average_precision,
    confusion_counts,
    measure,
    rank_of,
    wilson,
)

Array = np.ndarray[Any, np.dtype[Any]]
ABC = ("a", "b", "c")


def random_scores(videos: int, classes: int, seed: int = 0) -> Array:
    """With many ties."""
    return np.random.default_rng(seed).integers(0, 6, (videos, classes)) / 5


def naive_average_precision(scores: Array, positives: Array) -> float:
    """Over the thresholds from high to low: precision at each times the recall gained there."""
    total, before, result = int(positives.sum()), 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        found = scores >= threshold
        recall = (positives & found).sum() / total
        result += (recall - before) * (positives & found).sum() / found.sum()
        before = recall
    return float(result)


def test_by_hand() -> None:
    scores = [[0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1]]
    found = measure(scores, [(0,), (0,), (1,), (1,)], ABC, multi_label=False)
    assert found.videos == 4
    assert found.top1 is not None and found.top1.value == 2 / 4
    assert found.top5 is not None and found.top5 == (1, *wilson(4, 4)), "all three classes are among the best five"
    assert found.mean_class_accuracy is not None and found.mean_class_accuracy.value == 0.5
    assert found.mean_average_precision is None
    assert found.confusion is not None and found.confusion.tolist() == [[1, 0, 1], [1, 1, 0], [0, 0, 0]]
    assert [(c.label, c.videos, c.value, c.taken_for) for c in found.classes] == [
        ("a", 2, 0.5, (("c", 1),)),
        ("b", 2, 0.5, (("a", 1),)),
        ("c", 0, None, ()),
    ]


def test_classes_of_different_size_count_alike() -> None:
    scores = np.eye(3)[[0, 0, 0, 0, 2]]
    found = measure(scores, [(0,), (0,), (0,), (0,), (1,)], ABC, multi_label=False)
    assert found.top1 is not None and found.top1.value == 4 / 5
    assert found.mean_class_accuracy is not None and found.mean_class_accuracy.value == (1 + 0) / 2
    assert [entry.label for entry in found.worst(2)] == ["b", "a"], "not c, which no video shows"
    assert found.most_confused(9) == [("b", "c", 1)]


def test_of_equal_scores_the_first_class_is_the_best() -> None:
    assert rank_of([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.2, 0.2, 0.2]], [0, 1, 2]).tolist() == [0, 1, 2]
    found = measure([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]], [(0,), (1,)], ABC, multi_label=False)
    assert found.top1 is not None and found.top1.value == 0.5
    assert found.confusion is not None and found.confusion.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_accuracies_equal_their_definitions() -> None:
    scores = random_scores(60, 9)
    targets = np.random.default_rng(1).integers(0, 8, 60)  # the last class has no videos
    best = [sorted(range(9), key=lambda c: (-row[c], c)) for row in scores]
    right = {k: [int(t in order[:k]) for order, t in zip(best, targets, strict=True)] for k in (1, 5)}
    by_class = [[r for r, t in zip(right[1], targets, strict=True) if t == c] for c in range(8)]
    found = measure(scores, [(int(t),) for t in targets], [str(c) for c in range(9)], multi_label=False)
    assert found.top1 is not None and found.top5 is not None and found.mean_class_accuracy is not None
    assert found.top1.value == pytest.approx(sum(right[1]) / 60)
    assert found.top5.value == pytest.approx(sum(right[5]) / 60)
    assert found.mean_class_accuracy.value == pytest.approx(sum(sum(c) / len(c) for c in by_class) / 8)
    predicted = [order[0] for order in best]
    assert (found.confusion == confusion_counts(targets, predicted, 9)).all()
    assert confusion_counts(targets, predicted, 9)[3, 2] == sum(
        t == 3 and p == 2 for t, p in zip(targets, predicted, strict=True)
    )


def test_average_precision_by_hand() -> None:
    # Ranks 1 and 3 of four: 1/2 * 1/1 + 1/2 * 2/3.
    assert average_precision([[0.9], [0.8], [0.7], [0.1]], [[1], [0], [1], [0]])[0] == pytest.approx(5 / 6)
    # Both of a tie are seen at once: precision 1/2, for all of the recall.
    assert average_precision([[0.9], [0.9], [0.1]], [[1], [0], [0]])[0] == pytest.approx(1 / 2)
    assert average_precision([[0.9], [0.9], [0.1]], [[0], [1], [0]])[0] == pytest.approx(1 / 2)
    assert average_precision([[0.3]], [[1]])[0] == 1
    assert np.isnan(average_precision([[0.3]], [[0]])[0])


def test_average_precision_equals_its_definition() -> None:
    scores = random_scores(40, 12)
    positives = np.random.default_rng(1).random((40, 12)) < 0.2
    positives[:, 3] = False
    want = [naive_average_precision(s, p) if p.any() else np.nan for s, p in zip(scores.T, positives.T, strict=True)]
    np.testing.assert_allclose(average_precision(scores, positives), want)
    targets = [tuple(row.nonzero()[0].tolist()) for row in positives]
    assert () in targets, "a video may show none of the classes"
    found = measure(scores, targets, [str(c) for c in range(12)], multi_label=True)
    assert found.mean_average_precision is not None
    assert found.mean_average_precision.value == pytest.approx(np.nanmean(want)), "classes without videos left out"
    assert found.classes[3].value is None
    assert found.classes[4].value == pytest.approx(want[4])
    assert found.confusion is None and found.top1 is None and found.most_confused(3) == []


def test_resampled_average_precision_is_that_of_repeated_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bootstrap's weights stand for videos that are there several times, or not at all."""
    scores = random_scores(15, 4)
    positives = np.random.default_rng(3).random((15, 4)) < 0.3
    drawn = np.random.default_rng(0).integers(15, size=15)
    seen: list[float] = []

    def spy(statistic: Any, videos: int) -> Measure:
        seen.append(float(statistic(np.bincount(drawn, minlength=videos)[None])[0]))
        return Measure(0, 0, 0)

    monkeypatch.setattr("slowfast_zoo.inference.evaluation.metrics._bootstrap", spy)
    measure(scores, [tuple(row.nonzero()[0].tolist()) for row in positives], list("abcd"), multi_label=True)
    assert seen[0] == pytest.approx(np.nanmean(average_precision(scores[drawn], positives[drawn])))


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (1, 1, 0.2065, 1.0)],
)
def test_wilson(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes, trials) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


@pytest.mark.parametrize("multi_label", [False, True])
def test_intervals(multi_label: bool) -> None:
    """They hold the value, narrow with more videos, and are the same in every run."""
    widths = []
    for videos in (40, 640):
        targets = [(int(t),) for t in np.random.default_rng(1).integers(0, 4, videos)]
        scores = random_scores(videos, 4) + 0.3 * np.eye(4)[[t for (t,) in targets]]
        first, again = (measure(scores, targets, list("abcd"), multi_label) for _ in range(2))
        number = first.mean_average_precision if multi_label else first.mean_class_accuracy
        assert number is not None
        assert number == (again.mean_average_precision if multi_label else again.mean_class_accuracy)
        assert 0 <= number.low < number.value < number.high <= 1
        widths.append(number.high - number.low)
    assert widths[1] < widths[0] / 2


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_single_video(multi_label: bool) -> None:
    found = measure([[0.1, 0.9]], [(1,)], ["a", "b"], multi_label)
    assert (found.mean_average_precision or found.mean_class_accuracy) == (1, 1, 1)


def test_what_cannot_be_measured() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) .* got \(1, 3\)"):
        measure([[0, 0, 1]], [(0,), (1,)], ABC, multi_label=False)
    with pytest.raises(ValueError, match="at least one video"):
        measure(np.empty((0, 3)), [], ABC, multi_label=False)
    with pytest.raises(ValueError, match="finite"):
        measure([[0, np.nan, 1]], [(0,)], ABC, multi_label=False)
    with pytest.raises(ValueError, match="exactly one label"):
        measure([[0, 0, 1]], [(0, 1)], ABC, multi_label=False)
    with pytest.raises(ValueError, match="no video has a label"):
        measure([[0, 0, 1]], [()], ABC, multi_label=True)
