"""Files, URLs and file objects that hold a video: whether they may be read, and opening them with FFmpeg."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import time
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote, urlsplit

import numpy as np
from torch import Tensor

from slowfast_zoo.errors import VideoDecodeError

from .pyav import Interruptible, describe_error, open_container, read_size, require_av, restrict_formats
from .segment import Segment
from .source import VideoFile, video_name

if TYPE_CHECKING:
    from av.container import InputContainer

# Seconds without data after which a URL counts as dead.
URL_TIMEOUT = 30.0

# Texts that make FFmpeg open the files they name, and what those are called that are meant to. Whoever reads videos of
# strangers expects that of no other file.
_LIST_FORMATS = {
    b"ffconcat version": (".ffconcat",),
    b"#EXTM3U": (".m3u8", ".m3u"),
    b"<MPD": (".mpd",),
    b"<CompositionPlaylist": (".xml",),
    b"v=0": (".sdp",),
}
_ANYWHERE = (b"<MPD", b"<CompositionPlaylist")  # others begin a file
_HEAD_BYTES = 4096
_PLAYLIST_BYTES = 2**20  # bytes of one that are looked at
_SERVER_TIMEOUT = 5.0  # seconds that a server has to say whether it sends parts of files


class Media:
    """A video that is given as a file, a URL or a file object, which can be opened again and again.

    Args:
        video: any of these; one that cannot seek is read into memory.

    Attributes:
        name: the video as the caller named it.
        is_local: whether it is read without asking a server.
        sends_parts: whether the server sends parts of the file where they are asked for; None where that is not known.
    """

    def __init__(self, video: VideoFile) -> None:
        self.name = video_name(video)
        self.sends_parts: bool | None = None
        self._av = require_av()
        self._place = resolve_file(video)
        self._interruptible = Interruptible()
        self._head = b""
        self.is_local, self._may_wait = True, False
        if isinstance(self._place, str):
            self.is_local = "://" not in self._place
            self._may_wait = not self.is_local or is_list(self._place)
            self.sends_parts, self._head = ask_server(self._place)

    @property
    def is_abandoned(self) -> bool:
        """Whether Ctrl-C came during a call that may still go on, and has what was opened to itself."""
        return self._interruptible.is_abandoned

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a function returns that reads from the video; Ctrl-C is heard while it waits for a server."""
        return self._interruptible(function, *args, **kwargs) if self._may_wait else function(*args, **kwargs)

    def open(self) -> InputContainer:
        """The container, opened anew, positioned at its beginning."""
        if not isinstance(self._place, str):
            if self._place.closed:
                raise ValueError(f"the file object {self.name!r} is closed")
            self._place.seek(0)
            # What only claims to be a video may name others (a playlist); from memory, it may not open any. Not the
            # argument called options: PyAV before 18 frees too much where streams are found while it opens the file.
            options = {"protocol_whitelist": "data", **restrict_formats(self._av)}
            return open_container(self._av, self._place, container_options=options)
        if self.is_local:
            # The file: prefix keeps FFmpeg from reading a colon in the name as a protocol.
            file = f"file:{Path(self._place).absolute()}"
            options = {} if is_list(self._place) else restrict_formats(self._av)
            return self.call(open_container, self._av, file, container_options=options)  # type: ignore[no-any-return]
        start = time.monotonic()
        # FFmpeg may ask for the next part on a connection that the server closes unless it is asked to keep it.
        options = {"multiple_requests": "1"} if self.sends_parts else {}
        try:
            container: InputContainer = self.call(
                open_container, self._av, self._place, container_options=options, timeout=URL_TIMEOUT
            )
        except self._av.FFmpegError as error:  # whatever FFmpeg makes of half a header
            why = describe_error(error, time.monotonic() - start > URL_TIMEOUT)
            raise VideoDecodeError(self.name, self.explain_unreachable() or why) from error
        if container.duration is None and (not read_size(container) or "hls" in container.format.name):
            container.close()
            raise VideoDecodeError(self.name, "a live stream, whose end is not known: read it with LiveReader")
        return container

    def explain_unreachable(self) -> str | None:
        """Why a file cannot be read from a server that sends no parts of files; None if that is not the reason."""
        if self.sends_parts is not False or not has_index_at_end(self._head):
            return None
        return (
            "its index (moov) stands at its end, and the server sends no parts of files (range requests): download it "
            "first, or save it with the index in front (FFmpeg's -movflags faststart)"
        )


