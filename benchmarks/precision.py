"""What bfloat16 and float16 do to predictions: the bundled model on held-out videos of camera moves.

    python -m benchmarks.precision                             # into benchmarks/results/precision.json
    python -m benchmarks.precision --videos 12 --output X      # a quick look

The videos are the first of the held-out set of benchmarks/motion/data.py: generated, compressed with H.264 and read
back as any user's video is; one clip from the middle, one centre crop. Every network sees the same clips. Scores are
probabilities; each network is compared with the ordinary one in float32.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import slowfast_zoo as sfz
from benchmarks.motion.data import HELDOUT_SEED, HELDOUT_VIDEOS, write_motion_file
from benchmarks.synthetic.motion import MOTION_CLASSES
from slowfast_zoo.inference.measure.bench import machine
from slowfast_zoo.inference.optimize.network import optimize_for_inference
from slowfast_zoo.video import VideoReader, sample_clips

RESULTS = Path(__file__).parent / "results" / "precision.json"
MODEL = "slowfast_tiny_4x8.motion"
DTYPES = ("float32", "bfloat16", "float16")
BATCH = 12


def heldout_clips(count: int, config: Any) -> tuple[Tensor, Tensor]:
    """The clips (N, 3, T, S, S) from the middle of held-out videos, and their classes (N,); classes take turns."""
    transform = sfz.create_transform(MODEL, crops=1)
    clips = []
    labels = [index % len(MOTION_CLASSES) for index in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        for index, label in enumerate(tqdm(labels, mininterval=10)):
            write_motion_file(path, MOTION_CLASSES[label], HELDOUT_SEED + index // len(MOTION_CLASSES))
            with VideoReader(path, threads=1) as reader:
                span = sample_clips(reader.duration, 1, clip_frames=config.clip_frames, clip_stride=config.clip_stride)[
                    0
                ]
                clips.append(transform(reader.frames_at(span.times)))
    return torch.stack(clips), torch.tensor(labels)


@torch.inference_mode()
def probabilities(network: Any, clips: Tensor) -> Tensor:
    """(N, classes) in float32, from clips in the dtype that the network takes."""
    return torch.cat([network(part).float().softmax(dim=1) for part in clips.split(BATCH)])


def compared(scores: Tensor, reference: Tensor, labels: Tensor) -> dict[str, Any]:
    """Accuracy, agreement with the reference's best class (both in percent), and differences of probabilities."""
    difference = (scores - reference).abs()
    return {
        "top1": _percent(scores.argmax(1) == labels),
        "agreement": _percent(scores.argmax(1) == reference.argmax(1)),
        "disagreeing": int((scores.argmax(1) != reference.argmax(1)).sum()),
        "mean_difference": float(f"{float(difference.mean()):.3g}"),
        "max_difference": float(f"{float(difference.max()):.3g}"),
    }


def _percent(hits: Tensor) -> float:
    return round(100 * float(hits.float().mean()), 2)


def measure(count: int) -> dict[str, Any]:
    model: Any = sfz.create_model(MODEL, pretrained=True).eval()
    clips, labels = heldout_clips(count, model.config)
    reference = probabilities(model, clips)
    rows: dict[str, Any] = {}
    for dtype in DTYPES:
        kind: torch.dtype = getattr(torch, dtype)
        ordinary = sfz.create_model(MODEL, pretrained=True).eval().to(kind)
        rows[f"ordinary {dtype}"] = compared(probabilities(ordinary, clips.to(kind)), reference, labels)
        optimised = optimize_for_inference(model, dtype=kind)
        rows[f"optimised {dtype}"] = compared(probabilities(optimised, clips), reference, labels)
    return {
        "script": "benchmarks/precision.py",
        "model": MODEL,
        "videos": count,
        "views": "one clip from the middle, one centre crop",
        "reference": "ordinary float32",
        "machine": machine(),
        "networks": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=360, help="how many (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    if not 1 <= args.videos <= HELDOUT_VIDEOS:
        parser.error(f"there are 1 to {HELDOUT_VIDEOS} held-out videos, not {args.videos}")
    results = measure(args.videos)
    args.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results["networks"], indent=1))


if __name__ == "__main__":
    main()
