"""What VideoReader makes of damaged files: frames or a VideoDecodeError, and nothing else.

Small files of many codecs and containers are changed at random (bytes, bits, cuts, chunks zeroed, repeated, swapped,
removed or taken from another file, numbers in headers made extreme) and read, from a path or from memory: the first,
middle and last frame, clips in any order, then all frames. They are read in fresh interpreters, so that a crash, a hang
and memory, files or threads that are not given back are counted like any other failure. With the same seed they are
the same files. Needs Linux.

    python -m benchmarks.fuzz_videos [--inputs 6000] [--seed 0]
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import platform
import random
import re
import select
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results" / "fuzz_videos.json"
BATCH = 600  # inputs of one interpreter
SETTLED = 200  # inputs after which an interpreter's memory should grow no more
LEAK = 64.0  # MiB by which it may all the same, allocators being what they are
HANG = 60.0  # seconds for one input
EXTREMES = [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 2**40, 2**62, 2**63 - 1, 2**64 - 1]

B_FRAMES = {"g": "8", "bf": "2"}
SEEDS: dict[str, dict[str, Any]] = {
    "h264.mp4": {"options": B_FRAMES},
    "h264_fragmented.mp4": {"options": B_FRAMES, "container": {"movflags": "frag_keyframe+empty_moov"}},
    "h264.mkv": {"options": B_FRAMES, "audio": True},
    "h264.ts": {"options": B_FRAMES, "audio": True},
    "h264.avi": {"options": B_FRAMES},
    "h264.flv": {"options": B_FRAMES},
    "h265.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=8"}},
    "h265_10_bit.mkv": {
        "codec": "libx265",
        "pix_fmt": "yuv420p10le",
        "options": {"x265-params": "log-level=none:keyint=8"},
    },
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "8", "deadline": "realtime", "cpu-used": "8"}},
    "vp8_alpha.webm": {"codec": "libvpx", "pix_fmt": "yuva420p", "options": {"g": "8", "auto-alt-ref": "0"}},
    "av1.mp4": {"codec": "libsvtav1", "options": {"g": "8", "preset": "10"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": B_FRAMES, "audio": True},
    "mpeg4.mp4": {"codec": "mpeg4", "options": B_FRAMES},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": B_FRAMES},
    "motion_jpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "animation_alpha.mov": {"codec": "qtrle", "pix_fmt": "argb"},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le", "frames": 6},
    "ffv1_odd.mkv": {"codec": "ffv1", "pix_fmt": "yuv444p", "size": (63, 49), "frames": 6},
    "moving.gif": {"codec": "gif", "pix_fmt": "rgb8"},
}


def valid_files(folder: Path) -> dict[str, bytes]:
    """A small file of each kind that this PyAV can write."""
    import av

    files = {}
    for name, spec in SEEDS.items():
        with contextlib.suppress(av.FFmpegError, ValueError):
            files[name] = write(folder / name, **spec)
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink()
    return files


def write(
    path: Path,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (64, 48),
    frames: int = 24,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    audio: bool = False,
) -> bytes:
    import av
    import numpy as np

    with av.open(str(path), "w", container_options=container or {}) as file:
        stream: Any = file.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.options = {"threads": "1", **(options or {})}
        sound: Any = file.add_stream("aac", rate=16000, layout="mono") if audio else None
        for index in range(frames):
            pixels = np.zeros((size[1], size[0], 3), np.uint8)
            pixels[: index + 4, :, 0] = 220
            pixels[:, index : index + 16, 2] = 200
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 30)
            file.mux(stream.encode(frame))
            if sound:
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 512), np.float32), format="fltp", layout="mono")
                silence.sample_rate, silence.pts, silence.time_base = 16000, index * 512, Fraction(1, 16000)
                file.mux(sound.encode(silence))
        for each in filter(None, (stream, sound)):
            file.mux(each.encode(None))
    return path.read_bytes()


def changed(name: str, files: dict[str, bytes], rng: random.Random) -> bytes:
    """A file, changed in one to three ways."""
    content = bytearray(files[name])
    for _ in range(rng.randrange(1, 4)):
        if not content:
            break
        # Half of the changes near one of the ends, where containers keep what they say about the rest.
        near = min(len(content), 600)
        at = rng.choice([rng.randrange(len(content)), rng.randrange(near), len(content) - 1 - rng.randrange(near)])
        to = min(len(content), at + rng.choice([8, 64, 512, 4096]))
        way = rng.choice(
            ["bytes", "bit", "cut", "zero", "noise", "repeat", "delete", "swap", "splice", "extreme", "number"]
        )
        if way == "bytes":
            for place in [at, *(rng.randrange(len(content)) for _ in range(rng.randrange(16)))]:
                content[place] = rng.randrange(256)
        elif way == "bit":
            content[at] ^= 1 << rng.randrange(8)
        elif way == "cut":
            del content[at:]
        elif way == "zero":
            content[at:to] = bytes(to - at)
        elif way == "noise":
            content[at:to] = rng.randbytes(to - at)
        elif way == "repeat":
            content[at:at] = content[at:to] * rng.randrange(1, 9)
        elif way == "delete":
            del content[at:to]
        elif way == "swap":
            other = rng.randrange(len(content))
            first, second = sorted((at, other))
            length = min(to - at, second - first, len(content) - second)
            content[first : first + length], content[second : second + length] = (
                content[second : second + length],
                content[first : first + length],
            )
        elif way == "splice":
            other_file = files[rng.choice(list(files))]
            content[at:to] = other_file[rng.randrange(len(other_file)) :][: rng.choice([16, 256, 4096])]
        elif way == "extreme":
            width = rng.choice([1, 2, 4, 8])
            content[at : at + width] = rng.choice(EXTREMES).to_bytes(8, rng.choice(["little", "big"]))[:width]
        elif way == "number" and at + 4 <= len(content):
            value = (struct.unpack_from(">I", content, at)[0] + rng.choice([-1, 1, -256, 256, 65536])) % 2**32
            struct.pack_into(">I", content, at, value)
    return bytes(content)


def read(video: Any, rng: random.Random) -> int:
    """How many frames there are, after reading them in several ways."""
    from slowfast_zoo.video import VideoReader

    with VideoReader(video) as reader:
        end = reader.duration
        shape = (3, reader.height, reader.width)
        assert reader.frames_at([0.0, end / 2, end]).shape == (3, *shape)
        clips = [[rng.uniform(0, end) for _ in range(4)] for _ in range(3)]
        for clip in reader.clips_at(clips, lambda frame: frame[:, ::8, ::8]):
            assert len(clip) == 4
        count = 0
        for seconds, frame in reader.frames():
            assert isinstance(seconds, float)
            assert frame.shape == shape
            count += 1
            if count == 500:
                break
        return count


def memory(field: str) -> float:
    """MiB that this process has ("VmRSS"), or has had at most ("VmHWM")."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(field))


