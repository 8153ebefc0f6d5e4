"""The wheel, installed into an environment of its own and used from another folder; and what an import imports."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import slowfast_zoo

ROOT = Path(__file__).resolve().parent.parent
USE = """
import json, sys
import torch
import slowfast_zoo as sfz

names = sfz.list_models(pretrained=True)
model = sfz.create_model("slowfast_r50_4x16", width=8, num_classes=3).eval()
shape = list(model(torch.rand(1, 3, 32, 64, 48)).shape)
from slowfast_zoo.video import sample_clip
result = sfz.VideoClassifier("slowfast_tiny_4x8.motion")(sample_clip(), clips=2, crops=1, top_k=2)
print(json.dumps(dict(file=sfz.__file__, version=sfz.__version__, names=names, shape=shape, top=list(result))))
"""


def run(*command: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sources directly."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installation(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that holds the wheel, and sees this environment's packages for the dependencies."""
    folder = tmp_path_factory.mktemp("installation") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    install = ("-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    run(sys.executable, *install, cwd=folder.parent)
    [packages] = folder.glob("lib/python*/site-packages")
    outer = {sysconfig.get_paths()[kind] for kind in ("purelib", "platlib")}
    (packages / "dependencies.pth").write_text("\n".join(sorted(outer)) + "\n")
    return folder


def contents(wheel: Path) -> dict[str, str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def test_wheel_holds_the_data(wheel: Path) -> None:
    names = set(contents(wheel))
    assert "slowfast_zoo/weights_manifest.json" in names
    assert "slowfast_zoo/py.typed" in names
    sources = [
        path for path in (ROOT / "slowfast_zoo").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    assert {path.relative_to(ROOT).as_posix() for path in sources} <= names
    assert any(name.endswith(".safetensors") for name in names)
    assert any(name.endswith(".mp4") for name in names)
    assert not [name for name in names if name.split("/")[0] not in ("slowfast_zoo",) and ".dist-info/" not in name]


def test_sdist_gives_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    [rebuilt] = tmp_path.glob("*.whl")
    assert contents(rebuilt) == contents(wheel)


def test_installed_wheel_does_what_a_checkout_does(installation: Path, tmp_path: Path) -> None:
    report = json.loads(run(installation / "bin" / "python", "-c", USE, cwd=tmp_path).splitlines()[-1])
    assert Path(report["file"]).is_relative_to(installation)
    assert "slowfast_tiny_4x8.motion" in report["names"]
    assert report["shape"] == [1, 3]
    assert len(report["top"]) == 2
    assert 0 < report["top"][1][1] <= report["top"][0][1] <= 1


def test_console_script(installation: Path, tmp_path: Path) -> None:
    command = installation / "bin" / "slowfast-zoo"
    video = next(installation.glob("lib/python*/site-packages/slowfast_zoo/video/samples/camera_moves.mp4"))
    [result] = json.loads(run(command, "predict", video, "--clips", "2", "--crops", "1", "--json", cwd=tmp_path))
    assert result["model"] == "slowfast_tiny_4x8.motion"
    assert result["predictions"][0]["score"] > 0
    assert not list(tmp_path.iterdir()), "a prediction leaves nothing behind"


def test_wheel_has_the_version_of_the_package(wheel: Path) -> None:
    assert wheel.name.startswith(f"slowfast_zoo-{slowfast_zoo.__version__}-")


def test_import_leaves_heavy_packages_alone(tmp_path: Path) -> None:
    code = """
import sys
import torch
before = set(sys.modules)
import slowfast_zoo
print(" ".join(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "slowfast_zoo" in imported
    heavy = {"timm", "torchvision", "av", "matplotlib", "huggingface_hub", "safetensors", "PIL"}
    assert not imported & heavy
