"""``slowfast-zoo evaluate``: a network's accuracy on a list of labelled videos, and the frame mAP of detections."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slowfast_zoo.errors import in_line

from .options import MODEL, add_network_options, add_view_options, network_options
from .text import format_table, print_failure, print_json, print_written, warnings_between_bars

if TYPE_CHECKING:
    from slowfast_zoo.inference.evaluation.frame_map import FrameMAP
    from slowfast_zoo.inference.evaluation.metrics import ClassResult
    from slowfast_zoo.inference.evaluation.run import Evaluation
    from slowfast_zoo.utils.distributed import Team

_SHOWN = 10  # classes and pairs of classes
_LAYOUT = {"indent": "  ", "gap": "   "}  # of tables
# Options of one task alone, by their names in argparse.
_OF_TASK = {
    "classify": (
        *("multi_label", "root", "limit", "model", "clips", "crops", "sampling", "device", "dtype", "batch_size"),
        *("workers", "results", "confusion"),
    ),
    "ava": ("detections", "labels", "exclude", "iou", "protocol"),
}


def add_command(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "evaluate",
        help="measure a model's accuracy on labelled videos, or the frame mAP of detections",
        description="Classify the videos of a list by the paper's protocol and compare with their labels: top-1, "
        "top-5 and mean class accuracy, or mean average precision where a video has several labels. An interrupted "
        "evaluation goes on when the command is given again. Under torchrun, processes share the videos. Videos that "
        "cannot be read are told of and left out; the exit code is then 2. With --task ava, compare detections with "
        "ground truth, both in AVA's format: frame mAP.",
    )
    parser.add_argument(
        "--task",
        choices=("classify", "ava"),
        default="classify",
        help="classify the videos of DATASET, or measure --detections (default: %(default)s)",
    )
    parser.add_argument(
        "dataset",
        metavar="DATASET",
        help="a CSV file with a header that has the columns path and label, or lines of path,label or of a path, a "
        "space and a label; labels are class names or indices, several are separated by ;. With --task ava the ground "
        "truth: lines of video,second,x1,y1,x2,y2,action, boxes from 0 to 1",
    )
    parser.add_argument("--root", metavar="DIR", help="folder that the paths start from (default: that of DATASET)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N videos")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--multi-label",
        action="store_true",
        default=None,
        help="videos have sets of labels (default: if the model was trained so, or if any has several)",
    )
    kind.add_argument(
        "--single-label", action="store_false", dest="multi_label", help="each video must have exactly one label"
    )
    parser.add_argument("--model", help=f"pretrained model (default: {MODEL})")
    add_view_options(parser)
    add_network_options(parser)
    parser.add_argument("--per-class", action="store_true", help="print the whole table of classes, not only the worst")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    ava = parser.add_argument_group("--task ava")
    ava.add_argument(
        "--detections",
        metavar="FILE",
        help="lines of video,second,x1,y1,x2,y2,action,score, as slowfast-zoo detect --csv writes them",
    )
    ava.add_argument(
        "--labels", metavar="FILE", help="the classes that count, AVA's label map .pbtxt (default: AVA's 60)"
    )
    ava.add_argument("--exclude", metavar="FILE", help="key frames that do not count, lines of video,second")
    ava.add_argument("--iou", type=float, help="least overlap of a detection with the box it finds (default: 0.5)")
    ava.add_argument(
        "--protocol",
        choices=("pyslowfast", "mmaction2", "activitynet"),
        help="in which order a frame's detections have their turn: as they come; by score; by score, and only the 50 "
        "best, as in the AVA challenge (default: pyslowfast)",
    )
    files = parser.add_argument_group("files")
    files.add_argument(
        "--results",
        metavar="FILE",
        help="each video's scores, a line of JSON each, from which the command goes on (default: in the current "
        "folder, named after DATASET, model and views: val.MODEL.10x3.results.jsonl); several processes write "
        "FILE.rank0, FILE.rank1, ...",
    )
    files.add_argument("--output", metavar="FILE", help="the same as --json prints")
    files.add_argument("--confusion", metavar="FILE", help="a picture of which class was taken for which")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print; in several processes, only the first prints."""
    from slowfast_zoo.utils.files import check_target, keep_inputs

    for task, options in _OF_TASK.items():
        given = [name for name in options if getattr(args, name) is not None]
        if given and task != args.task:
            option = "single-label" if given[0] == "multi_label" and not args.multi_label else given[0]
            raise ValueError(f"--{option.replace('_', '-')} is for --task {task}, and this is --task {args.task}")
    targets = [check_target(file) for file in (args.output, args.confusion) if file]
    keep_inputs(targets, (args.dataset, args.detections, args.labels, args.exclude))
    return _measure_detections(args) if args.task == "ava" else _classify(args)


