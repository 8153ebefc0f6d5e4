"""Options that several commands have."""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

from slowfast_zoo.video import CONVENTIONS

MODEL = "slowfast_tiny_4x8.motion"


def add_model_option(parser: argparse.ArgumentParser, meaning: str = "pretrained model", default: str = MODEL) -> None:
    """Add the name of the network."""
    parser.add_argument("--model", default=default, help=f"{meaning} (default: %(default)s)")


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Add what says where to compute."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU if there is one)")


def add_view_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which views of a video are averaged."""
    parser.add_argument("--clips", type=int, help="clips spread over a video (default: the weights' own test, else 10)")
    parser.add_argument(
        "--crops",
        type=parse_crops,
        choices=(1, 3, "full"),
        help="crops of a clip, or the full frame (default: what suits the weights, else the paper's 3)",
    )
    parser.add_argument(
        "--sampling",
        choices=CONVENTIONS,
        help="where clips lie: evenly, or as that library places them (default: the weights' own)",
    )


def add_network_options(
    parser: argparse.ArgumentParser,
    batch: str = "views that are computed at once (default: 4, on a GPU 16)",
    *,
    workers: bool = True,
) -> None:
    """Add what says where and how to compute.

    Args:
        parser: of the command.
        batch: what a batch is made of.
        workers: whether videos can be decoded by several threads.
    """
    add_device_option(parser)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="to compute in (default: float32)")
    parser.add_argument("--batch-size", type=int, metavar="N", help=batch)
    if workers:
        meaning = "threads that decode videos (default: 1, on a GPU up to 4)"
        parser.add_argument("--workers", type=int, metavar="N", help=meaning)


def network_options(args: argparse.Namespace) -> dict[str, Any]:
    """The values of :func:`add_network_options` as VideoClassifier and ActionDetector take them."""
    import torch

    given = {name: getattr(args, name) for name in ("device", "batch_size", "workers") if name in args}
    return {**given, "dtype": getattr(torch, args.dtype) if args.dtype else None}


def parse_crops(text: str) -> int | str:
    """Value of an option for crops: a number, or "full"."""
    return int(text) if text.isdecimal() else text


def parse_positive(text: str) -> float:
    """Value of an option for seconds or a rate.

    Raises:
        argparse.ArgumentTypeError: it is not a number above 0.
    """
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < float("inf"):
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
