"""Whether the bundled camera-motion weights help to learn what they never saw: classes of object motion.

    python -m benchmarks.transfer                      # into results/transfer.json and docs/images/transfer.png
    python -m benchmarks.transfer --quick --output X   # few videos, one seed: whether all of it works

The same network (slowfast_tiny_4x8), videos, epochs and settings of slowfast_zoo.finetune, three ways:

    head      the weights of slowfast_tiny_4x8.motion, of which only the new classifier is trained
    full      the same weights, all of which are trained
    scratch   random weights, all of which are trained

The videos are generated (benchmarks/synthetic/objects.py) and compressed with H.264; those of the validation have seeds
of their own. Clips are 64 x 64. The learning rates are choices: 0.02 where all is trained, 0.05 for the classifier.
Each seed draws other training videos, initial weights and orders. Runs share the cores, one thread each.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

import slowfast_zoo as sfz
from benchmarks.synthetic.objects import OBJECT_CLASSES, generate_object_video
from slowfast_zoo.inference.measure.bench import machine
from slowfast_zoo.video.encode import write_video

RESULTS = Path(__file__).parent / "results" / "transfer.json"
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "transfer.png"
NETWORK, WEIGHTS = "slowfast_tiny_4x8", "slowfast_tiny_4x8.motion"
WAYS: dict[str, dict[str, Any]] = {
    "head": {"model": WEIGHTS, "freeze": "res5", "lr": 0.05},
    "full": {"model": WEIGHTS, "lr": 0.02},
    "scratch": {"model": NETWORK, "pretrained": False, "lr": 0.02},
}
CROP = 64
VALIDATION_SEED = 1_000_000
TRAIN_SEED = 2_000_000


def _write(task: tuple[str, int, Path]) -> None:
    label, seed, path = task
    frames, fps = generate_object_video(label, seed)
    write_video(path, frames, fps)


def write_videos(folder: Path, first_seed: int, each: int) -> Path:
    """A folder for each class, with so many videos."""
    tasks = []
    for label in OBJECT_CLASSES:
        (folder / label).mkdir(parents=True)
        tasks += [(label, first_seed + index, folder / label / f"{index:03d}.mp4") for index in range(each)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_write, tasks, chunksize=8))
    return folder


def run(task: tuple[str, int, int, Path]) -> tuple[str, int, list[float], float]:
    """One fine-tuning in a process of its own: which, top-1 in percent after each epoch, and seconds of computing."""
    way, seed, epochs, folder = task
    torch.set_num_threads(1)
    begun = time.process_time()
    result = sfz.finetune(
        **WAYS[way],
        train=folder / f"train{seed}",
        val=folder / "val",
        output=folder / f"{way}{seed}",
        epochs=epochs,
        flip=False,  # left would become right
        crop=CROP,
        seed=seed,
        workers=0,
    )
    return way, seed, [round(100 * row["val_top1"], 2) for row in result.history], time.process_time() - begun


def measure(quick: bool) -> dict[str, Any]:
    epochs, each, validation, seeds = (2, 2, 1, 1) if quick else (8, 10, 8, 3)
    runs: dict[str, list[list[float]]] = {way: [[] for _ in range(seeds)] for way in WAYS}
    seconds = dict.fromkeys(WAYS, 0.0)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_videos(folder / "val", VALIDATION_SEED, validation)
        for seed in range(seeds):
            write_videos(folder / f"train{seed}", TRAIN_SEED + 1000 * seed, each)
        tasks = [(way, seed, epochs, folder) for seed in range(seeds) for way in WAYS]
        with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
            for way, seed, top1, spent in pool.imap_unordered(run, tasks):
                runs[way][seed] = top1
                seconds[way] += spent
                print(f"seed {seed}, {way}: {top1}", flush=True)
    return {
        "script": "benchmarks/transfer.py",
        "classes": list(OBJECT_CLASSES),
        "training_videos": each * len(OBJECT_CLASSES),
        "validation_videos": validation * len(OBJECT_CLASSES),
        "epochs": epochs,
        "crop": CROP,
        "seeds": seeds,
        "machine": machine(),
        "minutes": round((time.perf_counter() - start) / 60, 1),
        "cpu_seconds_a_run": {way: round(total / seeds, 1) for way, total in seconds.items()},
        "top1": runs,
    }


def draw(results: dict[str, Any], path: Path) -> None:
    """Accuracy against epochs: a line for the mean of the seeds, a band from the lowest to the highest."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), dpi=110, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    epochs = range(1, results["epochs"] + 1)
    names = {"full": "pretrained, all layers", "head": "pretrained, classifier only", "scratch": "from scratch"}
    final = {way: sum(run[-1] for run in results["top1"][way]) / results["seeds"] for way in names}
    places: dict[str, float] = {}  # of the labels, kept apart
    for way in sorted(names, key=final.__getitem__):
        places[way] = max([final[way], *(place + 13 for place in places.values())])
    for (way, name), colour in zip(names.items(), ("#1f6f8b", "#d9822b", "#8a8a8a"), strict=True):
        by_epoch = list(zip(*results["top1"][way], strict=True))
        mean = [sum(values) / len(values) for values in by_epoch]
        axes.fill_between(epochs, list(map(min, by_epoch)), list(map(max, by_epoch)), color=colour, alpha=0.18, lw=0)
        axes.plot(epochs, mean, color=colour, lw=2.2, marker="o", ms=4)
        label = f"{name}\n{mean[-1]:.0f} %"
        axes.annotate(label, (epochs[-1], places[way]), (8, 0), textcoords="offset points", color=colour, va="center")
    chance = 100 / len(results["classes"])
    axes.axhline(chance, color="#bbbbbb", lw=1, ls=":")
    axes.annotate("chance", (1, chance), (0, 3), textcoords="offset points", color="#8a8a8a", size=8)
    axes.set_xlim(0.8, results["epochs"] * 1.32)
    axes.set_ylim(0, 100)
    axes.set_xticks(list(epochs))
    axes.set_xlabel("epoch")
    axes.set_ylabel("top-1 on held-out videos, %")
    axes.set_title(
        f"12 classes of object motion, {results['training_videos']} training videos, {results['seeds']} seeds",
        loc="left",
        size=11,
        weight="bold",
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="y", color="#eeeeee")
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a look at whether it works; needs --output")
    parser.add_argument("--draw", action="store_true", help="only draw what is in the file")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the picture of another file goes beside it")
    args = parser.parse_args()
    if args.quick and args.output == RESULTS:
        parser.error("--quick measures nothing of worth: name another file with --output")
    if not args.draw:
        args.output.write_text(json.dumps(measure(args.quick), indent=1) + "\n", encoding="utf-8")
    results = json.loads(args.output.read_text(encoding="utf-8"))
    draw(results, PICTURE if args.output == RESULTS else args.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
