"""What differs between PyAV's versions: each of them opens the same files."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest

from slowfast_zoo.video import LiveReader, VideoReader
from slowfast_zoo.video.pyav import open_container, read_size


@pytest.fixture
def latin1_title(tmp_path: Path) -> Path:
    """A video whose title is in Latin-1, as older programs write it, and so no UTF-8."""
    path = tmp_path / "title.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "CAFE" * 4
        stream = container.add_stream("mpeg4", rate=Fraction(25))
        stream.width = stream.height = 32
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        container.mux(stream.encode(None))
    content = path.read_bytes()
    assert content.count(b"CAFE" * 4) == 1
    path.write_bytes(content.replace(b"CAFE" * 4, b"CAF\xe9" * 4))
    return path


def test_text_that_is_not_utf8_keeps_nobody_from_the_frames(latin1_title: Path) -> None:
    for video in (latin1_title, latin1_title.read_bytes()):
        with VideoReader(video) as reader:
            assert len(list(reader.frames())) == 5
    with LiveReader(latin1_title) as live:
        assert len(list(live)) == 5


@pytest.mark.parametrize(("version", "given"), [("14.2.0", True), ("18.1.0", True), ("19.0.2", False), ("20.1", False)])
def test_only_arguments_that_a_version_has(version: str, given: bool) -> None:
    asked: dict[str, Any] = {}
    fake: Any = SimpleNamespace(__version__=version, open=lambda media, **options: asked.update(options))
    open_container(fake, "video.mp4", timeout=3.0)
    assert asked == {"timeout": 3.0, **({"metadata_errors": "replace"} if given else {})}


@pytest.mark.parametrize(("size", "stated"), [(None, None), (-78, None), (0, 0), (12, 12)])
def test_a_size_that_nothing_states(size: int | None, stated: int | None) -> None:
    container: Any = SimpleNamespace(size=size)
    assert read_size(container) == stated


CLOSED_AT_ONCE = """
import sys
import av.logging
from slowfast_zoo.video import LiveReader, VideoReader

av.logging.set_level(av.logging.ERROR)
for _ in range(40):
    with VideoReader(sys.argv[1], threads=4) as reader:
        reader.frames_at([0.5])
with LiveReader(sys.argv[1]) as live:
    next(iter(live))
"""


def test_a_reader_closes_while_its_decoder_has_something_to_log() -> None:
    # Once a level was set, decoder threads log through Python; a reader that frees them meanwhile waits for ever.
    sample = Path(__file__).resolve().parents[2] / "slowfast_zoo/video/samples/camera_moves.mp4"
    subprocess.run([sys.executable, "-c", CLOSED_AT_ONCE, sample], check=True, timeout=300)