def settled_memory() -> float:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return memory("VmRSS")


def held() -> tuple[int, int]:
    """Open files and threads."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def child(first: int, last: int, seed: int, folder: Path) -> None:
    """Reads the inputs from ``first`` to before ``last``; a line for each, so that what ends the process is known."""
    import torch

    from slowfast_zoo.errors import VideoDecodeError

    torch.set_num_threads(1)
    files = {path.name: path.read_bytes() for path in sorted((folder / "seeds").iterdir())}
    for name in files:
        read(folder / "seeds" / name, random.Random(0))
    before, settled = held(), settled_memory()
    for index in range(first, last):
        rng = random.Random(f"{seed} {index}")
        name = list(files)[index % len(files)]
        content = changed(name, files, rng)
        video: Any = content if rng.random() < 0.5 else folder / name
        if isinstance(video, Path):
            video.write_bytes(content)
        print(json.dumps({"index": index, "file": name}), flush=True)
        if index == first + SETTLED:
            settled = settled_memory()
        Path("/proc/self/clear_refs").write_text("5")
        start, least = time.perf_counter(), memory("VmRSS")
        told: dict[str, Any] = {}
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                told["frames"] = read(video, rng)
                told["how"] = "damaged" if warned else "read"
                messages = [str(w.message) for w in warned]
                damage = [message for message in messages if "is damaged, using what can be decoded" in message]
                joins = [message for message in messages if message.startswith("the clock of video")]
                if len(damage) > 1 or len(joins) > 1 or len(damage) + len(joins) < len(messages):
                    told = {"how": "warnings", "message": str(messages)}
            except VideoDecodeError as error:
                message = re.sub(r"-?\d[\d.]*", "N", error.reason)
                well = error.path in (str(video), "<bytes>") and message and "\n" not in message and len(message) < 200
                told = {"how": "refused" if well else "message", "message": message}
            except BaseException as error:
                told = {"how": type(error).__name__, "message": str(error)}
        if told["how"] in ("read", "damaged", "refused") and held() != before:
            told = {"how": "not given back", "message": f"files and threads {held()} instead of {before}"}
            before = held()
        told |= {"seconds": time.perf_counter() - start, "growth": memory("VmHWM") - least}
        print(json.dumps(told), flush=True)
    print(json.dumps({"leaked": settled_memory() - settled if last - first > SETTLED else 0.0}), flush=True)


def run_child(first: int, last: int, seed: int, folder: Path) -> tuple[list[dict[str, Any]], str]:
    """The lines of an interpreter, and how it ended: "", "hang" or "exit code ..."."""
    command = [sys.executable, "-m", "benchmarks.fuzz_videos", "--seed", str(seed)]
    command += ["--child", str(first), str(last), str(folder)]
    lines: list[dict[str, Any]] = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        received = b""
        while select.select([process.stdout], [], [], HANG)[0]:
            part = os.read(process.stdout.fileno(), 65536)
            if not part:
                return lines, f"exit code {process.wait()}" if process.wait() else ""
            *whole, received = (received + part).split(b"\n")
            lines += [json.loads(line) for line in whole]
        process.kill()
    return lines, "hang"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the inputs that fail")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(int(args.child[0]), int(args.child[1]), args.seed, Path(args.child[2]))
        return

    import av
    import torch

    counts: dict[str, Counter[str]] = {}
    messages: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    slowest = growth = leaked = 0.0
    start, first = time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "seeds").mkdir()
        files = valid_files(folder / "seeds")
        files = {name: files[name] for name in sorted(files)}
        while first < args.inputs:
            last = min(first + BATCH, args.inputs)
            lines, end = run_child(first, last, args.seed, folder)
            if not end:
                lost = lines.pop()["leaked"]
                leaked = max(leaked, lost)
                if lost > LEAK:
                    failures.append({"index": first, "how": "leak", "message": f"{lost:.0f} MiB in {BATCH} inputs"})
            elif len(lines) % 2:  # ended while it read
                lines.append({"how": end, "seconds": 0.0, "growth": 0.0})
            else:
                sys.exit(f"the interpreter that reads ended between two inputs, after {first + len(lines) // 2}: {end}")
            for given, told in zip(lines[::2], lines[1::2], strict=True):
                how = told["how"] if told["how"] in ("read", "damaged", "refused") else "anything else"
                columns = Counter({"read": 0, "damaged": 0, "refused": 0, "anything else": 0})
                counts.setdefault(given["file"], columns)[how] += 1
                if how == "anything else":
                    failures.append({**given, **told})
                    if args.keep:
                        args.keep.mkdir(parents=True, exist_ok=True)
                        rng = random.Random(f"{args.seed} {given['index']}")
                        target = args.keep / f"{given['index']}_{given['file']}"
                        target.write_bytes(changed(given["file"], files, rng))
                elif how == "refused":
                    messages[told["message"]] += 1
                slowest, growth = max(slowest, told["seconds"]), max(growth, told["growth"])
            first += len(lines) // 2
            print(f"{first} of {args.inputs}, {len(failures)} failures", flush=True)

    result = {
        "inputs": sum(sum(counter.values()) for counter in counts.values()),
        "anything_else": len(failures),
        "crashes": sum(failure["how"].startswith("exit code") for failure in failures),
        "hangs": sum(failure["how"] == "hang" for failure in failures),
        "leaks": sum(failure["how"] in ("leak", "not given back") for failure in failures),
        "counts": {name: dict(counter) for name, counter in counts.items()},
        "reasons": dict(messages.most_common()),
        "peak_memory_growth_mib": round(growth, 1),
        "memory_not_given_back_mib": round(leaked, 1),
        "slowest_read_seconds": round(slowest, 3),
        "failures": failures[:20],
        "seed": args.seed,
        "seconds": round(time.perf_counter() - start, 1),
        "python": platform.python_version(),
        "av": av.__version__,
        "libraries": {name: ".".join(map(str, version)) for name, version in av.library_versions.items()},
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["counts"]))
    if failures:
        sys.exit(f"{len(failures)} inputs gave neither frames nor a VideoDecodeError; see {RESULTS}")


if __name__ == "__main__":
    main()
