"""A video in, predictions out: the whole way, beside a straightforward pipeline on the same weights and network code.

    python -m benchmarks.video                      # all parts, into benchmarks/results/video.json
    python -m benchmarks.video pipeline             # one of them; the others in the file stay
    python -m benchmarks.video --quick --output X   # small files, one round: whether all of it works

Parts:
    pipeline    30 views of a 10-second 720p H.264 file: time, peak memory, frames decoded; each way in processes of its
                own, in turns
    views       3 crops and the whole frame at once (fully convolutional): time, and how far the scores lie apart, on
                the bundled model's held-out videos
    throughput  videos a second of predict_many, and how much of the time the network was at work

The straightforward pipeline is of the kind that PyTorchVideo's tutorials build: decode the whole video, cut the clips
out of it, scale to 0..1, normalise, resize, crop, and give the views of a clip to the network. It is written here, with
torch only, and uses the same network object and the same frames.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import slowfast_zoo as sfz
from benchmarks.motion.data import HELDOUT_SEED, HELDOUT_VIDEOS, write_motion_file
from benchmarks.speed import merge
from benchmarks.synthetic.motion import MOTION_CLASSES, generate_motion_video
from slowfast_zoo.inference.measure.bench import machine
from slowfast_zoo.video import VideoReader, sample_clip, sample_clips
from slowfast_zoo.video.encode import write_video

RESULTS = Path(__file__).parent / "results" / "video.json"
NETWORKS = ("slowfast_tiny_4x8.motion", "slowfast_r50_8x8")
CLIPS, CROPS = 10, 3
TARGETS = {"seconds": 0.8, "memory_mib": 0.5, "frames_decoded": 1.0}


def make_file(path: Path, *, quick: bool) -> None:
    """Ten seconds of a moving camera over a textured scene, 1280 x 720 at 30 fps, H.264 with B-frames."""
    height, width, seconds = (90, 160, 3) if quick else (720, 1280, 10)
    frames, fps = generate_motion_video("pan_right", 3, seconds=seconds, fps=30.0, size=(height, width))
    write_video(path, frames, fps)


# Pipeline


def classifier(network: str) -> sfz.VideoClassifier:
    """With random weights where the package has none, and clips where PySlowFast's weights have them."""
    torch.manual_seed(0)
    bundled = "." in network
    return sfz.VideoClassifier(network, pretrained=bundled, batch_size=3, sampling=None if bundled else "pyslowfast")


def ours(classify: sfz.VideoClassifier, path: str) -> tuple[Tensor, int]:
    """Probabilities, and how many frames were decoded on the way."""
    decoded = []
    original = VideoReader.close

    def close(reader: VideoReader) -> None:
        decoded.append(reader.frames_decoded)
        original(reader)

    VideoReader.close = close  # type: ignore[method-assign]
    try:
        return classify(path, clips=CLIPS, crops=CROPS).probabilities, max(decoded)
    finally:
        VideoReader.close = original  # type: ignore[method-assign]


