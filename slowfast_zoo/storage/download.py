"""Downloads over plain HTTP(S), for files that are not on the Hugging Face Hub.

Nothing but the standard library: the Hub's client comes with another HTTP library in each of its versions 0, 1 and 2.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import platform
import re
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from slowfast_zoo.errors import WeightsError, printable
from slowfast_zoo.utils.files import file_hash
from slowfast_zoo.utils.version import __version__

from .cache import ContentError, writing

_T = TypeVar("_T")

_CONNECT_TIMEOUT = 4.0  # for the first contact: without a network, that is how long the user waits at most
_READ_TIMEOUT = 30.0
_SLOWEST = 1000  # bytes a second, over as long as that; a connection that brings fewer is as good as none
_FAILURES = 5  # connections in a row that bring nothing new
_PAUSE = 0.5  # seconds before the next connection, doubled each time
_CHUNK = 1 << 20
_LONGEST_NOTE = 10_000  # bytes of what is noted next to a partial file
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Checksum:
    """A published hash of a file.

    Attributes:
        algorithm: ``sha256``, ``sha1`` or ``md5``.
        prefix: its hexadecimal digits, all of them or the first ones.
    """

    algorithm: str
    prefix: str

    def mismatch(self, path: Path) -> str | None:
        """Both hashes in words, where a file has another one; None where it has this one."""
        actual = file_hash(path, self.algorithm)
        return None if actual.startswith(self.prefix.lower()) else f"{self.algorithm} {actual} instead of {self.prefix}"


class _ConnectionLostError(WeightsError):
    """The connection broke down; what has arrived can be continued."""


@contextlib.contextmanager
def download(
    url: str,
    folder: Path,
    *,
    what: str,
    size: int | None = None,
    most: int | None = None,
    checksum: Checksum | None = None,
    progress: bool = True,
) -> Iterator[Path]:
    """Downloads a file that is needed for one block only, and deletes it after.

    Only one process may do so at a time: the caller holds :func:`~slowfast_zoo.storage.cache.lock`.

    Args:
        url: ``https:``, ``http:`` or ``file:``.
        folder: where the file is kept meanwhile.
        what: what it is, for messages and the progress bar.
        size: its size in bytes, where known.
        most: the largest size that it can have, where its own is not known.
        checksum: its hash, where known.
        progress: show a progress bar, on a terminal.

    Yields:
        The verified file, in a folder of its own that is deleted with it.

    Raises:
        WeightsError: the file cannot be downloaded, is another one than expected, or cannot be written. A download that
            was interrupted is continued by the next call.
    """
    refuse_offline(url, what)
    if problem := find_connection_problem(url):
        raise WeightsError(f"cannot download {what} from {url}: {problem}")
    one = _Download(url, folder, what, size, most)
    with one.writing():
        one.part.mkdir(parents=True, exist_ok=True)
    try:
        one.fetch_verified(checksum, progress)
    except (_ConnectionLostError, KeyboardInterrupt, SystemExit):
        if not one.can_continue:
            one.remove()
        raise
    except BaseException:
        one.remove()
        raise
    try:
        yield one.file
    finally:
        one.remove()


def refuse_offline(url: str, what: str) -> None:
    """Raises an error where the Hub's client would not use the network either.

    Raises:
        WeightsError: ``HF_HUB_OFFLINE`` is set, and the address is not a file's.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE and urlsplit(url).scheme != "file":
        raise WeightsError(f"cannot download {what} from {url}: the environment variable HF_HUB_OFFLINE is set")


