"""Which stream of a file is its video, and which files are none."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import slowfast_zoo as sfz
from slowfast_zoo.video import VideoReader


def write(path: Path, *streams: tuple[int, int, int], default: int | None = None) -> Path:
    """A file with streams of so many frames of a width, at a rate; one of them marked as the default."""
    with av.open(str(path), "w") as container:
        written = []
        for frames, width, rate in streams:
            stream = container.add_stream("mpeg4", rate=Fraction(rate))
            stream.width, stream.height = width, width // 2
            if default is not None:
                chosen = len(written) == default
                stream.disposition = av.stream.Disposition.default.value if chosen else 0
            written.append((stream, frames, width))
        for stream, frames, width in written:
            for index in range(frames):
                pixels = np.full((width // 2, width, 3), index * 255 // frames, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", [".mkv", ".ts"])
def test_the_largest_stream_is_the_video_where_none_is_marked(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"thumbnails{suffix}", (4, 32, 1), (40, 128, 10))
    with VideoReader(path) as reader:
        assert (reader.width, len(list(reader.frames()))) == (128, 40)


@pytest.mark.parametrize(("default", "width"), [(0, 32), (1, 128)])
def test_the_default_stream_is_the_video(default: int, width: int, tmp_path: Path) -> None:
    path = write(tmp_path / "two.mkv", (20, 32, 10), (20, 128, 10), default=default)
    with VideoReader(path) as reader:
        assert reader.width == width


@pytest.mark.parametrize("name", ["a.txt", "b.nfo", "c.ans"])
def test_text_is_no_video(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("a release of something\nwith a few words about it\n" * 20)
    with pytest.raises(sfz.VideoDecodeError, match="not a video"):
        VideoReader(path)


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile other.mkv\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nother.mkv\n#EXT-X-ENDLIST\n",
        '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>\n',
    ],
)
def test_a_list_that_calls_itself_a_video_opens_no_other_file(text: str, tmp_path: Path) -> None:
    write(tmp_path / "other.mkv", (20, 64, 10))
    path = tmp_path / "video.mp4"
    path.write_text(text)
    with pytest.raises(sfz.VideoDecodeError, match="a list of other files"):
        VideoReader(path)


def test_an_animated_webp_is_read_whole_or_named(tmp_path: Path) -> None:
    path = tmp_path / "moving.webp"
    pictures = [Image.fromarray(np.full((32, 64, 3), 40 * index, np.uint8)) for index in range(5)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40)
    with contextlib.ExitStack() as stack:
        if int(av.library_versions["libavformat"][0]) < 63:  # FFmpeg before 9, which PyAV before 19 brings
            stack.enter_context(pytest.raises(sfz.VideoDecodeError, match="animated WebP"))
        with VideoReader(path) as reader:
            assert len(list(reader.frames())) == 5


@pytest.mark.parametrize("suffix", [".gif", ".png", ".avif"])
def test_animated_pictures_are_read_whole(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"moving{suffix}"
    pictures = [Image.fromarray(np.full((32, 64, 3), 40 * index, np.uint8)) for index in range(5)]
    try:
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40)
    except (OSError, KeyError, ValueError):
        pytest.skip(f"this Pillow writes no {suffix}")
    with VideoReader(path) as reader:
        assert len(list(reader.frames())) == 5
