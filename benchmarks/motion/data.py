"""Training and held-out data of the camera-motion model: generated videos, compressed with H.264 and decoded again.

    python benchmarks/motion/data.py train DATA --shards 45 --workers 2 --minutes 20
    python benchmarks/motion/data.py heldout DATA --workers 2

Training clips are kept as uint8 arrays (clips, 16, 128, 128, 3) in DATA/train/NNN.npy with their labels beside them,
held-out videos as MP4 files, DATA/heldout/LABEL_SEED.mp4. The seeds of the two sets are disjoint. Existing files stay,
so a run that its time limit stopped can go on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.synthetic.motion import MOTION_CLASSES, generate_motion_video
from slowfast_zoo.video.encode import write_video

SIDE = 128  # shorter side of a stored clip; the network's crop is 112
FRAMES, STEP = 16, 2 / 30  # frames of a clip and the seconds between them
SEEDS_PER_SHARD = 20  # per class
HELDOUT_VIDEOS, HELDOUT_SEED = 1000, 20_000_000


def write_motion_file(path: Path, label: str, seed: int, seconds: float | None = None) -> None:
    """Generate a video and compress it at a quality, speed and key-frame interval drawn from its seed."""
    frames, fps = generate_motion_video(label, seed, seconds=seconds)
    rng = np.random.default_rng([seed, MOTION_CLASSES.index(label), 264])
    preset = str(rng.choice(("ultrafast", "superfast", "veryfast")))
    interval = int(rng.choice((8, 15, 30, 250)))
    write_video(path, frames, fps, crf=float(rng.uniform(18, 36)), preset=preset, keyframe_interval=interval)


def read_clip(path: Path, start: float) -> NDArray[np.uint8]:
    """The frames (16, H, W, 3) shown ``start`` seconds after the first one and every 2/30 s from there."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    times = np.array([frame.time for frame in frames]) - frames[0].time
    shown = np.searchsorted(times, start + STEP * np.arange(FRAMES) + 1e-3, side="right") - 1
    decoded = {int(i): frames[i].to_ndarray(format="rgb24") for i in sorted(set(shown))}
    return np.stack([decoded[int(i)] for i in shown])


def training_clip(label: str, seed: int, folder: Path) -> NDArray[np.uint8]:
    """One clip (16, 128, 128, 3) from a file written and read back; a random square of the picture, random start."""
    path = folder / f"{os.getpid()}.mp4"
    write_motion_file(path, label, seed)
    rng = np.random.default_rng([seed, MOTION_CLASSES.index(label), 128])
    clip = torch.from_numpy(read_clip(path, rng.uniform(0, 0.1))).permute(0, 3, 1, 2)
    height, width = clip.shape[2:]
    short = min(height, width)
    top, left = int(rng.integers(0, height - short + 1)), int(rng.integers(0, width - short + 1))
    clip = clip[:, :, top : top + short, left : left + short]
    small = F.interpolate(clip, size=(SIDE, SIDE), mode="bilinear", antialias=bool(rng.random() < 0.7))
    return small.permute(0, 2, 3, 1).contiguous().numpy()


def write_shard(shard: int, folder: Path, stop_at: float) -> bool:
    """Write shard number ``shard``: 20 clips of every class. False when there was no time left to begin."""
    target = folder / f"{shard:03d}.npy"
    if target.exists():
        return True
    if time.time() > stop_at:
        return False
    torch.set_num_threads(1)
    labels = np.repeat(np.arange(len(MOTION_CLASSES)), SEEDS_PER_SHARD)
    seeds = np.tile(np.arange(SEEDS_PER_SHARD) + shard * SEEDS_PER_SHARD, len(MOTION_CLASSES))
    with tempfile.TemporaryDirectory() as scratch:
        clips = [training_clip(MOTION_CLASSES[c], int(s), Path(scratch)) for c, s in zip(labels, seeds, strict=True)]
    np.save(folder / f"{shard:03d}.labels.npy", labels)
    partial_file = folder / f"{shard:03d}.partial.npy"
    np.save(partial_file, np.stack(clips))
    os.replace(partial_file, target)
    return True


def write_heldout(index: int, folder: Path) -> bool:
    """Write held-out video number ``index``; classes take turns."""
    torch.set_num_threads(1)
    label, seed = MOTION_CLASSES[index % len(MOTION_CLASSES)], HELDOUT_SEED + index // len(MOTION_CLASSES)
    path = folder / f"{label}_{seed}.mp4"
    if not path.exists():
        write_motion_file(path, label, seed)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("train", "heldout"))
    parser.add_argument("data", type=Path, help="folder for the data, outside the repository")
    parser.add_argument("--shards", type=int, default=45, help="training shards of 240 clips")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=20.0, help="no training shard is begun after this long")
    args = parser.parse_args()
    folder = args.data / args.part
    folder.mkdir(parents=True, exist_ok=True)
    if args.part == "train":
        count, work = args.shards, partial(write_shard, folder=folder, stop_at=time.time() + 60 * args.minutes)
    else:
        count, work = HELDOUT_VIDEOS, partial(write_heldout, folder=folder)
    began = time.time()
    with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
        done = sum(tqdm(pool.imap(work, range(count)), total=count))
    record = {"files": int(done), "minutes": round((time.time() - began) / 60, 1), "workers": args.workers}
    (args.data / f"{args.part}.json").write_text(json.dumps(record) + "\n")
    print(f"{done} of {count} written in {record['minutes']} minutes")


if __name__ == "__main__":
    main()