def resolve_file(video: VideoFile) -> str | BinaryIO:
    """A file as FFmpeg opens it: its path or URL, or a file object that can seek. What is clearly no video is refused.

    Raises:
        FileNotFoundError: there is no such file.
        VideoDecodeError: it is empty, a folder, a device or not ours to read.
        TypeError: it is no file, or opened in text mode.
        ValueError: it is a file object that is closed.
    """
    name = video_name(video)
    if isinstance(video, Segment):
        raise TypeError("expected a video file, got a segment of one: open_video reads those")
    if isinstance(video, (str, os.PathLike)):
        place = local_path(name)
        if place is None:
            return name
        _check_path(place)
        return place
    if isinstance(video, (bytes, bytearray, memoryview)):
        file: BinaryIO = io.BytesIO(video)
    elif isinstance(video, (np.ndarray, Tensor)):
        raise TypeError(f"expected a video file, got an array ({type(video).__name__}): open_video reads those")
    elif getattr(video, "closed", False):
        raise ValueError(f"the file object {name!r} is closed: give it open, or its path")
    elif not isinstance(video.read(0), bytes):
        raise TypeError(f"the file object {name!r} must be opened in binary mode")
    else:
        file = video if video.seekable() else io.BytesIO(video.read())
    if file.seek(0, os.SEEK_END) == 0:
        raise VideoDecodeError(name, "the file is empty")
    return file


def _check_path(path: str) -> None:
    """Say in plain words what FFmpeg would say in its own."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name with a null character
        raise FileNotFoundError(errno.ENOENT, "no such video file", path) from None
    except OSError as error:
        raise VideoDecodeError(path, error.strerror or str(error)) from error
    if stat.S_ISDIR(status.st_mode):
        raise VideoDecodeError(path, "it is a directory, not a video file")
    if not stat.S_ISREG(status.st_mode):
        raise VideoDecodeError(path, "it is a device or a pipe, which LiveReader reads, not a video file")
    if not os.access(path, os.R_OK):
        raise VideoDecodeError(path, "no permission to read it")
    if status.st_size == 0:
        raise VideoDecodeError(path, "the file is empty")
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for start, suffixes in _LIST_FORMATS.items():
        is_one = start in head if start in _ANYWHERE else text.startswith(start)
        if is_one and not path.lower().endswith(suffixes):
            raise VideoDecodeError(
                path,
                f"it is a list of other files ({suffixes[0][1:]}), which is only read where its name ends in "
                f"{' or '.join(suffixes)}",
            )
    if text.startswith(b"#EXTM3U") and (endless := _find_endless_playlist(path)):
        raise VideoDecodeError(
            path,
            f"the playlist{'' if endless == path else f' {endless} in it'} has no end (#EXT-X-ENDLIST), so more may "
            "come: read it with LiveReader, or end it with that line",
        )


def _find_endless_playlist(path: str, depth: int = 1) -> str | None:
    """The playlist of a file, or of one that it names, that lists pictures but no end; None where all have one."""
    try:
        with open(path, "rb") as file:
            lines = [line.strip() for line in file.read(_PLAYLIST_BYTES).decode(errors="replace").splitlines()]
    except OSError:
        return None  # FFmpeg's own error comes later
    if any(line.startswith("#EXTINF") for line in lines):
        # Where all is not read, the end is not seen.
        is_whole = os.path.getsize(path) <= _PLAYLIST_BYTES
        return path if is_whole and "#EXT-X-ENDLIST" not in lines else None
    named = [line for line in lines if line and not line.startswith("#") and "://" not in line]
    for name in named if depth else []:
        if found := _find_endless_playlist(os.path.join(os.path.dirname(path), name), depth - 1):
            return found
    return None


def is_list(path: str) -> bool:
    """Whether a file is called as lists of other files are, which FFmpeg then opens."""
    return path.lower().endswith(tuple(suffix for suffixes in _LIST_FORMATS.values() for suffix in suffixes))


def local_path(video: str) -> str | None:
    """The path of a video that is named by a path or by a ``file:`` URL; None of any other URL."""
    if video[:5].lower() != "file:" or os.path.lexists(video):
        return None if "://" in video else video
    if urlsplit(video).netloc.lower() not in ("", "localhost"):
        return video  # there is no such file, which is an error where it is opened
    # Not the path that urlsplit finds: programs that escape nothing write # and ? in names.
    plain = video[5:]
    if plain.startswith("//"):
        plain = "/" + plain[2:].partition("/")[2]
    path = plain if os.path.lexists(plain) else unquote(plain, errors="surrogateescape")
    has_drive = os.name == "nt" and re.match("/[A-Za-z]:", path)
    return path[1:] if has_drive else path


def ask_server(url: str) -> tuple[bool | None, bytes]:
    """Whether a web server sends parts of a file where they are asked for, and how the file begins.

    None where that is not found out, as of other servers.
    """
    import urllib.request

    if not url.lower().startswith(("http://", "https://")):
        return None, b""
    try:
        request = urllib.request.Request(url, headers={"Range": "bytes=0-"})
        with urllib.request.urlopen(request, timeout=_SERVER_TIMEOUT) as answer:
            sends_parts = {200: False, 206: True}.get(answer.status)
            return sends_parts, answer.read1(_HEAD_BYTES)
    except (OSError, ValueError, HTTPException):
        return None, b""


def has_index_at_end(head: bytes) -> bool:
    """Whether a file that begins so is an MP4 or MOV file whose index comes after the pictures."""
    place = 0
    while place + 8 <= len(head):  # boxes: their size and name
        size, kind = int.from_bytes(head[place : place + 4], "big"), head[place + 4 : place + 8]
        if kind == b"mdat":
            return place > 0
        if kind == b"moov" or size < 8:
            return False
        place += size
    return False
