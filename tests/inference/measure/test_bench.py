"""Measuring: the arithmetic, and tiny real runs. What a clock says decides nothing here."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import upstream

import slowfast_zoo as sfz
from benchmarks import contenders, precision, speed, speed_page
from benchmarks.contenders import Contender, pytorchvideo_network
from benchmarks.cost import gflops_and_parameters
from slowfast_zoo.cli import main
from slowfast_zoo.inference.measure import bench
from slowfast_zoo.inference.measure.work import Workload
from slowfast_zoo.models import ARCHITECTURES

# One thread: nothing here is measured, and threads that wait for each other are slow where cores are shared.
TINY = Workload(model="slowfast_tiny_4x8.motion", size=64, threads=1)
MACHINE = {"cpu": "a CPU", "cores": 2, "threads": 2, "instruction_sets": ["avx2"], "versions": {"torch": "2"}}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with bench.threads_set(1):
        yield


def test_summary_is_medians_and_quartiles() -> None:
    assert bench.summary([0.003, 0.001, 0.002, 0.1, 0.004]) == {
        "median_ms": 3.0,
        "quartiles_ms": [2.0, 4.0],
        "rounds": 5,
    }
    assert bench.summary([0.5]) == {"median_ms": 500.0, "quartiles_ms": [500.0, 500.0], "rounds": 1}


def test_rounds_are_interleaved_and_begin_with_another_each() -> None:
    called: list[str] = []
    times = bench.interleaved({name: lambda name=name: called.append(name) for name in "abc"}, 4, warm_up=1)
    assert "".join(called) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert {name: len(values) for name, values in times.items()} == {"a": 4, "b": 4, "c": 4}
    assert all(value >= 0 for values in times.values() for value in values)


def test_threads_are_set_and_set_back() -> None:
    with bench.threads_set(2):
        assert torch.get_num_threads() == 2
        with bench.threads_set(None):
            assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1


def test_cost_is_that_of_the_tables() -> None:
    config = ARCHITECTURES["slowfast_r50_4x16"]
    gflops, parameters = gflops_and_parameters(config, side=128)
    work = Workload(model="slowfast_r50_4x16", size=128, batch=3)
    assert bench.cost(work) == {"parameters": parameters, "multiply_adds": round(gflops * 1e9)}
    twice = bench.cost(Workload(model="slowfast_r50_4x16", size=128, frames=8))
    assert 1.8 < twice["multiply_adds"] / (gflops * 1e9) < 2.2


@pytest.mark.parametrize(
    "work",
    [
        TINY,
        replace(TINY, batch=2, frames=8),
        Workload(model="slow_r50_4x16_det", size=64, overrides={"width": 8}),
        Workload(model="slowfast_tiny_4x8", size=64, overrides={"fast_input": "flow"}),
    ],
    ids=["clip", "batch", "boxes", "flow"],
)
def test_ordinary_and_optimised_do_the_same_work(work: Workload) -> None:
    outputs = []
    for kind in ("ordinary", "optimised"):
        torch.manual_seed(0)
        outputs.append(Contender(kind).prepare(work)())
    assert outputs[0].shape[0] == work.batch
    assert bench.cost(work)["multiply_adds"] > 0
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-3, atol=1e-4)


def test_a_training_step_leaves_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    create = sfz.create_model
    monkeypatch.setattr(
        "slowfast_zoo.inference.measure.work.create_model",
        lambda *args, **settings: made.append(create(*args, **settings)) or made[0],
    )
    step = Contender("ordinary", "bfloat16").prepare(replace(TINY, train=True, batch=2))
    step()
    assert all(parameter.grad is not None for parameter in made[0].parameters())
    with pytest.raises(ValueError, match="optimised is for inference"):
        Contender("optimised").prepare(replace(TINY, train=True))


def test_memory_of_a_process_of_its_own() -> None:
    """At least the weights and the clip, and far from all that Python and torch take."""
    work = Workload(model="slow_r50_8x8", size=64, threads=1, overrides={"width": 32})
    peak = bench.peak_memory(Contender("ordinary"), work)
    assert peak is not None
    weights = 4 * sum(p.numel() for p in work.network().parameters())
    assert weights < peak < weights + 120 * 2**20
    with pytest.raises(RuntimeError, match="a process that measures failed with code 1: .*did you mean"):
        bench.peak_memory(Contender("ordinary"), Workload(model="slow_r50_8x9"))


def test_ceiling_and_machine() -> None:
    rates = bench.ceiling(["float32"], threads=1, scale=8)
    assert set(rates["float32"]) == {"matmul", "pointwise", "convolution"}
    assert min(rates["float32"].values()) > 0
    facts = bench.machine(threads=1)
    assert facts["threads"] == 1
    assert facts["versions"]["slowfast_zoo"] == sfz.__version__
    assert facts["versions"]["torch"]
    json.dumps(facts)


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "slowfast_zoo", "bench", *map(str, words)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300, check=False)


def test_bench_prints_a_table() -> None:
    done = run("slowfast_tiny_4x8.motion", "--size", 64, "--dtype", "float32", "--repeats", 2, "--threads", 1)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "slowfast_tiny_4x8.motion, inference, input 1 x 3 x 16 x 64 x 64"
    assert any(line.startswith("  machine ") and line.endswith(" 1 thread") for line in lines)
    table = lines[lines.index("") + 1 :]
    assert table[0].split() == ["latency,", "ms", "quartiles", "clips/s", "peak", "MiB", "ratio"]
    assert [line.split("  ")[0] for line in table[1:]] == ["ordinary float32", "optimised float32"]
    assert table[1].endswith(" 1.00")
    assert len({len(line) for line in table}) == 1


def test_bench_json() -> None:
    words = ("slow_tiny_4x8", "--size", 48, "--batch", 2, "--frames", 2, "--repeats", 1, "--train", "--json")
    done = run(*words, "--dtype", "float32", "--threads", 1)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["input"] == [2, 3, 2, 48, 48]
    assert report["what"] == "training step"
    [row] = report["rows"]
    assert row["name"] == "ordinary float32"
    assert row["clips_per_second"] == pytest.approx(2000 / row["median_ms"], rel=0.01)
    assert row["peak_mib"] > 0
    assert report["startup_seconds"]["import"] > report["startup_seconds"]["import_torch"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["slowfast_r50_4x17"], "did you mean slowfast_r50_4x16"),
        (["slow_tiny_4x8", "--batch", "0"], "batch is an integer of at least 1, not 0"),
        (["slow_tiny_4x8", "--size", "31"], "size is an integer of at least 32, not 31"),
        (["slow_tiny_4x8", "--frames", "0"], "frames is an integer of at least 1, not 0"),
        (["slow_tiny_4x8", "--threads", "0"], "threads is an integer of at least 1, not 0"),
        (["slow_tiny_4x8", "--repeats", "0"], "repeats is an integer of at least 1, not 0"),
        (["slow_tiny_4x8", "--device", "nonsense"], "device 'nonsense' cannot be used"),
        (["slow_tiny_4x8", "--device", "meta"], "device 'meta' cannot be measured: it is cpu or cuda"),
        (["slow_tiny_4x8", "--dtype", "int8"], "invalid choice: 'int8'"),
    ],
)
def test_bad_input_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: Any = main(["bench", *words])
    except SystemExit as stopped:
        code = stopped.code
    output = capsys.readouterr()
    assert code == 2
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert message in output.err


@pytest.mark.parametrize(
    ("peer", "name"),
    [("pytorchvideo", "PyTorchVideo"), ("openvino", "OpenVINO"), ("onnxruntime", "ONNX Runtime")],
)
def test_a_missing_peer_is_told_of_with_what_to_install(
    peer: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, peer, None)
    for module in [module for module in sys.modules if module.startswith(f"{peer}.")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(SystemExit) as stopped:
        contenders.main(["slow_tiny_4x8", "--against", peer])
    assert stopped.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert f"error: comparing with {name} needs it (" in output.err
    assert re.search(rf"\): pip install (\w+ )*{peer}\n$", output.err)
    with pytest.raises(sfz.MissingDependencyError):
        bench.measure(TINY, [Contender(name)])


def test_contenders_and_work_are_checked() -> None:
    with pytest.raises(ValueError, match="the kind of what is measured is one of 'ordinary'"):
        Contender("fast")
    with pytest.raises(ValueError, match="dtype is one of"):
        Contender("ordinary", "int8")


@pytest.mark.skipif(importlib.util.find_spec("pytorchvideo") is None, reason="pytorchvideo is not installed")
@pytest.mark.parametrize("name", speed.NETWORKS)
def test_pytorchvideo_has_the_same_network(name: str) -> None:
    """With our weights, moved by name, it gives our output, at a size that its fixed head was not made for."""
    model: Any = sfz.create_model(name, width=16).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
    peer = pytorchvideo_network(model.config, 96).eval()
    peer.load_state_dict(upstream.pytorchvideo(model.state_dict()))
    clip = torch.rand(1, 3, model.config.clip_frames, 96, 96)
    with torch.inference_mode():
        given: Any = list(model.pathway_inputs(clip)) if name.startswith("slowfast") else clip
        torch.testing.assert_close(peer(given), model(clip), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(importlib.util.find_spec("pytorchvideo") is None, reason="pytorchvideo is not installed")
@pytest.mark.parametrize("name", ["slowfast_tiny_4x8", "slow_r50_nl_8x8", "slow_r50_8x8_det"])
def test_networks_that_pytorchvideo_has_not(name: str) -> None:
    with pytest.raises(ValueError, match="PyTorchVideo has no network like this one"):
        pytorchvideo_network(ARCHITECTURES[name], 64)


@pytest.mark.parametrize(("kind", "package"), [("OpenVINO", "openvino"), ("ONNX Runtime", "onnxruntime")])
def test_peers_compute_the_same(kind: str, package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    outputs = []
    for each in ("ordinary", kind):
        torch.manual_seed(0)
        outputs.append(Contender(each).prepare(TINY)())
    torch.testing.assert_close(torch.from_numpy(outputs[1][0]), outputs[0], rtol=1e-3, atol=1e-4)


# -- the scripts of benchmarks/ --------------------------------------------------------------------------------------


def test_verdicts() -> None:
    values = {"optimised float32": 100.0, "PyTorchVideo float32": 240.0, "OpenVINO float32": 90.0}
    fast, beside_openvino = speed.verdicts("a network", values, speed.SPEED_TARGETS)
    assert fast["name"] == "a network: optimised float32 over PyTorchVideo float32"
    assert (fast["ratio"], fast["target"], fast["met"]) == (0.417, 0.5, True)
    assert fast["ours"] == {"name": "optimised float32", "value": 100.0}
    assert (beside_openvino["ratio"], beside_openvino["met"]) == (1.111, False)


def test_parts_are_merged(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    speed.merge(path, "startup", {"networks": 1}, MACHINE)
    speed.merge(path, "memory", {"networks": 2}, MACHINE)
    speed.merge(path, "startup", {"networks": 3}, {**MACHINE, "cores": 4})
    parts = json.loads(path.read_text(encoding="utf-8"))["parts"]
    assert {name: part["networks"] for name, part in parts.items()} == {"startup": 3, "memory": 2}
    assert parts["startup"]["machine"]["cores"] == 4


def test_precision_is_compared() -> None:
    reference = torch.tensor([[0.6, 0.4], [0.2, 0.8], [0.9, 0.1], [0.7, 0.3]])
    scores = torch.tensor([[0.5, 0.5], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3]])
    result = precision.compared(scores, reference, torch.tensor([0, 1, 1, 1]))
    assert result == {
        "top1": 75.0,
        "agreement": 75.0,
        "disagreeing": 1,
        "mean_difference": 0.15,
        "max_difference": 0.5,
    }


def example() -> dict[str, Any]:
    """What speed.py writes, with invented numbers."""

    def rows(scale: float) -> list[dict[str, Any]]:
        names = list(speed_page.STYLES)
        return [{"name": name, "median_ms": scale * (len(names) - i), "rounds": 3} for i, name in enumerate(names)]

    compared = {
        "machine": MACHINE,
        "batch": 1,
        "size": 256,
        "networks": {"slow_r50_8x8": {"multiply_adds": 54_500_000_000, "rows": rows(250)}},
        "targets": speed.verdicts(
            "slow_r50_8x8", {row["name"]: row["median_ms"] for row in rows(250)}, speed.SPEED_TARGETS
        ),
    }
    series = {
        name: [{"value": v, "multiply_adds": 5_000_000_000 * v, "rows": rows(100 * v)} for v in values]
        for name, values in speed.SERIES.items()
    }
    rates = {
        str(n): {
            "float32": {"matmul": 90.0 * n, "pointwise": 80.0, "convolution": 70.0},
            "bfloat16": {"matmul": 500.0 * n, "pointwise": 300.0, "convolution": 400.0},
        }
        for n in (1, 2)
    }
    growth = {
        "machine": MACHINE,
        "network": speed.GROWING,
        "usual": {"batch": 1, "size": 256, "frames": 8, "threads": 2},
        "series": series,
        "ceiling_gflop_per_second": rates,
    }
    return {"parts": {"targets": compared, "growth": growth}}


def test_page_is_made_of_the_results(tmp_path: Path) -> None:
    text = speed_page.page(speed_page.PAGE.read_text(encoding="utf-8"), example(), None)
    assert "targets, growth: a CPU, 2 cores, 2 threads, avx2, torch 2." in text
    assert "| `slow_r50_8x8` | 54.5 | 1000 | 750 | 500 | 250 |" in text
    assert "| `slow_r50_8x8`: optimised float32 over PyTorchVideo float32 | 0.500 | 0.50 | yes |" in text
    assert "| size 320 | 1600.0 | 128000 |" in text
    assert "| float32, 1 thread | 90 | 80 | 70 |" in text
    assert speed_page.page(text, example(), None) == text
    with pytest.raises(ValueError, match="lacks the markers of the machine tables"):
        speed_page.page("", example(), None)
    picture = tmp_path / "images" / "speed.png"
    speed_page.draw(example()["parts"]["growth"], picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_picture_without_bfloat16(tmp_path: Path) -> None:
    part = copy.deepcopy(example()["parts"]["growth"])
    for point in (point for points in part["series"].values() for point in points):
        point["rows"] = [row for row in point["rows"] if "bfloat16" not in row["name"]]
    for rates in part["ceiling_gflop_per_second"].values():
        del rates["bfloat16"]
    speed_page.draw(part, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").exists()


def test_page_is_current() -> None:
    """docs/speed.md is what the results say (python benchmarks/speed_page.py --write), and its picture is there."""
    text = speed_page.PAGE.read_text(encoding="utf-8")
    assert text == speed_page.current()
    assert speed_page.PICTURE.exists() or f"images/{speed_page.PICTURE.name}" not in text
