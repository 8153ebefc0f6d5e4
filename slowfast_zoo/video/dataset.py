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
    try:
        text = source.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ValueError(f"{source} is no text in UTF-8: expected a list of paths and labels")
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
