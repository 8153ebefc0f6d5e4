"""Measure the four networks on the 1,000 held-out videos, from their H.264 files, and write the record and the table.

    python benchmarks/motion/evaluate.py DATA --out benchmarks/results/motion.json --page docs/motion.md

Each video is decoded, sampled and transformed by the library as any user's video is: one clip from its middle, one
centre crop. DATA holds the weights that train.py wrote (DATA/models) and the videos of data.py (DATA/heldout). With
``--page`` the table between that page's markers is rewritten from the record; ``--table-only`` does just this.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from data import HELDOUT_SEED, HELDOUT_VIDEOS
from torch import Tensor, nn
from tqdm import tqdm
from train import MEAN, STD, VARIANTS, make_variant

import slowfast_zoo
from benchmarks.synthetic.motion import MOTION_CLASSES
from slowfast_zoo.video import ClipTransform, VideoReader, sample_clips

TRANSFORM = ClipTransform(mean=(MEAN,) * 3, std=(STD,) * 3, scale=112, crop=112, flip=False)
TITLES = {
    "slowfast": "SlowFast",
    "none": "both pathways, no lateral connections",
    "fast": "Fast pathway only",
    "slow": "Slow pathway only",
}
START, END = "<!-- motion table: written by benchmarks/motion/evaluate.py -->", "<!-- end of motion table -->"


def wilson(correct: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion, in percent."""
    share, spread = correct / total, z * z / total
    centre = (share + spread / 2) / (1 + spread)
    reach = z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return round(100 * (centre - reach), 2), round(100 * (centre + reach), 2)


def middle_clip(path: Path) -> Tensor:
    """The network's input (1, 3, 16, 112, 112) from the middle of a video file."""
    with VideoReader(path, threads=1) as reader:
        span = sample_clips(reader.duration, 1, clip_frames=16, clip_stride=2)[0]
        clip: Tensor = TRANSFORM(reader.frames_at(span.times))[None]
    return clip


@torch.inference_mode()
def evaluate(data: Path) -> dict[str, Any]:
    """The record: top-1, interval, classes and confusion matrix (rows: true class) of every variant."""
    models: dict[str, tuple[nn.Module, Any]] = {}
    for variant in VARIANTS:
        model, view = make_variant(variant, checkpoint_path=data / "models" / f"{variant}.safetensors")
        models[variant] = model.eval(), view
    videos = sorted((data / "heldout").glob("*.mp4"))
    if len(videos) != HELDOUT_VIDEOS:
        raise SystemExit(f"{len(videos)} held-out videos instead of {HELDOUT_VIDEOS}: make them with data.py first")
    confusion = {variant: np.zeros((len(MOTION_CLASSES),) * 2, dtype=int) for variant in VARIANTS}
    for path in tqdm(videos, mininterval=10):
        truth = MOTION_CLASSES.index(path.stem.rpartition("_")[0])
        clip = middle_clip(path)
        for variant, (model, view) in models.items():
            confusion[variant][truth, int(model(view(clip)).argmax())] += 1
    return {
        "what": "camera-motion classification of generated videos the networks have not seen, read from H.264 files",
        "videos": len(videos),
        "views": "one clip of 16 frames from the middle, one centre crop of 112 x 112",
        "heldout_seeds": [HELDOUT_SEED, HELDOUT_SEED + math.ceil(HELDOUT_VIDEOS / len(MOTION_CLASSES)) - 1],
        "classes": list(MOTION_CLASSES),
        "machine": machine(),
        "training_data": json.loads((data / "train.json").read_text()),
        "variants": {variant: scores(confusion[variant]) | trained(data, variant) for variant in VARIANTS},
    }


def scores(confusion: np.ndarray) -> dict[str, Any]:
    correct, total = int(confusion.trace()), int(confusion.sum())
    shares = confusion.diagonal() / confusion.sum(axis=1)
    return {
        "correct": correct,
        "top1": round(100 * correct / total, 2),
        "interval_95": wilson(correct, total),
        "per_class": {name: round(100 * float(s), 1) for name, s in zip(MOTION_CLASSES, shares, strict=True)},
        "confusion": confusion.tolist(),
    }


def trained(data: Path, variant: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((data / "models" / f"{variant}.json").read_text())
    return {"training": record}


def machine() -> dict[str, Any]:
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    versions |= {"av": av.__version__, "slowfast_zoo": slowfast_zoo.__version__}
    return {"cpu": cpu, "cores": os.cpu_count(), **versions}


def table(record: dict[str, Any]) -> str:
    """The variants as a Markdown table, best first."""
    rows = ["| Network | parameters | top-1 | 95 % interval | weakest class | training |", "|---|---|---|---|---|---|"]
    for variant, result in sorted(record["variants"].items(), key=lambda item: -item[1]["top1"]):
        weakest = min(result["per_class"], key=result["per_class"].get)
        run, (low, high) = result["training"], result["interval_95"]
        cells = (
            TITLES[variant],
            f"{run['parameters'] / 1e6:.2f} M",
            f"{result['top1']:.1f} %",
            f"{low:.1f} to {high:.1f} %",
            f"{weakest} {result['per_class'][weakest]:.0f} %",
            f"{run['training_minutes']:.0f} min",
        )
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def write_table(text: str, page: Path, start: str, end: str = END) -> None:
    """Put ``text`` between two marker lines of a page."""
    before, found, rest = page.read_text(encoding="utf-8").partition(start)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise SystemExit(f"{page} lacks the markers {start!r} and {end!r}")
    page.write_text(f"{before}{start}\n{text}\n{end}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/motion.json"))
    parser.add_argument("--page", type=Path, help="Markdown page whose table is to be rewritten")
    parser.add_argument("--table-only", action="store_true", help="rewrite the table from an existing record")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.table_only:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(evaluate(args.data), indent=1) + "\n")
    record = json.loads(args.out.read_text())
    if args.page:
        write_table(table(record), args.page, START)
    print(table(record))


if __name__ == "__main__":
    main()
