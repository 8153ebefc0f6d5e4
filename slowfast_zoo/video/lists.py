"""The lines of a list of videos, in whatever form people, spreadsheets and programs wrote them."""

from __future__ import annotations

import ast
import codecs
import contextlib
import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .segment import Segment
from .source import VIDEO_SUFFIXES

# Columns of a header: of each kind the first that is there. Case, spaces and hyphens do not matter.
_PATH_COLUMNS = (
    *("path", "video", "file", "video_path", "file_path", "filepath", "filename", "file_name", "video_name"),
    *("video_file", "videopath", "videoname", "clip", "clip_path", "clip_name", "url", "uri", "video_url"),
    *("video_id", "videoid", "clip_id", "youtube_id", "vid", "name", "id"),
)
_LABEL_COLUMNS = (
    *("label", "labels", "class", "classes", "class_name", "classname", "category", "action", "target", "targets"),
    *("label_name", "action_label", "action_name", "category_name", "class_label", "ground_truth", "gt", "activity"),
    *("tag", "tags", "y", "label_id", "label_index"),
    *("label_idx", "class_id", "class_index", "class_idx", "classid", "category_id", "action_id"),
)
_UNIT = r"_?(t|time|times|timestamp|s|sec|secs|second|seconds|\(s\)|\(sec\)|\(seconds\))?"
_OF = r"(t|time|timestamp|seconds?|secs?|segment|clip|video|action|event)?_?"
_START = re.compile(rf"{_OF}(start|starts|begin|begins|beginning|onset){_UNIT}")
_END = re.compile(rf"{_OF}(end|ends|stop|stops|finish|finishes|until){_UNIT}")
_LENGTH = re.compile(rf"(segment|clip)?_?(duration|length){_UNIT}")
# Columns that say where a segment is in another unit, or in one that is not known.
_OTHER_TIMES = re.compile(
    r"(.*_)?(start|begin|end|stop|finish|onset|offset|first|last)"
    r"(_?\(?(ms|msecs?|millis|milliseconds?|min|minutes?|frames?|frame_?(number|no|num|id|idx|index)|idx|index)\)?)?"
    r"|frame_?(start|begin|end|stop|from|to)"
)
_EMPTY = ("", "nan", "none", "null", "na", "n/a")


class Row(NamedTuple):
    """A line of a list: what it says of a video."""

    line: int
    name: str
    labels: Sequence[str]
    start: float | None
    end: float | None


class _Columns(NamedTuple):
    """Where a table has what."""

    path: int
    label: int | None
    start: int | None = None
    end: int | None = None
    length: int | None = None


def read_rows(
    source: Path, classes: Mapping[str, int], *, all_numbers: bool = False, needs_label: bool = True
) -> Iterator[Row]:
    """What each line of a list says.

    Args:
        source: the list.
        classes: the known names of classes; none where they are not known.
        all_numbers: where spaces separate, all numbers that end a line are labels, not only the last.
        needs_label: whether a line must have a label; if not, lines may be paths alone, which may have spaces.

    Raises:
        ValueError: the list is no text, or a line is none of what a list may hold; the message names it.
        FileNotFoundError: there is no such list.
    """
    text = _read_text(source)
    delimiter = _find_delimiter(text, classes)
    if not needs_label and delimiter == " ":
        first = next((line.strip() for line in text.split("\n") if line.strip()), "")
        if not (_is_header(first.split(), classes) or _VIDEO_AND_MORE.fullmatch(first)):
            delimiter = "\n"
    rows = list(_split_lines(source, text, delimiter, all_numbers))
    columns, has_header = _find_columns(source, rows, classes, needs_label)
    header = rows[0][1] if has_header else None
    for line, cells in rows[has_header:]:
        if cells == header:  # lists that were joined
            continue
        where = f"{source}, line {line}"
        if len(cells) <= max(columns.path, columns.label or 0) or not cells[columns.path]:
            wanted = "a path and a label" if needs_label else "a path"
            raise ValueError(f"{where}: expected {wanted}, got {' '.join(cells)!r}")
        if header is not None and any(cells[len(header) :]):
            raise ValueError(
                f"{where}: there are {len(cells)} cells, and {len(header)} in the header: put quotation marks around "
                "what has a separator in it"
            )
        fields = [] if columns.label is None else [cells[columns.label]]
        if columns.label is not None and header is None and columns.label > columns.path:
            fields = cells[columns.label :]
            if len(fields) > 1 and any("." in field and is_number(field) for field in fields):
                raise ValueError(
                    f"{where}: this seems to name a part of a video by its start and end: name the columns in a first "
                    "line, such as path,start,end,label"
                )
        yield Row(line, cells[columns.path], fields, *_read_times(where, cells, columns))


