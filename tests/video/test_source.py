"""Videos given as files, bytes, file objects, URLs, arrays and folders of images, all read in the same way."""

from __future__ import annotations

import gc
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from servers import CdnFile, CdnServer
from videos import coded_image, read_code, write_video

from slowfast_zoo.errors import VideoDecodeError
from slowfast_zoo.video.decode import VideoReader
from slowfast_zoo.video.reading import open_video
from slowfast_zoo.video.source import FrameSequence, video_name

TIMES = [0.0, 0.51, 0.99, 5.0]
EXPECTED = [0, 15, 29, 29]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second at 30 fps, its index in front, as it has to be where a server cannot seek."""
    path = tmp_path_factory.mktemp("source") / "video.mp4"
    return write_video(path, 30, options={"g": "12", "bf": "3"}, container_options={"movflags": "faststart"})


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second at 30 fps as a folder of images, beside things that are no images."""
    folder = tmp_path_factory.mktemp("images")
    for index in range(30):
        Image.fromarray(coded_image(index)).save(folder / f"img_{index + 1}.png")
    (folder / "notes.txt").write_text("30 images")
    (folder / "._img_1.png").write_bytes(b"what some systems leave behind")
    return folder


def codes(frames: torch.Tensor) -> list[int]:
    return [read_code(frame) for frame in frames]


class Unseekable(io.RawIOBase):
    """A pipe, to its reader."""

    def __init__(self, content: bytes) -> None:
        self._rest = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._rest.readinto(buffer)


KINDS = ["path", "text", "bytes", "bytearray", "memory", "file", "pipe", "array", "tensor", "read-only", "folder"]


@pytest.fixture
def given(request: pytest.FixtureRequest, video: Path, images: Path) -> Iterator[tuple[Any, str, float | None]]:
    """A video of one kind, its name and its frame rate."""
    frames = np.stack([coded_image(index) for index in range(30)])
    kind = request.param
    if kind == "file":
        with video.open("rb") as file:
            file.seek(100)
            yield file, str(video), None
            assert not file.closed
        return
    unwritable = frames.copy()
    unwritable.flags.writeable = False
    yield {
        "path": (video, str(video), None),
        "text": (str(video), str(video), None),
        "bytes": (video.read_bytes(), "<bytes>", None),
        "bytearray": (bytearray(video.read_bytes()), "<bytes>", None),
        "memory": (io.BytesIO(video.read_bytes()), "<file>", None),
        "pipe": (Unseekable(video.read_bytes()), "<file>", None),
        "array": (frames, "<array>", 30),
        "tensor": (torch.from_numpy(frames), "<array>", 30.0),
        "read-only": (unwritable, "<array>", 30),
        "folder": (images, str(images), None),
    }[kind]


@pytest.mark.parametrize("given", KINDS, indirect=True)
def test_every_kind_of_video_is_read_alike(given: tuple[Any, str, float | None]) -> None:
    video, name, fps = given
    assert video_name(video) == name
    with open_video(video, fps=fps) as source:
        assert (source.name, source.fps, source.duration) == (name, 30.0, pytest.approx(1.0))
        assert (source.width, source.height) == (128, 96)
        frames = source.frames_at(TIMES)
        assert frames.dtype == torch.uint8
        assert frames.shape == (4, 3, 96, 128)
        assert codes(frames) == EXPECTED
        assert torch.equal(source.frames_at(torch.tensor(TIMES)), frames)  # type: ignore[arg-type]
        before = source.frames_decoded
        clips = list(source.clips_at([[0.5, 0.5, 0.7], [0.7, 0.1]], lambda frame: frame.float() / 255))
        assert [codes(255 * clip) for clip in clips] == [[15, 15, 21], [21, 3]]
        assert 3 <= source.frames_decoded - before <= 30
        shown = list(source.frames(start=0.8))
        assert [round(30 * seconds) for seconds, _ in shown] == list(range(24, 30))
        assert [read_code(frame) for _, frame in shown] == list(range(24, 30))
        assert name in repr(source)
        with pytest.raises(ValueError, match="at least one time"):
            source.clips_at([[0.0], []])
        with pytest.raises(ValueError, match="not a number"):
            source.frames_at([float("nan")])
    source.close()
    with pytest.raises(ValueError, match=f"{re.escape(repr(name))} (is|are) closed"):
        source.frames_at([0.0])


