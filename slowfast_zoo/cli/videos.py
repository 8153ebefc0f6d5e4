"""From words of a command line to videos, and from videos to the files that are written for them."""

from __future__ import annotations

import errno
import glob
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from slowfast_zoo.utils.files import keep_inputs
from slowfast_zoo.video.dataset import walk
from slowfast_zoo.video.source import VIDEO_SUFFIXES

WORDS_HELP = (
    "video files, folders (the videos in them and in the folders within; a folder of images is one video), patterns "
    "such as 'clips/**/*.mp4', URLs, or - for a list of them, one a line, on "
    "standard input, which is read to its end before the first video"
)
_PATTERN = re.compile(r"[*?[]")


def find_videos(words: Iterable[str]) -> dict[str, str]:
    """The videos that words of a command line stand for, each once, in the order of the words.

    A word is one of these; a file or folder of the very name goes before a pattern:

    - a file, which may turn out to be gone, or no video, when it is read;
    - a folder: the videos in it and in all folders within, by name. If there are none, the folder itself is a video if
      it holds images, and so are the folders within;
    - a pattern with ``*``, ``?``, ``[...]`` or ``**`` (any folders): what it matches. Files without the suffix of a
      video count only if the pattern's last part has a suffix;
    - a URL;
    - ``-``: files, folders and URLs on standard input, one a line.

    Returns:
        For each video the folder from which :func:`output_files` names its output: the one that was searched, or its
        own. Empty for a URL.

    Raises:
        FileNotFoundError: a pattern that matches nothing, or a folder without videos and images.
    """
    found: dict[str, str] = {}
    for word in words:
        if word == "-":
            for line in sys.stdin:
                found |= _find_named(line.rstrip("\r\n")) if line.strip() else {}
        elif _PATTERN.search(word) and not os.path.lexists(word) and not _is_url(word):
            found |= _find_matching(word)
        else:
            found |= _find_named(word)
    once: dict[str, str] = {}
    for video in found:
        once.setdefault(video if _is_url(video) else os.path.abspath(video), video)
    return {video: found[video] for video in once.values()}


def output_files(videos: dict[str, str], folder: str | os.PathLike[str], suffix: str) -> dict[str, Path]:
    """A file for each video, below a folder and named after the video. No folder is made.

    Videos found in a folder keep their places in it: the word ``clips`` turns ``clips/monday/a.mp4`` into
    ``FOLDER/monday/a.npz``; a video given by itself becomes ``FOLDER/a.npz``. If two came to one file that way, all
    keep their places below the folder that holds all of them, and if need be their suffixes: ``monday/a.mp4.npz``.

    Args:
        videos: from :func:`find_videos`.
        folder: where the files are to be.
        suffix: of the files, with its dot.

    Raises:
        ValueError: the names of two videos do not differ in anything that a file can be named after.
    """
    files = [os.path.dirname(os.path.abspath(video)) for video in videos if not _is_url(video)]
    common = os.path.commonpath(files) if files else ""
    whole = {video: _place(video, common, whole_url=True) for video in videos}
    for names in (
        {video: _without_suffix(_place(video, root)) + suffix for video, root in videos.items()},
        {video: _without_suffix(name) + suffix for video, name in whole.items()},
        {video: name + suffix for video, name in whole.items()},
    ):
        name, count = Counter(names.values()).most_common(1)[0]
        if count == 1:
            return {video: Path(folder, name) for video, name in names.items()}
    those = " and ".join(video for video, other in names.items() if other == name)
    raise ValueError(f"{those} would both be written to {name}: give them one at a time")


def target_files(
    videos: dict[str, str], target: str | None, option: str, suffixes: Sequence[str], check: Callable[[Path], Path]
) -> dict[str, Path]:
    """Where an option writes: for one video the file that it names, for several a file each in the folder it names.

    Args:
        videos: from :func:`find_videos`.
        target: value of the option; None where it was not given.
        option: its name.
        suffixes: what can be written; files in a folder have the first. Folders are made.
        check: raises an error for a file that cannot be written.

    Raises:
        ValueError: several videos and the name of a file, or a file that is read.
    """
    if not target:
        return {}
    is_folder = os.path.isdir(target) or target.endswith(("/", os.sep))
    if len(videos) == 1 and not is_folder:
        files = dict.fromkeys(videos, Path(target))
    elif not is_folder and Path(target).suffix.lower() in suffixes:
        raise ValueError(
            f"{option} {target} names one file, but {len(videos)} videos were given: name a folder, for one file each"
        )
    else:
        files = output_files(videos, target, suffixes[0])
        for file in files.values():
            file.parent.mkdir(parents=True, exist_ok=True)
    keep_inputs(files.values(), videos)
    for file in files.values():
        check(file)
    return files


def _find_named(word: str) -> dict[str, str]:
    """The videos of a file, a folder or a URL."""
    from slowfast_zoo.video.media import local_path

    if (path := local_path(word)) is None:
        return {word: ""}
    word = path  # of a file: URL too
    if not os.path.isdir(word):
        return {word: os.path.dirname(os.path.abspath(word))}
    videos = _find_in_folder(word)
    if not videos:
        raise FileNotFoundError(errno.ENOENT, "neither videos nor images in the folder", word)
    root = os.path.abspath(word)
    return {video: os.path.dirname(root) if video == word else root for video in videos}


def _find_matching(pattern: str) -> dict[str, str]:
    """The videos that a pattern matches."""
    # Names are kept from the first part that is not plain on.
    plain = os.path.dirname(pattern[: re.search(_PATTERN, pattern).start()])  # type: ignore[union-attr]
    any_suffix = "." in os.path.basename(pattern)
    videos: list[str] = []
    for match in sorted(glob.glob(pattern, recursive=True)):
        if os.path.isdir(match):
            videos += _find_in_folder(match)
        elif any_suffix or match.lower().endswith(VIDEO_SUFFIXES):
            videos.append(match)
    if not videos:
        raise FileNotFoundError(errno.ENOENT, "no video matches the pattern", pattern)
    return dict.fromkeys(videos, os.path.abspath(plain))


def _find_in_folder(folder: str) -> list[str]:
    """The videos in a folder, or else the folders of images; what is hidden is left alone, links are followed."""
    from slowfast_zoo.video.source import IMAGE_SUFFIXES

    videos, images = [], []
    for place, names in walk(folder):
        videos += [os.path.join(place, name) for name in names if name.lower().endswith(VIDEO_SUFFIXES)]
        if any(name.lower().endswith(IMAGE_SUFFIXES) for name in names):
            images.append(place)
    return videos or images


def _place(video: str, root: str, *, whole_url: bool = False) -> str:
    """Name of a video below a folder; of a URL the last part, or host and path."""
    if not _is_url(video):
        return os.path.relpath(os.path.abspath(video), root)
    address = urlsplit(video)
    parts = [part for part in (address.hostname or "", *address.path.split("/")) if part not in ("", ".", "..")]
    return "/".join(parts if whole_url else parts[-1:]) or "video"


def _without_suffix(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in VIDEO_SUFFIXES else name


def _is_url(word: str) -> bool:
    return "://" in word