def _measure_detections(args: argparse.Namespace) -> int:
    from slowfast_zoo.inference.evaluation.ava import read_ava_csv, read_exclusions, read_label_map
    from slowfast_zoo.inference.evaluation.frame_map import frame_map

    if args.detections is None:
        raise ValueError("--task ava needs --detections FILE, such as slowfast-zoo detect --csv FILE writes")
    settings = {name: getattr(args, name) for name in ("iou", "protocol") if getattr(args, name) is not None}
    result = frame_map(
        read_ava_csv(args.dataset),
        read_ava_csv(args.detections, detections=True),
        read_label_map(args.labels) if args.labels else None,
        read_exclusions(args.exclude) if args.exclude else (),
        **settings,
    )
    report = {"dataset": args.dataset, "detections_file": args.detections, **result.to_dict()}
    _report(args, report, _format_frame_map(result, whole=args.per_class))
    return 0


def _classify(args: argparse.Namespace) -> int:
    from slowfast_zoo.inference.classify.classifier import VideoClassifier, resolve_views
    from slowfast_zoo.inference.draw.confusion import save_confusion_plot
    from slowfast_zoo.inference.draw.style import check_plot_path
    from slowfast_zoo.inference.evaluation.run import evaluate, is_multi_label
    from slowfast_zoo.utils.distributed import device_of
    from slowfast_zoo.video.dataset import read_dataset

    with open(args.dataset, "rb"):  # before a network is loaded, not after
        pass
    if args.confusion:
        check_plot_path(args.confusion)
    with _processes(args.device) as team:
        options = {**network_options(args), "device": device_of(args.device, team)}
        classifier = VideoClassifier(args.model or MODEL, sampling=args.sampling, **options)
        multi_label = (is_multi_label(classifier, ()) or None) if args.multi_label is None else args.multi_label
        entries = read_dataset(args.dataset, classifier.labels, root=args.root, multi_label=multi_label)
        multi_label = is_multi_label(classifier, entries) if multi_label is None else multi_label
        if args.confusion and multi_label:
            raise ValueError("--confusion is for videos with one label each, but here they have sets of labels")
        views = resolve_views(classifier, args.clips, args.crops)
        results = args.results or _results_name(args, classifier.name, *views)
        with warnings_between_bars():
            evaluation = evaluate(
                classifier,
                entries,
                clips=args.clips,
                crops=args.crops,
                multi_label=multi_label,
                limit=args.limit,
                results=results,
                on_error=print_failure,
                progress=True,
            )
        if team.rank:
            return 0  # a failure of one makes torchrun end the others, perhaps before the first has written its files
        print(f"each video's scores are in {results}{'.rank*' if team.size > 1 else ''}", file=sys.stderr)
        report = {"dataset": args.dataset, **evaluation.to_dict()}
        _report(args, report, format_evaluation(args.dataset, evaluation, whole=args.per_class))
        if args.confusion:
            save_confusion_plot(evaluation, args.confusion)
            print_written(args.confusion)
    return 2 if evaluation.skipped else 0


