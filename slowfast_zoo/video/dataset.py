"""Lists of videos and their labels, in the forms that projects write them."""

from __future__ import annotations

import ast
import codecs
import contextlib
import csv
import difflib
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .media import local_path
from .segment import Segment
from .source import IMAGE_SUFFIXES, is_left_out

# What a folder is searched for. A file of any other name can be given by itself.
VIDEO_SUFFIXES = (
    *(".264", ".265", ".266", ".3g2", ".3gp", ".3gpp", ".amv", ".apng", ".asf", ".avi", ".avif", ".avs2", ".avs3"),
    *(".bik", ".cavs", ".cine", ".cpk", ".dif", ".divx", ".drc", ".dv", ".dvr-ms", ".evo", ".f4v", ".flc", ".fli"),
    *(".flv", ".gif", ".gxf", ".h261", ".h263", ".h264", ".h265", ".h266", ".hevc", ".insv", ".ismv", ".ivf", ".lrv"),
    *(".m1v", ".m2p", ".m2t", ".m2ts", ".m2v", ".m4v", ".mj2", ".mjpeg", ".mjpg", ".mk3d", ".mkv", ".mov", ".mp4"),
    *(".mp4v", ".mpe", ".mpeg", ".mpg", ".mpg4", ".mpv", ".mts", ".mxf", ".nsv", ".nut", ".obu", ".ogm", ".ogv"),
    *(".ogx", ".qt", ".rm", ".rmvb", ".roq", ".smk", ".swf", ".tod", ".tp", ".trp", ".ts", ".vc1", ".viv", ".vob"),
    *(".vvc", ".webm", ".wmv", ".wtv", ".y4m"),
)

