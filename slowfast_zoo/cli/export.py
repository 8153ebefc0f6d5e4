"""``slowfast-zoo export``: write a network as a file for another runtime."""

from __future__ import annotations

import argparse
from typing import Any

from .text import print_json


def add_command(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "export",
        help="write a network for ONNX, OpenVINO or torch.export",
        description="Write a network as a file for another runtime, run it, and compare it with the network. Batch, "
        "height and width stay open unless they are given.",
    )
    parser.add_argument("model", metavar="MODEL", help="a name from slowfast-zoo list, or local-dir:FOLDER")
    parser.add_argument(
        "file", metavar="FILE", help=".onnx, .xml (OpenVINO, with .bin beside it) or .pt2 (torch.export)"
    )
    parser.add_argument("--format", choices=("torch", "onnx", "openvino"), help="(default: what the suffix says)")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", metavar="WEIGHTS", help="a file of weights, instead of the published ones")
    weights.add_argument("--random", action="store_true", help="no weights, for trying things out")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--probabilities", action="store_true", help="class probabilities instead of logits")
    output.add_argument("--features", action="store_true", help="the stages' feature maps instead of logits")
    parser.add_argument(
        "--out-indices", type=int, nargs="+", metavar="STAGE", help="which maps: 0 (stem) to 4 (res5) (default: all)"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="fix the batch")
    parser.add_argument("--size", type=_parse_size, metavar="S|HxW", help="fix the sides, in pixels")
    parser.add_argument("--frames", type=int, metavar="N", help="frames of a clip (default: the network's own)")
    parser.add_argument("--opset", type=int, metavar="N", help="version of ONNX's operators (default: the exporter's)")
    parser.add_argument("--no-check", dest="check", action="store_false", help="do not run the file")
    parser.add_argument("--json", action="store_true", help="a JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export and tell what was written."""
    from slowfast_zoo.factory import create_model
    from slowfast_zoo.inference.export import export_with_report

    report = export_with_report(
        create_model(args.model, checkpoint_path=args.checkpoint) if args.checkpoint else args.model,
        args.file,
        format=args.format,
        output="probabilities" if args.probabilities else "features" if args.features else None,
        out_indices=args.out_indices,
        batch_size=args.batch_size,
        size=args.size,
        frames=args.frames,
        opset=args.opset,
        pretrained=not args.random,
        check=args.check,
    )
    if args.json:
        names = ("format", "files", "bytes", "inputs", "outputs", "difference")
        facts = {name: getattr(report, name) for name in names}
        print_json({**facts, "files": [str(file) for file in report.files]})
        return 0
    inputs = ", ".join(f"{name} ({', '.join(map(str, shape))})" for name, shape in report.inputs.items())
    print(f"wrote {' and '.join(map(str, report.files))}, {report.bytes / 2**20:.2f} MiB")
    checked = "not run" if report.difference is None else f"differs from the network by {report.difference:.1g} at most"
    print(f"{inputs} -> {', '.join(report.outputs)}; {checked}")
    return 0


def _parse_size(text: str) -> int | tuple[int, int]:
    """A side, or height x width."""
    height, x, width = text.partition("x")
    try:
        return (int(height), int(width)) if x else int(height)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of pixels nor HEIGHTxWIDTH") from None
