"""Lists of videos and their labels, in the forms that projects write them."""

from __future__ import annotations

import csv
import difflib
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .source import IMAGE_SUFFIXES

# What a folder is searched for. A file of any other name can be given by itself.
VIDEO_SUFFIXES = (
    *(".3gp", ".asf", ".avi", ".f4v", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"),
    *(".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
)

_PATHS, _LABELS = ("path", "video", "file"), ("label", "labels")  # columns of a header


@dataclass(frozen=True)
class LabelledVideo:
    """A line of a dataset.

    Attributes:
        name: the video's path as the list has it.
        video: where it is: that path, from the root, or a URL.
        targets: indices of its classes.
    """

    name: str
    video: str
    targets: tuple[int, ...]


def read_dataset(
    path: str | os.PathLike[str],
    labels: Sequence[str],
    *,
    root: str | os.PathLike[str] | None = None,
    multi_label: bool | None = None,
) -> list[LabelledVideo]:
    """Read a list of videos and their labels.

    The first line tells which of three forms it is: CSV with a header that has a column ``path`` (or ``video``,
    ``file``) and a column ``label`` (or ``labels``), among others that are ignored; CSV without one, path and label; or
    a path, a space and a label, as PySlowFast and MMAction2 have them. A label is the name of a class or its index.
    Several are separated by ``;`` or ``|``, or are further fields of a line without header.

    Args:
        path: the list, in UTF-8.
        labels: names of the classes, in the order of their indices.
        root: the folder that the paths start from; None is the list's own.
        multi_label: whether a video may have several labels, or none; None means if any has several. If True, all the
            numbers that end a line with spaces are labels.

    Raises:
        ValueError: the list is empty, lacks a column, names an unknown class, or has no label or several for a video
            that must have one; the message names the line.
        FileNotFoundError: there is no such list, or not one of its videos is there.
    """
    source = Path(path)
    text = _read_text(source)
    classes = {name: index for index, name in enumerate(labels)}
    folder = source.parent if root is None else Path(root)
    found: list[tuple[int, LabelledVideo]] = []
    for line, name, fields in _rows(source, text, classes, multi_label is True):
        indices = [_index(f"{source}, line {line}", label, classes) for label in _split(fields, classes)]
        video = name if "://" in name else str(folder / name)
        found.append((line, LabelledVideo(name, video, tuple(dict.fromkeys(indices)))))
    entries = [entry for _, entry in found]
    if not entries:
        raise ValueError(f"{source} has no videos: expected lines of a path and a label")
    if multi_label is None:
        multi_label = any(len(entry.targets) > 1 for entry in entries)
    _check_labels(source, found, multi_label)
    if not any("://" in entry.video or os.path.exists(entry.video) for entry in entries):
        raise FileNotFoundError(
            f"no video of {source} is there, the first would be {entries[0].video}: is root, the folder that their "
            "paths start from, the right one?"
        )
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
    found = {label for _, _, fields in _rows(source, _read_text(source), {}, False) for label in _split(fields, {})}
    if not found:
        raise ValueError(f"{source} has no labels: expected lines of a path and a label")
    return None if all(map(_is_integer, found)) else tuple(sorted(found))


def read_class_folders(
    path: str | os.PathLike[str], labels: Sequence[str] | None = None
) -> tuple[list[LabelledVideo], tuple[str, ...]]:
    """Read a folder that has a folder of videos for each class.

    A video is a file with a suffix of ``VIDEO_SUFFIXES`` in a class's folder or in one within; a folder within that
    holds images and no videos is a video too. Hidden files and folders are left out.

    Args:
        path: the folder.
        labels: names of the classes, in the order of their indices; None takes those of the folders, sorted.

    Returns:
        The videos, class by class and in the order of their paths, and the names of the classes.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it has no folders, a folder without videos, or one that is none of ``labels``.
    """
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {os.fspath(path)!r}: expected one with a folder for each class")
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
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


def _videos_in(folder: Path) -> Iterator[Path]:
    """The videos in a class's folder, and in the folders within."""
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        suffixes = {name: Path(name).suffix.lower() for name in files if not name.startswith(".")}
        videos = [Path(place, name) for name, suffix in suffixes.items() if suffix in VIDEO_SUFFIXES]
        yield from videos
        if not videos and Path(place) != folder and any(suffix in IMAGE_SUFFIXES for suffix in suffixes.values()):
            yield Path(place)


def _read_text(source: Path) -> str:
    try:
        text = source.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ValueError(f"{source} is no text in UTF-8: expected a list of paths and labels")
    return text


def _rows(source: Path, text: str, classes: Mapping[str, int], many: bool) -> Iterator[tuple[int, str, Sequence[str]]]:
    """Line number, path and the fields that hold labels, of each video."""
    columns: tuple[int, int] | None = None
    for number, (line, cells) in enumerate(_cells(source, text, _delimiter(text, classes), many)):
        if number == 0 and _is_header(cells, classes):
            columns = _columns(source, line, cells)
            continue
        place, wanted = columns or (0, 1)
        if len(cells) <= max(place, wanted) or not cells[place]:
            raise ValueError(f"{source}, line {line}: expected a path and a label, got {' '.join(cells)!r}")
        yield line, cells[place], cells[1:] if columns is None else cells[wanted : wanted + 1]


def _delimiter(text: str, classes: Mapping[str, int]) -> str:
    """What separates the cells: comma, tab or space, the first that makes sense of the first line."""
    first = next((line.strip() for line in text.split("\n") if line.strip()), "")
    candidates = {
        delimiter: next(csv.reader([first], delimiter=delimiter)) for delimiter in ",\t" if delimiter in first
    }
    candidates[" "] = first.rsplit(None, 1)
    for delimiter, cells in candidates.items():
        labels = _split(cells[1:], classes)
        if _is_header(cells, classes) or (labels and all(label in classes or _is_integer(label) for label in labels)):
            return delimiter
    return next(iter(candidates))


def _cells(source: Path, text: str, delimiter: str, many: bool) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each line that is not empty."""
    if delimiter == " ":
        for number, line in enumerate(text.split("\n"), 1):
            words, labels = line.split(), 1
            while many and labels < len(words) - 1 and _is_integer(words[-labels - 1]):
                labels += 1
            if words:
                yield number, [word.strip('"') for word in line.strip().rsplit(None, labels)]
        return
    rows = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        for cells in rows:
            if any(cell.strip() for cell in cells):
                yield rows.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise ValueError(f"{source}, line {rows.line_num}: {error}; is a quotation mark out of place?") from error


def _is_header(cells: Sequence[str], classes: Mapping[str, int]) -> bool:
    names = {cell.strip().lower() for cell in cells}
    return not names.isdisjoint(_PATHS + _LABELS) and not any(cell in classes for cell in cells[1:])


def _columns(source: Path, line: int, cells: Sequence[str]) -> tuple[int, int]:
    """Where a header has the path and the label."""
    names = [cell.lower() for cell in cells]
    places = []
    for kind in (_PATHS, _LABELS):
        place = next((names.index(name) for name in kind if name in names), None)
        if place is None:
            raise ValueError(f"{source}, line {line}: no column {' or '.join(kind)} in the header {', '.join(cells)!r}")
        places.append(place)
    return places[0], places[1]


def _split(fields: Sequence[str], classes: Mapping[str, int]) -> list[str]:
    """The labels in fields that may hold several each."""
    parts = [part for field in fields for part in ([field] if field in classes else re.split("[;|]", field))]
    return [part.strip() for part in parts if part.strip()]


def _is_integer(text: str) -> bool:
    return re.fullmatch("-?[0-9]+", text) is not None


def _index(where: str, label: str, classes: Mapping[str, int]) -> int:
    """The class that a label names, by name or by index."""
    if label in classes:
        return classes[label]
    if _is_integer(label):
        if 0 <= int(label) < len(classes):
            return int(label)
        raise ValueError(f"{where}: there is no class {label}, indices go from 0 to {len(classes) - 1}")
    plain = {_plain(name): name for name in classes}
    near = [repr(plain[name]) for name in difflib.get_close_matches(_plain(label), plain)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"classes are {', '.join(list(classes)[:3])}, ..."
    raise ValueError(f"{where}: unknown class {label!r}; {hint}")


def _plain(name: str) -> str:
    return name.lower().replace("_", " ")


def _check_labels(source: Path, found: Sequence[tuple[int, LabelledVideo]], multi_label: bool) -> None:
    seen: dict[str, tuple[int, LabelledVideo]] = {}
    for line, entry in found:
        count = len(entry.targets)
        if not multi_label and count != 1:
            raise ValueError(f"{source}, line {line}: expected one label for {entry.name!r}, got {count or 'none'}")
        before, same = seen.setdefault(entry.name, (line, entry))
        if same.targets != entry.targets:
            raise ValueError(
                f"{source}, line {line}: {entry.name!r} has other labels in line {before}; several labels of a video "
                "stand in one line, separated by ;"
            )
