"""What networks cost on this machine: time, memory, start-up, and the machine's own ceiling.

``slowfast-zoo bench`` and the scripts in ``benchmarks/`` measure with this module. Two rules make ratios fair: what is
compared is timed in turns, one call each a round, and memory is measured in a process of its own for each.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slowfast_zoo.utils import checks
from slowfast_zoo.utils.version import __version__

from .work import Call, Variant, Workload

# What has a say in the times, if it is installed.
_PACKAGES = ("torch", "pytorchvideo", "openvino", "onnxruntime")
_PAUSE = 0.02  # seconds between calls, in which worker threads that still spin for the last one go to sleep
# Instruction sets that say how fast a processor multiplies matrices.
_INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "amx_bf16", "amx_fp16", "amx_int8")
_ARM_SETS = ("asimd", "sve", "bf16", "i8mm")


# -- time ------------------------------------------------------------------------------------------------------------


def interleaved(
    calls: Mapping[Any, Call], rounds: int, *, warm_up: int = 2, device: str = "cpu"
) -> dict[Any, list[float]]:
    """Time several calls in turns: a round has each once, and each round begins with the next one.

    Args:
        calls: what to call.
        rounds: how often, after ``warm_up`` calls of each that do not count.
        warm_up: calls of each before the timed ones.
        device: where they compute; on CUDA the card's own clock is read.

    Returns:
        For each, the seconds of every round.
    """
    checks.integer(rounds, "repeats", at_least=1)
    for call in calls.values():
        for _ in range(warm_up):
            _seconds(call, device)
    times: dict[Any, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(_PAUSE)
            times[name].append(_seconds(calls[name], device))
    return times


def _seconds(call: Call, device: str) -> float:
    if torch.device(device).type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1000
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def summary(seconds: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles in milliseconds, and the number of values."""
    low, _, high = statistics.quantiles(seconds, method="inclusive") if len(seconds) > 1 else [seconds[0]] * 3
    middle = statistics.median(seconds)
    return {
        "median_ms": round(1000 * middle, 3),
        "quartiles_ms": [round(1000 * low, 3), round(1000 * high, 3)],
        "rounds": len(seconds),
    }


@contextmanager
def threads_set(threads: int | None) -> Iterator[None]:
    """This number of threads for torch on the CPU, and the former number afterwards. None changes nothing."""
    if threads is None:  # to set what is there already would change how much memory the backends take
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(
    work: Workload, variants: Sequence[Variant], rounds: int = 10, *, warm_up: int = 2, memory: bool = True
) -> list[dict[str, Any]]:
    """Measure variants side by side.

    Args:
        work: what they do.
        variants: who; the first is what the others are compared with.
        rounds: calls of each that count.
        warm_up: calls of each before.
        memory: measure the peak memory too, in one more process for each.

    Returns:
        For each a record: ``name``, ``kind``, ``dtype``, ``ready_seconds`` (to make it), ``median_ms``,
        ``quartiles_ms``, ``rounds``, ``clips_per_second``, ``ratio`` of the median to the first one's, and with
        ``memory`` ``peak_mib``.

    Raises:
        ValueError: one of them cannot do this work, or there is no round.
        MissingDependencyError: a package is not installed.
    """
    checks.integer(rounds, "repeats", at_least=1)
    for variant in variants:
        variant.require()
    # What is measured is freed before the memory is, in processes of their own.
    records: list[dict[str, Any]] = []
    calls: dict[Variant, Call] = {}
    with threads_set(work.threads):
        for variant in variants:
            began = time.perf_counter()
            calls[variant] = variant.prepare(work)
            ready = round(time.perf_counter() - began, 3)
            identity = {"name": str(variant), "kind": variant.kind, "dtype": variant.dtype}
            records.append({**identity, "ready_seconds": ready})
        times = interleaved(calls, rounds, warm_up=warm_up, device=work.device)
    calls.clear()
    gc.collect()
    first = statistics.median(times[variants[0]])
    for record, variant in zip(records, variants, strict=True):
        middle = statistics.median(times[variant])
        record.update(summary(times[variant]))
        record["clips_per_second"] = round(work.batch / middle, 3)
        record["ratio"] = round(middle / first, 3)
        if memory:
            peak = peak_memory(variant, work)
            record["peak_mib"] = None if peak is None else round(peak / 2**20, 1)
    return records


# -- memory ----------------------------------------------------------------------------------------------------------


def peak_memory(variant: Variant, work: Workload) -> int | None:
    """Memory that the work takes at its peak, weights and input included, in bytes.

    On the CPU: the growth of the peak resident set of a process of its own, over what it held after its imports. What
    making the network ready took and freed again does not count where the system lets the peak begin anew (Linux). On
    CUDA: what torch allocated on the card. None where the system does not tell (Windows).

    Raises:
        RuntimeError: the process failed.
    """
    kind = type(variant)  # found again by name in the other process
    described = {"module": kind.__module__, "class": kind.__name__, "values": asdict(variant)}
    task = json.dumps({"variant": described, "work": {**asdict(work), "overrides": dict(work.overrides)}})
    code = "import sys; from slowfast_zoo.inference.measure.bench import _memory_child as run; run(sys.argv[1])"
    return _child(code, task)["bytes"]  # type: ignore[no-any-return]


