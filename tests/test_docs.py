"""The code in the README and in the pages runs as it stands there."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from slowfast_zoo.models import ARCHITECTURES, ResNet3DConfig, SlowFastConfig
from slowfast_zoo.video import sample_clip

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """(line number, text) of each fenced block in a language."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start(1)), match[1]) for match in found]


def with_blocks(language: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, language)]


@pytest.mark.parametrize("page", with_blocks("python"), ids=lambda page: page.name)
def test_python_blocks(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after another in one namespace, in a folder that holds hubconf.py, the package and the videos they name."""
    for name in ("hubconf.py", "slowfast_zoo", "weights_manifest.json"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in re.findall(r'"(\w+\.mp4)"', page.read_text(encoding="utf-8")):
        shutil.copy(sample_clip(), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    torch.manual_seed(0)
    for line, code in blocks(page, "python"):
        exec(compile("\n" * line + code, str(page), "exec"), namespace)


def commands() -> list[str]:
    """Every slowfast-zoo command that a page shows, once."""
    lines = [line for page in PAGES for _, text in blocks(page, "sh") for line in text.splitlines()]
    return sorted({line for line in lines if line.startswith("slowfast-zoo ")})


@pytest.mark.parametrize("command", commands())
def test_command_lines(command: str, tmp_path: Path) -> None:
    """As it stands there, in a folder that holds the package and a video.mp4."""
    (tmp_path / "slowfast_zoo").symlink_to(ROOT / "slowfast_zoo")
    shutil.copy(sample_clip(), tmp_path / "video.mp4")
    arguments = shlex.split(command, comments=True)[1:]
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from slowfast_zoo.cli.main import main; sys.exit(main())", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    for option, value in itertools.pairwise(arguments):
        if option == "--plot":
            assert (tmp_path / value).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_registered_names_are_documented() -> None:
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:slowfast|slow|fast|c2d|i3d)_\w+_\d+x\d+(?:_det)?)`", text))
    assert named == set(ARCHITECTURES)


def test_configuration_fields_are_documented() -> None:
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    fields = {field.name for config in (SlowFastConfig, ResNet3DConfig) for field in dataclasses.fields(config)}
    assert fields <= set(re.findall(r"`(\w+)`", text))


def test_weights_table_is_current() -> None:
    """docs/weights_table.md is what the script makes of the manifest (python benchmarks/weights_table.py --write)."""
    from benchmarks.weights_table import PAGE, page

    assert PAGE.read_text(encoding="utf-8") == page()


def test_loading_costs_are_those_measured() -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / "load_weights.json").read_text(encoding="utf-8"))
    ways = results["ways"]
    told = re.findall(
        r"([\d.]+) x", (ROOT / "docs" / "weights.md").read_text(encoding="utf-8").partition("## What loading")[2]
    )
    assert list(map(float, told)) == [
        ways["load_checkpoint"]["over_load_state_dict"],
        ways["meta"]["over_load_state_dict"],
        results["create_model_over_build_and_load_state_dict"],
        ways["create_model"]["peak_over_weights"],
    ]
