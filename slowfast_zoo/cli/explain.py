"""``slowfast-zoo explain``: show where a network looks."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from .options import add_device_option, add_model_option
from .text import show_progress

if TYPE_CHECKING:
    from collections.abc import Sequence


def add_command(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "explain",
        help="show where a network looks in a video",
        description="Show where in a clip of a video, in space and in time, both pathways see a class (Grad-CAM).",
    )
    parser.add_argument("video", metavar="VIDEO", help="a video file, a URL or a folder of images")
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="a picture (.png, .jpg, .pdf, ...), or a video that plays the clip slowly (.mp4, .mkv, .mov)",
    )
    add_model_option(parser)
    parser.add_argument(
        "--class",
        dest="target",
        metavar="CLASS",
        help="the class to explain, by name or index (default: the best one)",
    )
    parser.add_argument(
        "--at",
        type=float,
        metavar="SECOND",
        help="what the clip has in its middle (default: the clip that speaks most for the class)",
    )
    parser.add_argument(
        "--layer",
        default="res5",
        choices=("res2", "res3", "res4", "res5"),
        help="the stage: earlier ones are finer and mean less (default: %(default)s)",
    )
    add_device_option(parser)
    parser.add_argument("--json", action="store_true", help="a JSON object, with how much each moment counts")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Explain and write; a name that cannot be written to is refused before the work."""
    from slowfast_zoo.inference import VideoClassifier
    from slowfast_zoo.inference.draw.heat import check_explanation_path, save_explanation
    from slowfast_zoo.inference.explain import explain_video
    from slowfast_zoo.utils.files import keep_inputs

    target = check_explanation_path(args.output)
    keep_inputs([target], [args.video])
    classifier = VideoClassifier(args.model, device=args.device)
    with show_progress(1) as progress:
        explained = explain_video(
            classifier,
            args.video,
            target=None if args.target is None else _class(args.target, classifier.labels),
            at=args.at,
            layer=args.layer,
            progress=True,
        )
        save_explanation(explained, target)
        progress.print(json.dumps(explained.to_dict(), indent=2) if args.json else str(explained))
        progress.note(f"wrote {target}")
    return 0


def _class(word: str, labels: Sequence[str]) -> str | int:
    """A name, or else an index."""
    return int(word) if word not in labels and word.isdecimal() else word
