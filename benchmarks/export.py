"""Export beside a peer: PyTorchVideo's or MMAction2's SlowFast and the same network here, with the same weights.

    python -m benchmarks.export                            # measures, and writes benchmarks/results/export.json
    python -m benchmarks.export --peer MMAction2           # .../export_mmaction2.json
    python -m benchmarks.export --page docs/export.md      # and the table between that page's markers
    python -m benchmarks.export --table-only --page docs/export.md
    python -m benchmarks.export --width 8 --rounds 2 --out /dev/null    # a quick trial

Both go through the same exporter with the same request, batch, height and width open. The files are run at several
sizes and compared with the network that they come from, run by PyTorch at the same size. Then each runtime runs both
files in turn, ROUNDS times, on one clip of 224 x 224; a ratio is the median of those of each two rounds. Needs the
package pytorchvideo, or mmaction2 with mmcv-lite 2.1.0 and what they need, beside the extra ``export``.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import slowfast_zoo as sfz
from slowfast_zoo.inference.telemetry import no_telemetry

NAMES = {"PyTorchVideo": "slowfast_r50_8x8.pytorchvideo_k400", "MMAction2": "slowfast_r50_4x16.mmaction2_k400"}
PACKAGES = {"PyTorchVideo": "pytorchvideo", "MMAction2": "mmaction2"}
RESULTS = Path(__file__).parent / "results"
MARKS = "<!-- {} table: written by benchmarks/export.py -->", "<!-- end of {} table -->"
FRAMES = 32
SIZES = ((1, 224, 224), (2, 224, 224), (1, 256, 256), (1, 256, 320), (1, 112, 160))  # batch, height, width
TOLERANCE = 1e-4  # of the largest logit

Run = Callable[[Tensor], Tensor]


class PyTorchVideo(nn.Module):
    """PyTorchVideo's network, which takes a list of the two pathways' frames."""

    def __init__(self, width: int) -> None:
        super().__init__()
        with quiet():
            from pytorchvideo.models.slowfast import create_slowfast

        self.network = create_slowfast(stem_dim_outs=(width, width // 8))

    def forward(self, slow: Tensor, fast: Tensor) -> Tensor:
        return self.network([slow, fast])  # type: ignore[no-any-return]

    def checkpoint(self) -> dict[str, Any]:
        return {"model_state": self.network.state_dict()}

    @staticmethod
    def inputs(clip: Tensor, slow: list[int]) -> tuple[Tensor, ...]:
        return clip[:, :, slow].contiguous(), clip


class MMAction2(nn.Module):
    """MMAction2's network of configs/_base_/models/slowfast_r50.py."""

    def __init__(self, width: int) -> None:
        super().__init__()
        with quiet():
            for name in ("mmaction.models.localizers.drn", "mmaction.models.localizers.drn.drn"):
                # The wheel of 1.2.0 lacks these, and so cannot be imported without them.
                sys.modules.setdefault(name, types.ModuleType(name)).DRN = None  # type: ignore[attr-defined]
            from mmaction.models.backbones.resnet3d_slowfast import ResNet3dSlowFast
            from mmaction.models.heads.slowfast_head import SlowFastHead

        common = {"type": "resnet3d", "depth": 50, "pretrained": None, "norm_eval": False}
        common |= {"conv1_stride_t": 1, "pool1_stride_t": 1}
        slow = {**common, "lateral": True, "conv1_kernel": (1, 7, 7), "inflate": (0, 0, 1, 1), "base_channels": width}
        fast = {**common, "lateral": False, "conv1_kernel": (5, 7, 7), "base_channels": width // 8}
        slow["dilations"] = (1, 1, 1, 1)
        ratios = {"resample_rate": 8, "speed_ratio": 8, "channel_ratio": 8}
        self.backbone = ResNet3dSlowFast(pretrained=None, **ratios, slow_pathway=slow, fast_pathway=fast)
        self.cls_head = SlowFastHead(in_channels=32 * (width + width // 8), num_classes=400)

    def forward(self, clip: Tensor) -> Tensor:
        return self.cls_head(self.backbone(clip))  # type: ignore[no-any-return]

    def checkpoint(self) -> dict[str, Any]:
        return {"state_dict": self.state_dict(), "meta": {}}

    @staticmethod
    def inputs(clip: Tensor, slow: list[int]) -> tuple[Tensor, ...]:
        return (clip,)


PEERS: dict[str, Any] = {"PyTorchVideo": PyTorchVideo, "MMAction2": MMAction2}


class Export:
    """One network's file, and how it runs in each runtime.

    Attributes:
        open_axes: which of batch, height and width the file has open.
        record: what is told about it.
    """

    def __init__(self, network: nn.Module, inputs: Callable[[Tensor], tuple[Tensor, ...]], path: Path) -> None:
        import onnx

        self.network, self.inputs = network.eval(), inputs
        example = inputs(torch.randn(2, 3, FRAMES, 224, 256))
        any_size = torch.export.Dim.AUTO
        shapes = tuple({0: any_size, 3: any_size, 4: any_size} for _ in example)
        start = time.perf_counter()
        with quiet(), torch.no_grad():
            program: Any = torch.onnx.export(
                self.network, example, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False
            )
            program.save(path)
        seconds = time.perf_counter() - start
        self.path = path
        graph = onnx.load(path).graph
        dims = graph.input[0].type.tensor_type.shape.dim
        self.names = [value.name for value in graph.input]
        self.record: dict[str, Any] = {
            "parameters": sum(p.numel() for p in network.parameters()),
            "inputs": len(self.names),
            "open": [axis for axis, i in (("batch", 0), ("height", 3), ("width", 4)) if dims[i].dim_param],
            "nodes": len(graph.node),
            "file_mib": round(path.stat().st_size / 2**20, 1),
            "export_s": round(seconds, 1),
        }

    def runs(self) -> dict[str, Run]:
        """The file in each runtime."""
        with no_telemetry():
            import onnxruntime
            import openvino

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what fails is in the record
        session = onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
        compiled = openvino.Core().compile_model(self.path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

        def feed(clip: Tensor) -> dict[str, Any]:
            return {name: x.numpy() for name, x in zip(self.names, self.inputs(clip), strict=True)}

        return {
            "onnxruntime": lambda clip: torch.from_numpy(session.run(None, feed(clip))[0]),
            "openvino": lambda clip: torch.from_numpy(compiled(feed(clip))[0].copy()),
        }

    def eager(self, clip: Tensor) -> Tensor:
        with torch.no_grad():
            return self.network(*self.inputs(clip))  # type: ignore[no-any-return]


def networks(
    peer_name: str, width: int, folder: Path
) -> dict[str, tuple[nn.Module, Callable[[Tensor], tuple[Tensor, ...]]]]:
    """Both networks with the peer's weights, and what they make of a clip."""
    peer = PEERS[peer_name](width).eval()
    for module in peer.modules():  # statistics that a trained network might have, and no gamma of zero
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.3, 0.6)
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    torch.save(peer.checkpoint(), folder / "peer.pyth")
    ours: Any = sfz.create_model(NAMES[peer_name], checkpoint_path=folder / "peer.pyth", width=width)
    slow = list(ours.config.slow_indices(FRAMES))
    return {"ours": (ours, lambda clip: (clip,)), "peer": (peer, lambda clip: peer.inputs(clip, slow))}


def at_sizes(export: Export, runs: dict[str, Run]) -> dict[str, Any]:
    """What the file gives at each size, beside its network: "equal", or what is wrong, in short."""
    found: dict[str, Any] = {}
    for batch, height, width in SIZES:
        clip = torch.randn(batch, 3, FRAMES, height, width)
        row: dict[str, Any] = {}
        try:
            expected = export.eager(clip)
            row["pytorch"] = "runs"
        except Exception as error:
            expected = None
            row["pytorch"] = _short(error)
        for runtime, run in runs.items():
            try:
                given = run(clip)
            except Exception as error:
                row[runtime] = _short(error)
                continue
            if expected is None or given.shape != expected.shape:
                row[runtime] = f"gives {tuple(given.shape)}"
            else:
                difference = float((given - expected).abs().max() / expected.abs().max())
                row[runtime] = "equal" if difference <= TOLERANCE else f"differs by {difference:.2g}"
        found[f"{batch} x {height} x {width}"] = row
    return found


def times(runs: dict[str, dict[str, Run]], rounds: int) -> dict[str, Any]:
    """Both files in turn in each runtime, on one clip of 224 x 224."""
    clip = torch.randn(1, 3, FRAMES, 224, 224)
    record = {}
    for runtime in runs["ours"]:
        seconds: dict[str, list[float]] = {who: [] for who in runs}
        for i in range(rounds + 1):  # the first round warms up
            for who in sorted(runs, reverse=bool(i % 2)):
                start = time.perf_counter()
                runs[who][runtime](clip)
                seconds[who].append(time.perf_counter() - start)
        # The threads of the one that ran before still spin: each two rounds, which have both orders, give one ratio.
        pairs = range(1, rounds, 2)
        ratios = [sum(seconds["ours"][i : i + 2]) / sum(seconds["peer"][i : i + 2]) for i in pairs]
        record[runtime] = {
            **{f"{who}_ms": round(1000 * statistics.median(values[1:]), 1) for who, values in seconds.items()},
            "ours_over_peer": round(statistics.median(ratios), 3),
            "ratios": [round(ratio, 3) for ratio in ratios],
        }
    return record


def measure(peer: str, width: int, rounds: int) -> dict[str, Any]:
    """The whole record."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        both = networks(peer, width, folder)
        clip = torch.randn(1, 3, FRAMES, 224, 224)
        exports = {who: Export(*pair, folder / f"{who}.onnx") for who, pair in both.items()}
        a, b = (export.eager(clip) for export in exports.values())
        runs = {who: export.runs() for who, export in exports.items()}
        return {
            "script": "benchmarks/export.py",
            "machine": {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
            "versions": {
                "python": platform.python_version(),
                **{
                    name: importlib.metadata.version(name)
                    for name in ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", PACKAGES[peer])
                },
            },
            "peer": peer,
            "network": NAMES[peer],
            "width": width,
            "rounds": rounds,
            "networks_differ_by": float(f"{float((a - b).abs().max() / b.abs().max()):.2g}"),
            "exports": {who: {**exports[who].record, "sizes": at_sizes(exports[who], runs[who])} for who in exports},
            "times": times(runs, rounds),
        }


def table(record: dict[str, Any]) -> str:
    """The record as the page shows it."""
    exports, timed = record["exports"], record["times"]
    rows: list[tuple[str, Any]] = [
        ("inputs", lambda who: exports[who]["inputs"]),
        ("open axes", lambda who: ", ".join(exports[who]["open"]) or "none"),
        ("nodes", lambda who: exports[who]["nodes"]),
    ]
    rows += [
        (f"{size} (batch, height, width)", lambda who, size=size: _at(exports[who]["sizes"][size]))
        for size in exports["ours"]["sizes"]
    ]
    lines = [f"| | slowfast_zoo | {record['peer']} |", "|---|---|---|"]
    lines += [f"| {title} | {cell('ours')} | {cell('peer')} |" for title, cell in rows]
    for runtime, values in timed.items():
        lines.append(f"| time in {runtime}, relative | {values['ours_over_peer']:.2f} | 1 |")
    return "\n".join(lines)


def _at(row: dict[str, str]) -> str:
    """One size: what PyTorch does, and whether both runtimes do the same."""
    if row["pytorch"] != "runs":
        return "the network fails"
    wrong = {runtime: row[runtime] for runtime in ("onnxruntime", "openvino") if row[runtime] != "equal"}
    return "; ".join(f"{runtime} {what}" for runtime, what in wrong.items()) or "equal"


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"fails: {type(error).__name__}: {text[:160]}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def write_table(text: str, peer: str, page: Path) -> None:
    """Put ``text`` between a peer's marker lines of a page."""
    start, end = (mark.format(peer) for mark in MARKS)
    before, found, rest = page.read_text(encoding="utf-8").partition(start)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise SystemExit(f"{page} lacks the markers {start!r} and {end!r}")
    page.write_text(f"{before}{start}\n{text}\n{end}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=sorted(PEERS), default="PyTorchVideo")
    parser.add_argument("--width", type=int, default=64, help="channels of the Slow stem (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, help="default: export.json, export_mmaction2.json in benchmarks/results/")
    parser.add_argument("--page", type=Path, help="Markdown page whose table is to be rewritten")
    parser.add_argument("--table-only", action="store_true", help="make the table of the record that is there")
    args = parser.parse_args()
    args.out = args.out or RESULTS / ("export.json" if args.peer == "PyTorchVideo" else "export_mmaction2.json")
    if args.table_only:
        record = json.loads(args.out.read_text(encoding="utf-8"))
    else:
        record = measure(args.peer, args.width, args.rounds)
        args.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if args.page:
        write_table(table(record), args.peer, args.page)
    print(table(record))


if __name__ == "__main__":
    main()