# Columns of a header: of each kind the first that is there. Case, spaces and hyphens do not matter.
_PATHS = (
    *("path", "video", "file", "video_path", "file_path", "filepath", "filename", "file_name", "video_name"),
    *("video_file", "videopath", "videoname", "clip", "clip_path", "clip_name", "url", "uri", "video_url"),
    *("video_id", "videoid", "clip_id", "youtube_id", "vid", "name", "id"),
)
_LABELS = (
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
# What else may tell where a segment is, in what nobody knows.
_OTHER_TIMES = re.compile(
    r"(.*_)?(start|begin|end|stop|finish|onset|offset|first|last)"
    r"(_?\(?(ms|msecs?|millis|milliseconds?|min|minutes?|frames?|frame_?(number|no|num|id|idx|index)|idx|index)\)?)?"
    r"|frame_?(start|begin|end|stop|from|to)"
)
_EMPTY = ("", "nan", "none", "null", "na", "n/a")


@dataclass(frozen=True)
class LabelledVideo:
    """A line of a dataset.

    Attributes:
        name: the video's path as the list has it.
        video: where it is: that path, from the root, or a URL.
        targets: indices of its classes.
        start: the second at which it begins, where it is a segment of the video.
        end: the second at which it ends, likewise; None is the video's own end.
    """

    name: str
    video: str
    targets: tuple[int, ...]
    start: float | None = None
    end: float | None = None

    @property
    def source(self) -> str | Segment:
        """What is opened: the video, or its segment."""
        if self.start is None and self.end is None:
            return self.video
        return Segment(self.video, self.start or 0.0, self.end)

    @property
    def place(self) -> tuple[str | float | None, ...]:
        """What tells it from others, whatever its labels."""
        return (self.name,) if self.start is None and self.end is None else (self.name, self.start, self.end)


class _Row(NamedTuple):
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


def read_dataset(
    path: str | os.PathLike[str],
    labels: Sequence[str],
    *,
    root: str | os.PathLike[str] | None = None,
    multi_label: bool | None = None,
) -> list[LabelledVideo]:
    """Read a list of videos and their labels.

    The first line tells which of three forms it is: CSV with a header that has a column ``path`` (or ``video``,
    ``file``, ``filename``, ...) and a column ``label`` (or ``class``, ``category``, ``action``, ...), among others that
    are ignored; CSV without one, path and label, perhaps behind a count of lines; or a path, a space and a label, as
    PySlowFast and MMAction2 have them. In CSV commas, tabs or semicolons separate. A label is the name of a class or
    its index, ``2.0`` like ``2``. Several are separated by ``;`` or ``|``, or are further fields of a line without
    header. Lines that begin with ``#`` are comments.

    Columns ``start`` and ``end`` (``time_start``, ``stop``, ...; or ``start`` and ``duration``), in seconds or as
    ``hours:minutes:seconds``, make each line a segment of its video: two lines of one video are two segments.

    Args:
        path: the list, in UTF-8, or in UTF-16 with its mark.
        labels: names of the classes, in the order of their indices.
        root: the folder that the paths start from; None is the list's own.
        multi_label: whether a video may have several labels, or none; None means if any has several. If True, all the
            numbers that end a line with spaces are labels.

    Raises:
        ValueError: the list is empty, lacks a column, names an unknown class, has no label or several for a video that
            must have one, or times that are none; the message names the line.
        FileNotFoundError: there is no such list, or not one of its videos is there.
    """
    source = Path(path)
    text = _read_text(source)
    classes = {name: index for index, name in enumerate(labels)}
    folder = source.parent if root is None else Path(root)
    found: list[tuple[int, LabelledVideo]] = []
    for row in _rows(source, text, classes, multi_label is True):
        indices = [_index(f"{source}, line {row.line}", label, classes) for label in _split(row.labels, classes)]
        targets = tuple(dict.fromkeys(indices))
        found.append((row.line, LabelledVideo(row.name, _placed(row.name, folder), targets, row.start, row.end)))
    entries = [entry for _, entry in found]
    if not entries:
        raise ValueError(f"{source} has no videos: expected lines of a path and a label")
    if multi_label is None:
        multi_label = any(len(entry.targets) > 1 for entry in entries)
    _check_labels(source, found, multi_label)
    _check_folders(source, entries, classes)
    _check_places(source, entries)
    return entries


def read_videos(path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None) -> list[LabelledVideo]:
    """Read the videos and segments of a list, each once, in a form that :func:`read_dataset` reads; labels may lack.

    Args:
        path: the list.
        root: the folder that the paths start from; None is the list's own.

    Raises:
        ValueError: the list is empty, no text, lacks a column for the path, or has times that are none.
        FileNotFoundError: there is no such list, or not one of its videos is there.
    """
    source = Path(path)
    folder = source.parent if root is None else Path(root)
    rows = _rows(source, _read_text(source), {}, False, needs_label=False)
    entries = [LabelledVideo(row.name, _placed(row.name, folder), (), row.start, row.end) for row in rows]
    entries = list(dict.fromkeys(entries))
    if not entries:
        raise ValueError(f"{source} has no videos: expected lines with the path of one")
    _check_places(source, entries)
    return entries


def labels_in_list(path: str | os.PathLike[str]) -> tuple[str, ...] | None:
    """The class names that a list of videos mentions, sorted: the labels of :func:`read_dataset`, if nobody knows them.

    Args:
        path: the list, in UTF-8, in a form that :func:`read_dataset` reads.

    Returns:
        The names, or None where all labels are whole numbers, which are indices.

    Raises:
        ValueError: the list has no labels, or lacks a column.
        FileNotFoundError: there is no such list.
    """
    source = Path(path)
    rows = _rows(source, _read_text(source), {}, False)
    lines = {label: row.line for row in rows for label in _split(row.labels, {})}
    if not lines:
        raise ValueError(f"{source} has no labels: expected lines of a path and a label")
    numbers = list(filter(_is_number, lines))
    if all(map(_is_integer, lines)):
        return None
    if numbers and len(numbers) < len(lines):
        name = min(set(lines) - set(numbers))
        raise ValueError(
            f"{source}: labels are names or indices, not both: {name!r} in line {lines[name]}, {numbers[0]!r} in line "
            f"{lines[numbers[0]]}; give the names of all classes as labels if some are numbers"
        )
    if numbers:
        wrong = next(number for number in numbers if not _is_integer(number))
        raise ValueError(f"{source}, line {lines[wrong]}: the label {wrong!r} is no whole number and no name")
    return tuple(sorted(lines))


def read_class_folders(
    path: str | os.PathLike[str], labels: Sequence[str] | None = None
) -> tuple[list[LabelledVideo], tuple[str, ...]]:
    """Read a folder that has a folder of videos for each class.

    A video is a file with a suffix of ``VIDEO_SUFFIXES`` in a class's folder or in one within; a folder within that
    holds images and no videos is a video too. Links to folders are followed. Hidden files and folders, and what systems
    leave in folders (``__MACOSX``), are left out.

    Args:
        path: the folder.
        labels: names of the classes, in the order of their indices; None takes those of the folders, sorted.

    Returns:
        The videos, class by class and in the order of their paths, and the names of the classes.

    Raises:
        FileNotFoundError: there is no such folder.
        OSError: a folder cannot be read.
        ValueError: it has no folders, a folder without videos, or one that is none of ``labels``.
    """
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {os.fspath(path)!r}: expected one with a folder for each class")
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not is_left_out(entry.name))
    if not names:
        raise ValueError(f"{root} has no folders: expected one for each class, with its videos")
    classes = {name: index for index, name in enumerate(names if labels is None else labels)}
    entries = []
    for name in names:
        videos = sorted(_videos_in(root / name))
        if not videos:
            raise ValueError(
                f"{root / name} has no videos, but stands for a class: expected files such as .mp4, or folders of "
                "images, in it. Remove the folder if it is no class"
            )
        target = (_index(f"{root}, folder {name}", name, classes),)
        entries += [LabelledVideo(video.relative_to(root).as_posix(), str(video), target) for video in videos]
    return entries, tuple(classes)


