"""Frame mAP: how AVA measures which actions were found in which boxes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .ava import AvaBoxes, ava_classes

_SHOWN = 5  # classes of the weakest, and of the strongest

# Whether the detections of a frame take their turn by score, or as they come; how many of a frame count.
PROTOCOLS: dict[str, tuple[bool, int | None]] = {
    "pyslowfast": (False, None),
    "mmaction2": (True, None),
    "activitynet": (True, 50),
}


@dataclass(frozen=True)
class ClassPrecision:
    """How well one action was found.

    Attributes:
        action: its number in AVA's files.
        label: its name.
        boxes: how many boxes of the ground truth show it.
        value: the average precision; None where no box shows it.
    """

    action: int
    label: str
    boxes: int
    value: float | None


@dataclass(frozen=True, eq=False)
class FrameMAP:
    """What detections are worth.

    Attributes:
        mean: mean of the classes' average precision, over classes that the ground truth has.
        iou: the least overlap of a detection with a box that it finds.
        protocol: whose evaluation it is, see :func:`frame_map`.
        videos: how many videos the ground truth has, without what was excluded, as in all numbers here.
        frames: how many key frames it has.
        boxes: how many boxes with actions it has, those with several counted several times.
        detections: how many detections were counted.
        undetected: how many of the ground truth's key frames have no detection.
        unannotated: how many key frames have detections and no ground truth; these detections are wrong ones.
        classes: one result a class, in the order of their numbers.
    """

    mean: float
    iou: float
    protocol: str
    videos: int
    frames: int
    boxes: int
    detections: int
    undetected: int
    unannotated: int
    classes: tuple[ClassPrecision, ...] = field(repr=False)

    def __str__(self) -> str:
        ranked = self.weakest(len(self.classes))
        lines = [
            f"frame mAP {100 * self.mean:.2f} % at IoU {self.iou:g}, {len(ranked)} of {len(self.classes)} classes",
            f"{self.frames} key frames of {self.videos} videos, {self.boxes} boxes with actions, "
            f"{self.detections} detections",
        ]
        parts = {"weakest": ranked[:_SHOWN], "strongest": ranked[-_SHOWN:][::-1]}
        if len(ranked) <= 2 * _SHOWN:
            parts = {"classes": ranked[::-1]}
        width = max(len(entry.label) for entries in parts.values() for entry in entries)
        for heading, entries in parts.items():
            lines.append(f"\n  {heading:<{width}}   precision   boxes")
            lines += [f"  {e.label:<{width}}   {100 * (e.value or 0):7.1f} %   {e.boxes:5}" for e in entries]
        lines += [f"note: {note}" for note in self.notes()]
        return "\n".join(lines)

    def weakest(self, count: int) -> list[ClassPrecision]:
        """The classes found worst, among those that the ground truth has; with more boxes first if equal."""
        shown = [(entry.value, -entry.boxes, entry) for entry in self.classes if entry.value is not None]
        return [entry for _, _, entry in sorted(shown, key=lambda row: row[:2])[:count]]

    def notes(self) -> list[str]:
        """What a reader of the numbers has to know about them, in sentences."""
        if not self.detections:
            return ["there are no detections of these classes"]
        if self.undetected == self.frames:
            return ["no detection is of a key frame with ground truth: are videos named alike in both?"]
        notes = []
        if self.undetected:
            notes.append(f"{self.undetected} key frames with ground truth have no detections")
        if self.unannotated:
            notes.append(f"{self.unannotated} key frames have detections but no ground truth, all counted as wrong")
        return notes

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the average precision of classes without ground truth is None."""
        return {
            "frame_map": self.mean,
            "iou": self.iou,
            "protocol": self.protocol,
            "videos": self.videos,
            "key_frames": self.frames,
            "boxes": self.boxes,
            "detections": self.detections,
            "key_frames_without_detections": self.undetected,
            "key_frames_without_ground_truth": self.unannotated,
            "classes": [
                {
                    "action": entry.action,
                    "label": entry.label,
                    "boxes": entry.boxes,
                    "average_precision": entry.value,
                }
                for entry in self.classes
            ],
        }