def _find_columns(
    source: Path, rows: Sequence[tuple[int, list[str]]], classes: Mapping[str, int], needs_label: bool
) -> tuple[_Columns, bool]:
    """Where a table has what, and whether its first line is a header.

    In this order: a header of known words; one that pandas wrote for a table without names; no header, but a count of
    the lines in front; the label in front of the path; a header of words that are not known.
    """
    label = 1 if needs_label else None
    if not rows:
        return _Columns(0, label), False
    line, cells = rows[0]
    second = rows[1][1] if len(rows) > 1 else []
    if _is_header(cells, classes, second):
        return _read_header(source, line, cells, needs_label=needs_label), True
    if _is_count(cells) and second and not _is_count(second):  # pandas' names of columns
        return _Columns(1, 2) if not cells[0] else _Columns(0, 1), True
    if len(cells) > 2 and is_integer(cells[0]) and _is_video(cells[1]):  # pandas' count of the lines
        return _Columns(1, 2 if needs_label else None), False
    if len(cells) == 2 and not _is_video(cells[0]) and _is_video(cells[1]):
        if needs_label and len(rows) > 1 and _is_count([cells[0] for _, cells in rows]):
            raise ValueError(f"{source}, line {line}: a count of the lines and a path, but no label")
        return _Columns(1, 0 if needs_label else None), False
    if any(map(_is_video, second)) and not any(map(_is_video, cells)) and not _are_labels(cells, classes):
        return _guess_columns(source, line, cells, [cells for _, cells in rows[1:]]), True
    return _Columns(0, label), False


def _read_header(source: Path, line: int, cells: Sequence[str], *, needs_label: bool) -> _Columns:
    """What a header says."""
    names = [_normalise_column(cell) for cell in cells]
    if {"from", "to"} <= set(names):
        names = [{"from": "start", "to": "end"}.get(name, name) for name in names]
    places: list[int | None] = []
    for kind in (_PATH_COLUMNS, _LABEL_COLUMNS):
        place = next((names.index(name) for name in kind if name in names), None)
        if place is None and (needs_label or kind is _PATH_COLUMNS):
            wanted = " or ".join(kind[:3] if kind is _PATH_COLUMNS else kind[:2])
            raise ValueError(f"{source}, line {line}: no column {wanted} in the header {', '.join(cells)!r}")
        places.append(place)
    for pattern in (_START, _END, _LENGTH):
        places.append(next((i for i, name in enumerate(names) if i not in places and pattern.fullmatch(name)), None))
    others = [cell for i, cell in enumerate(cells) if i not in places and _OTHER_TIMES.fullmatch(names[i])]
    if others and (places[2] is None or places[3] is None is places[4]):
        raise ValueError(
            f"{source}, line {line}: the column {others[0]!r} does not count seconds, or its unit is not known: "
            "segments of videos need the columns start and end, in seconds. Rename it if it is no part of a video"
        )
    return _Columns(places[0] or 0, *places[1:])