def format_evaluation(dataset: str, evaluation: Evaluation, *, whole: bool = False) -> str:
    """The numbers with their intervals, then the classes that do worst, or all, and the pairs confused most often."""
    shown = [entry for entry in evaluation.classes if entry.videos]
    skipped = f", {len(evaluation.skipped)} skipped" if evaluation.skipped else ""
    numbers = {
        "top-1": evaluation.top1,
        "top-5": evaluation.top5 if len(evaluation.classes) > 5 else None,
        "mean class accuracy": evaluation.mean_class_accuracy,
        "mean average precision": evaluation.mean_average_precision,
    }
    rows = [("", "", "95 % interval")]
    for name, number in numbers.items():
        if number is not None:
            low, high = 100 * number.low, 100 * number.high
            rows.append((name, f"{100 * number.value:.2f} %", f"{low:.2f} to {high:.2f} %"))
    blocks = [
        f"{in_line(dataset)}: {evaluation.videos} videos of {len(shown)} classes{skipped}\n"
        f"{evaluation.model}, {evaluation.dtype}, {evaluation.views}",
        format_table(rows, "<>", **_LAYOUT),
    ]
    worst = shown if whole else [entry for entry in evaluation.worst(_SHOWN) if entry.value != 1]
    if worst:
        value = "average precision" if evaluation.multi_label else "recognised"
        heading = "class" if whole else "worst classes"
        title = (heading, "videos", value, "" if evaluation.multi_label else "taken for")
        blocks.append(format_table([title, *map(_class_row, worst)], "<>><", **_LAYOUT))
    totals = {entry.label: entry.videos for entry in shown}
    pairs = evaluation.most_confused(_SHOWN)
    if pairs:
        table = [(label, f"{count} of {totals[label]}", other) for label, other, count in pairs]
        blocks.append(format_table([("confused most often", "videos", "taken for"), *table], "<>", **_LAYOUT))
    return "\n\n".join(blocks)


def _format_frame_map(result: FrameMAP, *, whole: bool) -> str:
    """The mean, then the classes found worst and best, or all in the order of their numbers."""
    if not whole:
        return str(result)
    rows = [("class", "boxes", "average precision", "")]
    for entry in result.classes:
        value = "" if entry.value is None else f"{100 * entry.value:.2f} %"
        rows.append((entry.label, str(entry.boxes), value, ""))
    head, *_ = str(result).partition("\n\n")
    return "\n\n".join([head, format_table(rows, "<>>", **_LAYOUT), *(f"note: {note}" for note in result.notes())])


def _class_row(entry: ClassResult) -> tuple[str, ...]:
    taken_for = ", ".join(f"{label} {count}" for label, count in entry.taken_for[:3])
    more = len(entry.taken_for) - 3
    return (
        entry.label,
        str(entry.videos),
        "" if entry.value is None else f"{100 * entry.value:.1f} %",
        taken_for + (f", and {more} more" if more > 0 else ""),
    )


@contextmanager
def _processes(device: str | None) -> Iterator[Team]:
    """The processes of torchrun, or this one alone; what they share is closed afterwards, also after a failure."""
    import torch.distributed as dist

    from slowfast_zoo.utils.distributed import processes

    was_there = dist.is_available() and dist.is_initialized()
    try:
        with processes(device) as team:
            yield team
    finally:
        if dist.is_available() and dist.is_initialized() and not was_there:
            dist.destroy_process_group()


def _results_name(args: argparse.Namespace, model: str, clips: int, crops: int | str) -> str:
    """Different for all that is usually varied."""
    varied = [args.sampling] if args.sampling else []
    varied += [args.dtype] if args.dtype not in (None, "float32") else []
    name = ".".join([Path(args.dataset).stem, model, f"{clips}x{crops}", *varied])
    return re.sub(r"[^\w.-]+", "_", name) + ".results.jsonl"


def _report(args: argparse.Namespace, report: dict[str, Any], text: str) -> None:
    """Print the numbers, as JSON or as text, and write them if asked."""
    from slowfast_zoo.utils.files import write_whole

    if args.json:
        print_json(report)
    else:
        print(text, flush=True)
    if args.output:
        write_whole(args.output, (json.dumps(report, indent=2) + "\n").encode())
        print_written(args.output)
