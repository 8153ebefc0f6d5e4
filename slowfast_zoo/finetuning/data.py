"""What is trained and validated on: read, checked before any work is done, and given out clip by clip."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from slowfast_zoo.errors import VideoDecodeError
from slowfast_zoo.models import NetworkConfig
from slowfast_zoo.video import ClipTransform, VideoInput, open_video, random_clip
from slowfast_zoo.video.dataset import LabelledVideo, labels_in_list, read_class_folders, read_dataset
from slowfast_zoo.video.source import is_left_out

HELD_OUT = 0.2  # of the videos, where nothing is given to validate on

VideoList = (
    str
    | os.PathLike[str]
    | Sequence[LabelledVideo]
    | Sequence[str | os.PathLike[str]]
    | Sequence[tuple[str | os.PathLike[str], str | int | Sequence[str] | Sequence[int]]]
)

# Names of classes that a mirrored clip no longer belongs to.
_SIDED = re.compile(r".*(left|right)(wards?|hand(ed)?)?|.*clockwise|c?cw")
_UNSIDED = re.compile(r".*([bfw]right|copyright|upright|outright|downright|birthright|forthright|cleft)|al?right")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")  # between turn and Left, CCW and Turn


@dataclass(frozen=True)
class Data:
    """Videos to train and to validate on.

    Attributes:
        train: videos to train on.
        val: videos to validate on.
        labels: names of the classes, in the order of their indices.
        named: whether the data have names of classes, and not only their indices.
        multi_label: whether videos have sets of labels.
    """

    train: Sequence[LabelledVideo]
    val: Sequence[LabelledVideo]
    labels: tuple[str, ...]
    named: bool
    multi_label: bool

    def with_labels(self, labels: Sequence[str]) -> Data:
        """The same, with classes in the order of ``labels``, or only named so where the data have no names."""
        if not self.named:
            return replace(self, labels=tuple(labels))
        place = {label: index for index, label in enumerate(labels)}

        train, val = (
            [replace(entry, targets=tuple(place[self.labels[target]] for target in entry.targets)) for entry in part]
            for part in (self.train, self.val)
        )
        return replace(self, train=train, val=val, labels=tuple(labels))


def read_data(
    train: VideoList,
    val: VideoList | float | None = None,
    *,
    labels: Sequence[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    multi_label: bool | None = None,
    seed: int = 0,
) -> Data:
    """Read and check both parts; the arguments are those of :func:`~slowfast_zoo.finetune`.

    Raises:
        ValueError: a list or folder that cannot be used, or data that nothing can be learnt from.
        FileNotFoundError: a list or folder is not there, or none of a list's videos.
    """
    if isinstance(labels, (str, bytes)):
        raise ValueError(f"labels are the names of the classes, one by one, not {labels!r}")
    labels = None if labels is None else [str(label) for label in labels]  # numpy's would be in the state
    if isinstance(val, (int, float)) and not 0 < val < 1:
        raise ValueError(f"val is a list or folder of videos, or a share above 0 and below 1 to hold out, not {val!r}")
    if isinstance(train, (str, os.PathLike)) and (parts := _find_parts(Path(train))):
        train = parts[0]
        if val is None and parts[1] is not None:
            val = parts[1]
    entries, names = _read(train, labels, root, multi_label)
    if multi_label is None:
        multi_label = any(len(entry.targets) > 1 for entry in entries)
    if val is None or isinstance(val, (int, float)):
        entries, held = _hold_out(entries, HELD_OUT if val is None else val, seed)
    else:
        held, _ = _read(val, names or _number_classes(entries), root, multi_label)
    data = Data(entries, held, tuple(names or _number_classes(entries)), names is not None, multi_label)
    _check(data)
    return data


def warn_about(data: Data, *, flip: bool) -> None:
    """Warnings of what is no error, but may make the numbers wrong."""
    texts = []
    sided = [label for label in data.labels if _is_sided(label)]
    if flip and sided:
        texts.append(
            f"half of the clips are mirrored, but the class {sided[0]!r} knows its left from its right: switch that "
            "off with flip=False (--no-flip), unless it does not matter"
        )
    if unseen := _without_videos(data.labels, data.val):
        texts.append(
            f"{len(unseen)} of the {len(data.labels)} classes have no video to validate on: {_first_five(unseen)}"
        )
    if both := {entry.source for entry in data.train} & {entry.source for entry in data.val}:
        texts.append(
            f"{len(both)} videos are trained on and validated on, such as {min(map(str, both))}: validation will say "
            "too much"
        )
    for text in texts:
        warnings.warn(text, stacklevel=4)


def _without_videos(labels: Sequence[str], entries: Sequence[LabelledVideo]) -> list[str]:
    """The classes that no video shows."""
    seen = {target for entry in entries for target in entry.targets}
    return [label for index, label in enumerate(labels) if index not in seen]


def _first_five(names: Sequence[str]) -> str:
    return ", ".join([*names[:5], *(["..."] if len(names) > 5 else [])])


def _is_sided(label: str) -> bool:
    words = re.findall(r"[a-z]+", _CAMEL.sub(" ", label).lower())
    return any(_SIDED.fullmatch(word) and not _UNSIDED.fullmatch(word) for word in words)


# Names of the parts of a data folder, in any case. What is to be tested on is left alone.
_TRAIN, _VAL, _TEST = (
    re.compile(rf"({words})([_-]?(set|split|data))?", re.IGNORECASE)
    for words in ("train(ing)?", "val(id|idation)?|dev(elopment)?|eval(uation)?", "test(ing)?")
)


def _find_parts(folder: Path) -> tuple[Path, Path | None] | None:
    """The folders train and val in a folder that has these or test, and perhaps others, which a warning names.

    Raises:
        ValueError: there are several of a kind, or none to train on.
    """
    if not folder.is_dir():
        return None
    names = _folders_in(folder)
    train, val, test = ([name for name in names if kind.fullmatch(name)] for kind in (_TRAIN, _VAL, _TEST))
    others = sorted(set(names) - {*train, *val, *test})
    if val and not train and not others:
        raise ValueError(
            f"{folder} has {' and '.join((*val, *test))}, but no folder train: name the videos to train on, and give "
            "those as val"
        )
    if not train or (others and not ((val or test) and _folders_in(folder / train[0]))):
        return None
    for several in (train, val):
        if len(several) > 1:
            raise ValueError(f"{folder} has {' and '.join(several)}: name the one that is meant, as train or as val")
    if others:
        warnings.warn(
            f"{folder} has the parts {', '.join((*train, *val, *test))}; what is in {_first_five(others)} "
            "is left aside",
            stacklevel=5,
        )
    return folder / train[0], folder / val[0] if val else None


def _folders_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not is_left_out(entry.name))


def _read(
    source: VideoList, labels: Sequence[str] | None, root: str | os.PathLike[str] | None, multi_label: bool | None
) -> tuple[list[LabelledVideo], tuple[str, ...] | None]:
    """Videos, and the names of the classes unless there are only indices."""
    if not isinstance(source, (str, os.PathLike)):
        if not isinstance(source, Iterable) or isinstance(source, Mapping) or hasattr(source, "columns"):
            raise TypeError(
                f"expected a list or folder of videos, or pairs of a path and a label, got {type(source).__name__}; of "
                "a dictionary take list(videos.items()), of a table list(zip(table.path, table.label))"
            )
        given: list[Any] = list(source)
        if not given:
            raise ValueError("there are no videos: the list is empty")
        videos = [entry for entry in given if isinstance(entry, LabelledVideo)]
        if len(videos) == len(given):
            plain = [replace(entry, targets=tuple(map(int, entry.targets))) for entry in videos]
            return plain, None if labels is None else tuple(labels)
        return _read_pairs(list(map(_parse_pair, given)), labels, root)
    if os.path.isdir(source):
        return read_class_folders(source, labels)
    names = labels_in_list(source) if labels is None else tuple(labels)
    known = names if names is not None else [str(index) for index in range(_MOST_CLASSES)]
    return read_dataset(source, known, root=root, multi_label=multi_label), names


def _parse_pair(entry: object) -> tuple[str, tuple[str | int, ...]]:
    """Path and labels of a video; a path by itself has the name of its folder as its label."""
    if isinstance(entry, LabelledVideo):
        raise TypeError("videos are LabelledVideo, all of them, or paths or pairs of a path and a label")
    if isinstance(entry, (str, os.PathLike)):
        path = str(os.fspath(entry))  # NumPy's would stay one
        return path, (os.path.basename(os.path.dirname(path if "://" in path else os.path.abspath(path))),)
    if isinstance(entry, (tuple, list, np.ndarray)) and len(entry) == 2 and isinstance(entry[0], (str, os.PathLike)):
        path, label = str(os.fspath(entry[0])), entry[1]
        several = label if isinstance(label, (tuple, list, set, frozenset, np.ndarray)) else (label,)
        # What pandas makes of whole numbers in a column that has gaps.
        several = [int(one) if isinstance(one, float) and one.is_integer() else one for one in several]
        if all(isinstance(one, (str, Integral)) and not isinstance(one, bool) for one in several):
            return path, tuple(str(one) if isinstance(one, str) else int(one) for one in several)
    raise TypeError(
        f"expected a path, a pair of a path and a label (a name or an index) or a LabelledVideo, got {entry!r}"
    )


def _read_pairs(
    pairs: Sequence[tuple[str, tuple[str | int, ...]]],
    labels: Sequence[str] | None,
    root: str | os.PathLike[str] | None,
) -> tuple[list[LabelledVideo], tuple[str, ...] | None]:
    """The same as from a list in a file; paths start from the current folder unless there is a root."""
    found = {label for _, several in pairs for label in several}
    words = sorted(label for label in found if isinstance(label, str))
    if words and len(words) < len(found):
        raise ValueError(f"labels are names or indices, not both: {words[0]!r} is a name, others are numbers")
    names = tuple(words) if labels is None and words else labels
    place = {} if names is None else {label: index for index, label in enumerate(names)}
    unknown = [label for label in words if label not in place]
    if unknown:
        raise ValueError(f"unknown class {unknown[0]!r}: classes are {', '.join(list(place)[:3])}, ...")
    negative = min((label for label in found if not isinstance(label, str)), default=0)
    if negative < 0:
        raise ValueError(f"there is no class {negative}: indices of classes start at 0")
    entries = []
    for path, several in pairs:
        video = path if root is None or "://" in path else os.path.join(root, path)
        targets = dict.fromkeys(place[label] if isinstance(label, str) else label for label in several)
        entries.append(LabelledVideo(path, video, tuple(targets)))
    return entries, None if names is None else tuple(names)


_MOST_CLASSES = 100_000  # that a list of bare indices can have


def _number_classes(entries: Sequence[LabelledVideo]) -> list[str]:
    """Names for classes that have none."""
    return [f"class {index}" for index in range(1 + max((t for entry in entries for t in entry.targets), default=-1))]


def _hold_out(
    entries: Sequence[LabelledVideo], share: float, seed: int
) -> tuple[list[LabelledVideo], list[LabelledVideo]]:
    """Videos to train on and to validate on, both in the order given.

    Of each class ``share`` is held out, at least one video, and at least one is left. Which, depends on the seed.
    """
    totals = Counter(target for entry in entries for target in entry.targets or (-1,))
    quota = {target: min(max(1, round(share * count)), count - 1) for target, count in totals.items()}
    held = set()
    for index in np.random.default_rng(seed).permutation(len(entries)).tolist():
        targets = entries[index].targets or (-1,)
        if all(quota[target] > 0 for target in targets):
            quota.update((target, quota[target] - 1) for target in targets)
            held.add(index)
    kept = [entry for index, entry in enumerate(entries) if index not in held]
    return kept, [entries[index] for index in sorted(held)]


def _check(data: Data) -> None:
    twice = [label for label, count in Counter(data.labels).items() if count > 1]
    if twice:
        raise ValueError(f"labels has {twice[0]!r} more than once")
    if not data.train:
        raise ValueError("there are no videos to train on")
    # One class is something to learn where videos without it are there.
    if len(data.labels) < 2 and all(entry.targets for entry in data.train):
        raise ValueError(f"there is one class only ({', '.join(data.labels)}): nothing can be learnt from it")
    for entry in (*data.train, *data.val):
        if not all(0 <= target < len(data.labels) for target in entry.targets):
            raise ValueError(
                f"{entry.name!r} has the labels {entry.targets}, but the {len(data.labels)} classes of the training "
                f"videos have indices from 0 to {len(data.labels) - 1}"
            )
        if not data.multi_label and len(entry.targets) != 1:
            raise ValueError(f"{entry.name!r} has {len(entry.targets)} labels: with multi_label=False it must have one")
    if missing := _without_videos(data.labels, data.train):
        raise ValueError(
            f"{len(missing)} of the {len(data.labels)} classes have no video to train on: {_first_five(missing)}"
            + ("; do the labels count from 1?" if not data.named and missing == [data.labels[0]] else "")
        )
    if not any(entry.targets for entry in data.val):
        raise ValueError(
            "there are no labelled videos to validate on: a class of two videos or more is needed to hold one out, or "
            "give val"
        )


class Batch(NamedTuple):
    """Clips for one step.

    Attributes:
        clips: (B, C, T, S, S), or None if a video and those after it could not be read.
        targets: (B,) indices of classes, or (B, classes) zeros and ones.
        bad: indices of videos that could not be read, each with the reason.
    """

    clips: Tensor | None
    targets: Tensor
    bad: tuple[tuple[int, str], ...]


class ClipDataset(Dataset[Any]):
    """A random clip of each video, as the paper trains (section 4): a random place, scale, crop and perhaps mirroring.

    What is drawn depends only on the seed, the epoch and the video's index, so that neither the number of workers nor
    that of processes matters.

    Attributes:
        epoch: counted from 0; set before a DataLoader starts its workers.

    Args:
        data: whose training videos it gives.
        transform: for training.
        config: of the network, which says what a clip is.
        seed: of the training.
        segments: spread a clip's frames over the whole video, one anywhere in each of as many parts.
        patience: how many videos in a row may be unreadable; the next one takes the place of each.
    """

    def __init__(
        self, data: Data, transform: ClipTransform, config: NetworkConfig, seed: int, segments: bool, patience: int
    ) -> None:
        self._entries, self._classes, self._multi_label = data.train, len(data.labels), data.multi_label
        self._transform, self._seed, self._segments, self._patience = transform, seed, segments, patience
        self._frames, self._stride = config.clip_frames, config.clip_stride
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Batch:
        """A batch of one."""
        bad: list[tuple[int, str]] = []
        for place in range(index, index + min(self._patience + 1, len(self))):
            entry = self._entries[place % len(self)]
            try:
                clip = self._clip(entry.source, index)
            except (VideoDecodeError, OSError) as error:
                bad.append((place % len(self), reason_of(error)))
                continue
            return Batch(clip[None], self._target(entry), tuple(bad))
        return Batch(None, self._target(self._entries[index]), tuple(bad))

    def _clip(self, video: VideoInput, index: int) -> Tensor:
        """(C, T, S, S)"""
        place, look = mix_seeds(self._seed, self.epoch, index, count=2)
        generator = torch.Generator().manual_seed(place)

        def transformed(frame: Tensor) -> Tensor:
            # Each frame by itself, so that large ones are not held, and as the others: with the same random numbers.
            torch.default_generator.manual_seed(look)
            return self._transform(frame[None])

        with (
            open_video(video, threads=2 if get_worker_info() is None else 1) as source,
            torch.random.fork_rng(devices=[]),
        ):
            if self._segments:
                part = source.duration / self._frames
                draws = torch.rand(self._frames, dtype=torch.float64, generator=generator)
                times = [part * (i + draw) for i, draw in enumerate(draws.tolist())]
            else:
                settings: dict[str, Any] = {"clip_frames": self._frames, "clip_stride": self._stride}
                times = list(random_clip(source.duration, **settings, generator=generator).times)
            (frames,) = source.clips_at([times], transformed)  # (T, C, 1, S, S)
        return frames.squeeze(2).transpose(0, 1).contiguous()

    def _target(self, entry: LabelledVideo) -> Tensor:
        if not self._multi_label:
            return torch.tensor(entry.targets)
        target = torch.zeros(1, self._classes)
        target[0, list(entry.targets)] = 1
        return target


def collate(samples: Sequence[Batch]) -> Batch:
    """One batch of several."""
    clips = [sample.clips for sample in samples if sample.clips is not None]
    return Batch(
        torch.cat(clips) if len(clips) == len(samples) else None,
        torch.cat([sample.targets for sample in samples]),
        tuple(bad for sample in samples for bad in sample.bad),
    )


def mix_seeds(*numbers: int, count: int = 1) -> list[int]:
    """Seeds that depend on all of some numbers, and are not alike where those are."""
    return [int(seed) >> 1 for seed in np.random.SeedSequence(numbers).generate_state(count, np.uint64)]


def reason_of(error: Exception) -> str:
    """Why a video cannot be read, without its name."""
    if isinstance(error, VideoDecodeError):
        return error.reason
    return (isinstance(error, OSError) and error.strerror) or str(error)
