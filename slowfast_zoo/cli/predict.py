"""``slowfast-zoo predict``: classify videos, and show what was seen in them."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from slowfast_zoo.errors import in_line

from .options import add_model_option, add_network_options, add_view_options, network_options, parse_positive
from .text import print_json, print_written, show_progress
from .videos import WORDS_HELP, find_videos, target_files

if TYPE_CHECKING:
    from slowfast_zoo.inference import Prediction, Timeline, VideoClassifier

    from .text import Progress

_IN_FULL = 3  # more videos than that get one line each
_BAR, _SHORT_BAR = 30, 10  # characters that stand for 100 %
_LONGEST = 32  # characters of a label in such a line
_TABLES = (".csv", ".json")
_PICTURES = (".png", ".jpg", ".jpeg", ".pdf", ".svg", ".webp")


def add_command(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "predict",
        help="classify videos",
        description="Classify videos by the paper's protocol: clips spread over each video, crops of each, averaged. "
        "More than three videos get one line each. Videos that cannot be read are told of and left out; the exit code "
        "is then 2.",
    )
    parser.add_argument("videos", nargs="*", metavar="VIDEO", help=WORDS_HELP)
    parser.add_argument("--sample", action="store_true", help="classify the short video that comes with the package")
    add_model_option(parser)
    add_view_options(parser)
    parser.add_argument("--fps", type=parse_positive, help="frame rate of folders of images (default: 30)")
    parser.add_argument("--top-k", type=int, default=5, metavar="K", help="classes to show (default: %(default)s)")
    add_network_options(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="a JSON array with one object a video")
    form.add_argument("--jsonl", action="store_true", help="a JSON object a line, each as soon as its video is done")
    form.add_argument("--csv", action="store_true", help="a table video,rank,label,score with K lines a video")
    shown = parser.add_argument_group(
        "files", "For one video the name of a file; for several that of a folder, into which one goes for each."
    )
    shown.add_argument(
        "--plot", metavar="FILE", help="a picture of what both pathways saw, the clips and the best classes"
    )
    shown.add_argument(
        "--timeline",
        metavar="FILE",
        help="scores over time: a picture, or .csv or .json with those of all videos in one file",
    )
    shown.add_argument(
        "--render",
        metavar="FILE",
        help="the video itself (.mp4, .mkv, .mov; no sound), with class and score written in",
    )
    shown.add_argument(
        "--window",
        type=parse_positive,
        metavar="S",
        help="seconds that --timeline and --render look at (default: a clip)",
    )
    shown.add_argument(
        "--stride",
        type=parse_positive,
        metavar="S",
        help="seconds from one window to the next (default: half a window)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Classify and print; a bad file among several is reported and skipped."""
    from slowfast_zoo.inference import VideoClassifier
    from slowfast_zoo.video import sample_clip

    videos = find_videos([*args.videos, *([str(sample_clip())] if args.sample else [])])
    if not videos:
        raise ValueError("give a video file, or --sample for the one that comes with the package")
    names, records, text_of = list(videos), [], _choose_format(args, len(videos))
    files = _Files(args, videos)
    classifier = VideoClassifier(args.model, sampling=args.sampling, **network_options(args))
    with files, show_progress(len(names)) as progress:
        for number, prediction in enumerate(_predictions(classifier, names, args, progress)):
            if args.json:
                records.append(prediction.to_dict())
            else:
                progress.print(text_of(prediction, number == 0))
            with progress.failing(names[prediction.position], ValueError):
                files.write(names[prediction.position], prediction, classifier, progress)
            progress.advance()
    if args.json:
        print_json(records)
    return 2 if progress.failed else 0


def _predictions(
    classifier: VideoClassifier, videos: list[str], args: argparse.Namespace, progress: Progress
) -> Iterator[Prediction]:
    """Of those videos that can be read. A single one has a progress bar of its own."""
    settings = {"clips": args.clips, "crops": args.crops, "top_k": args.top_k, "fps": args.fps}
    if len(videos) > 1:
        yield from classifier.predict_many(videos, on_error=progress.skip, **settings)
    else:
        with progress.failing(videos[0], OSError):
            yield classifier(videos[0], progress=True, **settings)


# Text


def _choose_format(args: argparse.Namespace, videos: int) -> Callable[[Prediction, bool], str]:
    """What to print of a prediction, which may be the first one."""
    if args.jsonl:
        return lambda prediction, _: json.dumps(prediction.to_dict())
    if args.csv:
        return _format_rows
    if videos > _IN_FULL:
        return _format_line
    return lambda prediction, first: ("" if first else "\n") + format_prediction(prediction)


def format_prediction(prediction: Prediction) -> str:
    """The best classes with bars, then the clips in the order of time."""
    from slowfast_zoo.inference import describe_views

    rows = [(in_line(label), score) for label, score in prediction]
    names = [in_line(clip.label) for clip in prediction.clips]
    width = max(map(len, [label for label, _ in rows] + names))
    seconds = len(f"{prediction.duration:.2f}")
    lines = [
        in_line(prediction.video),
        f"{prediction.duration:.2f} s, {prediction.model}, {describe_views(prediction)}",
        *(f"note: {note}" for note in prediction.notes()),
        "",
    ]
    for label, score in rows:
        lines.append(f"  {label:<{width}}  {_bar(score, _BAR)}  {100 * score:5.1f} %")
    lines.append("")
    for clip, name in zip(prediction.clips, names, strict=True):
        when = f"{clip.start:{seconds}.2f} to {clip.end:{seconds}.2f} s"
        lines.append(f"  {when}  {name:<{width}}  {100 * clip.score:5.1f} %")
    return "\n".join(lines)


