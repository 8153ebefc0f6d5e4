"""Downloads over plain HTTP(S), for files that are not on the Hugging Face Hub.

Nothing but the standard library: the Hub's client comes with another HTTP library in each of its versions 0, 1 and 2.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import queue
import re
import secrets
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from slowfast_zoo.errors import WeightsError

from .cache import ContentError, file_hash, writing

_CONNECT_TIMEOUT = 4.0  # for the first contact: without a network, that is how long the user waits at most
_READ_TIMEOUT = 30.0
_FAILURES = 5  # connections in a row that bring nothing new
_PAUSE = 0.5  # seconds before the next connection, doubled each time
_ABANDONED = 120.0  # seconds after which an untouched partial file is nobody's; each connection touches it
_CHUNK = 1 << 20
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


@dataclass(frozen=True)
class Downloaded:
    """A verified download, before it has a place of its own.

    Attributes:
        path: the file.
        sha256: its hash.
    """

    path: Path
    sha256: str


class _ConnectionLostError(WeightsError):
    """The connection broke down; what has arrived can be continued."""


@contextlib.contextmanager
def downloaded(
    url: str,
    folder: Path,
    *,
    what: str,
    size: int | None = None,
    checksum: Checksum | None = None,
    progress: bool = True,
) -> Iterator[Downloaded]:
    """Downloads a file that is needed for one block only, and deletes it after.

    Args:
        url: ``https:``, ``http:`` or ``file:``.
        folder: where the file is kept meanwhile.
        what: what it is, for messages and the progress bar.
        size: its size in bytes, where known.
        checksum: its hash, where known.
        progress: show a progress bar, on a terminal.

    Raises:
        WeightsError: the file cannot be downloaded, is another one than expected, or cannot be written. A download that
            was interrupted is continued by the next call.
    """
    refuse_offline(url, what)
    if problem := unreachable(url):
        raise WeightsError(f"cannot download {what} from {url}: {problem}")
    with writing(what, folder):
        part = _Part.claim(folder, url)
    try:
        sha256 = _fetch_verified(url, part, what, size, checksum, progress)
    except (_ConnectionLostError, KeyboardInterrupt):
        part.leave()
        raise
    except BaseException:
        part.remove()
        raise
    try:
        yield Downloaded(part.file, sha256)
    finally:
        part.remove()
        for other in _abandoned(folder, url):  # of processes that were killed
            other.remove()


def refuse_offline(url: str, what: str) -> None:
    """Raises an error where the Hub's client would not use the network either.

    Raises:
        WeightsError: ``HF_HUB_OFFLINE`` is set, and the address is not a file's.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE and urlsplit(url).scheme != "file":
        raise WeightsError(f"cannot download {what} from {url}: the environment variable HF_HUB_OFFLINE is set")


def unreachable(url: str) -> str | None:
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
    outcomes: queue.SimpleQueue[tuple[bool, str | None]] = queue.SimpleQueue()

    def connect(family: socket.AddressFamily) -> None:
        found, problem = False, None
        try:
            for *_, address in socket.getaddrinfo(host, port, family, socket.SOCK_STREAM):
                found, problem = True, _connection_problem(family, address)
                if problem is None:
                    break
        except (OSError, UnicodeError) as error:
            problem = getattr(error, "strerror", None) or str(error)
        outcomes.put((found, problem))

    # Both at once, since one of the two may lead nowhere; daemons, since getaddrinfo has no timeout.
    for family in (socket.AF_INET, socket.AF_INET6):
        threading.Thread(target=connect, args=(family,), daemon=True).start()
    give_up = time.monotonic() + _CONNECT_TIMEOUT
    problems = []
    for _ in range(2):
        try:
            found, problem = outcomes.get(timeout=max(0.0, give_up - time.monotonic()))
        except queue.Empty:
            problems.append((True, f"no answer within {_CONNECT_TIMEOUT:g} seconds"))
            break
        if found and problem is None:
            return None
        problems.append((found, problem or "no address"))
    # A name that has addresses of one kind only is no problem: what happened at those is.
    reason = max(problems, key=lambda outcome: outcome[0])[1]
    return f"{host} cannot be reached ({reason}). Is there a network, or a proxy to name in https_proxy?"


