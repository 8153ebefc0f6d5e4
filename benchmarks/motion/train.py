"""Train the camera-motion classifier, or one of the networks it is compared with, on one core.

    python benchmarks/motion/train.py DATA slowfast
    python benchmarks/motion/train.py DATA slow      # Slow pathway only
    python benchmarks/motion/train.py DATA fast      # Fast pathway only
    python benchmarks/motion/train.py DATA none      # both pathways, no lateral connections

Every variant sees the same number of clips in the same schedule, in the same order and with the same augmentation. DATA
is the folder that data.py filled; the weights and a record of the run go to DATA/models/. Like the paper's recipe: a
cosine schedule with a linear warm-up; unlike it: AdamW, because the budget is a few minutes, and smaller pictures at
first, because early steps do not need the full ones.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

import slowfast_zoo
from benchmarks.synthetic.motion import MOTION_CLASSES, transformed_label
from slowfast_zoo.layers import Bottleneck
from slowfast_zoo.layers.fast_input import weaken

# The Fast pathway of slowfast_tiny_4x8 sees what changes from frame to frame (the paper's Table 5c): with RGB frames
# the budget is over before its few channels have learnt to look away from what does not move.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "slowfast": ("slowfast_tiny_4x8", {}),
    "slow": ("slow_tiny_4x8", {}),
    "fast": ("fast_tiny_4x8", {"in_chans": 1}),  # given the same differences
    "none": ("slowfast_tiny_4x8", {"fusion": "none"}),
}
MEAN, STD = 0.45, 0.225
STAGES = ((0.6, 64), (0.25, 96), (0.15, 112))  # share of the clips, and the side they are resized to
SYMMETRIES = [
    {"mirror": bool(i & 1), "flip": bool(i & 2), "transpose": bool(i & 4), "reverse": bool(i & 8)} for i in range(16)
]
LABEL_AFTER = np.array(
    [[MOTION_CLASSES.index(transformed_label(name, **s)) for name in MOTION_CLASSES] for s in SYMMETRIES]
)


class Clips:
    """The training shards, read from disk as they are needed."""

    def __init__(self, folder: Path) -> None:
        names = sorted(path for path in folder.glob("[0-9][0-9][0-9].npy"))
        if not names:
            raise FileNotFoundError(f"no training clips in {folder}; make them with data.py")
        self.shards = [np.load(path, mmap_mode="r") for path in names]
        self.labels = np.concatenate([np.load(path.with_suffix(".labels.npy")) for path in names])
        self.places = [(shard, i) for shard, clips in enumerate(self.shards) for i in range(len(clips))]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        shard, i = self.places[index]
        return np.array(self.shards[shard][i])


def changed(clip: NDArray[np.uint8], mirror: bool, flip: bool, transpose: bool, reverse: bool) -> NDArray[np.uint8]:
    """(T, H, W, 3) frames after an exact symmetry; ``transformed_label`` says what becomes of the label."""
    clip = clip[:, :, ::-1] if mirror else clip
    clip = clip[:, ::-1] if flip else clip
    clip = clip.swapaxes(1, 2) if transpose else clip
    return clip[::-1] if reverse else clip


def batches(clips: Clips, total: int, batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented batches: float (B, 3, 16, S, S), labels (B,). S grows as STAGES says."""
    rng = np.random.default_rng(seed)
    order: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
    ends = np.cumsum([share for share, _ in STAGES])
    for first in range(0, total, batch):
        side = STAGES[min(int(np.searchsorted(ends, first / total, side="right")), len(STAGES) - 1)][1]
        if len(order) < batch:
            order = np.concatenate([order, rng.permutation(len(clips))])
        chosen, order = order[:batch], order[batch:]
        pictures, labels = [], []
        for index in chosen:
            symmetry, crop = int(rng.integers(len(SYMMETRIES))), int(rng.integers(96, 129))
            antialias = bool(rng.random() < 0.7)
            top, left = rng.integers(0, 128 - crop + 1, 2)
            frames = torch.from_numpy(clips[index][:, top : top + crop, left : left + crop]).permute(0, 3, 1, 2)
            small = F.interpolate(frames, size=(side, side), mode="bilinear", antialias=antialias)
            clip = changed(small.permute(0, 2, 3, 1).numpy(), **SYMMETRIES[symmetry])
            pictures.append(torch.from_numpy(np.ascontiguousarray(clip.transpose(3, 0, 1, 2)[rng.permutation(3)])))
            labels.append(LABEL_AFTER[symmetry, clips.labels[index]])
        x = (torch.stack(pictures).float() / 255 - MEAN) / STD  # (B, 3, T, S, S)
        gain = rng.choice((-1, 1), (batch, 1, 1, 1, 1)) * np.exp(rng.normal(0, 0.25, (batch, 3, 1, 1, 1)))
        shift = rng.normal(0, 0.3, (batch, 3, 1, 1, 1))
        yield x * torch.from_numpy(gain).float() + torch.from_numpy(shift).float(), torch.tensor(labels)


def make_variant(variant: str, **keywords: Any) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """The network of a variant, and what it is given of a clip (B, 3, 16, S, S)."""
    name, overrides = VARIANTS[variant]
    model = slowfast_zoo.create_model(name, num_classes=len(MOTION_CLASSES), **overrides, **keywords)
    if variant == "slow":
        return model, lambda clip: clip[:, :, ::4]  # T x tau = 4 x 8: every 8th frame of a 30 fps video
    if variant == "fast":
        return model, lambda clip: weaken(clip, "time_difference")
    return model, lambda clip: clip


def train(
    data: Path, variant: str, total: int, batch: int, rate: float, seed: int
) -> tuple[nn.Module, dict[str, object]]:
    """Train one variant; gives the network and a record of the run."""
    torch.manual_seed(seed)
    model, view = make_variant(variant, drop_rate=0.1)
    for module in model.modules():
        if isinstance(module, Bottleneck):  # zero at first is for deep networks; this one has a block a stage
            nn.init.ones_(module.conv3.norm.weight)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": others, "weight_decay": 0.0}], weight_decay=0.02)
    clips = Clips(data / "train")
    steps, began, losses = math.ceil(total / batch), time.time(), []
    model.train()
    progress = tqdm(batches(clips, total, batch, seed), total=steps, mininterval=10)
    for i, (x, y) in enumerate(progress):
        for group in optimizer.param_groups:
            group["lr"] = rate * min((i + 1) / (0.03 * steps), 0.5 * (1 + math.cos(math.pi * i / steps)))
        loss = F.cross_entropy(model(view(x)), y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        losses.append(loss.item())
        progress.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}", refresh=False)
    record = {
        "architecture": VARIANTS[variant][0],
        "overrides": VARIANTS[variant][1],
        "parameters": sum(p.numel() for p in model.parameters()),
        "clips_seen": steps * batch,
        "distinct_clips": len(clips),
        "batch": batch,
        "peak_learning_rate": rate,
        "seed": seed,
        "training_minutes": round((time.time() - began) / 60, 1),
        "final_loss": round(float(np.mean(losses[-50:])), 4),
    }
    return model, record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("--clips", type=int, default=38_000, help="clips seen, repetitions counted")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--name", help="name of the output files; the variant's when not given")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, record = train(args.data, args.variant, args.clips, args.batch, args.rate, args.seed)
    folder = args.data / "models"
    folder.mkdir(exist_ok=True)
    stem = folder / (args.name or args.variant)
    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(tensors, stem.with_suffix(".partial"))
    os.replace(stem.with_suffix(".partial"), stem.with_suffix(".safetensors"))
    stem.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