@pytest.mark.parametrize("ranges", [True, False])
def test_a_url(video: Path, ranges: bool) -> None:
    with CdnServer({"video.mp4": CdnFile(video.read_bytes(), ranges=ranges)}) as server:
        url = f"{server.url}/video.mp4"
        with open_video(url) as source:
            assert source.name == url
            assert codes(source.frames_at(TIMES)) == EXPECTED
            assert codes(source.frames_at([0.1])) == [3]
        with pytest.raises(VideoDecodeError, match=r"nothing\.mp4.*404 Not Found"):
            open_video(f"{server.url}/nothing.mp4")


def test_a_server_that_falls_silent(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slowfast_zoo.video.media.URL_TIMEOUT", 0.2)
    server = CdnServer({"video.mp4": CdnFile(video.read_bytes(), stall=1000)})
    with server, pytest.raises(VideoDecodeError, match=r"video\.mp4.*no data came in time"):
        open_video(f"{server.url}/video.mp4")


@pytest.mark.parametrize("content", [b"", b"no video\n" * 99, b"\0" * 9999])
def test_bytes_that_are_no_video(content: bytes) -> None:
    with pytest.raises(VideoDecodeError, match="empty" if not content else "not a video, or damaged") as caught:
        open_video(content)
    assert caught.value.path == "<bytes>"


def test_bytes_cannot_name_other_files(video: Path) -> None:
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{video}\n#EXT-X-ENDLIST\n"
    script = f"ffconcat version 1.0\nfile '{video}'\n"
    for text in (playlist, script):
        with pytest.raises(VideoDecodeError):
            open_video(text.encode())


def test_file_objects_that_fail(video: Path) -> None:
    class Failing(io.BytesIO):
        reads = 1

        def read(self, size: int | None = -1) -> bytes:
            self.reads -= 1
            if self.reads < 0:
                raise OSError("the disk is gone")
            return super().read(size)

    with pytest.raises(VideoDecodeError, match="'<file>': the disk is gone"):
        open_video(Failing(video.read_bytes()))
    file = io.BytesIO(video.read_bytes())
    file.close()
    with pytest.raises(ValueError, match="the file object '<file>' is closed: give it open"):
        open_video(file)
    with (video.with_suffix(".txt")).open("w+") as text, pytest.raises(TypeError, match="binary mode"):
        open_video(text)


@pytest.mark.parametrize("value", [None, 7, ["a.mp4"], {"video": "a.mp4"}])
def test_what_is_no_video_at_all(value: Any) -> None:
    with pytest.raises(TypeError, match=f"expected a video as a path.*got {type(value).__name__}"):
        open_video(value)
    with pytest.raises(TypeError, match=f"got {type(value).__name__}"):
        video_name(value)


def test_paths_that_cannot_be_read(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("missing.mp4", "no folder/a.mp4", "a\0b.mp4"):
        with pytest.raises(FileNotFoundError, match="no such video file"):
            open_video(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no such video file"):
        open_video(video / "inside a file.mp4")
    with pytest.raises(VideoDecodeError, match="name too long"):
        open_video(str(tmp_path / ("a" * 1000)))
    with pytest.raises(TypeError, match="open_video reads those"):
        VideoReader(np.zeros((2, 4, 4, 3), np.uint8))  # type: ignore[arg-type]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.mp4")
        with pytest.raises(VideoDecodeError, match=r"pipe\.mp4.*LiveReader"):
            open_video(tmp_path / "pipe.mp4")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(VideoDecodeError, match=r"video\.mp4.*no permission"):
        open_video(video)


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads where Linux lists them")
@pytest.mark.parametrize("threads", [1, 3])
def test_threads_are_bounded(video: Path, threads: int) -> None:
    def running() -> set[str]:
        return set(os.listdir("/proc/self/task"))

    before = running()
    with open_video(video, threads=threads) as source:
        source.frames_at(TIMES)
        started = running() - before
    assert len(started) == (0 if threads == 1 else threads)
    with pytest.raises(ValueError, match="threads must be at least 1, not 0"):
        open_video(video, threads=0)
    gc.collect()  # some versions of PyAV have cycles
    assert not running() & started


# Arrays


def test_an_array_needs_a_rate() -> None:
    frames = np.zeros((2, 4, 6, 3), np.uint8)
    with pytest.raises(ValueError, match="carries no frame rate: give fps="):
        open_video(frames)
    wrong: list[Any] = [0, -1.0, float("nan"), float("inf"), "30", True]
    for fps in wrong:
        with pytest.raises(ValueError, match="fps must be a number above 0"):
            open_video(frames, fps=fps)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 4, 6, 3), np.float32),
        np.zeros((4, 6, 3), np.uint8),
        np.zeros((2, 3, 4, 6), np.uint8),
        np.zeros((0, 4, 6, 3), np.uint8),
        torch.zeros(2, 4, 6, 3),
    ],
    ids=["float", "image", "channels first", "empty", "float tensor"],
)
def test_arrays_of_another_kind(frames: Any) -> None:
    shape = re.escape(str(tuple(frames.shape)))
    with pytest.raises(ValueError, match=rf"uint8 RGB \(T, H, W, 3\) with T >= 1, not .*{shape}"):
        open_video(frames, fps=25)


