"""Commands whose standard output is closed."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import resources

import pytest

COMMANDS = {"--help": 0, "--version": 0, "predict --help": 0, "list": 141, "list --json": 141}  # 141: as for SIGPIPE


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_whose_reader_is_gone_ends_quietly(words: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [sys.executable, "-m", "slowfast_zoo", *words.split()]
        result = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120)
    finally:
        os.close(writing)
    assert (result.returncode, result.stderr) == (COMMANDS[words], "")


def test_a_closed_output_is_no_fault_of_a_video() -> None:
    video = resources.files("slowfast_zoo") / "video" / "samples" / "camera_moves.mp4"
    words = ["detect", str(video), "--boxes", "full", "--every", "8"]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [sys.executable, "-m", "slowfast_zoo", *words]
        result = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120)
    finally:
        os.close(writing)
    assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.skipif(os.name != "posix", reason="closed by the shell")
@pytest.mark.parametrize("words", ["--version", "list"])
def test_a_command_without_standard_output_ends_quietly(words: str) -> None:
    command = f'exec "{sys.executable}" -m slowfast_zoo {words} >&-'
    result = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")
