"""How fast the networks are on this machine, beside PyTorchVideo and OpenVINO, and how their cost grows.

    python -m benchmarks.speed                      # all parts for the CPU, into benchmarks/results/speed.json
    python -m benchmarks.speed targets memory       # some of them; the others in the file stay
    python -m benchmarks.speed --output benchmarks/results/speed_amx.json targets    # on another machine
    python -m benchmarks.speed --device cuda        # what there is to measure on an NVIDIA card (part "cuda")
    python -m benchmarks.speed --quick --output X   # narrow networks, tiny clips, two rounds: whether all of it works

Parts:
    targets   latency of four networks in inference: as they are, optimised, and the peers; what was promised of them
    memory    peak memory in inference, each in a process of its own
    growth    batch, size, frames, threads, and the best rates that the machine reaches
    startup   import and create_model in fresh interpreters
    rounding  how far logits are from those in float64

All that is compared is timed in turns in one process, one call each a round; medians are compared. Needs pytorchvideo,
openvino, onnxruntime with onnx and onnxscript, and a C++ compiler for torch.compile. benchmarks/speed_page.py makes
the page's tables and picture from the file.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.contenders import Contender
from slowfast_zoo import optimize_for_inference
from slowfast_zoo.inference.measure.bench import ceiling, cost, has_fast, machine, measure, peak_memory, startup
from slowfast_zoo.inference.measure.work import Workload

RESULTS = Path(__file__).parent / "results" / "speed.json"
NETWORKS = ("slowfast_r50_8x8", "slowfast_r50_4x16", "slowfast_r101_8x8", "slow_r50_8x8")
GROWING = NETWORKS[0]

ORDINARY, PEER = Contender("ordinary"), Contender("PyTorchVideo")
FAST, FAST_BF16 = Contender("optimised"), Contender("optimised", "bfloat16")
LEAN = Contender("optimised without Winograd")
OPENVINO, OPENVINO_BF16 = Contender("OpenVINO"), Contender("OpenVINO", "bfloat16")
OTHERS = (Contender("compiled"), Contender("ONNX Runtime"))  # of which nothing was promised

# Ours, the peer, and the highest ratio of medians that was promised.
SPEED_TARGETS = (
    (FAST, PEER, 0.50),
    (FAST, OPENVINO, 1.05),
    (FAST_BF16, PEER, 0.27),
    (FAST_BF16, OPENVINO_BF16, 1.10),
)
MEMORY_TARGETS = ((FAST, PEER, 0.70), (LEAN, PEER, 0.70))
SERIES: dict[str, tuple[int, ...]] = {
    "batch": (1, 2, 4, 8),
    "size": (128, 192, 256, 320),
    "frames": (4, 8, 16),
    "threads": (1, 2),
}


class Settings:
    """What ``--quick`` changes."""

    def __init__(self, quick: bool, device: str) -> None:
        self.quick, self.device = quick, device
        self.size, self.training_size = (64, 64) if quick else (256, 224)
        self.sizes = (64, 96) if quick else SERIES["size"]
        self.overrides = {"width": 16} if quick else {}

    def rounds(self, usual: int) -> int:
        return 2 if self.quick else usual

    def work(self, network: str, **values: Any) -> Workload:
        values = {"size": self.size, "device": self.device, "overrides": self.overrides, **values}
        return Workload(model=network, **values)

    def contenders(self, *chosen: Contender) -> list[Contender]:
        """Those that this machine has instructions for."""
        return [contender for contender in chosen if has_fast(contender.dtype, self.device)]


def verdicts(
    network: str, values: dict[str, float], targets: Sequence[tuple[Contender, Contender, float]]
) -> list[dict[str, Any]]:
    """Each target that both sides were measured for: the values, their ratio, and whether it is met.

    Args:
        network: its name.
        values: a median or a peak for each contender's name.
        targets: ours, the peer, and the highest ratio.
    """
    found = []
    for ours, peer, limit in targets:
        if str(ours) in values and str(peer) in values:
            ratio = values[str(ours)] / values[str(peer)]
            found.append(
                {
                    "name": f"{network}: {ours} over {peer}",
                    "network": network,
                    "ours": {"name": str(ours), "value": values[str(ours)]},
                    "peer": {"name": str(peer), "value": values[str(peer)]},
                    "ratio": round(ratio, 3),
                    "target": limit,
                    "met": ratio <= limit,
                }
            )
    return found


def targets(settings: Settings) -> dict[str, Any]:
    contenders = settings.contenders(PEER, ORDINARY, FAST, LEAN, FAST_BF16, OPENVINO, OPENVINO_BF16, *OTHERS)
    return _compared(settings, contenders, SPEED_TARGETS, rounds=15, size=settings.size)


def _compared(
    settings: Settings, contenders: list[Contender], promised: Any, *, rounds: int, warm_up: int = 2, **values: Any
) -> dict[str, Any]:
    networks, checked = {}, []
    for network in NETWORKS:
        work = settings.work(network, **values)
        rows = measure(work, contenders, settings.rounds(rounds), warm_up=warm_up, memory=False)
        networks[network] = {**cost(work), "rows": rows}
        checked += verdicts(network, {row["name"]: row["median_ms"] for row in rows}, promised)
        _tell(network, rows)
    clip = {"batch": values.get("batch", 1), "size": values["size"]}
    return {"unit": "ms", **clip, "networks": networks, "targets": checked}


def memory(settings: Settings) -> dict[str, Any]:
    contenders = settings.contenders(PEER, FAST, LEAN, FAST_BF16)
    networks, checked = {}, []
    for network in NETWORKS:
        # Where the allocator puts what is a matter of luck: one and the same process's peak varies by a fifth.
        times = range(settings.rounds(3))
        peaks = {str(c): [peak_memory(c, settings.work(network)) for _ in times] for c in contenders}
        networks[network] = {
            name: round(statistics.median(known) / 2**20, 1)
            for name, found in peaks.items()
            if (known := [peak for peak in found if peak is not None])
        }
        checked += verdicts(network, networks[network], MEMORY_TARGETS)
        print(network, networks[network], flush=True)
    return {"unit": "MiB", "batch": 1, "size": settings.size, "networks": networks, "targets": checked}


def growth(settings: Settings) -> dict[str, Any]:
    contenders = settings.contenders(PEER, ORDINARY, FAST, FAST_BF16)
    # Series share points, which are measured once. Threads are set for every point, so that they can be told apart.
    usual = {"batch": 1, "size": settings.size, "frames": 8, "threads": max(SERIES["threads"])}
    series: dict[str, list[dict[str, Any]]] = {}
    measured: dict[tuple[int, ...], dict[str, Any]] = {}
    for name, values in {**SERIES, "size": settings.sizes}.items():
        series[name] = []
        for value in values:
            point = {**usual, name: value}
            key = tuple(point.values())
            if key not in measured:
                work = settings.work(GROWING, **point)
                rows = measure(work, contenders, settings.rounds(3), warm_up=1, memory=False)
                measured[key] = {"multiply_adds": cost(work)["multiply_adds"] * work.batch, "rows": rows}
                _tell(f"{name} {value}", rows)
            series[name].append({"value": value, **measured[key]})
    dtypes = [dtype for dtype in ("float32", "bfloat16") if has_fast(dtype)]
    rates = {str(n): ceiling(dtypes, threads=n, scale=4 if settings.quick else 1) for n in SERIES["threads"]}
    print(rates, flush=True)
    return {"network": GROWING, "unit": "ms", "usual": usual, "series": series, "ceiling_gflop_per_second": rates}


def start(settings: Settings) -> dict[str, Any]:
    networks = {network: startup(network, settings.rounds(5)) for network in NETWORKS}
    print(networks, flush=True)
    return {"unit": "seconds", "networks": networks}


def rounding(settings: Settings) -> dict[str, Any]:
    """The largest difference from the logits in float64, relative to the largest of them, of four random clips."""
    networks: dict[str, Any] = {}
    side = settings.size // 2
    for network in NETWORKS:
        torch.manual_seed(0)
        model = settings.work(network).network()
        for module in model.modules():  # as they may be after training
            if isinstance(module, nn.BatchNorm3d):
                nn.init.uniform_(module.weight, 0.5, 1.0)
                nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
        clip = torch.randn(4, 3, model.config.clip_frames, side, side)
        ways = {
            str(ORDINARY): model,
            str(FAST): optimize_for_inference(model),
            str(LEAN): optimize_for_inference(model, winograd=False),
        }
        with torch.inference_mode():
            logits = {name: way(clip).double() for name, way in ways.items()}
            exact = model.double()(clip.double())
        scale = exact.abs().max()
        networks[network] = {name: float(f"{float((y - exact).abs().max() / scale):.2g}") for name, y in logits.items()}
        print(network, networks[network], flush=True)
    return {"clips": 4, "size": side, "networks": networks}


def cuda(settings: Settings) -> dict[str, Any]:
    """The matrix for a card: each way to run, each dtype, batch 1 to 64; the training step; the card's best rates."""
    on_card = settings.device != "cpu"  # without a card the loops can be tried, but for what only a card can do
    dtypes = [dtype for dtype in ("float32", "bfloat16", "float16") if on_card or dtype != "float16"]
    rates = ceiling(dtypes, device=settings.device, scale=4 if settings.quick else 1)
    kinds = ["PyTorchVideo", "ordinary", "channels-last", "optimised"] + ["compiled", "CUDA graph"] * on_card
    networks: dict[str, Any] = {}
    for network in NETWORKS:
        networks[network] = {"inference": [], "training": []}
        operations = 2 * cost(settings.work(network))["multiply_adds"]
        for batch in (1, 2) if settings.quick else (1, 4, 16, 64):
            for dtype in dtypes:
                # One dtype at a time: the networks of all would not fit beside a batch of 64.
                contenders = [
                    Contender(kind, dtype)
                    for kind in kinds
                    # On a CPU, PyTorchVideo's pooling knows no other dtype.
                    if on_card or dtype == "float32" or kind != "PyTorchVideo"
                ]
                work = settings.work(network, batch=batch)
                rows = measure(work, contenders, settings.rounds(20), warm_up=3)
                for row in rows:
                    rate = operations * row["clips_per_second"] / 1e9
                    row["part_of_ceiling"] = round(rate / rates[dtype]["matmul"], 3)
                networks[network]["inference"].append({"batch": batch, "dtype": dtype, "rows": rows})
                _tell(f"{network} batch {batch}", rows)
        for batch in (2,) if settings.quick else (8, 32):
            contenders = [Contender(kind, dtype) for kind in ("PyTorchVideo", "ordinary") for dtype in dtypes]
            contenders += [Contender("channels-last", dtype) for dtype in dtypes]
            work = settings.work(network, batch=batch, size=settings.training_size, train=True)
            rows = measure(work, contenders, settings.rounds(10), warm_up=2)
            networks[network]["training"].append({"batch": batch, "rows": rows})
            _tell(f"{network} training, batch {batch}", rows)
    return {"unit": "ms", "ceiling_gflop_per_second": rates, "networks": networks}


