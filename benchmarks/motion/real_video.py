"""Known camera moves over frames of real videos: does what was learnt on generated scenes hold for photographs?

    python benchmarks/motion/real_video.py FOLDER --page docs/motion.md

For every video in FOLDER, every class and every seed, a virtual camera follows a random path of that class over the
video's frames (a view of part of the picture, so that it has somewhere to go), and the result is compressed with H.264
and classified from the file. Two ways: over one frame held still, and over the frames as they play. Playing frames keep
whatever the real camera did, which is added to the known move: only videos shot from a tripod have a true label then.
A view that leaves the picture (whips do) sees it mirrored.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F
from evaluate import middle_clip, wilson, write_table
from numpy.typing import NDArray
from torch import Tensor
from train import make_variant

from benchmarks.synthetic.motion import MOTION_CLASSES, CameraPath, camera_path, warp
from slowfast_zoo.video.encode import write_video

BUNDLED = Path("slowfast_zoo/weights/bundled/slowfast_tiny_4x8.motion.safetensors")
START = "<!-- real-video table: written by benchmarks/motion/real_video.py -->"
SECONDS = 1.2
TALLEST = 360  # larger pictures are made this tall first
SMALLEST_VIEW = 128  # pixels; a path that needs a smaller view to stay inside the picture leaves it instead


def read_frames(path: Path) -> tuple[Tensor, float]:
    """All frames, float (N, 3, H, W) in [0, 1] and at most 360 pixels tall, and the frame rate."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        fps = float(stream.average_rate or 30)
        frames = []
        for frame in container.decode(stream):
            picture = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)[None]
            shrink = min(1.0, TALLEST / frame.height)
            frames.append(F.interpolate(picture, scale_factor=shrink, mode="bilinear", antialias=True)[0])
    return torch.stack(frames), fps


def film(pictures: Tensor, path: CameraPath, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Move a camera along a path over pictures: uint8 (1, 3, H, W) or (N, 3, H, W) -> uint8 frames (N, S, S, 3)."""
    height, width = pictures.shape[2:]
    corners = path.matrices() @ np.array([[-0.5, 0.5, -0.5, 0.5], [-0.5, -0.5, 0.5, 0.5], [1, 1, 1, 1]])
    low, high = corners[:, :2].min(axis=(0, 2)), corners[:, :2].max(axis=(0, 2))
    room = np.array([width, height])
    unit = float(np.clip((room / (high - low)).min() * 0.98, SMALLEST_VIEW, min(room) * 0.75))
    slack = np.maximum(room / unit - (high - low), 0) / 2
    centre = rng.uniform(-slack, slack) - (low + high) / 2
    placed = CameraPath(path.x + centre[0], path.y + centre[1], path.log_scale, path.angle)
    side = round(unit / 2) * 2
    speed = float(np.hypot(np.diff(path.x), np.diff(path.y)).mean()) * unit
    moments = min(8, 1 + int(speed * 0.5 / 1.5))  # the shutter is open for half of the time
    frames = []
    for i in range(len(path)):
        picture = (pictures[i if len(pictures) > 1 else 0] / 255).expand(moments, -1, -1, -1)
        seen = placed.at(i + 0.5 * np.arange(moments) / moments).matrices()
        frames.append(warp(picture, seen, (side, side), unit).mean(dim=0))
    return (torch.stack(frames) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--checkpoint", type=Path, default=BUNDLED, help="weights to test instead of the bundled ones")
    parser.add_argument("--keep", type=Path, help="folder to keep the videos in, for looking at")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/motion_real_video.json"))
    parser.add_argument("--page", type=Path, help="Markdown page whose table is to be rewritten")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = make_variant("slowfast", checkpoint_path=args.checkpoint)[0].eval()

    videos = sorted(path for path in args.folder.iterdir() if path.suffix.lower() in (".mp4", ".avi", ".mkv", ".mov"))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for number, video in enumerate(videos, start=1):
            pictures, fps = read_frames(video)
            count = math.ceil(SECONDS * fps)
            for label in MOTION_CLASSES:
                for seed in range(args.seeds):
                    for way in ("still", "playing"):
                        rng = np.random.default_rng([number, seed, MOTION_CLASSES.index(label)])
                        first = int(rng.integers(0, len(pictures) - count + 1))
                        source = pictures[first : first + (1 if way == "still" else count)]
                        frames = film(source, camera_path(label, SECONDS, fps, rng), rng)
                        target = folder / f"{number}_{way}_{label}_{seed}.mp4"
                        write_video(target, frames, fps, crf=23)
                        with torch.inference_mode():
                            found = MOTION_CLASSES[int(model(middle_clip(target)).argmax())]
                        rows.append({"video": number, "way": way, "label": label, "seed": seed, "found": found})
            print(f"video {number}: {summary([r for r in rows if r['video'] == number])}", flush=True)

    result = {
        "what": "known camera paths over frames of real videos, classified from H.264 files by one clip, centre crop",
        "videos": len(videos),
        "seeds": args.seeds,
        "overall": summary(rows),
        "per_video": {str(n): summary([r for r in rows if r["video"] == n]) for n in range(1, len(videos) + 1)},
        "per_class": {label: summary([r for r in rows if r["label"] == label]) for label in MOTION_CLASSES},
        "mistakes": [r for r in rows if r["label"] != r["found"]],
    }
    print(json.dumps({key: result[key] for key in ("overall", "per_video", "per_class")}, indent=2))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    if args.page:
        write_table(table(result), args.page, START)


def table(result: dict[str, Any]) -> str:
    """Top-1 and interval of every video, as a Markdown table."""
    rows = ["| Video | one frame held still | frames as they play |", "|---|---|---|"]
    for name, entry in [*result["per_video"].items(), ("all", result["overall"])]:
        cells = [
            f"{entry[way]['top1']:.1f} % ({entry[way]['interval_95'][0]:.1f} to {entry[way]['interval_95'][1]:.1f})"
            for way in ("still", "playing")
        ]
        rows.append(f"| {name} | {cells[0]} | {cells[1]} |")
    return "\n".join(rows)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Correct, total, top-1 and its interval, for still and for playing frames."""
    out = {}
    for way in ("still", "playing"):
        right = [r["label"] == r["found"] for r in rows if r["way"] == way]
        low, high = wilson(sum(right), len(right))
        share = round(100 * sum(right) / len(right), 2)
        out[way] = {
            "correct": sum(right),
            "total": len(right),
            "top1": share,
            "interval_95": [low, high],
        }
    return out


if __name__ == "__main__":
    main()