def find_connection_problem(url: str) -> str | None:
    """Why no connection to a server can be made, or None where one can, or where that cannot be told.

    Takes a few seconds at most, however names are looked up and whatever a firewall swallows: neither the Hub's client
    nor ``urllib`` can be told to give up soon.

    Args:
        url: an address on the server.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None
    if not host or not port:
        return None
    proxies = urllib.request.getproxies()
    if (parts.scheme in proxies or "all" in proxies) and not urllib.request.proxy_bypass(f"{host}:{port}"):
        return None  # it is the proxy that connects

    async def connect() -> None:
        # IPv4 and IPv6 at the same time, since one of the two may lead nowhere.
        _, writer = await asyncio.open_connection(host, port, happy_eyeballs_delay=0.25)
        writer.close()

    def look_up_and_connect() -> None:
        # First here: asyncio looks names up in threads for which the interpreter waits at its end.
        socket.getaddrinfo(host, port)
        asyncio.run(connect())

    try:
        _call_in_time(look_up_and_connect, _CONNECT_TIMEOUT)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or printable(error)
        return f"{host} cannot be reached ({reason}). Is there a network, or a proxy to name in https_proxy?"
    return None


def _call_in_time(function: Callable[[], _T], seconds: float) -> _T:
    """Calls a function that cannot be given a deadline, in a thread for which the interpreter does not wait.

    Raises:
        OSError: it takes longer.
    """
    outcome: Future[_T] = Future()

    def call() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    if not wait([outcome], seconds).done:
        raise OSError(f"no answer within {seconds:g} seconds")
    return outcome.result()


class _Download:
    """A download in progress: its bytes so far and the note of which file they are of, in a folder of their own.

    Attributes:
        part: the folder.
        file: the bytes, under the name that the file has on the server.
    """

    def __init__(self, url: str, folder: Path, what: str, size: int | None, most: int | None) -> None:
        self.url = url
        self.what = what
        self.size = size
        self.limit = most if size is None else size
        self.folder = folder
        # One for each machine: some network file systems lock a file on one machine only.
        key = hashlib.sha256(f"{url}\n{platform.node()}".encode()).hexdigest()[:16]
        self.part = folder / f".{key}.part"
        name = re.sub(r"[^\w.-]", "_", unquote(urlsplit(url).path).rpartition("/")[2])[-100:].lstrip(".")
        self.file = self.part / (name or "data")
        self._note = self.part / ".origin"

    @property
    def arrived(self) -> int:
        """The bytes that are there."""
        try:
            return self.file.stat().st_size
        except OSError:
            return 0

    @property
    def can_continue(self) -> bool:
        """Whether bytes are there to which the rest can be added."""
        return bool(self.arrived and self.origin()[0])

    def origin(self) -> tuple[str | None, int | None]:
        """The validator (ETag or date) and the length of the file that the bytes are of, as far as known."""
        try:
            with self._note.open("rb") as file:
                note = json.loads(file.read(_LONGEST_NOTE))
            validator, total = note["validator"], note["total"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None, None
        is_known = isinstance(validator, str) and "\n" not in validator and (total is None or type(total) is int)
        return (validator, total) if is_known else (None, None)

    def restart(self, validator: str | None = None, total: int | None = None) -> None:
        """Begins anew, with a file of this validator and length."""
        with self.writing():
            # Not cut to nothing: where everybody is granted the lock, another process may be reading it.
            self.file.unlink(missing_ok=True)
            self._note.write_text(json.dumps({"validator": validator, "total": total}), encoding="utf-8")

    def remove(self) -> None:
        """Deletes it all."""
        shutil.rmtree(self.part, ignore_errors=True)

    def writing(self) -> contextlib.AbstractContextManager[None]:
        """Turns the disk's errors into ones that name the weights and the folder."""
        return writing(self.what, self.folder)

    def wrong(self, problem: str) -> ContentError:
        """The error for a file that is not the expected one."""
        return ContentError(f"the file of {self.what} from {self.url} is wrong: {problem}")

    def failed(self, problem: str) -> str:
        """What to say of a download that does not work."""
        return f"cannot download {self.what} from {self.url}: {problem}"

    def fetch_verified(self, checksum: Checksum | None, progress: bool) -> None:
        """Downloads, and once more from the start if the content is wrong."""
        problem: str | None = None
        for _ in range(2):
            self.fetch(progress)
            with self.writing():
                arrived = self.file.stat().st_size
                if self.size not in (None, arrived):
                    problem = f"{arrived} bytes instead of {self.size}"
                else:
                    problem = checksum.mismatch(self.file) if checksum else None
            if problem is None:
                return
            self.restart()
        raise self.wrong(
            f"{problem}. It was downloaded twice: either the file there has been replaced, or something on the way "
            "changes it."
        )

    def fetch(self, progress: bool) -> None:
        """Downloads to the end, over as many connections as that takes."""
        from huggingface_hub.utils import are_progress_bars_disabled  # type: ignore[attr-defined]
        from tqdm import tqdm

        hidden = not progress or are_progress_bars_disabled()
        # disable=None: shown on a terminal only.
        with tqdm(
            desc=self.what, unit="B", unit_scale=True, unit_divisor=1024, delay=1, disable=True if hidden else None
        ) as bar:
            failures, reached, answered = 0, self.arrived, False
            while True:
                try:
                    return self.receive(bar)
                except urllib.error.HTTPError as error:
                    error.close()
                    answered = True
                    problem = f"HTTP {error.code} {printable(error.reason)}"
                    if error.code == 416:  # the file is shorter now
                        self.restart()
                    elif error.code not in _TRANSIENT:
                        raise WeightsError(self.failed(f"{problem}{_meaning(error.code)}")) from error
                except (OSError, http.client.HTTPException) as error:
                    problem = printable(getattr(error, "reason", error)) or type(error).__name__
                    if isinstance(error, urllib.error.URLError) and not answered:
                        # No connection at all. A user without a network should hear that soon.
                        raise _ConnectionLostError(self.failed(problem)) from error
                    answered = True
                # A connection that brought no more than the slowest may counts as one that brought nothing.
                if self.arrived > reached + _SLOWEST * _READ_TIMEOUT:
                    failures, reached = 0, self.arrived
                else:
                    failures += 1
                if failures == _FAILURES:
                    goes_on = ", from which the next call goes on" if self.can_continue else ""
                    raise _ConnectionLostError(self.failed(f"{problem}. {self.arrived} bytes have arrived{goes_on}."))
                time.sleep(_PAUSE * 2 ** max(0, failures - 1))

    def receive(self, bar: Any) -> None:
        """One connection: asks for the bytes that are missing and writes what comes."""
        start = self.arrived
        validator, total = self.origin()
        if start and start == total:
            return
        if not validator or (total is not None and start > total):
            start = 0  # nothing says that the rest would belong to it
        headers = {"User-Agent": f"slowfast_zoo/{__version__}"}
        if start:
            headers |= {"Range": f"bytes={start}-", "If-Range": validator or ""}
        request = urllib.request.Request(self.url, headers=headers)
        # An opener for each connection: the one of urlopen() remembers the proxies of its first use. A time limit of
        # its own, since urllib's is that of each byte: a head that comes byte by byte would take days.
        opener = urllib.request.build_opener()
        with _call_in_time(lambda: opener.open(request, timeout=_READ_TIMEOUT), 2 * _READ_TIMEOUT) as response:
            if response.headers.get_content_type() == "text/html":
                raise WeightsError(
                    self.failed(
                        "a web page came instead of the file. Does a proxy, or the login page of the network, answer "
                        "for the server?"
                    )
                )
            if response.status == 206:
                # Some servers do as asked although the file is not the one of If-Range.
                given = re.match(r"bytes (\d{1,18})-", response.headers.get("Content-Range", ""))
                if not given or int(given[1]) != start or _validator(response) not in (None, validator):
                    self.restart()
                    raise OSError("the server gives another part than asked for, or of another file")
            else:
                start, total = 0, _length(response)
                self.restart(_validator(response), total)
            if None not in (self.size, total) and self.size != total:
                raise self.wrong(f"{total} bytes instead of {self.size}. It has been replaced there.")
            too_long = self.wrong(f"it has more than the {self.limit} bytes that it can have at most.")
            if self.limit is not None and total is not None and total > self.limit:
                raise too_long
            bar.total, bar.n = total, start
            start = self._write_all(response, start, total, bar)
        if self.limit is not None and start > self.limit:
            raise too_long
        if total is not None and start != total:
            raise OSError(f"the connection was closed after {start} of {total} bytes")

    def _write_all(self, response: Any, start: int, total: int | None, bar: Any) -> int:
        """Appends what a connection brings, and gives the size that the file then has."""
        # Not beyond the length: a server that keeps the connection open would let older Pythons wait for more.
        end = self.limit + 1 if total is None and self.limit is not None else total
        with self.writing():
            file = self.file.open("ab", buffering=0)  # unbuffered: no second error, of a full disk, when it is closed
        since, before = time.monotonic(), start
        with file:
            while start != end and (chunk := response.read1(_CHUNK if end is None else min(_CHUNK, end - start))):
                with self.writing():
                    _write(file, chunk)
                start += len(chunk)
                if file.tell() != start:  # only where everybody is granted the lock
                    raise WeightsError(self.failed(f"another process writes it in {str(self.folder)!r} too"))
                bar.update(len(chunk))
                if time.monotonic() - since > _READ_TIMEOUT:
                    if start - before < _SLOWEST * _READ_TIMEOUT:
                        raise OSError(f"{start - before} bytes in {_READ_TIMEOUT:g} seconds is all that comes")
                    since, before = time.monotonic(), start
        return start


def _write(file: FileIO, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]


def _validator(response: Any) -> str | None:
    """What tells one version of the file from the next: a strong ETag, or else the date."""
    etag: str | None = response.headers.get("ETag")
    if etag and not etag.startswith("W/"):
        return etag
    date: str | None = response.headers.get("Last-Modified")
    return date


def _length(response: Any) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() and len(length) < 19 else None


def _meaning(status: int) -> str:
    if status in (401, 403):
        return ": the server refuses access to the file"
    if status in (404, 410):
        return ": the file is no longer there"
    return ""