def _guess_columns(source: Path, line: int, header: Sequence[str], rows: Sequence[Sequence[str]]) -> _Columns:
    """What a header in words that are not known says, where it is clear: a path and the name of a class."""
    names = [place for place, name in enumerate(header) if name and _normalise_column(name) != "unnamed:_0"]
    paths = [place for place in names if place < len(rows[0]) and _is_video(rows[0][place])]
    others = [place for place in names if place not in paths]
    if len(paths) == len(others) == 1:
        cells = {cells[others[0]] for cells in rows if others[0] < len(cells)}
        if header[others[0]] not in cells and not any(map(is_number, cells)):
            return _Columns(paths[0], others[0])
    raise ValueError(
        f"{source}, line {line}: {', '.join(header)!r} is no path and label: if these are names of columns, "
        "call them path and label"
    )


def _read_times(where: str, cells: Sequence[str], columns: _Columns) -> tuple[float | None, float | None]:
    """Start and end of a segment; None where a line does not say."""

    def seconds(column: int | None) -> float | None:
        cell = "" if column is None or column >= len(cells) else cells[column]
        return None if cell.lower() in _EMPTY else _read_seconds(where, cell)

    start, end = seconds(columns.start), seconds(columns.end)
    if start is not None and columns.end is None and (length := seconds(columns.length)) is not None:
        end = start + length
    if start is not None or end is not None:
        try:
            Segment("", start or 0.0, end)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    return start, end


def _read_seconds(where: str, cell: str) -> float:
    """Of seconds, or of hours, minutes and seconds."""
    parts = cell.replace(",", ".").split(":")
    if len(parts) > 3 or not all(re.fullmatch(r"-?[0-9]{1,12}(\.[0-9]*)?", part.strip()) for part in parts):
        raise ValueError(f"{where}: {cell!r} is no time: expected seconds such as 12.5, or hours:minutes:seconds")
    seconds = 0.0
    for part in parts:
        seconds = 60 * seconds + float(part)
    return seconds


def _find_delimiter(text: str, classes: Mapping[str, int]) -> str:
    """What separates the cells: comma, tab, space, semicolon or bar, the first that makes sense of the first lines."""
    first, second = ([line.strip() for line in text.split("\n") if line.strip()] + ["", ""])[:2]
    # Semicolon and bar last, since they separate labels as well.
    candidates = {d: _split_line(first, d) for d in ",\t ;|" if d in first or d == " "}
    for delimiter, cells in candidates.items():
        names = set(map(_normalise_column, cells))
        if _is_header(cells, classes) and not (names.isdisjoint(_PATH_COLUMNS) or names.isdisjoint(_LABEL_COLUMNS)):
            return delimiter
    for delimiter, cells in candidates.items():
        if _is_header(cells, classes) or _are_labels(cells, classes):
            return delimiter
    for line in (first, second):
        split = {d: cells for d in candidates if len(cells := _split_line(line, d)) > 1}
        for is_path in (lambda cell: cell.lower().endswith(VIDEO_SUFFIXES), _is_video):
            for delimiter, cells in split.items():
                if any(map(is_path, cells)):
                    return delimiter
    return next(iter(candidates))


# A path and more; spaces are in both.
_VIDEO_AND_MORE = re.compile(rf"(.+(?:{'|'.join(map(re.escape, VIDEO_SUFFIXES))})\"?)\s+(\S.*)", re.IGNORECASE)


def _split_line(line: str, delimiter: str, labels: int = 1) -> list[str]:
    if delimiter != " ":
        return next(csv.reader([line], delimiter=delimiter), [])
    found = _VIDEO_AND_MORE.fullmatch(line) if labels == 1 else None
    return [cell.strip('"') for cell in (found.groups() if found else line.rsplit(None, labels))]


def _are_labels(cells: Sequence[str], classes: Mapping[str, int]) -> bool:
    """Whether what follows the first cell is labels, names of known classes or indices."""
    labels = split_labels(cells[1:], classes)
    return bool(labels) and all(label in classes or is_integer(label) for label in labels)


