"""Training and held-out scenes of the detector of moving objects: generated videos, compressed with H.264.

    python benchmarks/objects/data.py train DATA
    python benchmarks/objects/data.py heldout DATA

Each scene is a file DATA/PART/SEED.mp4 with its boxes beside it in SEED.npz. The seeds of the two parts are disjoint.
Existing files stay, so a run that was stopped can go on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.synthetic.objects import ObjectsScene, generate_objects_scene
from slowfast_zoo.utils.files import whole_file
from slowfast_zoo.video.encode import write_video

PARTS = {"train": (0, 1600), "heldout": (20_000_000, 300)}  # first seed, scenes


def write_scene(seed: int, folder: Path) -> Path:
    """Generate a scene and compress it at a quality, speed and key-frame interval drawn from its seed."""
    path = folder / f"{seed:08d}.mp4"
    if path.exists():
        return path
    scene = generate_objects_scene(seed)
    rng = np.random.default_rng([seed, 264])
    preset = str(rng.choice(("ultrafast", "superfast", "veryfast")))
    interval = int(rng.choice((8, 15, 30, 250)))
    with whole_file(path.with_suffix(".npz")) as temporary:
        np.savez(temporary, boxes=scene.boxes, labels=scene.labels, visible=scene.visible, fps=scene.fps)
    write_video(
        path, scene.frames, scene.fps, crf=float(rng.uniform(18, 34)), preset=preset, keyframe_interval=interval
    )
    return path


def read_truth(path: Path) -> ObjectsScene:
    """What is known of a scene's video file, without its frames."""
    with np.load(path.with_suffix(".npz")) as file:
        frames = np.zeros((0, 0, 0, 3), np.uint8)
        return ObjectsScene(frames, float(file["fps"]), file["boxes"], file["labels"], file["visible"])


def _write(seed: int, folder: Path) -> None:
    torch.set_num_threads(1)
    write_scene(seed, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("data", type=Path, help="folder for the data, outside the repository")
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    folder = args.data / args.part
    folder.mkdir(parents=True, exist_ok=True)
    first, count = PARTS[args.part]
    began = time.time()
    with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
        work = pool.imap(partial(_write, folder=folder), range(first, first + count))
        for _ in tqdm(work, total=count, mininterval=10):
            pass
    record = {"scenes": count, "first_seed": first, "minutes": round((time.time() - began) / 60, 1)}
    (args.data / f"{args.part}.json").write_text(json.dumps(record) + "\n")
    print(f"{count} scenes in {record['minutes']} minutes")


if __name__ == "__main__":
    main()
