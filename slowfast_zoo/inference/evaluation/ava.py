"""AVA's files: boxes with actions at key frames, label maps, excluded key frames."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slowfast_zoo.utils.files import whole_file
from slowfast_zoo.video import load_labels

# Of AVA's 80 actions those with too few examples: the benchmark leaves them out.
_NOT_EVALUATED = frozenset((2, 16, 18, 19, 21, 23, 25, 31, 32, 33, 35, 39, 40, 42, 44, 50, 53, 55, 71, 75))

_STRING = r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\''
_ENTRY = re.compile(rf"\b(?:item|label)\s*:?\s*\{{((?:{_STRING}|[^{{}}\"'])*)\}}")
_FIELD = re.compile(rf"(\w+)\s*:\s*({_STRING}|[^\s,;]+)")


class AvaRow(NamedTuple):
    """A line of a file: a box at a key frame, and one action in it.

    Attributes:
        video: its name.
        timestamp: second of the key frame.
        box: x1, y1, x2, y2, parts of the frame's width and height from 0 to 1.
        action: number of the class; 0 where the file names none, as those of people without actions do.
        score: how sure a detection is; 1 in ground truth.
    """

    video: str
    timestamp: int
    box: tuple[float, float, float, float]
    action: int
    score: float


@dataclass(frozen=True, eq=False)
class AvaBoxes:
    """The rows of a file, column by column; iterating gives them one by one as :class:`AvaRow`.

    Attributes:
        frames: the key frames, ``"video,0902"``, in the order in which the rows come to them.
        places: (N,) which of the frames a row is of.
        boxes: float64 (N, 4), x1, y1, x2, y2, parts of the frame's width and height from 0 to 1.
        actions: (N,) numbers of the classes.
        scores: float64 (N,).
    """

    frames: tuple[str, ...] = field(repr=False)
    places: NDArray[np.int64] = field(repr=False)
    boxes: NDArray[np.float64] = field(repr=False)
    actions: NDArray[np.int64] = field(repr=False)
    scores: NDArray[np.float64] = field(repr=False)

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[str, float, Any, int, float]]) -> AvaBoxes:
        """Put rows together: video, second, box, action and score of each, as in :class:`AvaRow`.

        Raises:
            ValueError: a second is not whole, or a box has not four numbers.
        """
        frames: dict[str, int] = {}
        places, boxes, actions, scores = array("q"), array("d"), array("q"), array("d")
        for video, timestamp, box, action, score in rows:
            places.append(frames.setdefault(frame_key(video, timestamp), len(frames)))
            boxes.extend(box)
            actions.append(action)
            scores.append(score)
        if len(boxes) != 4 * len(places):
            raise ValueError("every box must be four numbers, x1, y1, x2, y2")
        return cls(
            tuple(frames),
            np.array(places, np.int64),
            np.array(boxes, np.float64).reshape(-1, 4),
            np.array(actions, np.int64),
            np.array(scores, np.float64),
        )

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[AvaRow]:
        keys = [key.rpartition(",") for key in self.frames]
        columns = (self.places.tolist(), self.boxes.tolist(), self.actions.tolist(), self.scores.tolist())
        for place, box, action, score in zip(*columns, strict=True):
            video, _, second = keys[place]
            yield AvaRow(video, int(second), tuple(box), action, score)


def frame_key(video: str, timestamp: float) -> str:
    """How AVA's tools name a key frame: the video and the second, ``"video,0902"``.

    Raises:
        ValueError: the second is not whole.
    """
    return f"{video},{_whole_second(video, timestamp):04d}"


def ava_classes() -> dict[int, str]:
    """The 60 actions, of AVA's 80, that its benchmark evaluates (AVA 2.1 and 2.2): number and name of each."""
    return {action: name for action, name in enumerate(load_labels("ava"), 1) if action not in _NOT_EVALUATED}


def read_ava_csv(path: str | os.PathLike[str], *, detections: bool = False) -> AvaBoxes:
    """Read boxes with actions, in the format of https://research.google.com/ava/download.html.

    A line is ``video,second,x1,y1,x2,y2,action`` and one more column: in ground truth, where it may be missing, the
    number of the person, which is not kept; in detections the score. A line that leaves all columns behind the second
    empty stands for a key frame without people, and has no row. Boxes may reach beyond the frame, or have no area.

    Args:
        path: the file, in UTF-8.
        detections: whether the last column is a score, which then must be there.

    Raises:
        ValueError: a line is of another form, or has a number that is not finite; the message names it.
        FileNotFoundError: there is no such file.
    """
    return AvaBoxes.from_rows(_parse_rows(Path(path), detections))


def read_exclusions(path: str | os.PathLike[str]) -> frozenset[str]:
    """Read the key frames that do not count, lines of ``video,second``, as :func:`frame_key` names them.

    Raises:
        ValueError: a line is of another form; the message names it.
        FileNotFoundError: there is no such file.
    """
    keys = set()
    for line, cells in read_lines(Path(path)):
        if len(cells) != 2 or not re.fullmatch(r"\s*[0-9]+\s*", cells[1]):
            raise ValueError(f"{path}, line {line}: expected video,second, got {','.join(cells)!r}")
        keys.add(frame_key(cells[0], int(cells[1])))
    return frozenset(keys)