@torch.inference_mode()
def straightforward(classify: sfz.VideoClassifier, path: str) -> tuple[Tensor, int]:
    """The same numbers, the plain way."""
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate)
        video = torch.from_numpy(np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]))
    config, transform = classify.model.config, classify.transform
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (transform.mean, transform.std))
    scores = []
    for span in sample_clips(
        len(video) / rate,
        CLIPS,
        clip_frames=config.clip_frames,
        clip_stride=config.clip_stride,
        convention=classify.sampling,
        video_fps=rate,
    ):
        index = [min(int(moment * rate + 1e-6), len(video) - 1) for moment in span.times]
        clip = (video[index].permute(3, 0, 1, 2).float() / 255 - mean) / std
        height, width = clip.shape[2:]
        scale = transform.scale / min(height, width)
        size = [int(height * scale), int(width * scale)]
        clip = F.interpolate(clip, size=size, mode="bilinear", align_corners=False)
        side, room = transform.crop, size[1] - transform.crop
        views = torch.stack([clip[..., :side, x : x + side] for x in (0, (room + 1) // 2, room)])
        scores.append(classify.model.probabilities(views))
    return torch.cat(scores).mean(0), len(video)


def child(way: str, network: str, path: str) -> None:
    """One run in a process of its own; prints JSON."""
    run: Callable[[sfz.VideoClassifier, str], tuple[Tensor, int]] = globals()[way]
    classify = classifier(network)
    classify(sample_clip(), clips=1, crops=1)  # what is imported at the first video
    with torch.inference_mode():  # the weights are laid out for the shape at the first call
        config, crop = classify.model.config, classify.transform.crop
        classify.model(torch.zeros(3, 3, config.clip_frames, crop, crop))
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    start = time.perf_counter()
    probabilities, frames = run(classify, path)
    seconds = time.perf_counter() - start
    result = {
        "seconds": round(seconds, 3),
        "memory_mib": round(_resident("VmHWM") / 1024, 1),
        "memory_over_network_mib": round((_resident("VmHWM") - before) / 1024, 1),
        "frames_decoded": frames,
        "best": int(probabilities.argmax()),
        "score": float(probabilities.max()),
    }
    print(json.dumps(result))


def _resident(name: str) -> int:
    """A figure of /proc/self/status, in KiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise RuntimeError(f"the system does not tell {name}")


def pipeline(quick: bool) -> dict[str, Any]:
    networks: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        make_file(path, quick=quick)
        for network in NETWORKS[:1] if quick else NETWORKS:
            runs: dict[str, list[dict[str, Any]]] = {"straightforward": [], "ours": []}
            for _ in range(1 if quick else 3 if network == NETWORKS[0] else 2):
                for way, found in runs.items():
                    command = [sys.executable, "-m", "benchmarks.video", "--child", way, network, str(path)]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    found.append(json.loads(done.stdout))
                    print(network, way, found[-1], flush=True)
            rows = {
                way: {key: statistics.median(run[key] for run in found) for key in found[0]}
                for way, found in runs.items()
            }
            networks[network] = {
                **rows,
                "targets": [
                    {
                        "what": key,
                        "ratio": round(rows["ours"][key] / rows["straightforward"][key], 3),
                        "target": target,
                        "met": rows["ours"][key] / rows["straightforward"][key] <= target,
                    }
                    for key, target in TARGETS.items()
                ],
            }
    return {"video": "10 s, 1280 x 720, 30 fps, H.264", "clips": CLIPS, "crops": CROPS, "networks": networks}


# Views


def views(quick: bool) -> dict[str, Any]:
    """The bundled model on held-out videos, by crops."""
    classify = sfz.VideoClassifier()
    count = 12 if quick else 120
    truth, scores = [], {crops: [] for crops in (1, 3, "full")}
    seconds = dict.fromkeys(scores, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        for index in range(min(count, HELDOUT_VIDEOS)):
            label = index % len(MOTION_CLASSES)
            path = Path(folder) / "video.mp4"
            write_motion_file(path, MOTION_CLASSES[label], HELDOUT_SEED + index // len(MOTION_CLASSES))
            truth.append(classify.labels.index(MOTION_CLASSES[label]))
            with VideoReader(path, threads=1) as reader:
                config = classify.model.config
                spans = sample_clips(reader.duration, 2, clip_frames=config.clip_frames, clip_stride=config.clip_stride)
                clips = list(reader.clips_at([span.times for span in spans], classify.transform.resize))
            for crops, rows in scores.items():
                batch = torch.cat([replace(classify.transform, crops=crops).views(clip) for clip in clips])
                with torch.inference_mode():
                    classify.model.probabilities(batch)  # weights are laid out for a new shape
                    start = time.perf_counter()
                    rows.append(classify.model.probabilities(batch).mean(0))
                    seconds[crops] += time.perf_counter() - start
    reference = torch.stack(scores[3])
    classes = torch.tensor(truth)
    rows = {}
    for crops, found in scores.items():
        values = torch.stack(found)
        rows[str(crops)] = {
            "network_ms_per_clip": round(1000 * seconds[crops] / (2 * len(found)), 2),
            "time_over_3_crops": round(seconds[crops] / seconds[3], 3),
            "top1": round(100 * float((values.argmax(1) == classes).float().mean()), 2),
            "agreement_with_3_crops": round(100 * float((values.argmax(1) == reference.argmax(1)).float().mean()), 2),
            "mean_difference": float(f"{float((values - reference).abs().mean()):.3g}"),
            "max_difference": float(f"{float((values - reference).abs().max()):.3g}"),
        }
    return {"model": classify.name, "videos": len(truth), "clips": 2, "crops": rows}


# Throughput


def throughput(quick: bool) -> dict[str, Any]:
    """Videos like those of Kinetics (10 s, 340 x 256) through predict_many with the paper's 30 views."""
    networks: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        frames, fps = generate_motion_video("pan_left", 4, seconds=2 if quick else 10, fps=30.0, size=(256, 340))
        write_video(path, frames, fps)
        for network, count in ((NETWORKS[0], 20), (NETWORKS[1], 2)):
            if quick and network != NETWORKS[0]:
                continue
            rows = {}
            for crops in (1, 3):
                classify = classifier(network)
                busy = [0.0]
                original = classify._run

                def timed(function: Any, batch: Tensor, original: Any = original, busy: Any = busy) -> Tensor:
                    start = time.perf_counter()
                    result: Tensor = original(function, batch)
                    busy[0] += time.perf_counter() - start
                    return result

                timed.size = original.size  # type: ignore[attr-defined]
                classify._run = timed  # type: ignore[assignment]
                classify(path, clips=1, crops=crops)
                busy[0] = 0.0
                start = time.perf_counter()
                found = list(classify.predict_many([path] * (2 if quick else count), clips=CLIPS, crops=crops))
                seconds = time.perf_counter() - start
                rows[f"{CLIPS} x {crops}"] = {
                    "videos": len(found),
                    "videos_per_second": round(len(found) / seconds, 3),
                    "network_at_work": round(busy[0] / seconds, 3),
                }
                print(network, crops, rows[f"{CLIPS} x {crops}"], flush=True)
            networks[network] = rows
    return {"video": "10 s, 340 x 256, 30 fps, H.264", "networks": networks}


PARTS: dict[str, Callable[[bool], dict[str, Any]]] = {"pipeline": pipeline, "views": views, "throughput": throughput}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which (default: all)")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--child", nargs=3, metavar=("WAY", "NETWORK", "VIDEO"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(*args.child)
    for name in args.parts or PARTS:
        part = PARTS[name](args.quick)
        merge(args.output, name, part, machine(), script="benchmarks/video.py")
        print(json.dumps(part, indent=1))
    return None


if __name__ == "__main__":
    main()
