"""``slowfast-zoo predict``: classify video files."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slowfast_zoo.inference import Prediction

_BAR = 30  # characters that stand for 100 %


def add_command(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "predict",
        help="classify videos",
        description="Classify videos by the paper's protocol: clips spread over each video, crops of each, averaged.",
    )
    parser.add_argument("videos", nargs="*", metavar="VIDEO", help="video files")
    parser.add_argument("--sample", action="store_true", help="classify the short video that comes with the package")
    parser.add_argument("--model", default="slowfast_tiny_4x8.motion", help="pretrained model (default: %(default)s)")
    parser.add_argument("--clips", type=int, help="clips spread over a video (default: the weights' own test, else 10)")
    parser.add_argument(
        "--crops",
        type=int,
        choices=(1, 3),
        help="crops of a clip (default: what suits the weights, else the paper's 3)",
    )
    parser.add_argument("--top-k", type=int, default=5, help="classes to show (default: %(default)s)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU if there is one)")
    parser.add_argument("--json", action="store_true", help="a JSON array with one object a video")
    parser.add_argument("--plot", metavar="FILE", help="draw the result of a single video into a picture")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Classify and print; a bad file among several is told of and skipped."""
    from slowfast_zoo.errors import VideoDecodeError
    from slowfast_zoo.inference import VideoClassifier, check_plot_path, save_prediction_plot
    from slowfast_zoo.video import sample_clip

    from . import in_one_line

    videos = [*args.videos, *([str(sample_clip())] if args.sample else [])]
    if not videos:
        raise ValueError("give a video file, or --sample for the one that comes with the package")
    if args.plot:
        if len(videos) > 1:
            raise ValueError(f"--plot draws a single video, but {len(videos)} were given")
        check_plot_path(args.plot)
    classify = VideoClassifier(args.model, device=args.device)
    predictions, failed = [], False
    for video in videos:
        try:
            prediction = classify(video, clips=args.clips, crops=args.crops, top_k=args.top_k, progress=True)
        except (FileNotFoundError, VideoDecodeError) as error:
            print(f"slowfast-zoo: error: {in_one_line(error)}", file=sys.stderr)
            failed = True
            continue
        predictions.append(prediction)
        if not args.json:
            print(("\n" if len(predictions) > 1 else "") + as_table(prediction), flush=True)
        if args.plot:
            save_prediction_plot(prediction, args.plot)
            print(f"wrote {args.plot}", file=sys.stderr)
    if args.json:
        print(json.dumps([prediction.to_dict() for prediction in predictions], indent=2))
    return 2 if failed else 0


def as_table(prediction: Prediction) -> str:
    """The best classes with bars, then the clips in the order of time."""
    from slowfast_zoo.inference import describe_views

    full, empty = ("\u2588", "\u2591") if _can_print("\u2588\u2591") else ("#", ".")
    width = max(len(label) for label in [name for name, _ in prediction] + [clip.label for clip in prediction.clips])
    seconds = len(f"{prediction.duration:.2f}")
    lines = [
        prediction.video,
        f"{prediction.duration:.2f} s, {prediction.model}, {describe_views(prediction)}",
        *(f"note: {note}" for note in prediction.notes()),
        "",
    ]
    for label, score in prediction:
        filled = round(score * _BAR)
        lines.append(f"  {label:<{width}}  {full * filled}{empty * (_BAR - filled)}  {100 * score:5.1f} %")
    lines.append("")
    for clip in prediction.clips:
        when = f"{clip.start:{seconds}.2f} to {clip.end:{seconds}.2f} s"
        lines.append(f"  {when}  {clip.label:<{width}}  {100 * clip.score:5.1f} %")
    return "\n".join(lines)


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
