"""What commands about many videos have in common: from words to videos, the files written for them, progress."""

from __future__ import annotations

import argparse
import contextlib
import errno
import glob
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from slowfast_zoo.video import CONVENTIONS
from slowfast_zoo.video.dataset import walk
from slowfast_zoo.video.source import VIDEO_SUFFIXES

if TYPE_CHECKING:
    from slowfast_zoo.video import VideoInput

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
                found |= _named(line.rstrip("\r\n")) if line.strip() else {}
        elif _PATTERN.search(word) and not os.path.lexists(word) and not _is_url(word):
            found |= _matching(word)
        else:
            found |= _named(word)
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


def target_files(videos: dict[str, str], target: str, option: str, suffixes: Sequence[str]) -> dict[str, Path]:
    """Where an option writes: for one video the file that it names, for several a file each in the folder it names.

    Args:
        videos: from :func:`find_videos`.
        target: value of the option.
        option: its name.
        suffixes: what can be written; files in a folder have the first. Folders are made.

    Raises:
        ValueError: several videos and the name of a file.
    """
    is_folder = os.path.isdir(target) or target.endswith(("/", os.sep))
    if len(videos) == 1 and not is_folder:
        return dict.fromkeys(videos, Path(target))
    if not is_folder and Path(target).suffix.lower() in suffixes:
        raise ValueError(
            f"{option} {target} names one file, but {len(videos)} videos were given: name a folder, for one file each"
        )
    files = output_files(videos, target, suffixes[0])
    for file in files.values():
        file.parent.mkdir(parents=True, exist_ok=True)
    return files


def add_view_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which views of a video are averaged."""
    parser.add_argument("--clips", type=int, help="clips spread over a video (default: the weights' own test, else 10)")
    parser.add_argument(
        "--crops",
        type=crops,
        choices=(1, 3, "full"),
        help="crops of a clip, or the full frame (default: what suits the weights, else the paper's 3)",
    )
    parser.add_argument(
        "--sampling",
        choices=CONVENTIONS,
        help="where clips lie: evenly, or as that library places them (default: the weights' own)",
    )


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Add what says where and how to compute."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU if there is one)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="to compute in (default: float32)")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="views that are computed at once (default: 4, on a GPU 16)"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="threads that decode videos (default: 1, on a GPU up to 4)"
    )


def network_options(args: argparse.Namespace) -> dict[str, Any]:
    """The same as :class:`~slowfast_zoo.VideoClassifier` takes it."""
    import torch

    dtype = getattr(torch, args.dtype) if args.dtype else None
    return {"device": args.device, "dtype": dtype, "batch_size": args.batch_size, "workers": args.workers}


def crops(text: str) -> int | str:
    """Value of an option for crops: a number, or "full"."""
    return int(text) if text.isdecimal() else text


def positive(text: str) -> float:
    """Value of an option for seconds or a rate.

    Raises:
        argparse.ArgumentTypeError: it is not a number above 0.
    """
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < float("inf"):
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")


@contextlib.contextmanager
def warnings_between_bars() -> Iterator[None]:
    """Warnings do not garble a progress bar."""
    from tqdm import tqdm

    with warnings.catch_warnings():
        show = warnings.showwarning

        def between(*args: Any, **kwargs: Any) -> None:
            with tqdm.external_write_mode(sys.stderr):
                show(*args, **kwargs)

        warnings.showwarning = between
        yield


def tell_failure(video: VideoInput, error: Exception) -> None:
    """A line on stderr, between progress bars, that names a video and says what went wrong with it."""
    from tqdm import tqdm

    from slowfast_zoo.errors import in_line

    from .text import in_one_line

    name, message = in_line(str(video)), in_one_line(error)
    text = message if name in message else f"{name}: {message}"
    tqdm.write(f"slowfast-zoo: error: {text}", file=sys.stderr)


class Progress:
    """A bar over videos, with videos per second, on stderr: if there are several, and if that is a terminal.

    What is printed meanwhile, warnings included, does not garble it. How many videos failed is told at the end where
    many scroll by.

    Args:
        total: how many videos.

    Attributes:
        failed: videos that were left out so far.
    """

    _LAYOUT = "{percentage:3.0f} % |{bar}| {n_fmt} of {total_fmt}, {rate_noinv_fmt}, {remaining} left"
    _MANY = 10

    def __init__(self, total: int) -> None:
        self.failed: list[str] = []
        self._total = total

    def __enter__(self) -> Progress:
        from tqdm import tqdm

        self._bar = tqdm(
            total=self._total,
            unit=" videos",
            bar_format=self._LAYOUT,
            dynamic_ncols=True,
            leave=False,
            disable=None if self._total > 1 else True,  # None: unless it is a terminal
        )
        self._warnings = warnings_between_bars()
        self._warnings.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._warnings.__exit__(kind, error, tb)
        self._bar.close()
        if self.failed and self._total > self._MANY and kind is None:
            print(f"slowfast-zoo: {len(self.failed)} of {self._total} videos failed, see above", file=sys.stderr)

    def advance(self) -> None:
        """One more video is done."""
        self._bar.update()

    def print(self, text: str) -> None:
        """A line of output, or more."""
        self._bar.write(text, file=sys.stdout)
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """A line on stderr."""
        self._bar.write(text, file=sys.stderr)

    def skip(self, video: VideoInput, error: Exception) -> None:
        """A video is left out, for a reason that is told."""
        self.fail(str(video), error)
        self.advance()

    def fail(self, video: str, error: Exception) -> None:
        """Something went wrong with a video, which is told."""
        self.failed.append(video)
        tell_failure(video, error)

    @contextlib.contextmanager
    def failing(self, video: str, *kinds: type[Exception]) -> Iterator[None]:
        """Errors of some kinds, those of reading a video among them, fail this one and not the command."""
        from slowfast_zoo.errors import VideoDecodeError

        caught: tuple[type[Exception], ...] = (VideoDecodeError, FileNotFoundError, *kinds)
        try:
            yield
        except caught as error:
            self.fail(video, error)


def _named(word: str) -> dict[str, str]:
    """The videos of a file, a folder or a URL."""
    from slowfast_zoo.video.media import local_path

    if (path := local_path(word)) is None:
        return {word: ""}
    word = path  # of a file: URL too
    if not os.path.isdir(word):
        return {word: os.path.dirname(os.path.abspath(word))}
    videos = _in_folder(word)
    if not videos:
        raise FileNotFoundError(errno.ENOENT, "neither videos nor images in the folder", word)
    root = os.path.abspath(word)
    return {video: os.path.dirname(root) if video == word else root for video in videos}


def _matching(pattern: str) -> dict[str, str]:
    """The videos that a pattern matches."""
    # Names are kept from the first part that is not plain on.
    plain = os.path.dirname(pattern[: re.search(_PATTERN, pattern).start()])  # type: ignore[union-attr]
    any_suffix = "." in os.path.basename(pattern)
    videos: list[str] = []
    for match in sorted(glob.glob(pattern, recursive=True)):
        if os.path.isdir(match):
            videos += _in_folder(match)
        elif any_suffix or match.lower().endswith(VIDEO_SUFFIXES):
            videos.append(match)
    if not videos:
        raise FileNotFoundError(errno.ENOENT, "no video matches the pattern", pattern)
    return dict.fromkeys(videos, os.path.abspath(plain))


def _in_folder(folder: str) -> list[str]:
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
