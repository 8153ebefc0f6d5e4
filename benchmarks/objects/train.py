"""Fine-tune the bundled camera-motion network into a detector of moving objects, on one core.

    python benchmarks/objects/train.py DATA

All layers but the classifier start from slowfast_tiny_4x8.motion (the projection of the Slow pathway's res5 falls away:
with a spatial stride of 1 its shortcut is the identity). It sees a clip around a moment near the middle of each scene,
with the boxes of that moment, slightly displaced: binary cross-entropy, AdamW with a cosine schedule and a linear
warm-up, smaller pictures at first. DATA is the folder that data.py filled; weights and a record of the run go to
DATA/models/.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import slowfast_zoo
from benchmarks.objects.data import read_truth
from benchmarks.synthetic.objects import OBJECT_ACTIONS
from slowfast_zoo.storage.tensors import save_state_dict
from slowfast_zoo.transforms import resized_size
from slowfast_zoo.video import VideoReader, keyframe_clips

NAME, START = "slowfast_tiny_4x8_det", "slowfast_tiny_4x8.motion"
MEAN, STD = 0.45, 0.225
STAGES = ((0.6, 112), (0.4, 160))  # share of the clips, and their shorter side; tests have the last
MIRRORED = (("move_left", "move_right"), ("spin_clockwise", "spin_counterclockwise"))
REVERSED = (*MIRRORED, ("move_up", "move_down"), ("approach", "recede"))


def exchanged(pairs: tuple[tuple[str, str], ...]) -> list[int]:
    """For each action the one that it becomes."""
    other = dict([*pairs, *(pair[::-1] for pair in pairs)])
    return [OBJECT_ACTIONS.index(other.get(action, action)) for action in OBJECT_ACTIONS]


class Scenes:
    """The training videos, decoded as they are needed."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*.mp4"))
        if not self.paths:
            raise FileNotFoundError(f"no training scenes in {folder}; make them with data.py")
        self.shapes: dict[float, list[Path]] = defaultdict(list)  # clips of a batch are of one shape
        for path in self.paths:
            with VideoReader(path, threads=1) as reader:
                self.shapes[round(reader.width / reader.height, 1)].append(path)

    def batches(self, batch: int, rng: np.random.Generator) -> Iterator[list[Path]]:
        """Without end: all scenes in random order, then all again."""
        while True:
            groups = []
            for paths in self.shapes.values():
                order = rng.permutation(len(paths))
                groups += [[paths[i] for i in order[first : first + batch]] for first in range(0, len(order), batch)]
            for i in rng.permutation(len(groups)):
                yield groups[i]