def read_label_map(path: str | os.PathLike[str]) -> dict[int, str]:
    """Read the numbers and names of classes.

    The file is a protocol buffer as text, with entries ``item { name: "stand" id: 12 }``, or as AVA's own lists have
    them, ``label { name: "stand" label_id: 12 label_type: PERSON_MOVEMENT }``. Further fields have no effect.

    Raises:
        ValueError: the file is of another format, has no entries, or one without name or number, or two with the same
            number.
        FileNotFoundError: there is no such file.
    """
    text = re.sub(r"(?m)^[ \t]*#.*$", "", _read_text(Path(path)))
    wanted = 'expected entries like item { name: "stand" id: 12 }'
    names: dict[int, str] = {}
    end = 0
    for entry in _ENTRY.finditer(text):
        _check_empty(path, text, end, entry.start(), wanted)
        end = entry.end()
        where = f"{path}, line {_line_number(text, entry.start())}"
        fields: dict[str, str] = dict(_FIELD.findall(entry[1]))
        name, number = fields.get("name", ""), fields.get("id", fields.get("label_id", ""))
        if name[:1] not in ("'", '"') or not re.fullmatch("0*[1-9][0-9]*", number):
            raise ValueError(f"{where}: an entry needs a name in quotation marks and a number from 1 on; {wanted}")
        if int(number) in names:
            raise ValueError(f"{where}: the number {number} is already that of {names[int(number)]!r}")
        names[int(number)] = re.sub(r"\\(.)", r"\1", name[1:-1])
    _check_empty(path, text, end, len(text), wanted)
    if not names:
        raise ValueError(f"{path} has no classes: {wanted}")
    return names


def write_ava_csv(path: str | os.PathLike[str], rows: Iterable[tuple[str, float, Any, int, float]]) -> None:
    """Write detections; the file appears whole or not at all.

    The digits are those that PySlowFast writes (slowfast/utils/ava_eval_helper.py, ``write_results``): three behind
    the point for boxes, four for scores.

    Args:
        path: the file.
        rows: video, second, box (x1, y1, x2, y2 from 0 to 1), action and score of each, as in :class:`AvaRow`.

    Raises:
        ValueError: a second is not whole, or a number is not finite.
        FileNotFoundError: there is no such folder.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {target}: there is no folder {target.parent}")
    with whole_file(target) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for video, timestamp, box, action, score in rows:
            x1, y1, x2, y2 = box
            if not math.isfinite(x1 + y1 + x2 + y2 + score):
                raise ValueError(f"{video}, second {timestamp}: the box {tuple(box)} or score {score} is not finite")
            corners = [f"{corner:.3f}" for corner in (x1, y1, x2, y2)]
            writer.writerow((video, f"{_whole_second(video, timestamp):04d}", *corners, int(action), f"{score:.4f}"))


def _whole_second(video: str, timestamp: float) -> int:
    if timestamp != (second := round(timestamp)):
        raise ValueError(f"{video}: AVA's key frames are at whole seconds, not at {timestamp}")
    return second


def _parse_rows(source: Path, detections: bool) -> Iterator[AvaRow]:
    for line, cells in read_lines(source):
        try:
            video, second, x1, y1, x2, y2, action, *last = cells
            if len(last) > 1:
                raise ValueError
            box = float(x1), float(y1), float(x2), float(y2)
            row = AvaRow(video, int(second), box, int(action or 0), float(last[0]) if detections else 1.0)
        except (ValueError, IndexError):
            if len(cells) > 2 and not any(cells[2:]):
                continue
            wanted = "action,score" if detections else "action,person"
            raise ValueError(
                f"{source}, line {line}: expected video,second,x1,y1,x2,y2,{wanted}, got {','.join(cells)!r}"
            ) from None
        if not math.isfinite(sum(box) + row.score):
            raise ValueError(f"{source}, line {line}: not all numbers are finite: {','.join(cells)!r}")
        yield row


def read_lines(source: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each line of a CSV that is not empty.

    Raises:
        ValueError: it is not UTF-8, or a quotation mark is out of place.
    """
    rows = csv.reader(io.StringIO(_read_text(source)))
    try:
        for cells in rows:
            if cells:
                yield rows.line_num, cells
    except csv.Error as error:
        raise ValueError(f"{source}, line {rows.line_num}: {error}; is a quotation mark out of place?") from error


def _read_text(source: Path) -> str:
    try:
        text = source.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ValueError(f"{source} is no text in UTF-8")
    return text


def _check_empty(path: str | os.PathLike[str], text: str, start: int, end: int, wanted: str) -> None:
    rest = text[start:end].strip()
    if rest:
        line = _line_number(text, text.index(rest, start))
        raise ValueError(f"{path}, line {line}: {wanted}, got {rest.splitlines()[0][:60]!r}")


def _line_number(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1