def test_every_layout_of_an_array() -> None:
    frames = np.arange(4 * 6 * 8 * 3, dtype=np.uint8).reshape(4, 6, 8, 3)
    for array in (frames[::-1], frames[:, ::-1], frames[:, :, ::2], frames[..., ::-1], np.asfortranarray(frames)):
        with FrameSequence(array, 10) as source:
            expected = torch.from_numpy(array.copy()).permute(0, 3, 1, 2)
            assert torch.equal(source.frames_at([0.0, 0.1, 0.2, 0.3]), expected)


def test_frames_change_at_their_time() -> None:
    for fps in (7, 29.97, 30, 1000):
        source = FrameSequence(np.zeros((2000, 1, 1, 3), np.uint8), fps)
        assert [source._frame_at(index / fps) for index in range(2000)] == list(range(2000))
        assert [source._frame_at((index + 0.99) / fps) for index in range(2000)] == list(range(2000))
        assert [source._frame_at(time) for time in (-1.0, -float("inf"), 1e9, float("inf"))] == [0, 0, 1999, 1999]


def test_a_frame_of_several_clips_is_loaded_once() -> None:
    source = FrameSequence(np.stack([coded_image(index) for index in range(20)]), 10)
    seen = []

    def note(frame: torch.Tensor) -> torch.Tensor:
        seen.append(read_code(frame))
        return frame

    clips = [[0.0, 0.5, 1.0], [0.5, 0.55, 1.5]]
    assert [codes(clip) for clip in source.clips_at(clips, note)] == [[0, 5, 10], [5, 5, 15]]
    assert seen == [0, 5, 10, 15]
    assert source.frames_decoded == 4


# Folders of images


def test_another_rate_of_a_folder(images: Path) -> None:
    with open_video(str(images), fps=10) as source:
        assert (source.fps, source.duration) == (10, 3)
        assert codes(source.frames_at([0.0, 0.1, 2.95])) == [0, 1, 29]


def test_images_of_every_kind(tmp_path: Path) -> None:
    image = Image.fromarray(coded_image(77, 64, 48))
    image.save(tmp_path / "1.jpg", quality=95)
    image.convert("L").save(tmp_path / "2.PNG")
    Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 256).save(tmp_path / "3.png")
    transparent = image.convert("RGBA")
    transparent.putalpha(0)
    transparent.save(tmp_path / "4.webp", lossless=True, exact=True)
    image.quantize(16).save(tmp_path / "5.bmp")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    image.rotate(90, expand=True).save(tmp_path / "6.jpeg", exif=exif, quality=95)
    image.convert("CMYK").save(tmp_path / "7.tif")
    with open_video(tmp_path, fps=1) as source:
        assert codes(source.frames_at(range(7))) == [77] * 7


def test_folders_that_are_no_video(tmp_path: Path) -> None:
    with pytest.raises(VideoDecodeError, match="holds no images"):
        open_video(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        FrameSequence.from_folder(tmp_path / "nowhere")
    with pytest.raises(VideoDecodeError, match="it is a directory"):
        VideoReader(tmp_path)
    (tmp_path / "1.png").write_bytes(b"no image")
    with pytest.raises(VideoDecodeError, match=r"its image 1\.png cannot be read"):
        open_video(tmp_path)
    Image.fromarray(coded_image(1)).save(tmp_path / "1.png")
    Image.fromarray(coded_image(2, 64, 48)).save(tmp_path / "2.png")
    (tmp_path / "3.png").mkdir()
    with open_video(tmp_path, fps=1) as source:
        assert codes(source.frames_at([0.0])) == [1]
        with pytest.raises(VideoDecodeError, match=r"2\.png is 64 x 48, the first image 128 x 96"):
            source.frames_at([1.0])
        with pytest.raises(VideoDecodeError, match=r"3\.png cannot be read"):
            source.frames_at([2.0])
