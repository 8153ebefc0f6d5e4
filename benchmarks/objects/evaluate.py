"""Measure the detector of moving objects on the 300 held-out scenes, from their H.264 files; write record and table.

    python benchmarks/objects/evaluate.py DATA --page docs/objects.md

Each video goes through the library's ActionDetector like any user's: one key frame in its middle, the objects' boxes
given, no mirroring. A detection is a box with the score of a class; it is right if an object of that class has a box
whose IoU with it is at least 0.5, as in AVA's frame mAP. DATA holds the weights that train.py wrote (DATA/models) and
the videos of data.py (DATA/heldout); with ``--weights`` another file is measured. With ``--page`` the table between
that page's markers is rewritten from the record; ``--table-only`` does just this.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import torchvision
from tqdm import tqdm

import slowfast_zoo
from benchmarks.objects.data import PARTS, read_truth
from benchmarks.objects.train import NAME
from benchmarks.synthetic.objects import OBJECT_ACTIONS
from slowfast_zoo.inference.detect.detector import ActionDetector
from slowfast_zoo.inference.evaluation.ava import AvaBoxes
from slowfast_zoo.inference.evaluation.frame_map import FrameMAP, frame_map

START, END = "<!-- objects table: written by benchmarks/objects/evaluate.py -->", "<!-- end of objects table -->"
RESAMPLES = 400


Rows = list[tuple[str, float, tuple[float, ...], int, float]]


def rows_of(detect: ActionDetector, path: Path) -> tuple[Rows, Rows]:
    """Ground truth and detections of the frame in a video's middle, in AVA's terms (actions are numbered from 1)."""
    truth = read_truth(path)
    frame = len(truth.boxes) // 2
    seen = truth.visible[frame]
    found = detect(path, {(frame + 0.5) / truth.fps: truth.boxes[frame][seen]})
    size = np.array([found.width, found.height] * 2)
    shown = zip(truth.boxes[frame][seen], truth.labels[seen].tolist(), strict=True)
    wanted: Rows = [(path.stem, 0, tuple((box / size).tolist()), label + 1, 1.0) for box, label in shown]
    return wanted, [(path.stem, 0, box, action, score) for _, box, action, score in found.ava_rows()]


def precision_of(videos: Sequence[tuple[Rows, Rows]]) -> FrameMAP:
    """Frame mAP; a video that is there several times counts as several."""
    truth, found = (
        AvaBoxes.from_rows((f"{i}-{row[0]}", *row[1:]) for i, video in enumerate(videos) for row in video[part])
        for part in (0, 1)
    )
    return frame_map(truth, found, dict(enumerate(OBJECT_ACTIONS, 1)), protocol="mmaction2")


def interval(videos: Sequence[tuple[Rows, Rows]], value: float) -> list[float]:
    """Basic bootstrap interval (95 %), in percent, over videos."""
    rng = np.random.default_rng(0)
    drawn = [precision_of([videos[i] for i in rng.integers(len(videos), size=len(videos))]) for _ in range(RESAMPLES)]
    low, high = np.quantile([one.mean for one in drawn], (0.025, 0.975))
    return [round(100 * float(min(max(2 * value - end, 0), 1)), 2) for end in (high, low)]


def evaluate(data: Path, weights: Path) -> dict[str, Any]:
    model = slowfast_zoo.create_model(NAME, num_classes=len(OBJECT_ACTIONS), checkpoint_path=weights)
    detect = ActionDetector(model, labels=OBJECT_ACTIONS)
    paths = sorted((data / "heldout").glob("*.mp4"))
    first, count = PARTS["heldout"]
    if len(paths) != count:
        raise SystemExit(f"{len(paths)} held-out videos instead of {count}: make them with data.py first")
    videos = [rows_of(detect, path) for path in tqdm(paths, mininterval=10)]
    result = precision_of(videos)
    confusion = np.zeros((len(OBJECT_ACTIONS),) * 2, dtype=int)
    for truth, found in videos:
        scores = np.array([row[4] for row in found]).reshape(len(truth), -1)
        np.add.at(confusion, ([row[3] - 1 for row in truth], scores.argmax(axis=1)), 1)
    training = weights.with_suffix(".json")
    return {
        "what": "detection of object actions in generated videos the network has not seen, read from H.264 files",
        "commands": [
            "python benchmarks/objects/data.py train DATA",
            "python benchmarks/objects/data.py heldout DATA",
            "python benchmarks/objects/train.py DATA",
            "python benchmarks/objects/evaluate.py DATA --page docs/objects.md",
        ],
        "videos": result.videos,
        "boxes": result.boxes,
        "views": f"one clip of 16 frames around the middle, shorter side {detect.transform.scale}, boxes given",
        "heldout_seeds": [first, first + count - 1],
        "classes": list(OBJECT_ACTIONS),
        "frame_map": round(100 * result.mean, 2),
        "iou": result.iou,
        "interval_95": interval(videos, result.mean),
        "top1": round(100 * float(confusion.trace() / confusion.sum()), 2),
        "per_class": {
            entry.label: {"boxes": entry.boxes, "ap": round(100 * (entry.value or 0), 2)} for entry in result.classes
        },
        "confusion": confusion.tolist(),
        "machine": machine(),
        "training_data": json.loads((data / "train.json").read_text()),
        "training": json.loads(training.read_text()) if training.exists() else None,
    }


def machine() -> dict[str, Any]:
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    versions = {module.__name__: module.__version__ for module in (torch, torchvision, np, av, slowfast_zoo)}
    return {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version(), **versions}


def table(record: dict[str, Any]) -> str:
    """The classes as a Markdown table."""
    lines = ["| Class | boxes | average precision | most often taken for |", "|---|---:|---:|---|"]
    for i, name in enumerate(record["classes"]):
        row = [0 if i == j else n for j, n in enumerate(record["confusion"][i])]
        taken = f"`{record['classes'][int(np.argmax(row))]}` ({max(row)})" if max(row) else ""
        found = record["per_class"][name]
        lines.append(f"| `{name}` | {found['boxes']} | {found['ap']:.1f} % | {taken} |")
    low, high = record["interval_95"]
    lines.append(f"| **all** | {record['boxes']} | **{record['frame_map']:.1f} %** ({low:.1f} to {high:.1f}) | |")
    return "\n".join(lines)


def write_table(text: str, page: Path) -> None:
    """Put ``text`` between the markers of a page."""
    before, found, rest = page.read_text(encoding="utf-8").partition(START)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise SystemExit(f"{page} lacks the markers {START!r} and {END!r}")
    page.write_text(f"{before}{START}\n{text}\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path, help="DATA/models/objects.safetensors when not given")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/objects.json"))
    parser.add_argument("--page", type=Path, help="Markdown page whose table is to be rewritten")
    parser.add_argument("--table-only", action="store_true", help="rewrite the table from an existing record")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.table_only:
        weights = args.weights or args.data / "models" / "objects.safetensors"
        args.out.write_text(json.dumps(evaluate(args.data, weights), indent=1) + "\n")
    record = json.loads(args.out.read_text())
    if args.page:
        write_table(table(record), args.page)
    print(table(record))


if __name__ == "__main__":
    main()