def walk(
    folder: str | os.PathLike[str], *, apart: str | os.PathLike[str] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Each folder in a folder, itself first, and the names of its files, sorted; none that are left out.

    Links to folders are followed. A folder that is reached in several ways, as by a link that leads back, comes once;
    links to ``apart``, the folder that this one is in, are left alone.

    Raises:
        OSError: one of the folders cannot be read.
    """

    def unreadable(error: OSError) -> None:
        raise error

    seen = set() if apart is None else {os.path.realpath(apart)}
    for place, folders, files in os.walk(folder, followlinks=True, onerror=unreadable):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        # Links last, so that what they lead to keeps its own name.
        folders[:] = sorted(
            (name for name in folders if not is_left_out(name)),
            key=lambda name: (os.path.islink(os.path.join(place, name)), name),
        )
        yield place, sorted(name for name in files if not is_left_out(name))


def _videos_in(folder: Path) -> Iterator[Path]:
    """The videos in a class's folder, and in the folders within."""
    for place, files in walk(folder, apart=folder.parent):
        suffixes = {name: Path(name).suffix.lower() for name in files}
        videos = [Path(place, name) for name, suffix in suffixes.items() if suffix in VIDEO_SUFFIXES]
        yield from videos
        if not videos and Path(place) != folder and any(suffix in IMAGE_SUFFIXES for suffix in suffixes.values()):
            yield Path(place)


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


def _rows(
    source: Path, text: str, classes: Mapping[str, int], many: bool, *, needs_label: bool = True
) -> Iterator[_Row]:
    """What each line says."""
    delimiter = _delimiter(text, classes) if needs_label else _delimiter_of_paths(text, classes)
    rows = list(_cells(source, text, delimiter, many))
    columns, place, label = None, 0, 1
    if rows:
        line, cells = rows[0]
        second = rows[1][1] if len(rows) > 1 else []
        if _is_header(cells, classes, second):
            columns = _columns(source, line, cells, needs_label=needs_label)
        elif _is_count(cells) and second and not _is_count(second):  # pandas' names of columns
            columns = _Columns(1, 2) if not cells[0] else _Columns(0, 1)
        elif len(cells) > 2 and _is_integer(cells[0]) and _is_video(cells[1]):  # pandas' count of the lines
            place, label = 1, 2
        elif len(cells) == 2 and not _is_video(cells[0]) and _is_video(cells[1]):
            if needs_label and len(rows) > 1 and _is_count([cells[0] for _, cells in rows]):
                raise ValueError(f"{source}, line {line}: a count of the lines and a path, but no label")
            place, label = 1, 0
        elif any(map(_is_video, second)) and not any(map(_is_video, cells)) and not _labels(cells, classes):
            columns = _columns_by_cells(source, line, cells, [cells for _, cells in rows[1:]])
    for line, cells in rows[columns is not None :]:
        if columns is not None and cells == rows[0][1]:  # lists that were joined
            continue
        found = columns or _Columns(place, label if needs_label else None)
        if len(cells) <= max(found.path, found.label or 0) or not cells[found.path]:
            wanted = "a path and a label" if needs_label else "a path"
            raise ValueError(f"{source}, line {line}: expected {wanted}, got {' '.join(cells)!r}")
        if columns is not None and any(cells[len(rows[0][1]) :]):
            raise ValueError(
                f"{source}, line {line}: there are {len(cells)} cells, and {len(rows[0][1])} in the header: put "
                "quotation marks around what has a separator in it"
            )
        fields = [] if found.label is None else [cells[found.label]]
        if found.label is not None and columns is None and found.label > found.path:
            fields = cells[found.label :]
        if columns is None and len(fields) > 1 and any("." in field and _is_number(field) for field in fields):
            raise ValueError(
                f"{source}, line {line}: this seems to name a part of a video by its start and end: name the columns "
                "in a first line, such as path,start,end,label"
            )
        yield _Row(line, cells[found.path], fields, *_times(f"{source}, line {line}", cells, found))


def _columns_by_cells(source: Path, line: int, header: Sequence[str], rows: Sequence[Sequence[str]]) -> _Columns:
    """What a header in words that are not known says, where it is clear: a path and the name of a class."""
    names = [place for place, name in enumerate(header) if name and _column(name) != "unnamed:_0"]
    paths = [place for place in names if place < len(rows[0]) and _is_video(rows[0][place])]
    others = [place for place in names if place not in paths]
    if len(paths) == len(others) == 1:
        cells = {cells[others[0]] for cells in rows if others[0] < len(cells)}
        if header[others[0]] not in cells and not any(map(_is_number, cells)):
            return _Columns(paths[0], others[0])
    raise ValueError(
        f"{source}, line {line}: {', '.join(header)!r} is no path and label: if these are names of columns, "
        "call them path and label"
    )


def _times(where: str, cells: Sequence[str], columns: _Columns) -> tuple[float | None, float | None]:
    """Start and end of a segment; None where a line does not say."""

    def seconds(column: int | None) -> float | None:
        cell = "" if column is None or column >= len(cells) else cells[column]
        return None if cell.lower() in _EMPTY else _seconds(where, cell)

    start, end = seconds(columns.start), seconds(columns.end)
    if start is not None and columns.end is None and (length := seconds(columns.length)) is not None:
        end = start + length
    if start is not None or end is not None:
        try:
            Segment("", start or 0.0, end)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    return start, end


def _seconds(where: str, cell: str) -> float:
    """Of seconds, or of hours, minutes and seconds."""
    parts = cell.replace(",", ".").split(":")
    if len(parts) > 3 or not all(re.fullmatch(r"-?[0-9]{1,12}(\.[0-9]*)?", part.strip()) for part in parts):
        raise ValueError(f"{where}: {cell!r} is no time: expected seconds such as 12.5, or hours:minutes:seconds")
    seconds = 0.0
    for part in parts:
        seconds = 60 * seconds + float(part)
    return seconds


def _delimiter_of_paths(text: str, classes: Mapping[str, int]) -> str:
    """The same where lines may be paths alone, which may have spaces."""
    delimiter = _delimiter(text, classes)
    first = next((line for line in text.split("\n") if line.strip()), "")
    if delimiter != " " or _is_header(first.split(), classes) or _VIDEO_AND_MORE.fullmatch(first.strip()):
        return delimiter
    return "\n"


def _delimiter(text: str, classes: Mapping[str, int]) -> str:
    """What separates the cells: comma, tab, space, semicolon or bar, the first that makes sense of the first lines."""
    first, second = ([line.strip() for line in text.split("\n") if line.strip()] + ["", ""])[:2]
    # Semicolon and bar last, since they separate labels as well.
    candidates = {d: _split_line(first, d) for d in ",\t ;|" if d in first or d == " "}
    for delimiter, cells in candidates.items():
        names = set(map(_column, cells))
        if _is_header(cells, classes) and not (names.isdisjoint(_PATHS) or names.isdisjoint(_LABELS)):
            return delimiter
    for delimiter, cells in candidates.items():
        if _is_header(cells, classes) or _labels(cells, classes):
            return delimiter
    for line in (first, second):
        split = {d: cells for d in candidates if len(cells := _split_line(line, d)) > 1}
        for is_path in (lambda cell: cell.lower().endswith(VIDEO_SUFFIXES), _is_video):
            for delimiter, cells in split.items():
                if any(map(is_path, cells)):
                    return delimiter
    return next(iter(candidates))


# A path and more; spaces are in both.
_VIDEO_AND_MORE = re.compile(
    rf"(?P<path>.+({'|'.join(map(re.escape, VIDEO_SUFFIXES))})\"?)\s+(?P<more>\S.*)", re.IGNORECASE
)


def _split_line(line: str, delimiter: str) -> list[str]:
    if delimiter != " ":
        return next(csv.reader([line], delimiter=delimiter), [])
    if found := _VIDEO_AND_MORE.fullmatch(line):
        return [found["path"].strip('"'), found["more"].strip('"')]
    return [word.strip('"') for word in line.rsplit(None, 1)]


def _labels(cells: Sequence[str], classes: Mapping[str, int]) -> bool:
    """Whether what follows the first cell is labels, names of known classes or indices."""
    labels = _split(cells[1:], classes)
    return bool(labels) and all(label in classes or _is_integer(label) for label in labels)


def _cells(source: Path, text: str, delimiter: str, many: bool) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each line that is not empty."""
    if delimiter == "\n":
        yield from ((number, [line.strip()]) for number, line in enumerate(text.split("\n"), 1) if line.strip())
        return
    if delimiter == " ":
        for number, line in enumerate(text.split("\n"), 1):
            words, labels = line.split(), 1
            while many and labels < len(words) - 1 and _is_integer(words[-labels - 1]):
                labels += 1
            if labels > 1:
                yield number, [word.strip('"') for word in line.strip().rsplit(None, labels)]
            elif words:
                yield number, _split_line(line.strip(), " ")
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
    names = list(map(_column, cells))
    if set(names).isdisjoint(_PATHS + _LABELS) or any(map(_is_video, cells)) or any(map(_is_integer, cells[1:])):
        return False
    is_above_path = any(name in _PATHS and _is_video(cell) for name, cell in zip(names, following, strict=False))
    return is_above_path or not any(cell in classes for cell in cells[1:])


def _is_count(cells: Sequence[str]) -> bool:
    """Whether they are 0, 1, ..., perhaps behind an empty one."""
    numbers = list(cells[1:] if cells and not cells[0] else cells)
    return len(numbers) > 1 and numbers == list(map(str, range(len(numbers))))


def _is_video(cell: str) -> bool:
    """Whether it looks like the path of a video."""
    return "/" in cell or "\\" in cell or cell.lower().endswith(VIDEO_SUFFIXES)


def _column(cell: str) -> str:
    """The name of a column, however it is written."""
    return re.sub(r"[\s_-]+", "_", cell.strip().lower().replace("[", "(").replace("]", ")"))


def _placed(name: str, folder: Path) -> str:
    """Where a video of a list is."""
    return name if "://" in name else str(folder / name)


def _check_places(source: Path, entries: Sequence[LabelledVideo]) -> None:
    places = (local_path(entry.video) for entry in entries)
    if not any(place is None or os.path.exists(place) for place in places):
        raise FileNotFoundError(
            f"no video of {source} is there, the first would be {entries[0].video}: is root, the folder that their "
            "paths start from, the right one?"
        )


def _columns(source: Path, line: int, cells: Sequence[str], *, needs_label: bool) -> _Columns:
    """What a header says."""
    names = [_column(cell) for cell in cells]
    if {"from", "to"} <= set(names):
        names = [{"from": "start", "to": "end"}.get(name, name) for name in names]
    places: list[int | None] = []
    for kind in (_PATHS, _LABELS):
        place = next((names.index(name) for name in kind if name in names), None)
        if place is None and (needs_label or kind is _PATHS):
            wanted = " or ".join(kind[:3] if kind is _PATHS else kind[:2])
            raise ValueError(f"{source}, line {line}: no column {wanted} in the header {', '.join(cells)!r}")
        places.append(place)
    for pattern in (_START, _END, _LENGTH):
        places.append(next((i for i, name in enumerate(names) if i not in places and pattern.fullmatch(name)), None))
    others = [cell for i, cell in enumerate(cells) if i not in places and _OTHER_TIMES.fullmatch(names[i])]
    if others and (places[2] is None or places[3] is None is places[4]):
        raise ValueError(
            f"{source}, line {line}: the column {others[0]!r} does not count seconds, or nobody knows: segments of "
            "videos need the columns start and end, in seconds. Rename it if it is no part of a video"
        )
    return _Columns(places[0] or 0, *places[1:])


def _split(fields: Sequence[str], classes: Mapping[str, int]) -> list[str]:
    """The labels in fields that may hold several each."""
    parts = [part for field in fields for part in ([field] if field in classes else _parts(field))]
    return [part.strip() for part in parts if part.strip() and (part in classes or part.lower() != "nan")]


def _parts(field: str) -> Sequence[str]:
    if field.startswith("[") and field.endswith("]"):  # as pandas writes lists
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return list(map(str, ast.literal_eval(field)))
    return re.split("[;|]", field)


def _is_integer(text: str) -> bool:
    return _integer(text) is not None


def _integer(text: str) -> int | None:
    """The whole number that a text is, perhaps as pandas, NumPy and spreadsheets write it: 2.0, 2,0, 2.000e+00."""
    if not re.fullmatch(r"[+-]?[0-9]{1,18}([.,][0-9]*)?(e[+-]?[0-9]{1,2})?", text, re.IGNORECASE):
        return None
    number = float(text.replace(",", "."))
    return int(number) if number.is_integer() else None


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]*[.,]?[0-9]+(e[+-]?[0-9]+)?", text, re.IGNORECASE) is not None


def _index(where: str, label: str, classes: Mapping[str, int]) -> int:
    """The class that a label names, by name or by index."""
    if label in classes:
        return classes[label]
    index = _integer(label)
    if index is not None:
        if 0 <= index < len(classes):
            return index
        hint = "; does the list count from 1?" if index == len(classes) else ""
        raise ValueError(f"{where}: there is no class {label}, indices go from 0 to {len(classes) - 1}{hint}")
    plain = {_plain(name): name for name in classes}
    near = [repr(plain[name]) for name in difflib.get_close_matches(_plain(label), plain)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"classes are {', '.join(list(classes)[:3])}, ..."
    raise ValueError(f"{where}: unknown class {label!r}; {hint}")


def _plain(name: str) -> str:
    return name.lower().replace("_", " ")


def _check_labels(source: Path, found: Sequence[tuple[int, LabelledVideo]], multi_label: bool) -> None:
    seen: dict[tuple[str | float | None, ...], tuple[int, LabelledVideo]] = {}
    for line, entry in found:
        count = len(entry.targets)
        if not multi_label and count != 1:
            raise ValueError(f"{source}, line {line}: expected one label for {entry.name!r}, got {count or 'none'}")
        before, same = seen.setdefault(entry.place, (line, entry))
        if same.targets != entry.targets:
            raise ValueError(
                f"{source}, line {line}: {entry.name!r} has other labels in line {before}; several labels of a video "
                "stand in one line, separated by ;"
            )


def _check_folders(source: Path, entries: Sequence[LabelledVideo], classes: Mapping[str, int]) -> None:
    """Refuse labels that count from 1, where the folders of the videos are named after classes."""
    own = [classes.get(os.path.basename(os.path.dirname(entry.name))) for entry in entries]
    if all(i is not None and entry.targets == (i + 1,) for i, entry in zip(own, entries, strict=True)):
        raise ValueError(
            f"{source}: labels seem to count from 1, since each is one more than the index of the class that the "
            "video's folder is named after: indices start at 0"
        )
