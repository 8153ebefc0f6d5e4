"""A process that is told to end while it writes leaves no partial file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from videos import write_video

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without a signal")

RENDER = """
import sys
from slowfast_zoo.cli.main import main
words = ["predict", sys.argv[1], "--window", "100", "--stride", "100", "--crops", "1", "--render", sys.argv[2]]
sys.exit(main(words))
"""
WRITE = """
import signal, sys, time
import numpy as np
from pathlib import Path
from slowfast_zoo.video.encode import VideoWriter, whole_file
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup has ignored, where the tests run under it
if sys.argv[1] == "video":
    with VideoWriter(sys.argv[2], 30) as writer:
        for index in range(100000):
            writer.add(np.full((96, 128, 3), index % 200, np.uint8), index / 30)
else:
    with whole_file(Path(sys.argv[2])) as temporary:
        temporary.write_text("half")
        time.sleep(60)
"""


def told_to_end(words: list[str], folder: Path, how: int) -> int:
    """The exit code of a process that is told to end once it has begun to write into a folder."""
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    try:
        while not list(folder.iterdir()) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        assert process.poll() is None and list(folder.iterdir()), "it has not begun to write"
        time.sleep(0.3)
        assert process.poll() is None, "it was over before it was told to end"
        os.kill(process.pid, how)
        return process.wait(60)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("kind", ["video", "text"])
def test_no_partial_file_stays(tmp_path: Path, kind: str, how: int) -> None:
    code = told_to_end(["-c", WRITE, kind, str(tmp_path / ("a.mp4" if kind == "video" else "a.txt"))], tmp_path, how)
    assert list(tmp_path.iterdir()) == []
    assert code == (-signal.SIGINT if how == signal.SIGINT else 128 + how)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_render_that_is_told_to_end(tmp_path: Path, how: int) -> None:
    video = write_video(tmp_path / "long.mp4", 1500, width=240, height=180, options={"preset": "ultrafast"})
    folder = tmp_path / "new"
    folder.mkdir()
    code = told_to_end(["-c", RENDER, str(video), str(folder / "b.mp4")], folder, how)
    assert list(folder.iterdir()) == []
    assert code == 128 + how


def test_a_handler_of_the_user_s_own_is_kept(tmp_path: Path) -> None:
    from slowfast_zoo.utils.files import whole_file

    def own(*_: object) -> None: ...

    before = signal.signal(signal.SIGTERM, own)
    try:
        with whole_file(tmp_path / "a.txt") as temporary:
            assert signal.getsignal(signal.SIGTERM) is own
            temporary.write_text("whole")
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)
    with whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert signal.getsignal(signal.SIGTERM) is before
