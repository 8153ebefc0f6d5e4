"""Videos by path and URL: names with escapes, servers of few talents, playlists without end, and Ctrl-C meanwhile."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from urllib.parse import quote

import av
import numpy as np
import pytest
from servers import CdnFile, CdnServer
from videos import read_code, write_video

from slowfast_zoo.cli.videos import find_videos
from slowfast_zoo.errors import VideoDecodeError
from slowfast_zoo.video import open_video
from slowfast_zoo.video.media import has_index_at_end, local_path


def noise(path: Path, frames: int = 12, movflags: str = "") -> Path:
    """A video of more bytes than readers hold at once."""
    generator = np.random.default_rng(0)
    with av.open(str(path), "w", container_options={"movflags": movflags} if movflags else {}) as container:
        stream = container.add_stream("mpeg4", rate=Fraction(30))
        stream.width, stream.height, stream.bit_rate = 320, 240, 30_000_000
        for index in range(frames):
            pixels = generator.integers(0, 256, (240, 320, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


# Paths as URLs


@pytest.mark.parametrize("name", ["a b.mp4", "50%.mp4", "a%20b.mp4", "a#1?x.mp4", "\u00e9t\u00e9.mp4"])
def test_a_path_as_a_url(name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, 3)
    folder = quote(str(tmp_path))
    urls = [path.as_uri(), f"file://localhost{folder}/{quote(name)}", f"FILE:{folder}/{quote(name)}", f"file://{path}"]
    for url in urls:
        assert local_path(url) == str(path)
        with open_video(url) as source:
            assert source.name == url
            assert [read_code(frame) for frame in source.frames_at([0.0, 0.07])] == [0, 2]
    assert list(find_videos([path.as_uri(), str(path)])) == [str(path)]


def test_paths_as_urls_that_lead_nowhere(tmp_path: Path) -> None:
    for url in (f"file://{tmp_path}/none.mp4", f"file://elsewhere{tmp_path}/none.mp4"):
        with pytest.raises(FileNotFoundError, match="no such video file"):
            open_video(url)
    assert local_path("https://example.org/a.mp4") is None
    assert local_path("file.mp4") == "file.mp4"


# Servers


@pytest.mark.parametrize("suffix", [".ts", ".avi", ".mkv", ".mp4"])
@pytest.mark.parametrize("ranges", [True, False])
def test_every_frame_comes_from_a_server(suffix: str, ranges: bool, tmp_path: Path) -> None:
    content = noise(tmp_path / f"video{suffix}", movflags="faststart" if suffix == ".mp4" else "").read_bytes()
    server = CdnServer({f"video{suffix}": CdnFile(content, ranges=ranges)})
    with server, open_video(f"{server.url}/video{suffix}") as source:
        assert len(list(source.frames())) == 12
        there = source.frames_at([0.3, 0.1, 0.2])
    with open_video(content) as source:
        assert (source.frames_at([0.3, 0.1, 0.2]) == there).all()


def test_an_index_at_the_end_that_the_server_does_not_send_is_named(tmp_path: Path) -> None:
    content = noise(tmp_path / "video.mp4").read_bytes()
    assert content.index(b"moov") > content.index(b"mdat") and has_index_at_end(content)
    with CdnServer({"video.mp4": CdnFile(content)}) as server, open_video(f"{server.url}/video.mp4") as source:
        assert len(list(source.frames())) == 12
    server = CdnServer({"video.mp4": CdnFile(content, ranges=False)})
    with server, pytest.raises(VideoDecodeError, match=r"index \(moov\) stands at its end.*faststart"):
        open_video(f"{server.url}/video.mp4")
    in_front = noise(tmp_path / "front.mp4", movflags="faststart")
    assert not has_index_at_end(in_front.read_bytes())


# Playlists


def playlist(path: Path, *, end: bool) -> Path:
    write_video(path.parent / "part.ts", 30)
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:1", "#EXTINF:1.0,", "part.ts"]
    path.write_text("\n".join([*lines, "#EXT-X-ENDLIST"] if end else lines) + "\n")
    return path


def test_a_playlist_without_end_does_not_hang(tmp_path: Path) -> None:
    with open_video(playlist(tmp_path / "done.m3u8", end=True)) as source:
        assert len(list(source.frames())) == 30
    live = playlist(tmp_path / "live.m3u8", end=False)
    with pytest.raises(VideoDecodeError, match="has no end .*LiveReader"):
        open_video(live)
    variants = tmp_path / "variants.m3u8"
    variants.write_text("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1000\nlive.m3u8\n")
    with pytest.raises(VideoDecodeError, match=r"live\.m3u8 in it has no end"):
        open_video(variants)


@pytest.mark.parametrize(
    "text",
    [
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 32\n",
        "\n  \nffconcat version 1.0\nfile part.ts\n",
        "\ufeffffconcat version 1.0\nfile part.ts\n",
        "# a comment first\nffconcat version 1.0\nfile part.ts\n",
    ],
)
def test_a_text_that_calls_itself_a_video_opens_nothing(text: str, tmp_path: Path) -> None:
    write_video(tmp_path / "part.ts", 10)
    (tmp_path / "video.mp4").write_text(text)
    for video in (tmp_path / "video.mp4", text.encode()):
        with pytest.raises(VideoDecodeError):
            open_video(video)


# Ctrl-C


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def interrupted(script: str) -> int:
    """The exit code of a script that is sent SIGINT while it waits; it would wait for minutes."""
    head = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"  # shells ignore it in background
    head += "import av, torch, slowfast_zoo.cli\nfrom slowfast_zoo.video import LiveReader, open_video\n"
    head += "import slowfast_zoo.video.media as media\nmedia.URL_TIMEOUT = 1000.0\nprint('ready', flush=True)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", head + script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        process.send_signal(signal.SIGINT)
        return process.wait(15)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to another process")
@pytest.mark.parametrize(
    "script",
    [
        "open_video('http://127.0.0.1:{port}/a.mp4')",
        "open_video('tcp://127.0.0.1:{port}')",
        "list(open_video('{stalling}').frames())",
        "LiveReader('http://127.0.0.1:{port}/a.mp4', timeout=1000)",
        "LiveReader('{fifo}', timeout=1000)",
        "with LiveReader('{stalling}', timeout=1000) as reader: list(reader)",
        "exit(slowfast_zoo.cli.main(['predict', 'tcp://127.0.0.1:{port}']))",
        "exit(slowfast_zoo.cli.main(['explain', 'tcp://127.0.0.1:{port}', '--output', '{fifo}.png']))",
    ],
)
def test_ctrl_c_is_heard_whatever_is_waited_for(script: str, silent: int, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    content = noise(tmp_path / "video.mp4", 30, "faststart").read_bytes()
    with CdnServer({"video.mp4": CdnFile(content, stall=len(content) // 2)}) as server:
        url = f"{server.url}/video.mp4"
        code = interrupted(script.format(port=silent, stalling=url, fifo=tmp_path / "fifo"))
    assert code in (-signal.SIGINT, 130)
