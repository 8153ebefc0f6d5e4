"""slowfast-zoo export, in processes of its own.

Apart from tests/inference/test_export.py, which starts the runtimes in its own process.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14)
    or not all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))),
    reason="the exporters are not installed, or too old to do all of this",
)
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_command(tmp_path: Path) -> None:
    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "slowfast_zoo", "export", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))},
            capture_output=True,
            text=True,
            check=False,
        )

    done = command("slowfast_tiny_4x8.motion", "model.onnx", "--probabilities")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first.startswith("wrote model.onnx, ") and first.endswith(" MiB")
    assert second.startswith("clip (batch, 3, 16, height, width) -> probabilities; differs from the network by ")
    done = command(
        "slow_tiny_4x8", "model.pt2", "--random", "--features", "--out-indices", "3", "--size", "64x96", "--json"
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["inputs"] == {"clip": ["batch", 3, 4, 64, 96]}
    assert report["outputs"] == ["res4"]
    assert report["files"] == ["model.pt2"]
    assert report["difference"] <= 1e-6
    done = command("slow_tiny_4x8", "model.txt")
    assert done.returncode == 2
    assert done.stderr.startswith("slowfast-zoo: error: the suffix says the format")
    assert len(done.stderr.splitlines()) == 1


def test_nothing_is_imported_beforehand() -> None:
    packages = "{'onnx', 'onnxscript', 'onnxruntime', 'openvino'}"
    code = f"import sys, slowfast_zoo.inference.export; print({packages} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"