def _connection_problem(family: socket.AddressFamily, address: Any) -> str | None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.settimeout(_CONNECT_TIMEOUT)
            connection.connect(address)
    except OSError as error:
        return error.strerror or str(error)
    return None


class _Part:
    """A download in progress: a folder beside the target, with the bytes so far and where they come from.

    Each process has one of its own, so that no lock is needed for a right result. A process that goes on with what
    another one left takes it over by renaming, at which only one can succeed.
    """

    def __init__(self, folder: Path, url: str) -> None:
        name = re.sub(r"[^\w.-]", "_", unquote(urlsplit(url).path).rpartition("/")[2])[-100:].lstrip(".")
        self.folder = folder
        self.file = folder / (name or "data")
        self._origin = folder / ".origin"

    @classmethod
    def claim(cls, folder: Path, url: str) -> _Part:
        """Takes over the most complete partial file that nobody writes any more, or starts a new one."""
        folder.mkdir(parents=True, exist_ok=True)
        own = cls(folder / f".{_key(url)}.{secrets.token_hex(4)}.part", url)
        for left in sorted(_abandoned(folder, url), key=lambda part: part.size, reverse=True):
            with contextlib.suppress(OSError):  # another process was quicker
                os.utime(left.file)  # first, so that nobody takes it from us in turn
                left.folder.rename(own.folder)
                return own
        own.folder.mkdir()
        own.file.touch()
        return own

    @property
    def size(self) -> int:
        """The bytes that are there."""
        try:
            return self.file.stat().st_size
        except OSError:
            return 0

    @property
    def abandoned(self) -> bool:
        """Whether no process writes it any more."""
        try:
            return time.time() - self.file.stat().st_mtime > _ABANDONED
        except OSError:
            return False

    def origin(self) -> tuple[str | None, int | None]:
        """The validator (ETag or date) and the length of the file that the bytes are of, as far as known."""
        try:
            origin = json.loads(self._origin.read_text(encoding="utf-8"))
            return origin["validator"], origin["total"]
        except (OSError, ValueError, KeyError):
            return None, None

    def restart(self, validator: str | None, total: int | None) -> None:
        """Begins anew, with a file of this validator and length."""
        self.file.write_bytes(b"")
        self._origin.write_text(json.dumps({"validator": validator, "total": total}), encoding="utf-8")

    def leave(self) -> None:
        """Leaves the bytes to the next call, where they can be continued."""
        if self.size and self.origin()[0]:
            with contextlib.suppress(OSError):
                os.utime(self.file, (0, 0))  # long ago: the next call need not wait
        else:
            self.remove()

    def remove(self) -> None:
        """Deletes it all."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _key(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def _abandoned(folder: Path, url: str) -> list[_Part]:
    parts = [_Part(path, url) for path in folder.glob(f".{_key(url)}.*.part")]
    return [part for part in parts if part.abandoned]


def _fetch_verified(
    url: str, part: _Part, what: str, size: int | None, checksum: Checksum | None, progress: bool
) -> str:
    """Downloads, and once more from the start if the content is wrong; gives its SHA-256."""
    problem = ""
    for _ in range(2):
        _fetch(url, part, what, size, progress)
        with writing(what, part.folder.parent):
            sha256 = file_hash(part.file)
            actual = sha256
            if checksum and checksum.algorithm != "sha256":
                actual = file_hash(part.file, checksum.algorithm)
            received = part.size
        if size is not None and received != size:
            problem = f"{received} bytes instead of {size}"
        elif checksum and not actual.startswith(checksum.prefix.lower()):
            problem = f"{checksum.algorithm} {actual} instead of {checksum.prefix}"
        else:
            return sha256
        with writing(what, part.folder.parent):
            part.restart(None, None)
    raise ContentError(
        f"the file of {what} from {url} is wrong: {problem}. It was downloaded twice: either the file there has been "
        "replaced, or something on the way changes it."
    )


def _fetch(url: str, part: _Part, what: str, size: int | None, progress: bool) -> None:
    """Downloads to the end, over as many connections as that takes."""
    from huggingface_hub.utils import are_progress_bars_disabled  # type: ignore[attr-defined]
    from tqdm import tqdm

    hidden = not progress or are_progress_bars_disabled()
    # disable=None: shown on a terminal only.
    with tqdm(
        desc=what, unit="B", unit_scale=True, unit_divisor=1024, delay=1, disable=True if hidden else None
    ) as bar:
        failures, most, answered = 0, part.size, False
        while True:
            with writing(what, part.folder.parent):
                os.utime(part.file)
            try:
                return _receive(url, part, what, size, bar)
            except urllib.error.HTTPError as error:
                error.close()
                answered = True
                problem = f"HTTP {error.code} {error.reason}"
                if error.code == 416:  # the file is shorter now
                    with writing(what, part.folder.parent):
                        part.restart(None, None)
                elif error.code not in _TRANSIENT:
                    raise WeightsError(f"cannot download {what} from {url}: {problem}{_meaning(error.code)}") from error
            except (OSError, http.client.HTTPException) as error:
                problem = str(getattr(error, "reason", error)) or type(error).__name__
                if isinstance(error, urllib.error.URLError) and not answered:
                    # No connection at all. A user without a network should hear that soon.
                    raise _ConnectionLostError(f"cannot download {what} from {url}: {problem}") from error
                answered = True
            failures = 0 if part.size > most else failures + 1
            most = max(most, part.size)
            if failures == _FAILURES:
                raise _ConnectionLostError(
                    f"cannot download {what} from {url}: {problem}. {part.size} bytes have arrived"
                    + (", from which the next call goes on." if part.size and part.origin()[0] else ".")
                )
            time.sleep(_PAUSE * 2 ** max(0, failures - 1))


def _receive(url: str, part: _Part, what: str, size: int | None, bar: Any) -> None:
    """One connection: asks for the bytes that are missing and writes what comes."""
    from slowfast_zoo import __version__

    folder = part.folder.parent
    start = part.size
    validator, total = part.origin()
    if start and start == total:
        return
    if not validator or (total is not None and start > total):
        start = 0  # nothing says that the rest would belong to it
    headers = {"User-Agent": f"slowfast_zoo/{__version__}"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator or ""}
    # An opener for each connection: the one of urlopen() remembers the proxies of its first use.
    opener = urllib.request.build_opener()
    with opener.open(urllib.request.Request(url, headers=headers), timeout=_READ_TIMEOUT) as response:
        if response.headers.get_content_type() == "text/html":
            raise WeightsError(
                f"cannot download {what} from {url}: a web page came instead of the file. Does a proxy, or the login "
                "page of the network, answer for the server?"
            )
        if response.status == 206:
            # Some servers do as asked although the file is not the one of If-Range.
            given = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            if not given or int(given[1]) != start or _validator(response) not in (None, validator):
                with writing(what, folder):
                    part.restart(None, None)
                raise OSError("the server gives another part than asked for, or of another file")
        else:
            start, total = 0, _length(response)
            with writing(what, folder):
                part.restart(_validator(response), total)
        if size is not None and total is not None and size != total:
            raise ContentError(
                f"the file of {what} from {url} is wrong: {total} bytes instead of {size}. It has been replaced there."
            )
        bar.total, bar.n = total, start
        with writing(what, folder):
            file = part.file.open("ab", buffering=0)  # unbuffered: no second error, of a full disk, when it is closed
        with file:
            # Not beyond the length: a server that keeps the connection open would let older Pythons wait for more.
            while start != total and (chunk := response.read1(_CHUNK)):
                with writing(what, folder):
                    _write(file, chunk)
                start += len(chunk)
                bar.update(len(chunk))
    if total is not None and start != total:
        raise OSError(f"the connection was closed after {start} of {total} bytes")


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
    return int(length) if length.isdecimal() else None


def _meaning(status: int) -> str:
    if status in (401, 403):
        return ": the server refuses access to the file"
    if status in (404, 410):
        return ": the file is no longer there"
    return ""
