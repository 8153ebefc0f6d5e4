"""``slowfast-zoo bench``: what a network costs on this machine."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .text import format_table, print_json

if TYPE_CHECKING:
    from slowfast_zoo.inference.measure.work import Variant, Workload


def add_command(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "bench",
        help="measure a model's speed and memory",
        description="Measure a model on this machine: latency, clips a second and peak memory, as it is and optimised "
        "for inference. All are timed in turns; memory is measured in a process of its own for each.",
    )
    add_options(parser)
    parser.set_defaults(run=run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what is measured, and how."""
    parser.add_argument("model", metavar="MODEL", help="a name from slowfast-zoo list")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="clips at once (default: %(default)s)")
    parser.add_argument("--size", type=int, metavar="S", help="side of a clip in pixels (default: the model's crop)")
    parser.add_argument("--frames", type=int, metavar="T", help="frames of the Slow pathway (default: the model's)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of what is beside the ordinary model (default: float32, and bfloat16 where the machine has instructions "
        "for it)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the CPU (default: torch's choice)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=10, metavar="N", help="timed calls (default: %(default)s)")
    parser.add_argument("--train", action="store_true", help="a training step (forward and backward)")
    parser.add_argument("--json", action="store_true", help="a JSON object")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    return report(args, work_of(args), variants_of(args))


def report(args: argparse.Namespace, work: Workload, variants: Sequence[Variant]) -> int:
    """Measure variants of the network and print them, the first as what the others are compared with."""
    from slowfast_zoo.inference.measure import bench

    for variant in variants:  # before the work, not after a minute of it
        variant.require()
    facts = bench.cost(work)
    try:
        rows = bench.measure(work, variants, args.repeats)
        started = bench.startup(args.model)
    except RuntimeError as error:  # out of memory, a layer that this dtype lacks, a child that was killed
        raise ValueError(str(error).strip().splitlines()[0]) from error
    found = {
        "model": args.model,
        "input": _input_shape(work),
        "what": "training step" if args.train else "inference",
        **facts,
        "machine": bench.machine(args.device, args.threads),
        "startup_seconds": started,
        "rows": rows,
    }
    if args.json:
        print_json(found)
        return 0
    print(f"{args.model}, {found['what']}, input {' x '.join(map(str, found['input']))}")
    for title, text in _heading(found):
        print(f"  {title:<12} {text}")
    print()
    head = ("", "latency, ms", "quartiles", "clips/s", "peak MiB", "ratio")
    print(format_table([head, *map(_cells, rows)], "<>>>>>"))
    return 0


def work_of(args: argparse.Namespace) -> Workload:
    """What the options ask to be computed, checked."""
    from slowfast_zoo.inference.measure.work import Workload

    names = ("model", "batch", "size", "frames", "threads", "device", "train")
    return Workload(**{name: getattr(args, name) for name in names})


def variants_of(args: argparse.Namespace) -> list[Variant]:
    """The ordinary network first: the others' ratios are to it."""
    from slowfast_zoo.inference.measure.bench import has_fast
    from slowfast_zoo.inference.measure.work import Variant

    dtypes = [args.dtype] if args.dtype else ["float32"]
    if not args.dtype and has_fast("bfloat16", args.device):
        dtypes.append("bfloat16")
    chosen = [Variant("ordinary")]
    if args.train:
        chosen += [Variant("ordinary", dtype) for dtype in dtypes]
    else:
        chosen += [Variant("optimised", dtype) for dtype in dtypes]
    return list(dict.fromkeys(chosen))


def _input_shape(work: Any) -> list[int]:
    """(B, C, T, H, W) of the clips."""
    import torch

    with torch.device("meta"):
        config = work.network().config
    side = work.size or config.crop
    return [work.batch, config.in_chans, config.clip_frames, side, side]


def _heading(report: dict[str, Any]) -> list[tuple[str, str]]:
    machine, started = report["machine"], report["startup_seconds"]
    where = machine["card"] if "card" in machine else machine["cpu"]
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    rows = [
        ("parameters", f"{report['parameters'] / 1e6:.2f} M"),
        ("cost", f"{report['multiply_adds'] / 1e9:.2f} G multiply-adds a clip (what the paper calls FLOPs)"),
        ("machine", f"{where}, {machine['cores']} cores, {threads}"),
        ("has", " ".join(machine["instruction_sets"])),
        ("versions", versions),
        ("start-up", f"import {started['import']:.2f} s, create_model {started['create_model']:.2f} s"),
    ]
    return [(title, text) for title, text in rows if text]


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    low, high = row["quartiles_ms"]
    peak = "" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"
    rate = f"{row['clips_per_second']:.2f}"
    return (row["name"], f"{row['median_ms']:.1f}", f"{low:.1f} to {high:.1f}", rate, peak, f"{row['ratio']:.2f}")
