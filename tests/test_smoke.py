"""Which Pythons tests/smoke.py tries; what it does with them, make test sees itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import smoke

ROOT = Path(__file__).resolve().parent.parent
KNOWN = {(3, 10), (3, 11), (3, 12), (3, 13)}


@pytest.mark.parametrize(
    ("versions", "in_use", "chosen"),
    [
        (["3.9.18", "3.10.13", "3.11.7", "3.12.1", "3.13.0"], (3, 11), ["3.10.13", "3.13.0"]),
        (["3.10.2", "3.10.13", "3.11.7", "3.13.0"], (3, 13), ["3.10.13", "3.11.7"]),
        (["3.11.7", "3.12.1"], (3, 11), ["3.12.1"]),
        (["3.9.18", "3.11.1", "3.11.7", "3.14.0"], (3, 11), []),
        ([], (3, 11), []),
    ],
)
def test_the_oldest_and_the_newest_besides_the_one_in_use(
    versions: list[str], in_use: tuple[int, int], chosen: list[str]
) -> None:
    pythons = {}
    for version in versions:
        major, minor, micro = map(int, version.split("."))
        pythons[major, minor, micro] = Path(version)
    assert [str(python) for _, python in smoke.choose(pythons, KNOWN, in_use)] == chosen


def test_what_pyproject_supports() -> None:
    assert smoke.supported((ROOT / "pyproject.toml").read_text("utf-8")) >= {(3, 10), (3, 13)}


def test_pythons_that_pyenv_keeps_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, answer in {"3.12.5": "cpython 3 12 5", "3.13.1": "", "pypy3.10-7": "pypy 3 10 1"}.items():
        python = tmp_path / "versions" / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f"#!/bin/sh\n{f'echo {answer}' if answer else 'exit 127'}\n")
        python.chmod(0o755)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert smoke.found() == {(3, 12, 5): tmp_path / "versions/3.12.5/bin/python"}
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "nowhere"))
    assert smoke.found() == {}


def test_a_machine_without_another_python_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(smoke, "found", dict)
    assert smoke.main(tmp_path / "smoke") == 0
    assert capsys.readouterr().out.count("\n") == 1