def _split_lines(source: Path, text: str, delimiter: str, all_numbers: bool) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each line that is not empty; a line break as delimiter makes each line one cell."""
    if delimiter in " \n":
        for number, line in enumerate(map(str.strip, text.split("\n")), 1):
            if line and delimiter == "\n":
                yield number, [line]
            elif line:
                words, labels = line.split(), 1
                while all_numbers and labels < len(words) - 1 and is_integer(words[-labels - 1]):
                    labels += 1
                yield number, _split_line(line, " ", labels)
        return
    rows = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=delimiter != "\t", strict=True)
    try:
        for cells in rows:
            if any(cell.strip() for cell in cells):
                yield rows.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise ValueError(f"{source}, line {rows.line_num}: {error}; is a quotation mark out of place?") from error


def _is_header(cells: Sequence[str], classes: Mapping[str, int], following: Sequence[str] = ()) -> bool:
    """Whether these are names of columns, above a line of cells."""
    names = list(map(_normalise_column, cells))
    if (
        set(names).isdisjoint(_PATH_COLUMNS + _LABEL_COLUMNS)
        or any(map(_is_video, cells))
        or any(map(is_integer, cells[1:]))
    ):
        return False
    is_above_path = any(name in _PATH_COLUMNS and _is_video(cell) for name, cell in zip(names, following, strict=False))
    return is_above_path or not any(cell in classes for cell in cells[1:])


def _is_count(cells: Sequence[str]) -> bool:
    """Whether they are 0, 1, ..., perhaps behind an empty one."""
    numbers = list(cells[1:] if cells and not cells[0] else cells)
    return len(numbers) > 1 and numbers == list(map(str, range(len(numbers))))


def _is_video(cell: str) -> bool:
    """Whether it looks like the path of a video."""
    return "/" in cell or "\\" in cell or cell.lower().endswith(VIDEO_SUFFIXES)


def _normalise_column(cell: str) -> str:
    """The name of a column, however it is written."""
    return re.sub(r"[\s_-]+", "_", cell.strip().lower().replace("[", "(").replace("]", ")"))


def split_labels(fields: Sequence[str], classes: Mapping[str, int]) -> list[str]:
    """The labels in fields that may hold several each."""
    parts = [part for field in fields for part in ([field] if field in classes else _split_field(field))]
    return [part.strip() for part in parts if part.strip() and (part in classes or part.lower() != "nan")]


def _split_field(field: str) -> Sequence[str]:
    if field.startswith("[") and field.endswith("]"):  # as pandas writes lists
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return list(map(str, ast.literal_eval(field)))
    return re.split("[;|]", field)


def is_integer(text: str) -> bool:
    """Whether a text is a whole number."""
    return read_integer(text) is not None


def read_integer(text: str) -> int | None:
    """The whole number that a text is, perhaps as pandas, NumPy and spreadsheets write it: 2.0, 2,0, 2.000e+00."""
    if not re.fullmatch(r"[+-]?[0-9]{1,18}([.,][0-9]*)?(e[+-]?[0-9]{1,2})?", text, re.IGNORECASE):
        return None
    number = float(text.replace(",", "."))
    return int(number) if number.is_integer() else None


def is_number(text: str) -> bool:
    """Whether a text is a number, with a point or a comma."""
    return re.fullmatch(r"[+-]?[0-9]*[.,]?[0-9]+(e[+-]?[0-9]+)?", text, re.IGNORECASE) is not None


def _read_text(source: Path) -> str:
    content = source.read_bytes()
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ValueError(f"{source} is no text in UTF-8: expected a list of paths and labels, saved as CSV in UTF-8")
    if re.match(r'\s*(\{\s*"|\[\s*[\[{"])', text):
        raise ValueError(f"{source} is JSON: expected a list of paths and labels, saved as CSV")
    lines = text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    # Lines keep their numbers. Spreadsheets say in a first line what separates cells.
    return "\n".join("" if re.match(r"\s*#|sep=.$", line) else line for line in lines)