def frame_map(
    ground_truth: AvaBoxes,
    detections: AvaBoxes,
    classes: Mapping[int, str] | None = None,
    exclusions: Collection[str] = (),
    *,
    iou: float = 0.5,
    protocol: str = "pyslowfast",
) -> FrameMAP:
    """Compare detections with ground truth: mean average precision over the boxes of key frames.

    Class by class, each detection of a key frame is compared with the box of the ground truth, of that frame and
    class, that it overlaps most. It is right if that overlap, intersection over union, is at least ``iou`` and no
    detection before it has found the same box. Over all frames, in the order of scores, precision is made to fall
    with recall, and the average precision is the area below it. Detections without area do not count at all.

    The results are those of TensorFlow's ``PascalDetectionEvaluator`` as PySlowFast runs it (ava_evaluation and
    slowfast/utils/ava_eval_helper.py), also where scores are equal: these come in the reverse of the order in which
    numpy sorts them, which differs between processors.

    Args:
        ground_truth: from :func:`read_ava_csv`.
        detections: from :func:`read_ava_csv`, or put together by :meth:`AvaBoxes.from_rows`.
        classes: the classes to evaluate, number and name, as from :func:`read_label_map`; None is AVA's 60. Rows of
            others are left out.
        exclusions: key frames that do not count, as from :func:`read_exclusions`.
        iou: the least overlap.
        protocol: "pyslowfast" takes a frame's detections as they come, "mmaction2" by their scores. "activitynet",
            the script of the AVA challenge, takes them by their scores, and of each frame's, of all classes together,
            only the 50 best.

    Raises:
        ValueError: an unknown protocol, an ``iou`` out of range, no classes, no ground truth of these classes, or a
            box of the ground truth whose ends are the wrong way round.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is one of {', '.join(map(repr, PROTOCOLS))}, not {protocol!r}")
    if not 0 < iou <= 1:
        raise ValueError(f"iou lies above 0 and is at most 1, got {iou}")
    names = dict(sorted((ava_classes() if classes is None else classes).items()))
    if not names:
        raise ValueError("there are no classes to evaluate")
    truth = _select_counted(ground_truth, names, exclusions)
    found = _select_counted(detections, names, exclusions)
    if not len(truth):
        raise ValueError(f"there is no ground truth of the {len(names)} classes, outside of excluded key frames")
    _check_truth(truth)
    truth = _select_rows(truth, np.argsort(truth.places, kind="stable"))
    found = _select_rows(found, _order_detections(found, *PROTOCOLS[protocol]))
    places = _find_frames(truth, found)

    results = []
    for action, label in names.items():
        shown, mine = truth.actions == action, found.actions == action
        boxes = int(shown.sum())
        right = _mark_correct(places[mine], found.boxes[mine], truth.places[shown], truth.boxes[shown], iou)
        value = _average_precision(found.scores[mine], right, boxes) if boxes else None
        results.append(ClassPrecision(action, label, boxes, value))
    annotated, detected = np.unique(truth.places), np.unique(places[places >= 0])
    return FrameMAP(
        mean=float(np.mean([entry.value for entry in results if entry.value is not None])),
        iou=iou,
        protocol=protocol,
        videos=len({truth.frames[place].rpartition(",")[0] for place in annotated.tolist()}),
        frames=len(annotated),
        boxes=len(truth),
        detections=len(found),
        undetected=len(np.setdiff1d(annotated, detected)),
        unannotated=len(np.unique(found.places[~np.isin(places, annotated)])),
        classes=tuple(results),
    )


def _select_counted(boxes: AvaBoxes, names: Mapping[int, str], exclusions: Collection[str]) -> AvaBoxes:
    """The rows that count."""
    keys = frozenset(exclusions)
    excluded = np.array([key in keys for key in boxes.frames], bool)
    return _select_rows(boxes, np.isin(boxes.actions, list(names)) & ~excluded[boxes.places])


def _select_rows(boxes: AvaBoxes, rows: NDArray[Any]) -> AvaBoxes:
    return AvaBoxes(boxes.frames, boxes.places[rows], boxes.boxes[rows], boxes.actions[rows], boxes.scores[rows])


def _check_truth(truth: AvaBoxes) -> None:
    x1, y1, x2, y2 = truth.boxes.T
    wrong = np.flatnonzero((x1 > x2) | (y1 > y2))
    if len(wrong):
        row = wrong[0]
        raise ValueError(
            f"the ground truth of {truth.frames[truth.places[row]]} has the box {truth.boxes[row].tolist()}: expected "
            "x1, y1, x2, y2 with x1 <= x2 and y1 <= y2"
        )


def _order_detections(found: AvaBoxes, by_score: bool, limit: int | None) -> NDArray[np.int64]:
    """The detections that count, in the order in which they have their turns: frame after frame, as they appear."""
    _, first, frame = np.unique(found.places, return_index=True, return_inverse=True)
    appearance = first[frame]
    keys = (-found.scores, appearance) if by_score else (appearance,)
    turns = np.lexsort(keys)
    if limit is not None:
        starts = np.searchsorted(appearance[turns], appearance[turns])
        turns = turns[np.arange(len(turns)) - starts < limit]
    x1, y1, x2, y2 = found.boxes[turns].T
    kept: NDArray[np.int64] = turns[(x1 < x2) & (y1 < y2)]
    return kept


def _find_frames(truth: AvaBoxes, found: AvaBoxes) -> NDArray[np.int64]:
    """Which of the ground truth's frames each detection is of; -1 for none of them."""
    known = {key: place for place, key in enumerate(truth.frames)}
    places: NDArray[np.int64] = np.array([known.get(key, -1) for key in found.frames], np.int64)[found.places]
    return places