PARTS: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "targets": targets,
    "memory": memory,
    "growth": growth,
    "startup": start,
    "rounding": rounding,
    "cuda": cuda,
}


def _tell(what: str, rows: list[dict[str, Any]]) -> None:
    print(f"{what}: " + ", ".join(f"{row['name']} {row['median_ms']:.1f} ms" for row in rows), flush=True)


def merge(
    path: Path, name: str, part: dict[str, Any], where: dict[str, Any], script: str = "benchmarks/speed.py"
) -> None:
    """Put one part into the file, with the machine that it was measured on; the others stay.

    Args:
        path: the file, which need not be there.
        name: the part's name.
        part: its results.
        where: the machine.
        script: what measures.
    """
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"script": script}
    results.setdefault("parts", {})[name] = {"machine": where, **part}
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny work, to try the script; needs --output")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if args.quick and args.output == RESULTS:
        parser.error("--quick measures nothing of worth: name another file with --output")
    settings = Settings(args.quick, args.device)
    settings.work(GROWING)  # whether the device is there
    default = ["cuda"] if args.device != "cpu" else [name for name in PARTS if name != "cuda"]
    for name in args.parts or default:
        part = PARTS[name](settings)
        merge(args.output, name, part, machine(args.device))
        for target in part.get("targets", ()):
            verdict = "met" if target["met"] else "missed"
            print(f"{target['name']}: {target['ratio']:.3f}, at most {target['target']:.2f}: {verdict}", flush=True)


if __name__ == "__main__":
    main()