def example(path: Path, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A clip (16, 3, H, W) of a scene, changed in ways that keep its actions known, boxes (N, 4) and classes (N,)."""
    truth = read_truth(path)
    middle, reach = len(truth.boxes) / truth.fps / 2, 0.1
    moment = rng.uniform(middle - reach, middle + reach)
    frame = min(int(moment * truth.fps), len(truth.boxes) - 1)
    with VideoReader(path, threads=1) as reader:
        span = keyframe_clips(reader.duration, [moment], clip_frames=16, clip_stride=2)[0]
        clip = reader.frames_at(span.times)
    seen = truth.visible[frame]
    boxes, labels = truth.boxes[frame][seen].astype(np.float64), truth.labels[seen]
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    boxes = boxes + rng.uniform(-0.1, 0.1, boxes.shape) * sides
    if rng.random() < 0.5:
        clip, labels = clip.flip(-1), np.array(exchanged(MIRRORED))[labels]
        boxes[:, [0, 2]] = clip.shape[-1] - boxes[:, [2, 0]]
    if rng.random() < 0.5:
        clip, labels = clip.flip(0), np.array(exchanged(REVERSED))[labels]
    return clip[:, torch.from_numpy(rng.permutation(3))], torch.from_numpy(boxes).float(), torch.from_numpy(labels)


def inputs(paths: list[Path], short: int, rng: np.random.Generator) -> tuple[Tensor, list[Tensor], Tensor]:
    """A batch: clips (B, 3, 16, h, w), their boxes, and the classes of all boxes (K,)."""
    examples = [example(path, rng) for path in paths]
    size = resized_size(*examples[0][0].shape[2:], short)
    clips, boxes = [], []
    for clip, found, _ in examples:
        factor = torch.tensor([size[1] / clip.shape[3], size[0] / clip.shape[2]]).repeat(2)
        small = F.interpolate(clip.float(), size=size, mode="bilinear")
        clips.append(small.transpose(0, 1))
        boxes.append(found * factor)
    x = (torch.stack(clips) / 255 - MEAN) / STD
    gain = rng.choice((-1, 1), (len(x), 1, 1, 1, 1)) * np.exp(rng.normal(0, 0.25, (len(x), 3, 1, 1, 1)))
    shift = rng.normal(0, 0.3, (len(x), 3, 1, 1, 1))
    x = x * torch.from_numpy(gain).float() + torch.from_numpy(shift).float()
    return x, boxes, torch.cat([labels for _, _, labels in examples])


def detector(start: str | None = START) -> nn.Module:
    """The network, with what it can take over from other weights."""
    model: Any = slowfast_zoo.create_model(NAME, num_classes=len(OBJECT_ACTIONS), drop_rate=0.1)
    if start:
        own = model.state_dict()
        known = slowfast_zoo.create_model(start, pretrained=True).state_dict()
        fitting = {name: value for name, value in known.items() if name in own and own[name].shape == value.shape}
        missing = model.load_state_dict(fitting, strict=False).missing_keys
        if missing != ["head.fc.weight", "head.fc.bias"]:
            raise SystemExit(f"{start} lacks more than the classifier: {missing}")
    return model


def train(data: Path, total: int, batch: int, rate: float, seed: int) -> tuple[nn.Module, dict[str, object]]:
    """Fine-tune; gives the network and a record of the run."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = detector()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": others, "weight_decay": 0.0}], weight_decay=0.02)
    scenes = Scenes(data / "train")
    seen, boxes_seen, losses = 0, 0, []
    began, cpu_began = time.time(), time.process_time()
    ends = np.cumsum([share for share, _ in STAGES])
    model.train()
    with tqdm(total=total, mininterval=10) as progress:
        for paths in scenes.batches(batch, rng):
            if seen >= total:
                break
            short = STAGES[min(int(np.searchsorted(ends, seen / total, side="right")), len(STAGES) - 1)][1]
            clips, boxes, labels = inputs(paths, short, rng)
            warm, cosine = (seen + len(paths)) / (0.05 * total), 0.5 * (1 + math.cos(math.pi * seen / total))
            for group in optimizer.param_groups:
                group["lr"] = rate * min(warm, cosine)
            target = F.one_hot(labels, len(OBJECT_ACTIONS)).float()
            loss = F.binary_cross_entropy_with_logits(model(clips, boxes), target)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            losses.append(loss.item())
            seen, boxes_seen = seen + len(paths), boxes_seen + len(labels)
            progress.update(len(paths))
            progress.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}", refresh=False)
    return model, {
        "architecture": NAME,
        "started_from": START,
        "parameters": sum(p.numel() for p in model.parameters()),
        "scenes": len(scenes.paths),
        "clips_seen": seen,
        "boxes_seen": boxes_seen,
        "stages": STAGES,
        "batch": batch,
        "peak_learning_rate": rate,
        "seed": seed,
        "training_minutes": round((time.time() - began) / 60, 1),
        "processor_minutes": round((time.process_time() - cpu_began) / 60, 1),
        "final_loss": round(float(np.mean(losses[-50:])), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--clips", type=int, default=4_000, help="clips seen, repetitions counted")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, record = train(args.data, args.clips, args.batch, args.rate, args.seed)
    folder = args.data / "models"
    folder.mkdir(exist_ok=True)
    save_state_dict(model.state_dict(), folder / "objects.safetensors")
    (folder / "objects.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
