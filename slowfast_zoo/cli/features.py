"""``slowfast-zoo features``: features of sliding windows, a file for each video."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from .options import add_model_option, add_network_options, network_options, parse_crops, parse_positive
from .text import print_json, show_progress
from .videos import WORDS_HELP, find_videos, output_files

if TYPE_CHECKING:
    from slowfast_zoo.inference import Features, VideoClassifier
    from slowfast_zoo.video import Segment

_LISTS = (".csv", ".tsv")


def add_command(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "features",
        help="write features of videos",
        description="Write the pooled features of windows that slide over each video, what the classifier would be "
        "applied to. A video's file is named after it. Files that are there already are left as they are, so that the "
        "same command goes on where it was stopped; videos that cannot be read are told of and left out, and the exit "
        "code is then 2.",
    )
    parser.add_argument(
        "videos",
        nargs="+",
        metavar="VIDEO",
        help=f"{WORDS_HELP}; or a table (.csv, .tsv) with a column path, and perhaps start and end in seconds, each "
        "line of which is a segment",
    )
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where the files go; made if need be")
    parser.add_argument(
        "--format",
        choices=("npz", "npy"),
        default="npz",
        help="npz: arrays features (windows, channels) and times (windows, 2) in seconds, and settings as JSON; npy: "
        "only the features, with times and settings in a .json of the same name (default: %(default)s)",
    )
    add_model_option(parser)
    parser.add_argument("--window", type=int, metavar="N", help="frames in a window (default: the model's clip)")
    parser.add_argument(
        "--stride", type=int, default=16, metavar="N", help="frames from one window to the next (default: %(default)s)"
    )
    parser.add_argument(
        "--fps",
        type=_parse_rate,
        default=30.0,
        help="frames a second in which they count, to which videos are resampled, or native for each video's own; a "
        "folder of images is taken to have as many (default: 30)",
    )
    parser.add_argument(
        "--crops", type=parse_crops, choices=(1, 3, "full"), default=1, help="averaged, or the full frame (default: 1)"
    )
    parser.add_argument(
        "--cover-end", action="store_true", help="one more window where a part of the video is left over"
    )
    parser.add_argument("--overwrite", action="store_true", help="write all files anew")
    add_network_options(parser)
    parser.add_argument("--json", action="store_true", help="a JSON object that says what was done")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compute what is missing; a bad file among several is reported and skipped."""
    from slowfast_zoo.inference import VideoClassifier

    videos, sources = _find(args.videos)
    if not videos:
        raise ValueError("the list on standard input is empty")
    files = output_files(videos, args.output, f".{args.format}")
    classifier = VideoClassifier(args.model, **network_options(args))
    settings = _settings(args, classifier)
    there = [video for video, file in files.items() if file.exists() and not args.overwrite]
    for video in there:
        _check(files[video], settings)
    todo = [video for video in videos if video not in set(there)]
    written = []
    with show_progress(len(todo)) as progress:
        for video in todo:
            found: Features | None = None
            with progress.failing(video, OSError):
                found = classifier.extract_features(
                    sources.get(video, video),
                    args.window,
                    args.stride,
                    args.fps,
                    crops=args.crops,
                    cover_end=args.cover_end,
                    video_fps=args.fps,
                    progress=len(todo) == 1,
                )
            if found is not None:
                _write(files[video], found, settings)
                written.append(video)
                if not args.json:
                    progress.print(f"{files[video]}  {' x '.join(map(str, found.features.shape))}")
            progress.advance()
    if args.json:
        names = {"written": written, "there": there}
        report: dict[str, Any] = {kind: {video: str(files[video]) for video in of} for kind, of in names.items()}
        print_json({"settings": settings, **report, "failed": progress.failed})
    else:
        print(f"{len(written)} written, {len(there)} there already, {len(progress.failed)} failed")
    return 2 if progress.failed else 0


def _find(words: Sequence[str]) -> tuple[dict[str, str], dict[str, Segment]]:
    """The videos and segments that words stand for, and what is opened of each segment, by its name.

    A segment is named as a video would be that had been cut out, so that its file is too.
    """
    from slowfast_zoo.video.dataset import read_videos

    lists = [word for word in words if word.lower().endswith(_LISTS) and not os.path.isdir(word)]
    videos = find_videos(word for word in words if word not in lists)
    sources: dict[str, Segment] = {}
    for entry in (entry for name in lists for entry in read_videos(name)):
        if isinstance(entry.source, str):
            videos |= find_videos([entry.source])
            continue
        stem, suffix = os.path.splitext(entry.video)
        end = "end" if entry.end is None else f"{entry.end:.10g}"
        name = f"{stem}.{entry.start or 0:.10g}-{end}{suffix}"
        videos[name], sources[name] = os.path.dirname(os.path.abspath(entry.video)), entry.source
    return videos, sources


def _settings(args: argparse.Namespace, classifier: VideoClassifier) -> dict[str, Any]:
    """All that the numbers depend on, but for the video and rounding."""
    config = classifier.model.config
    return {
        "model": classifier.name,
        "window": config.clip_frames * config.clip_stride if args.window is None else args.window,
        "stride": args.stride,
        "fps": args.fps,
        "crops": args.crops,
        "cover_end": args.cover_end,
        "dtype": args.dtype or "float32",
    }


def _write(file: Path, found: Features, settings: dict[str, Any]) -> None:
    """The file that says that a video is done comes last."""
    import numpy as np

    from slowfast_zoo.utils.files import whole_file

    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".npz":
        with whole_file(file) as temporary:
            np.savez(temporary, features=found.features, times=found.times, settings=json.dumps(settings))
        return
    with whole_file(file.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps({"settings": settings, "times": found.times.tolist()}), encoding="utf-8")
    with whole_file(file) as temporary:
        np.save(temporary, found.features)


def _check(file: Path, settings: dict[str, Any]) -> None:
    """Refuse to go on in a folder of other features.

    Raises:
        ValueError: the file has other settings, or none.
    """
    import numpy as np

    remedy = "name another folder, or give --overwrite"
    try:
        if file.suffix == ".npz":
            with np.load(file) as arrays:
                its = json.loads(str(arrays["settings"]))
        else:
            its = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))["settings"]
        differing = [name for name in settings if its.get(name) != settings[name]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RecursionError, BadZipFile) as error:
        raise ValueError(f"{file} is there already, but is not of this command: {remedy}") from error
    if differing:
        changes = ", ".join(f"{name} {its.get(name)} instead of {settings[name]}" for name in differing)
        raise ValueError(f"{file} is there already with other settings ({changes}): {remedy}")


def _parse_rate(text: str) -> float | None:
    return None if text == "native" else parse_positive(text)
