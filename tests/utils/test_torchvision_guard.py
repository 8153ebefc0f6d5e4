"""A torchvision that cannot work beside this torch stops nothing but what needs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from slowfast_zoo.utils import torchvision_guard as _torchvision

# Imports the library, runs a network, then asks for what needs torchvision; prints what happened as JSON.
PROBE = """
import json, sys, warnings
import torch
{before}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import slowfast_zoo as sfz
    model = sfz.create_model("slowfast_tiny_4x8", num_classes=5).eval()
    shape = list(model(torch.rand(1, 3, model.config.clip_frames, 32, 32)).shape)
imported = [name for name in ("torchvision", "timm") if name in sys.modules]
errors = []
for need in (sfz.register_with_timm, sfz.register_with_timm):
    try:
        need()
        errors.append("none")
    except sfz.MissingDependencyError as error:
        errors.append(str(error))
print(json.dumps({
    "shape": shape,
    "imported": imported,
    "warnings": [str(w.message) for w in caught],
    "files": [w.filename for w in caught],
    "errors": errors,
}))
"""
BROKEN_IMPORT = 'raise RuntimeError("operator torchvision::nms does not exist")\n'
CUDA_13 = b"\0libc10.so\0libcudart.so.13\0libtorch_cuda.so\0"


def fake_torchvision(folder: Path, init: str, library: bytes | None) -> Path:
    package = folder / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(init)
    if library is not None:
        (package / "_C.so").write_bytes(library)
    metadata = folder / "torchvision-9.9.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 9.9\nRequires-Dist: torch\n")
    return folder


def probe(path: Path | None, before: str = "") -> dict[str, Any]:
    environment = dict(os.environ)
    if path is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(path), environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", PROBE.replace("{before}", before)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def test_working_environment_gives_no_warning() -> None:
    report = probe(None)
    assert report["warnings"] == []
    assert report["imported"] == []
    assert report["errors"] == ["none", "none"]


def test_cuda_torchvision_beside_torch_without_cuda(tmp_path: Path) -> None:
    path = fake_torchvision(tmp_path, BROKEN_IMPORT, CUDA_13)
    report = probe(path, before='torch.version.cuda = None; torch.__version__ = "2.13.0+cpu"')
    assert report["shape"] == [1, 5]
    assert report["imported"] == []
    [warning] = report["warnings"]
    assert warning.startswith("torchvision 9.9 does not work beside torch 2.13.0+cpu: it was built for CUDA")
    fix = "pip install --force-reinstall torch torchvision --index-url https://download.pytorch.org/whl/cpu"
    assert warning.endswith(fix)
    assert report["files"] == ["<string>"], "the warning points at the line that imports slowfast_zoo"
    assert report["errors"] == [warning, warning], "what needs torchvision fails with the same words, every time"


def test_torchvision_without_its_operators(tmp_path: Path) -> None:
    report = probe(fake_torchvision(tmp_path, BROKEN_IMPORT, None))
    [warning] = report["warnings"]
    assert "its compiled operators are missing" in warning
    assert report["errors"] == [warning, warning]


def test_torchvision_that_only_fails_when_imported(tmp_path: Path) -> None:
    report = probe(fake_torchvision(tmp_path, BROKEN_IMPORT, b"\0libtorch_cpu.so\0"))
    assert report["shape"] == [1, 5]
    assert report["warnings"] == []
    assert "RuntimeError: operator torchvision::nms does not exist" in report["errors"][0]
    assert "--force-reinstall torch torchvision" in report["errors"][0]


def test_absent_torchvision_is_named_where_it_is_needed() -> None:
    hide = """
from importlib.machinery import PathFinder
class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] == "torchvision" else PathFinder.find_spec(name, path, target)
sys.meta_path[:] = [Hiding if finder is PathFinder else finder for finder in sys.meta_path]
"""
    report = probe(None, before=hide)
    assert report["shape"] == [1, 5]
    assert report["warnings"] == []
    assert "torchvision is not installed" in report["errors"][0]
    assert "pip install torchvision" in report["errors"][0]


@pytest.mark.parametrize(
    ("requirement", "installed", "works"),
    [
        ("torch (==2.13.0)", "2.13.0+cpu", True),
        ("torch==2.13.0", "2.13.1", True),
        ("torch (==2.13.0)", "2.15.0+cu132", False),
        ("torch (>=2.14.0)", "2.15.0", True),
        ("torch>=2.14.0", "2.14.0a0+git123", True),
        ("torch (>=2.14.0)", "2.13.0+cpu", False),
        ("torch", "2.6.0", True),
        ("torchdata>=99", "2.6.0", True),
    ],
)
def test_version_that_torchvision_asks_for(
    monkeypatch: pytest.MonkeyPatch, requirement: str, installed: str, works: bool
) -> None:
    monkeypatch.setattr(torch, "__version__", installed)
    assert (_torchvision._version_defect(["numpy", requirement]) is None) is works


@pytest.mark.parametrize(
    ("name", "content", "cuda", "hip", "works"),
    [
        ("_C.so", CUDA_13, "13.2", None, True),
        ("_C_stable.so", CUDA_13, "13.2", None, True),
        ("_C.so", CUDA_13, "12.6", None, False),
        ("_C.so", CUDA_13, None, None, False),
        ("_C.so", CUDA_13, None, "6.4", False),
        ("_C.cpython-310-x86_64-linux-gnu.so", b"\0libtorch_cpu.so\0", None, None, True),
        ("_C.so", b"\0libtorch_cpu.so\0", "12.6", None, True),
        ("_C_stable.pyd", b"\0torch_cpu.dll\0", None, None, True),
        ("_C.pyd", b"\0torch_cuda.dll\0cudart64_12.dll\0", "12.8", None, True),
        ("_C.pyd", b"\0torch_cuda.dll\0cudart64_12.dll\0", None, None, False),
        ("_C.so", b"\0libtorch_hip.so\0", None, "6.4", True),
        ("_C.so", b"\0libtorch_hip.so\0", None, None, False),
        ("_C.so", b"", None, None, False),
        ("image.so", CUDA_13, "13.2", None, False),
    ],
)
def test_build_of_the_compiled_operators(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    content: bytes,
    cuda: str | None,
    hip: str | None,
    works: bool,
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", hip)
    (tmp_path / name).write_bytes(content)
    assert (_torchvision._library_defect(tmp_path) is None) is works


@pytest.mark.parametrize(
    ("version", "index"),
    [
        ("2.13.0+cpu", "cpu"),
        ("2.13.0+cu126", "cu126"),
        ("2.13.0+rocm6.4", "rocm6.4"),
        ("2.13.0", None),
        ("2.13.0a0+git1", None),
    ],
)
def test_fix_names_the_index_of_this_torch(monkeypatch: pytest.MonkeyPatch, version: str, index: str | None) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    fix = _torchvision._fix("--force-reinstall torch torchvision")
    assert (f"--index-url https://download.pytorch.org/whl/{index}" in fix) if index else ("--index-url" not in fix)
