"""AVA's files, and its frame mAP: against what upstream's code printed, definitions written out, cases done by hand."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slowfast_zoo.inference.evaluation.ava import (
    AvaBoxes,
    AvaRow,
    ava_classes,
    read_ava_csv,
    read_exclusions,
    read_label_map,
    write_ava_csv,
)
from slowfast_zoo.inference.evaluation.frame_map import PROTOCOLS, FrameMAP, frame_map

# Random boxes, and what PySlowFast's copy of the evaluation printed for them.
SAMPLE = Path(__file__).resolve().parents[2] / "conformance" / "ava"
ABC = {1: "a", 2: "b", 3: "c"}
WHOLE, LEFT, RIGHT = (0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def sample() -> dict[str, Any]:
    return {
        "ground_truth": read_ava_csv(SAMPLE / "gt.csv"),
        "detections": read_ava_csv(SAMPLE / "detections.csv", detections=True),
        "exclusions": read_exclusions(SAMPLE / "excluded_timestamps.csv"),
    }


def measured(truth: Sequence[Any], found: Sequence[Any], classes: Any = None, **options: Any) -> FrameMAP:
    """The frame mAP of rows; of the one class "a" unless others are given."""
    return frame_map(AvaBoxes.from_rows(truth), AvaBoxes.from_rows(found), classes or {1: "a"}, **options)


def at(box: tuple[float, ...], score: float = 1.0, *, video: str = "v", second: int = 1, action: int = 1) -> AvaRow:
    return AvaRow(video, second, box, action, score)  # type: ignore[arg-type]


# Frame mAP


def test_numbers_are_those_of_the_upstream_code(sample: dict[str, Any]) -> None:
    expected = json.loads((SAMPLE / "expected.json").read_text())
    result = frame_map(**sample)
    assert result.mean == pytest.approx(expected.pop("PascalBoxes_Precision/mAP@0.5IOU"), abs=1e-9)
    prefix = "PascalBoxes_PerformanceByCategory/AP@0.5IOU/"
    assert [prefix + entry.label for entry in result.classes] == list(expected)
    for entry, value in zip(result.classes, expected.values(), strict=True):
        assert entry.value == (None if value is None else pytest.approx(value, abs=1e-9)), entry.label


def written_out(truth: AvaBoxes, found: AvaBoxes, action: int, by_score: bool) -> float:
    """The average precision, box by box."""
    boxes = defaultdict(list)
    frames = defaultdict(list)
    for row in truth:
        if row.action == action:
            boxes[row.video, row.timestamp].append(row.box)
    for row in found:
        if row.action == action and row.box[0] < row.box[2] and row.box[1] < row.box[3]:
            frames[row.video, row.timestamp].append(row)
    judged = []
    for frame, rows in frames.items():
        taken = set()
        for row in sorted(rows, key=lambda row: -row.score) if by_score else rows:
            overlaps = [overlap(row.box, box) for box in boxes[frame]]
            best = overlaps.index(max(overlaps)) if overlaps else -1
            right = best >= 0 and overlaps[best] >= 0.5 and best not in taken
            taken |= {best} if right else set()
            judged.append((row.score, right))
    ranked = [right for _, right in sorted(judged, reverse=True)]
    precision = [sum(ranked[: n + 1]) / (n + 1) for n in range(len(ranked))]
    best_behind = [max(precision[n:]) for n, right in enumerate(ranked) if right]
    return sum(best_behind) / sum(map(len, boxes.values()))


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def crowd(random: np.random.Generator, count: int) -> AvaBoxes:
    """Boxes that overlap a lot, in few frames, with scores of their own; some without area."""
    corners, sides = random.integers(0, 4, (count, 2)) / 8, random.integers(0, 5, (count, 2)) / 8
    rows = zip(random.integers(0, 6, count).tolist(), random.integers(1, 4, count).tolist(), strict=True)
    scores = random.permutation(count) / count
    return AvaBoxes.from_rows(
        [
            at((*corners[n], *(corners[n] + sides[n])), scores[n], video="vw"[frame % 2], second=frame, action=action)
            for n, (frame, action) in enumerate(rows)
        ]
    )


@pytest.mark.parametrize("protocol", ["pyslowfast", "mmaction2"])
@pytest.mark.parametrize("count", [5, 40, 150])
def test_definition_written_out(count: int, protocol: str) -> None:
    random = np.random.default_rng(count)
    truth, found = crowd(random, 30), crowd(random, count)
    result = frame_map(truth, found, ABC, protocol=protocol)
    for entry in result.classes:
        assert entry.value == pytest.approx(written_out(truth, found, entry.action, PROTOCOLS[protocol][0]))


@pytest.mark.parametrize(
    ("truth", "found", "expected"),
    [
        ([at(WHOLE)], [at(WHOLE)], 1.0),
        ([at(WHOLE)], [], 0.0),
        # Right, wrong, right: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.
        ([at(LEFT), at(RIGHT)], [at(LEFT, 0.9), at(WHOLE, 0.8), at(RIGHT, 0.7)], (1 + 2 / 3) / 2),
        # Wrong, right, right: the precision at the end, 2/3, counts for what lies before it.
        ([at(LEFT), at(RIGHT)], [at((0, 0, 0.1, 0.1), 0.9), at(LEFT, 0.8), at(RIGHT, 0.7)], 2 / 3),
        # A box is found once.
        ([at(LEFT), at(RIGHT)], [at(LEFT, 0.9), at(LEFT, 0.8), at(RIGHT, 0.7)], (1 + 2 / 3) / 2),
        # The same box twice in the ground truth: both detections are of the first.
        ([at(LEFT), at(LEFT)], [at(LEFT, 0.9), at(LEFT, 0.8)], 0.5),
        # The box overlapped most has been found; the other, overlapped enough, does not stand in for it.
        ([at((0, 0, 1, 0.8)), at((0, 0, 1, 0.6))], [at((0, 0, 1, 0.8), 0.9), at((0, 0, 1, 0.75), 0.8)], 0.5),
        # Of equal scores the last comes first.
        ([at(LEFT)], [at(RIGHT, 0.5), at(LEFT, 0.5)], 1.0),
        ([at(LEFT)], [at(LEFT, 0.5), at(RIGHT, 0.5)], 0.5),
        # The threshold itself is enough.
        ([at(WHOLE)], [at(LEFT)], 1.0),
        ([at(WHOLE)], [at((0, 0, 0.499, 1))], 0.0),
        # Detections without area do not count, not even as wrong; nor those the wrong way round.
        ([at(LEFT)], [at((0.2, 0, 0.2, 1), 0.9), at((0.5, 0, 0, 1), 0.8), at(LEFT, 0.7)], 1.0),
        # Ground truth without area counts, and cannot be found.
        ([at(LEFT), at((0.7, 0, 0.7, 1))], [at(LEFT)], 0.5),
        # Boxes are not cut off at the frame's edge.
        ([at((0, 0, 0.5, 0.5))], [at((-0.5, 0, 0.5, 0.5))], 1.0),
        ([at((0, 0, 0.5, 0.5))], [at((-0.75, 0, 0.5, 0.5))], 0.0),
        # Another frame, another video, another action.
        ([at(LEFT)], [at(LEFT, 0.9, second=2), at(LEFT, 0.8)], 0.5),
        ([at(LEFT)], [at(LEFT, 0.9, video="w"), at(LEFT, 0.8)], 0.5),
        ([at(LEFT)], [at(LEFT, 0.9, action=2), at(LEFT, 0.8)], 1.0),
    ],
)
def test_by_hand(truth: list[AvaRow], found: list[AvaRow], expected: float) -> None:
    result = measured(truth, found)
    assert result.mean == pytest.approx(expected)
    assert result.classes[0].value == result.mean
    assert result.classes[0].boxes == len(truth)


def test_turns_of_two_detections_of_one_box() -> None:
    truth, found = [at(LEFT)], [at(LEFT, 0.6), at(LEFT, 0.9)]
    assert measured(truth, found).mean == 0.5, "the first in the file has the box, the surer one is wrong"
    assert measured(truth, found, protocol="mmaction2").mean == 1.0
    assert measured(truth, found[::-1]).mean == 1.0


def test_only_fifty_of_a_frame_in_the_challenge() -> None:
    truth = [at(LEFT), at(LEFT, second=2)]
    noise = [at(RIGHT, 0.5 + n / 1000, action=2) for n in range(50)]
    found = [at(LEFT, 0.1), *noise, at(LEFT, 0.2, second=2)]
    assert measured(truth, found, {1: "a", 2: "b"}).mean == 1.0
    assert measured(truth, found, {1: "a", 2: "b"}, protocol="activitynet").mean == 0.5
    assert measured(truth, found, {1: "a"}, protocol="activitynet").mean == 1.0, "other classes take no place"


def test_other_thresholds() -> None:
    assert measured([at(WHOLE)], [at(LEFT)], iou=0.6).mean == 0.0
    assert measured([at(WHOLE)], [at((0, 0, 0.2, 1))], iou=0.2).mean == 1.0


def test_excluded_key_frames() -> None:
    truth = [at(LEFT), at(LEFT, second=2)]
    found = [at(LEFT, 0.8), at(RIGHT, 0.9, second=2), at(RIGHT, 0.9, second=3)]
    result = measured(truth, found, exclusions={"v,0002", "v,0003"})
    assert result.mean == 1.0
    assert (result.frames, result.boxes, result.detections) == (1, 1, 1)
    assert result.notes() == []


def test_classes_without_ground_truth_are_left_out_of_the_mean() -> None:
    result = measured([at(LEFT), at(LEFT, action=3)], [at(LEFT), at(RIGHT, action=2)], ABC)
    assert [entry.value for entry in result.classes] == [1.0, None, 0.0]
    assert result.mean == 0.5
    assert [entry.label for entry in result.weakest(9)] == ["c", "a"]


def test_videos_that_do_not_match() -> None:
    result = measured([at(LEFT), at(LEFT, second=2)], [at(LEFT), at(LEFT, video="w"), at(RIGHT, video="w")])
    assert (result.videos, result.frames, result.undetected, result.unannotated) == (1, 2, 1, 1)
    assert result.notes() == [
        "1 key frames with ground truth have no detections",
        "1 key frames have detections but no ground truth, all counted as wrong",
    ]
    assert "are videos named alike in both?" in str(measured([at(LEFT)], [at(LEFT, video="w")]))
    assert measured([at(LEFT)], []).notes() == ["there are no detections of these classes"]


@settings(deadline=None, max_examples=30, derandomize=True)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 80))
def test_the_order_of_rows_has_no_effect(seed: int, count: int) -> None:
    """By scores none at all; as they come, none as long as those of a frame stay in order."""
    random = np.random.default_rng(seed)
    truth, found = crowd(random, 20), crowd(random, count)
    rows = list(found)
    shuffled = [rows[n] for n in random.permutation(count)]
    frames = random.permutation(6)
    moved = sorted(rows, key=lambda row: frames[row.timestamp])
    for protocol, other in (("mmaction2", shuffled), ("pyslowfast", moved)):
        before = frame_map(truth, found, ABC, protocol=protocol)
        after = frame_map(truth, AvaBoxes.from_rows(other), ABC, protocol=protocol)
        assert after.classes == before.classes


@settings(deadline=None, max_examples=30, derandomize=True)
@given(seed=st.integers(0, 10**6), protocol=st.sampled_from(["pyslowfast", "mmaction2"]))
def test_perfect_detections(seed: int, protocol: str) -> None:
    random = np.random.default_rng(seed)
    boxes = {(row.video, row.timestamp, row.box, row.action): row for row in crowd(random, 40)}
    truth = [row for row in boxes.values() if row.box[0] < row.box[2] and row.box[1] < row.box[3]]
    found = [truth[n]._replace(score=n / len(truth)) for n in random.permutation(len(truth))]
    result = measured(truth, found, ABC, protocol=protocol)
    assert {entry.value for entry in result.classes} <= {1.0, None}
    assert result.mean == 1.0


def test_in_words_and_as_json(sample: dict[str, Any]) -> None:
    result = frame_map(**sample)
    text = str(result)
    assert text.startswith("frame mAP 20.84 % at IoU 0.5, 52 of 60 classes\n162 key frames of 6 videos, 625 boxes")
    assert "weakest" in text and "strongest" in text
    assert "fall down                              55.2 %      27" in text
    small = str(measured([at(LEFT), at(LEFT, action=3)], [at(LEFT)], ABC)).splitlines()
    assert [line.split() for line in small[3:]] == [
        ["classes", "precision", "boxes"],
        ["a", "100.0", "%", "1"],
        ["c", "0.0", "%", "1"],
    ]
    plain = json.loads(json.dumps(result.to_dict()))
    assert plain["frame_map"] == result.mean
    assert (plain["videos"], plain["key_frames"], plain["protocol"]) == (6, 162, "pyslowfast")
    assert plain["classes"][4]["label"] == "get up"
    assert [entry["average_precision"] for entry in plain["classes"]].count(None) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "coco"}, "protocol is one of 'pyslowfast', 'mmaction2', 'activitynet', not 'coco'"),
        ({"iou": 0.0}, "iou lies above 0 and is at most 1, got 0.0"),
        ({"iou": 1.5}, "iou lies above 0 and is at most 1, got 1.5"),
        ({"classes": {7: "g"}}, "no ground truth of the 1 classes"),
        ({"exclusions": {"v,0001"}}, "no ground truth of the 1 classes, outside of excluded key frames"),
        ({"truth": [at((0.5, 0, 0.1, 1))]}, r"of v,0001 has the box \[0.5, 0.0, 0.1, 1.0\].*x1 <= x2"),
    ],
)
def test_wrong_calls(options: dict[str, Any], message: str) -> None:
    truth = options.pop("truth", [at(LEFT)])
    with pytest.raises(ValueError, match=message):
        measured(truth, [at(LEFT)], **options)
    with pytest.raises(ValueError, match="no classes to evaluate"):
        frame_map(AvaBoxes.from_rows([]), AvaBoxes.from_rows([]), {})


# Files


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "file.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_ground_truth_from_a_file(tmp_path: Path) -> None:
    content = (
        "\ufeffa-b,0902,0.1,0.2,0.3,0.4,12,0\r\n"
        '"c,d",1000,-0.1,0,1.2,1,80\r\n'
        "\r\n"
        "a-b,0903,,,,,,\r\n"  # nobody there
        "a-b,902,0.5,0.5,0.5,0.9,,0.98\r\n"  # a person without action
    )
    boxes = read_ava_csv(written(tmp_path, content))
    assert list(boxes) == [
        AvaRow("a-b", 902, (0.1, 0.2, 0.3, 0.4), 12, 1.0),
        AvaRow("c,d", 1000, (-0.1, 0.0, 1.2, 1.0), 80, 1.0),
        AvaRow("a-b", 902, (0.5, 0.5, 0.5, 0.9), 0, 1.0),
    ]
    assert boxes.frames == ("a-b,0902", "c,d,1000")
    assert len(boxes) == 3 and boxes.boxes.shape == (3, 4)


def test_detections_from_a_file(tmp_path: Path) -> None:
    (row,) = read_ava_csv(written(tmp_path, "a,0902,0.1,0.2,0.3,0.4,12,0.25\n"), detections=True)
    assert row.score == 0.25
    none = read_ava_csv(written(tmp_path, ""), detections=True)
    assert len(none) == 0 and none.boxes.shape == (0, 4)
    assert measured([at(LEFT)], list(none)).mean == 0.0


@pytest.mark.parametrize(
    ("line", "detections", "message"),
    [
        ("video,second,x1,y1,x2,y2,action,person", False, "line 2: expected video,second,x1,y1,x2,y2,action,person"),
        ("a,0902,0.1,0.2,0.3,0.4", False, "line 2: expected .*, got 'a,0902,0.1,0.2,0.3,0.4'"),
        ("a,0902,0.1,0.2,0.3,0.4,1,0,5", False, "line 2: expected"),
        ("a,0902,0.1,,0.3,0.4,1,0", False, "line 2: expected"),
        ("a,902.5,0.1,0.2,0.3,0.4,1,0", False, "line 2: expected"),
        ("a,0902,0.1,0.2,0.3,0.4,1.5,0", False, "line 2: expected"),
        ("a,0902,0.1,0.2,0.3,0.4,1", True, "line 2: expected .*action,score"),
        ("a,0902,0.1,0.2,0.3,0.4,1,sure", True, "line 2: expected"),
        ("a,0902,0.1,0.2,0.3,nan,1,0.5", True, "line 2: not all numbers are finite"),
        ("a,0902,0.1,0.2,0.3,0.4,1,inf", True, "line 2: not all numbers are finite"),
    ],
)
def test_malformed_lines(tmp_path: Path, line: str, detections: bool, message: str) -> None:
    path = written(tmp_path, f"a,0902,0.1,0.2,0.3,0.4,1,0\n{line}\n")
    with pytest.raises(ValueError, match=f"file.txt, {message}"):
        read_ava_csv(path, detections=detections)


def test_excluded_key_frames_from_a_file(tmp_path: Path) -> None:
    assert read_exclusions(written(tmp_path, "a,0902\nb,1000\na,902\n")) == {"a,0902", "b,1000"}
    assert read_exclusions(written(tmp_path, "")) == frozenset()
    with pytest.raises(ValueError, match="line 1: field larger than"):
        read_exclusions(written(tmp_path, '"' + "a" * 200_000))
    for line in ("a", "a,b", "a,0903,1"):
        with pytest.raises(ValueError, match=f"file.txt, line 2: expected video,second, got '{line}'"):
            read_exclusions(written(tmp_path, f"a,0902\n{line}\n"))


def test_files_that_are_no_text(tmp_path: Path) -> None:
    path = written(tmp_path, b"\x89PNG\r\n\x00")
    for read in (read_ava_csv, read_exclusions, read_label_map):
        with pytest.raises(ValueError, match=r"file.txt is no text in UTF-8"):
            read(path)
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "nowhere")


def test_classes_that_are_evaluated() -> None:
    classes = ava_classes()
    assert len(classes) == 60
    assert (classes[1], classes[12], classes[80]) == ("bend/bow (at the waist)", "stand", "watch (a person)")
    assert 2 not in classes and 16 not in classes and 71 not in classes


@pytest.mark.parametrize(
    "content",
    [
        'item {\n  name: "stand"\n  id: 12\n}\nitem {\n  name: "sit {down}"\n  id: 11\n}\n',
        '# AVA\nlabel {\n  name: "stand"\n  label_id: 12\n  label_type: PERSON_MOVEMENT\n}\n'
        'label {\n  label_id: 11\n  name: "sit {down}"\n}\n',
        "item { id: 12 name: 'stand' display_name: \"id: 5\" } item{id:11,name:'sit {down}'}",
    ],
)
def test_label_maps(tmp_path: Path, content: str) -> None:
    assert read_label_map(written(tmp_path, content)) == {12: "stand", 11: "sit {down}"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "file.txt has no classes: expected entries like item"),
        ("1: stand\n2: sit\n", r"file.txt, line 1: expected entries like item .*, got '1: stand'"),
        ('item {\n name: "a"\n id: 1\n}\nitem {\n name: "b"\n', "file.txt, line 5: expected entries"),
        ('item {\n name: "a"\n id: 1\n}\nitem {\n name: "b"\n}', "file.txt, line 5: an entry needs a name in quot"),
        ('item {\n name: "a"\n id: 0\n}', "line 1: an entry needs .* a number from 1 on"),
        ("item {\n name: a\n id: 1\n}", "line 1: an entry needs a name in quotation marks"),
        ('item { name: "a" id: 1 }\nitem { name: "b" id: 1 }', "line 2: the number 1 is already that of 'a'"),
    ],
)
def test_malformed_label_maps(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_label_map(written(tmp_path, content))


def test_rows_put_together() -> None:
    boxes = AvaBoxes.from_rows([("v", 3.0, np.array(LEFT), 1, 0.5)])
    assert list(boxes) == [at(LEFT, 0.5, second=3)]
    with pytest.raises(ValueError, match="whole seconds, not at 3.5"):
        AvaBoxes.from_rows([("v", 3.5, LEFT, 1, 0.5)])
    with pytest.raises(ValueError, match="every box must be four numbers"):
        AvaBoxes.from_rows([("v", 3, (*LEFT, 0.9), 1, 0.5)])


def test_detections_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "detections.csv"
    write_ava_csv(path, [("a", 902.0, (0.12345, 0, 1, 0.5), 12, 0.987654), ("b,c", 5, [0, 0, 1, 1], 1, 1e-9)])
    text = 'a,0902,0.123,0.000,1.000,0.500,12,0.9877\n"b,c",0005,0.000,0.000,1.000,1.000,1,0.0000\n'
    assert path.read_bytes() == text.encode()
    assert [row.video for row in read_ava_csv(path, detections=True)] == ["a", "b,c"]
    for wrong, message in (
        (("a", 902.5, WHOLE, 1, 0.5), "AVA's key frames are at whole seconds, not at 902.5"),
        (("a", 902, (0, 0, 1, float("nan")), 1, 0.5), "a, second 902: the box .* is not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            write_ava_csv(path, [at(WHOLE), wrong])
    assert path.read_bytes() == text.encode(), "the old file stays"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        write_ava_csv(tmp_path / "nowhere" / "x.csv", [])