def _format_line(prediction: Prediction, first: bool) -> str:
    """The best class of a video; before the first one, what holds for all."""
    [(label, score)] = prediction[:1]
    label = in_line(label)
    width = min(max(len(in_line(label)) for label in prediction.labels), _LONGEST)
    name = label if len(label) <= width else label[: width - 3] + "..."
    line = f"{100 * score:5.1f} %  {_bar(score, _SHORT_BAR)}  {name:<{width}}  {in_line(prediction.video)}"
    if not first:
        return line
    unknown = [] if prediction.labels_known else ["without class names, classes are given by their index"]
    return "\n".join([", ".join([prediction.model, *unknown]), line])


def _format_rows(prediction: Prediction, first: bool) -> str:
    rows: list[Sequence[Any]] = [("video", "rank", "label", "score")] if first else []
    rows += [(prediction.video, rank, label, f"{score:.6f}") for rank, (label, score) in enumerate(prediction, 1)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().rstrip("\n")


def _bar(score: float, length: int) -> str:
    full, empty = ("\u2588", "\u2591") if _can_print("\u2588\u2591") else ("#", ".")
    filled = round(score * length)
    return full * filled + empty * (length - filled)


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


# Files


class _Files:
    """What --plot, --timeline and --render write. Names that cannot be written to are refused before the work."""

    def __init__(self, args: argparse.Namespace, videos: dict[str, str]) -> None:
        from slowfast_zoo.inference.draw.captions import check_render_path
        from slowfast_zoo.inference.draw.style import check_plot_path
        from slowfast_zoo.utils.files import check_target, keep_inputs
        from slowfast_zoo.video.encode import SUFFIXES

        if (args.window or args.stride) and not (args.timeline or args.render):
            raise ValueError("--window and --stride are for --timeline and --render, and neither was given")
        self._args, self._alone, self._few = args, len(videos) == 1, len(videos) <= _IN_FULL
        is_table = args.timeline is not None and args.timeline.lower().endswith(_TABLES)
        if is_table:
            keep_inputs([Path(args.timeline)], videos)
        self._table = check_target(args.timeline) if is_table else None
        pictures = None if is_table else args.timeline
        self._plots = target_files(videos, args.plot, "--plot", _PICTURES, check_plot_path)
        self._timelines = target_files(videos, pictures, "--timeline", _PICTURES, check_plot_path)
        self._renders = target_files(videos, args.render, "--render", SUFFIXES, check_render_path)
        self._folders = dict.fromkeys(name for name in (args.plot, pictures, args.render) if name)
        self._written = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> _Files:
        self._add_to_table = self._stack.enter_context(_open_table(self._table)) if self._table else None
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)
        if self._written and not self._few:
            print_written(f"{self._written} files into {', '.join(self._folders)}")

    def write(self, video: str, prediction: Prediction, classifier: VideoClassifier, progress: Progress) -> None:
        """All of one video."""
        from slowfast_zoo.inference.draw.captions import render_video
        from slowfast_zoo.inference.draw.prediction import save_prediction_plot
        from slowfast_zoo.inference.draw.timeline import save_timeline_plot

        args = self._args
        if video in self._plots:
            save_prediction_plot(prediction, self._plots[video])
            self._tell(self._plots[video], progress)
        if not (args.timeline or args.render):
            return
        timeline = classifier.timeline(
            video,
            args.window,
            args.stride,
            crops=args.crops or 1,
            top_k=args.top_k,
            fps=args.fps,
            progress=self._alone,
        )
        if self._add_to_table:
            self._add_to_table(timeline)
        if video in self._timelines:
            save_timeline_plot(timeline, self._timelines[video])
            self._tell(self._timelines[video], progress)
        if video in self._renders:
            render_video(timeline, self._renders[video], progress=self._alone)
            self._tell(self._renders[video], progress)

    def _tell(self, file: Path, progress: Progress) -> None:
        self._written += 1
        if self._few:
            progress.note(f"wrote {file}")


@contextlib.contextmanager
def _open_table(path: Path) -> Iterator[Callable[[Timeline], None]]:
    """The timelines of all videos in one file: a table with a line for each window, or a JSON array.

    They are written as they come; the file takes its place when the last is there. Without any there is no file.

    Yields:
        A function that adds the timeline of a video.
    """
    from slowfast_zoo.utils.files import whole_file

    file: TextIO | None = None
    as_json = path.suffix.lower() == ".json"
    with contextlib.ExitStack() as stack:

        def add(timeline: Timeline) -> None:
            nonlocal file
            first = file is None
            if file is None:
                temporary = stack.enter_context(whole_file(path))
                # Names of files may be in no encoding at all.
                opened = temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="")
                file = stack.enter_context(opened)
            if as_json:
                file.write(("[\n" if first else ",\n") + json.dumps(timeline.to_dict(), indent=2))
                return
            rows = csv.writer(file, lineterminator="\n")
            if first:
                rows.writerow(("video", "start", "end", "label", "score", *timeline.labels))
            for window in timeline:
                scores = (f"{score:.6f}" for score in (window.score, *window.probabilities.tolist()))
                rows.writerow((timeline.video, f"{window.start:.3f}", f"{window.end:.3f}", window.label, *scores))

        yield add
        if file is not None and as_json:
            file.write("\n]\n")
    if file is not None:
        print_written(path)