def _mark_correct(
    places: NDArray[Any], boxes: NDArray[Any], truth_places: NDArray[Any], truth_boxes: NDArray[Any], iou: float
) -> NDArray[np.bool_]:
    """Which detections of a class, in the order of their turns, find a box that none before them has found.

    Frame by frame this would be: for each detection take the box that it overlaps most; if it overlaps enough and the
    box is free, the detection is right and the box is taken. Here it is done for all frames at once, by sorting: there
    are too many detections for loops in Python.
    """
    # The boxes of a frame stand next to each other in the truth: these begin at starts, and there are counts of them.
    starts = np.searchsorted(truth_places, places)
    counts = np.searchsorted(truth_places, places, side="right") - starts
    # Every pair of a detection and a box in its frame: rows are detections, columns are boxes.
    rows = np.repeat(np.arange(len(places)), counts)
    columns = np.arange(len(rows)) + np.repeat(starts - (counts.cumsum() - counts), counts)
    overlap = _iou_of_pairs(boxes[rows], truth_boxes[columns])
    # Of each detection's pairs the one with the largest overlap: the first of its row, sorted by falling overlap.
    # lexsort is stable, so of equal overlaps the first box counts, as in the upstream code's argmax.
    best = np.lexsort((-overlap, rows))[np.unique(rows, return_index=True)[1]]
    best = best[overlap[best] >= iou]
    # Of the detections that chose one box the first, which np.unique gives, since best is in the order of turns.
    right = np.zeros(len(places), bool)
    right[rows[best[np.unique(columns[best], return_index=True)[1]]]] = True
    return right


def _iou_of_pairs(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Intersection over union of boxes (N, 4) and (N, 4)."""
    # Not torchvision's box_iou: float64, and in the order of operations of the upstream code, so that an overlap of
    # exactly the threshold is one there too.
    sides = np.maximum(0.0, np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]))
    common = sides[:, 1] * sides[:, 0]
    areas = [(x[:, 3] - x[:, 1]) * (x[:, 2] - x[:, 0]) for x in (a, b)]
    overlap: NDArray[Any] = common / (areas[0] + areas[1] - common)
    return overlap


def _average_precision(scores: NDArray[Any], right: NDArray[np.bool_], boxes: int) -> float:
    """Area below the falling curve of precision over recall."""
    # Not a stable sort: the upstream code's numbers depend on where its own puts equal scores.
    ranked = right[np.argsort(scores)[::-1]]
    precision = ranked.cumsum() / np.arange(1, len(ranked) + 1)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return float(falling[ranked].sum() / boxes)
