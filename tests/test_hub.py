"""torch.hub, from a checkout that is not installed, in interpreters of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import slowfast_zoo as sfz

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources where torch.hub keeps what it has downloaded of "owner/slowfast_zoo:main"."""
    folder = tmp_path_factory.mktemp("torch_home") / "hub" / "owner_slowfast_zoo_main"
    folder.mkdir(parents=True)
    for name in ("hubconf.py", "weights_manifest.json"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "slowfast_zoo", folder / "slowfast_zoo", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def run(code: str, checkout: Path, cwd: Path) -> Any:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["TORCH_HOME"] = str(checkout.parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_load_from_a_local_folder(checkout: Path) -> None:
    code = """
import json, torch
model = torch.hub.load(".", "slowfast_r50_4x16", source="local", num_classes=7, width=8).eval()
tagged = torch.hub.load(".", "slowfast_tiny_4x8", source="local", tag="motion", pretrained=True)
named = torch.hub.load(".", "create_model", "slowfast_tiny_4x8.motion", source="local", pretrained=True)
equal = all(torch.equal(a, b) for a, b in zip(tagged.state_dict().values(), named.state_dict().values(), strict=True))
import slowfast_zoo
print(json.dumps([list(model(torch.rand(1, 3, 32, 32, 32)).shape), tagged.num_classes, equal, slowfast_zoo.__file__]))
"""
    shape, classes, equal, file = run(code, checkout, cwd=checkout)
    assert shape == [1, 7]
    assert classes == len(sfz.VideoClassifier("slowfast_tiny_4x8.motion").labels)
    assert equal
    assert Path(file).is_relative_to(checkout)


def test_list_and_help(checkout: Path, tmp_path: Path) -> None:
    code = """
import json, torch
known = dict(trust_repo=True, skip_validation=True)
names = torch.hub.list("owner/slowfast_zoo:main", verbose=False, **known)
helps = {name: torch.hub.help("owner/slowfast_zoo:main", name, **known) for name in names[:2] + ["slowfast_r50_4x16"]}
print(json.dumps([names, helps]))
"""
    names, helps = run(code, checkout, cwd=tmp_path)
    assert names == sorted(["create_model", *sfz.list_models()])
    assert all(helps.values())
    assert "32 frames" in helps["slowfast_r50_4x16"]


def test_missing_package_gets_torch_hubs_own_message(checkout: Path) -> None:
    code = """
import json, sys, torch
from importlib.machinery import PathFinder
class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] == "einops" else PathFinder.find_spec(name, path, target)
sys.meta_path[:] = [Hiding if finder is PathFinder else finder for finder in sys.meta_path]
try:
    torch.hub.load(".", "slowfast_r50_4x16", source="local")
except RuntimeError as error:
    print(json.dumps(str(error)))
"""
    assert run(code, checkout, cwd=checkout) == "Missing dependencies: einops"
