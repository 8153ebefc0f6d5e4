"""``slowfast-zoo detect``: who does what in videos, as a table, JSON, AVA's CSV, or boxes drawn into the video."""

from __future__ import annotations

import argparse
import contextlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slowfast_zoo.errors import WeightsError, in_line

from .options import add_model_option, add_network_options, network_options, parse_positive
from .text import print_json, print_written, show_progress
from .videos import WORDS_HELP, find_videos, target_files

if TYPE_CHECKING:
    from slowfast_zoo.inference import ActionDetector, Detections

_FULL = "full"


def add_command(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "detect",
        help="find who does what in videos",
        description="Find actions in space and time: boxes at key frames, and what happens in each, as in section 5 of "
        "the paper. People are found by torchvision's Faster R-CNN, whose weights (160 MB) are downloaded when first "
        "needed, unless --boxes says where to look. Videos that cannot be read, or have no boxes in FILE, are told of "
        "and left out; the exit code is then 2.",
    )
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help=WORDS_HELP)
    add_model_option(parser, "pretrained model, a *_det", "slowfast_tiny_4x8_det.objects")
    parser.add_argument(
        "--boxes",
        metavar="FILE",
        help="where to look, and when: a CSV in AVA's format, of each video the lines that have its name without the "
        'suffix; for one video JSON, {"seconds": [[x1, y1, x2, y2], ...], ...} in pixels; or full, the whole frame as '
        "one box (default: people)",
    )
    parser.add_argument(
        "--every", type=parse_positive, metavar="S", help="seconds from one key frame to the next (default: 1)"
    )
    parser.add_argument(
        "--person-threshold", type=_parse_share, metavar="P", help="least confidence of a box, 0 to 1 (default: 0.8)"
    )
    parser.add_argument(
        "--scales",
        type=_parse_sides,
        metavar="N,N",
        help="shorter sides in pixels whose scores are averaged, such as 224,256,320 (default: the weights' own)",
    )
    parser.add_argument("--flip", action="store_true", help="average with the scores of the mirrored video")
    parser.add_argument("--fps", type=parse_positive, help="frame rate of folders of images (default: 30)")
    add_network_options(parser, "key frames that are computed at once (default: 1, on a GPU 4)", workers=False)
    parser.add_argument(
        "--threshold",
        type=_parse_share,
        default=0.3,
        metavar="P",
        help="least score of an action that is shown, 0 to 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--top-k",
        type=int,
        default=3,
        metavar="K",
        help="actions of a box that are shown at most (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="a JSON array with one object a video")
    files = parser.add_argument_group("files")
    files.add_argument(
        "--csv",
        metavar="FILE",
        help="all scores of all videos, whatever --threshold and --top-k, as AVA's evaluation has them: lines of "
        "video,second,x1,y1,x2,y2,action,score; videos are named without folder and suffix, seconds are whole, boxes "
        "go from 0 to 1, actions count from 1",
    )
    files.add_argument(
        "--render",
        metavar="FILE",
        help="the video itself (.mp4, .mkv, .mov; no sound), with boxes, actions and scores drawn in; for several "
        "videos a folder, into which one goes for each",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Detect and print; a bad file among several is reported and skipped."""
    from slowfast_zoo.inference import ActionDetector
    from slowfast_zoo.inference.draw.boxes import render_detections
    from slowfast_zoo.inference.draw.captions import check_render_path
    from slowfast_zoo.video.encode import SUFFIXES

    videos = find_videos(args.videos)
    if not videos:
        raise ValueError("the list on standard input is empty")
    _check(args, list(videos))
    renders = target_files(videos, args.render, "--render", SUFFIXES, check_render_path)
    persons = {} if args.person_threshold is None else {"person_threshold": args.person_threshold}
    detector = ActionDetector(args.model, **network_options(args), **persons)
    records: list[dict[str, Any]] = []
    for_csv: list[Detections] = []
    with show_progress(len(videos)) as progress:
        for number, video in enumerate(videos):
            found = None
            with progress.failing(video, OSError, ValueError):
                found = _detect(detector, video, args, alone=len(videos) == 1)
            if found is not None and args.json:
                records.append(found.to_dict(args.top_k, args.threshold))
            elif found is not None:  # what cannot be printed is no fault of the video
                table = format_detections(found, args.top_k, args.threshold, labels_known=detector.labels_known)
                progress.print(("\n" if number else "") + table)
            if found is not None and args.csv:
                with progress.failing(video, ValueError):
                    _check_seconds(found)
                    for_csv.append(found)
            if found is not None and video in renders:
                with progress.failing(video, OSError, ValueError):
                    shown = {"top_k": args.top_k, "threshold": args.threshold}
                    render_detections(found, renders[video], **shown, progress=len(videos) == 1)
                    progress.note(f"wrote {renders[video]}")
            progress.advance()
    if args.json:
        print_json(records)
    if for_csv:
        _write_csv(args.csv, for_csv)
    return 2 if progress.failed else 0


def format_detections(found: Detections, top_k: int, threshold: float, *, labels_known: bool = True) -> str:
    """Key frame by key frame each box, x1 y1 x2 y2 in pixels, with its best actions and their scores."""
    frames, boxes = _count(len(found), "key frame"), _count(sum(map(len, found)), "box", "es")
    lines = [
        in_line(found.video),
        f"{found.duration:.2f} s, {found.model}, {frames}, {boxes} (x1 y1 x2 y2 in pixels)",
        *([] if labels_known else ["note: without class names, classes are given by their index"]),
        "",
    ]
    seconds, pixels = len(f"{found.duration:.2f}"), len(str(max(found.width, found.height)))
    empty = " " * (4 * pixels + 3)
    for key_frame in found:
        when = f"{key_frame.time:{seconds}.2f} s"
        if not len(key_frame):
            lines.append(f"  {when}   nobody")
        for index, corners in enumerate(key_frame.boxes.round().int().tolist()):
            place = " ".join(f"{corner:{pixels}}" for corner in corners)
            actions = key_frame.actions(index, top_k, threshold)
            texts = [f"{100 * score:5.1f} %  {in_line(label)}" for label, score in actions]
            for text in texts or [f"no action from {100 * threshold:g} % on"]:
                lines.append(f"  {when}   {place}   {text}")
                when, place = " " * len(when), empty
    return "\n".join(lines)


def _count(number: int, thing: str, plural: str = "s") -> str:
    return f"{number} {thing}{'' if number == 1 else plural}"


def _detect(detector: ActionDetector, video: str, args: argparse.Namespace, *, alone: bool) -> Detections:
    try:
        return detector(
            video,
            args.boxes,
            every=args.every or 1.0,
            scales=args.scales,
            flip=args.flip,
            fps=args.fps,
            progress=alone,
        )
    except WeightsError as error:
        raise WeightsError(f"{error}; on the command line, --boxes FILE or --boxes {_FULL}") from error


def _check(args: argparse.Namespace, videos: list[str]) -> None:
    """Refuse before the work what would fail after it.

    Raises:
        ValueError: options that do not go together.
        FileNotFoundError: there is no such file, or folder to write into.
        OSError: nothing can be written there.
    """
    from slowfast_zoo.inference.evaluation.ava import read_ava_csv
    from slowfast_zoo.utils.checks import needs_count
    from slowfast_zoo.utils.files import check_target, keep_inputs

    needs_count(args.top_k, "--top-k")
    if args.boxes not in (None, _FULL):
        if args.every is not None:
            raise ValueError(f"--every has no effect with --boxes {args.boxes}, which has seconds of its own")
        if not args.boxes.lower().endswith(".json"):
            read_ava_csv(args.boxes)
        elif len(videos) > 1:
            raise ValueError(f"--boxes {args.boxes} is of one video, but {len(videos)} were given: name a CSV")
    if args.csv is None:
        return
    keep_inputs([check_target(args.csv)], [*videos, args.boxes])
    if args.every is not None and not float(args.every).is_integer():
        raise ValueError(f"--csv holds whole seconds only, as AVA's files do, but --every is {args.every:g}")
    name, count = Counter(_name(video) for video in videos).most_common(1)[0]
    if count > 1:
        those = " and ".join(video for video in videos if _name(video) == name)
        raise ValueError(f"{those} would both be {name!r} in {args.csv}: rename one, or write a file for each")


def _check_seconds(found: Detections) -> None:
    """Refuse to put into AVA's format what it has no place for.

    Raises:
        ValueError: a key frame is between whole seconds.
    """
    times = [key_frame.time for key_frame in found if not float(key_frame.time).is_integer()]
    if times:
        raise ValueError(
            f"{found.video} is left out of the CSV, which holds whole seconds only, as AVA's files do, for its key "
            f"frame at {times[0]:g} s; --json has it"
        )


def _write_csv(path: str, videos: list[Detections]) -> None:
    from slowfast_zoo.inference.evaluation.ava import write_ava_csv

    write_ava_csv(path, ((_name(found.video), *row) for found in videos for row in found.ava_rows()))
    print_written(path)


def _name(video: str) -> str:
    """What AVA's files call a video."""
    return Path(video).stem


def _parse_share(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (value := float(text)) <= 1:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")


def _parse_sides(text: str) -> tuple[int, ...]:
    with contextlib.suppress(ValueError):
        sides = tuple(int(side) for side in text.split(","))
        if min(sides) >= 32:
            return sides
    raise argparse.ArgumentTypeError(f"{text!r} is not a list such as 224,256,320, of pixels from 32 on")
