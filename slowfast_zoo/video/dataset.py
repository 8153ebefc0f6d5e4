"""Lists of videos and their labels, in the forms that projects write them."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .lists import Row, is_integer, is_number, read_integer, read_rows, split_labels
from .media import local_path
from .segment import Segment
from .source import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_left_out


@dataclass(frozen=True)
class LabelledVideo:
    """A line of a dataset.

    Attributes:
        name: the video's path as the list has it.
        video: where it is: that path, from the root, or a URL.
        targets: indices of its classes.
        start: the second at which it begins, where it is a segment of the video.
        end: the second at which the segment ends; None is the video's own end.
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
        """What identifies it, whatever its labels: name, start and end."""
        return (self.name,) if self.start is None and self.end is None else (self.name, self.start, self.end)


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
    classes = {name: index for index, name in enumerate(labels)}
    found: list[tuple[int, LabelledVideo]] = []
    for row in read_rows(source, classes, all_numbers=multi_label is True):
        where = f"{source}, line {row.line}"
        indices = [_find_class(where, label, classes) for label in split_labels(row.labels, classes)]
        found.append((row.line, _make_entry(row, source, root, tuple(dict.fromkeys(indices)))))
    entries = [entry for _, entry in found]
    if not entries:
        raise ValueError(f"{source} has no videos: expected lines of a path and a label")
    if multi_label is None:
        multi_label = any(len(entry.targets) > 1 for entry in entries)
    _check_labels(source, found, multi_label)
    _check_folders(source, entries, classes)
    _check_some_exist(source, entries)
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
    rows = read_rows(source, {}, needs_label=False)
    entries = list(dict.fromkeys(_make_entry(row, source, root, ()) for row in rows))
    if not entries:
        raise ValueError(f"{source} has no videos: expected lines with the path of one")
    _check_some_exist(source, entries)
    return entries


def labels_in_list(path: str | os.PathLike[str]) -> tuple[str, ...] | None:
    """The class names that a list of videos mentions, sorted: the labels for :func:`read_dataset`.

    Args:
        path: the list, in UTF-8, in a form that :func:`read_dataset` reads.

    Returns:
        The names, or None where all labels are whole numbers, which are indices.

    Raises:
        ValueError: the list has no labels, or lacks a column.
        FileNotFoundError: there is no such list.
    """
    source = Path(path)
    rows = read_rows(source, {})
    lines = {label: row.line for row in rows for label in split_labels(row.labels, {})}
    if not lines:
        raise ValueError(f"{source} has no labels: expected lines of a path and a label")
    numbers = list(filter(is_number, lines))
    if all(map(is_integer, lines)):
        return None
    if numbers and len(numbers) < len(lines):
        name = min(set(lines) - set(numbers))
        raise ValueError(
            f"{source}: labels are names or indices, not both: {name!r} in line {lines[name]}, {numbers[0]!r} in line "
            f"{lines[numbers[0]]}; give the names of all classes as labels if some are numbers"
        )
    if numbers:
        wrong = next(number for number in numbers if not is_integer(number))
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
        videos = sorted(_find_videos(root / name))
        if not videos:
            raise ValueError(
                f"{root / name} has no videos, but stands for a class: expected files such as .mp4, or folders of "
                "images, in it. Remove the folder if it is no class"
            )
        target = (_find_class(f"{root}, folder {name}", name, classes),)
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


def _find_videos(folder: Path) -> Iterator[Path]:
    """The videos in a class's folder, and in the folders within."""
    for place, files in walk(folder, apart=folder.parent):
        suffixes = {name: Path(name).suffix.lower() for name in files}
        videos = [Path(place, name) for name, suffix in suffixes.items() if suffix in VIDEO_SUFFIXES]
        yield from videos
        if not videos and Path(place) != folder and any(suffix in IMAGE_SUFFIXES for suffix in suffixes.values()):
            yield Path(place)


def _make_entry(row: Row, source: Path, root: str | os.PathLike[str] | None, targets: tuple[int, ...]) -> LabelledVideo:
    folder = source.parent if root is None else Path(root)
    video = row.name if "://" in row.name else str(folder / row.name)
    return LabelledVideo(row.name, video, targets, row.start, row.end)


def _check_some_exist(source: Path, entries: Sequence[LabelledVideo]) -> None:
    places = (local_path(entry.video) for entry in entries)
    if not any(place is None or os.path.exists(place) for place in places):
        raise FileNotFoundError(
            f"no video of {source} is there, the first would be {entries[0].video}: is root, the folder that their "
            "paths start from, the right one?"
        )


def _find_class(where: str, label: str, classes: Mapping[str, int]) -> int:
    """The class that a label names, by name or by index."""
    if label in classes:
        return classes[label]
    index = read_integer(label)
    if index is not None:
        if 0 <= index < len(classes):
            return index
        hint = "; does the list count from 1?" if index == len(classes) else ""
        raise ValueError(f"{where}: there is no class {label}, indices go from 0 to {len(classes) - 1}{hint}")
    plain = {_normalise_name(name): name for name in classes}
    near = [repr(plain[name]) for name in difflib.get_close_matches(_normalise_name(label), plain)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"classes are {', '.join(list(classes)[:3])}, ..."
    raise ValueError(f"{where}: unknown class {label!r}; {hint}")


def _normalise_name(name: str) -> str:
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