def _child(code: str, *arguments: str) -> dict[str, Any]:
    """Run Python in a process that finds the same packages; it prints one JSON object last."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"a process that measures failed with code {done.returncode}: {reason}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _memory_child(task: str) -> None:
    values = json.loads(task)
    described, work = values["variant"], Workload(**values["work"])
    variant: Variant = getattr(import_module(described["module"]), described["class"])(**described["values"])
    variant.require()
    cuda = torch.device(work.device).type == "cuda"
    with torch.device("meta"):
        work.network()  # what is imported on first use
    with threads_set(work.threads):
        _tidy()
        start = _resident_peak()
        call = variant.prepare(work)
        _tidy()  # for all alike; networks that others were made from are gone
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        for _ in range(2):  # the first call may set up caches
            call()
        peak = _resident_peak()
        grown = torch.cuda.max_memory_allocated() if cuda else None if peak is None or start is None else peak - start
    print(json.dumps({"bytes": grown}))


def _tidy() -> None:
    """Give freed memory back to the system, and let the peak of the resident set begin anew, where that can be done."""
    gc.collect()
    with suppress(OSError, AttributeError, TypeError):  # not everywhere is the C library that process's own
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _resident_peak() -> int | None:
    """The peak of the resident set so far, in bytes."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


# -- the machine -----------------------------------------------------------------------------------------------------


def cost(work: Workload) -> dict[str, int]:
    """Parameters, and multiply-adds of one clip, counted without computing anything."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.no_grad():
        model = work.network().eval()
        with FlopCounterMode(display=False) as counter:
            model(*replace(work, batch=1).inputs(model.config, device="meta"))
    parameters = sum(p.numel() for p in model.parameters())
    return {"parameters": parameters, "multiply_adds": counter.get_total_flops() // 2}


def startup(model: str, repeats: int = 3) -> dict[str, float]:
    """Seconds that fresh interpreters need: ``import_torch``, ``import`` (torch included), ``create_model``. Medians.

    Raises:
        RuntimeError: a process failed.
    """
    code = (
        "import json, sys, time; a = time.perf_counter(); import torch; b = time.perf_counter(); "
        "import slowfast_zoo as sfz; c = time.perf_counter(); sfz.create_model(sys.argv[1]); d = time.perf_counter(); "
        "print(json.dumps({'import_torch': b - a, 'import': c - a, 'create_model': d - c}))"
    )
    runs = [_child(code, model) for _ in range(repeats)]
    return {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}


def machine(device: str = "cpu", threads: int | None = None) -> dict[str, Any]:
    """The processor, its cores and instruction sets, threads, the card, and versions, as plain values."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    versions = {"python": platform.python_version(), "slowfast_zoo": __version__}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    result: dict[str, Any] = {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": threads or torch.get_num_threads(),
        "instruction_sets": [name for name in (*_INSTRUCTION_SETS, *_ARM_SETS) if name in flags],
        "versions": versions,
    }
    if torch.device(device).type == "cuda":
        result["card"] = torch.cuda.get_device_name(device)
        versions.update(cuda=str(torch.version.cuda), cudnn=str(torch.backends.cudnn.version()))  # type: ignore[no-untyped-call]
        result["tf32"] = {
            "matmul": torch.backends.cuda.matmul.allow_tf32,
            "cudnn": torch.backends.cudnn.allow_tf32,
        }
    return result


def has_fast(dtype: str, device: str = "cpu") -> bool:
    """Whether the machine multiplies matrices in this dtype by instructions of its own."""
    if dtype == "float32":
        return True
    if torch.device(device).type == "cuda":
        return dtype == "float16" or torch.cuda.is_bf16_supported(including_emulation=False)
    sets = {"bfloat16": {"avx512_bf16", "amx_bf16", "bf16"}, "float16": {"avx512_fp16", "amx_fp16"}}
    return bool(sets[dtype] & set(machine()["instruction_sets"]))


def ceiling(
    dtypes: Sequence[str] = ("float32", "bfloat16"), *, threads: int | None = None, device: str = "cpu", scale: int = 1
) -> dict[str, dict[str, float]]:
    """The best rates that torch reaches on this machine, in GFLOP/s; a multiply-add is two operations.

    Args:
        dtypes: for which.
        threads: of the CPU; as many as torch takes by default.
        device: where.
        scale: divides the sides of the matrices and maps, for a quick look.

    Returns:
        For each dtype: ``matmul``, of large square matrices; ``pointwise``, of the matrix products that the 1x1x1
        convolutions of a network on 8 frames of 256 x 256 are; ``convolution``, of its 1x3x3 convolutions.
    """
    side = (8192 if torch.device(device).type == "cuda" else 2048) // scale
    maps = [(64 // scale, 64), (32 // scale, 128), (16 // scale, 256), (8 // scale, 512)]  # side, channels of res2 to 5
    rates: dict[str, dict[str, float]] = {}
    with threads_set(threads), torch.inference_mode():
        for name in dtypes:
            like: dict[str, Any] = {"device": device, "dtype": getattr(torch, name)}
            a, b = torch.rand(side, side, **like), torch.rand(side, side, **like)
            best = {"matmul": 2 * side**3 / _shortest(partial(torch.matmul, a, b), device)}
            for map_side, channels in maps:
                rows = 8 * map_side**2
                x, w = torch.rand(rows, channels, **like), torch.rand(channels, 4 * channels, **like)
                rate = 8 * rows * channels**2 / _shortest(partial(torch.matmul, x, w), device)
                best["pointwise"] = max(best.get("pointwise", 0.0), rate)
                conv = nn.Conv3d(channels, channels, (1, 3, 3), padding=(0, 1, 1), bias=False, **like)
                conv = conv.to(memory_format=torch.channels_last_3d)
                clip = torch.rand(1, channels, 8, map_side, map_side, **like)
                clip = clip.contiguous(memory_format=torch.channels_last_3d)
                rate = 18 * rows * channels**2 / _shortest(partial(conv, clip), device)
                best["convolution"] = max(best.get("convolution", 0.0), rate)
            rates[name] = {key: round(value / 1e9, 1) for key, value in best.items()}
    return rates


def _shortest(call: Call, device: str, calls: int = 7) -> float:
    return min(_seconds(call, device) for _ in range(calls))
