"""Nobody is told: runtimes do not report to their makers what they are used for, nor leave anything in the home."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
VIDEO = ROOT / "slowfast_zoo/video/samples/camera_moves.mp4"
SWITCHES = ("ORT_DISABLE_TELEMETRY", "CI", "TF_BUILD", "JENKINS_URL")

# Native code's connections are not seen here, but ONNX Runtime has none without the database that it makes in the home.
WATCHED = """
import json, os, sys, threading
calls = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        calls.append([event, repr(arguments[-1] if event == "socket.connect" else arguments[0])])
        raise OSError("no network in this test")
sys.addaudithook(watch)
before = dict(os.environ)
import slowfast_zoo as sfz
from slowfast_zoo.cli.main import main
{work}
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join(5)
changed = sorted(name for name in before.keys() | os.environ.keys() if before.get(name) != os.environ.get(name))
print(json.dumps({{"calls": calls, "changed": changed}}))
"""


EXPORT = """
model = sfz.create_model("slowfast_tiny_4x8", width=8, depths=(1, 1, 1, 1), crop=64, num_classes=3)
for name in ("model.onnx", "model.xml"):
    sfz.export_model(model, name)
assert {"onnxruntime", "openvino"} <= set(sys.modules)
"""
COMMANDS = f"""
assert main(["predict", {str(VIDEO)!r}, "--clips", "1", "--crops", "1"]) == 0
assert main(["features", {str(VIDEO)!r}, "--crops", "1", "--output", "features"]) == 0
"""


@pytest.mark.slow
@pytest.mark.parametrize("work", [EXPORT, COMMANDS], ids=["export", "commands"])
def test_nobody_is_told(work: str, tmp_path: Path) -> None:
    needed = ("onnx", "onnxscript", "onnxruntime", "openvino") if work is EXPORT else ("av",)
    if not all(map(importlib.util.find_spec, needed)):  # importing them here would be telling
        pytest.skip(f"needs {', '.join(needed)}")
    home = tmp_path / "home"
    home.mkdir()
    env = {name: value for name, value in os.environ.items() if name not in SWITCHES and not name.startswith("XDG_")}
    env.update(HOME=str(home), USERPROFILE=str(home), PYTHONPATH=str(ROOT))
    done = subprocess.run(
        [sys.executable, "-c", WATCHED.format(work=work)], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert told["calls"] == []
    assert [str(path.relative_to(home)) for path in home.rglob("*")] == []
    assert not set(SWITCHES) & set(told["changed"])
