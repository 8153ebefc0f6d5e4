"""Downloads over plain HTTP(S), for files that are not on the Hugging Face Hub.

Nothing but the standard library: the Hub's client comes with another HTTP library in each of its versions 0, 1 and 2.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import json
import os
import platform
import queue
import re
import secrets
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from slowfast_zoo.errors import WeightsError, printable
from slowfast_zoo.utils.files import file_hash
from slowfast_zoo.utils.version import __version__

from .cache import ContentError, writing

try:
    import fcntl
except ImportError:  # Windows, where a partial file of a process that was killed is nobody's after a while
    fcntl = None  # type: ignore[assignment]

_CONNECT_TIMEOUT = 4.0  # for the first contact: without a network, that is how long the user waits at most
_READ_TIMEOUT = 30.0
_SLOWEST = 1000  # bytes a second, over as long as that; a connection that brings fewer is as good as none
_FAILURES = 5  # connections in a row that bring nothing new
_PAUSE = 0.5  # seconds before the next connection, doubled each time
# Seconds after which an untouched partial file is nobody's, where no lock can tell: each connection touches it.
_ABANDONED = 120.0
_CHUNK = 1 << 20
_LONGEST_ORIGIN = 10_000  # bytes of what is noted beside a partial file
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
    most: int | None = None,
    checksum: Checksum | None = None,
    progress: bool = True,
) -> Iterator[Downloaded]:
    """Downloads a file that is needed for one block only, and deletes it after.

    Args:
        url: ``https:``, ``http:`` or ``file:``.
        folder: where the file is kept meanwhile.
        what: what it is, for messages and the progress bar.
        size: its size in bytes, where known.
        most: the largest size that it can have, where its own is not known.
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
        sha256 = _fetch_verified(url, part, what, size, most, checksum, progress)
    except (_ConnectionLostError, KeyboardInterrupt, SystemExit):
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
    another one left takes it over by renaming, at which only one can succeed. Whoever writes holds a lock in it, which
    the system takes away from a process that dies: what that one left is nobody's at once.
    """

    def __init__(self, folder: Path, url: str) -> None:
        name = re.sub(r"[^\w.-]", "_", unquote(urlsplit(url).path).rpartition("/")[2])[-100:].lstrip(".")
        self.folder = folder
        self.file = folder / (name or "data")
        self._origin = folder / ".origin"
        self._lock = folder / ".lock"
        self._held: IO[bytes] | None = None

    @classmethod
    def claim(cls, folder: Path, url: str) -> _Part:
        """Takes over the most complete partial file that nobody writes any more, or starts a new one."""
        folder.mkdir(parents=True, exist_ok=True)
        name = f".{_key(url)}.{secrets.token_hex(4)}"
        # Under this name until the lock is held, so that nobody takes it for one that was left.
        own = cls(folder / f"{name}.new", url)
        own._take_over_or_make(folder, url)
        own._hold()
        locked = cls(own.folder.rename(folder / f"{name}.part"), url)
        locked._held = own._held
        return locked

    def _take_over_or_make(self, folder: Path, url: str) -> None:
        for left in sorted(_abandoned(folder, url), key=lambda part: part.size, reverse=True):
            with contextlib.suppress(OSError):  # another process was quicker
                os.utime(left.file)  # first, so that nobody takes it from us in turn
                left.folder.rename(self.folder)
                return
        self.folder.mkdir()
        self.file.touch()

    def _hold(self) -> None:
        """Takes the lock, and notes the machine on which it means something."""
        if fcntl is not None:
            self._lock.unlink(missing_ok=True)  # the one of whoever left it, which others may be trying just now
            self._held = self._lock.open("xb", buffering=0)
            self._held.write(_machine())
            _has_locked(self._held)

    def _let_go(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None

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
            return time.time() - self.file.stat().st_mtime > _ABANDONED or self._is_of_dead_process()
        except OSError:
            return False

    def _is_of_dead_process(self) -> bool:
        """Whether the lock is free. Another machine's says nothing: some network file systems keep each its own."""
        if fcntl is None or self.folder.suffix != ".part":
            return False
        with self._lock.open("r+b") as file, self._lock.open("r+b") as second:
            # Where everybody is given the lock, it says nothing either.
            return file.read(_LONGEST_ORIGIN) == _machine() and _has_locked(file) and not _has_locked(second)

    def origin(self) -> tuple[str | None, int | None]:
        """The validator (ETag or date) and the length of the file that the bytes are of, as far as known."""
        try:
            with self._origin.open("rb") as file:
                origin = json.loads(file.read(_LONGEST_ORIGIN))
            validator, total = origin["validator"], origin["total"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None, None
        is_known = isinstance(validator, str) and "\n" not in validator and (total is None or type(total) is int)
        return (validator, total) if is_known else (None, None)

    def restart(self, validator: str | None, total: int | None) -> None:
        """Begins anew, with a file of this validator and length."""
        self.file.write_bytes(b"")
        self._origin.write_text(json.dumps({"validator": validator, "total": total}), encoding="utf-8")

    def leave(self) -> None:
        """Leaves the bytes to the next call, where they can be continued."""
        if self.size and self.origin()[0]:
            with contextlib.suppress(OSError):
                os.utime(self.file, (0, 0))  # long ago: the next call need not wait
            self._let_go()
        else:
            self.remove()

    def remove(self) -> None:
        """Deletes it all."""
        self._let_go()
        shutil.rmtree(self.folder, ignore_errors=True)


def _has_locked(file: IO[bytes]) -> bool:
    """Takes a file's lock, if nobody has it; gives whether that is so."""
    assert fcntl is not None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@functools.cache
def _machine() -> bytes:
    """The running system. Containers on it share its locks, and this."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_bytes()
    return f"{platform.node()} {uuid.getnode()}".encode()


def _key(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def _abandoned(folder: Path, url: str) -> list[_Part]:
    parts = [_Part(path, url) for path in folder.glob(f".{_key(url)}.*.*")]
    return [part for part in parts if part.abandoned]


def _fetch_verified(
    url: str,
    part: _Part,
    what: str,
    size: int | None,
    most: int | None,
    checksum: Checksum | None,
    progress: bool,
) -> str:
    """Downloads, and once more from the start if the content is wrong; gives its SHA-256."""
    problem = ""
    for _ in range(2):
        _fetch(url, part, what, size, most, progress)
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


def _fetch(url: str, part: _Part, what: str, size: int | None, most: int | None, progress: bool) -> None:
    """Downloads to the end, over as many connections as that takes."""
    from huggingface_hub.utils import are_progress_bars_disabled  # type: ignore[attr-defined]
    from tqdm import tqdm

    hidden = not progress or are_progress_bars_disabled()
    # disable=None: shown on a terminal only.
    with tqdm(
        desc=what, unit="B", unit_scale=True, unit_divisor=1024, delay=1, disable=True if hidden else None
    ) as bar:
        failures, reached, answered = 0, part.size, False
        while True:
            with writing(what, part.folder.parent):
                os.utime(part.file)
            try:
                return _receive(url, part, what, size, most, bar)
            except urllib.error.HTTPError as error:
                error.close()
                answered = True
                problem = f"HTTP {error.code} {printable(error.reason)}"
                if error.code == 416:  # the file is shorter now
                    with writing(what, part.folder.parent):
                        part.restart(None, None)
                elif error.code not in _TRANSIENT:
                    raise WeightsError(f"cannot download {what} from {url}: {problem}{_meaning(error.code)}") from error
            except (OSError, http.client.HTTPException) as error:
                problem = printable(getattr(error, "reason", error)) or type(error).__name__
                if isinstance(error, urllib.error.URLError) and not answered:
                    # No connection at all. A user without a network should hear that soon.
                    raise _ConnectionLostError(f"cannot download {what} from {url}: {problem}") from error
                answered = True
            failures = 0 if part.size > reached + _SLOWEST * _READ_TIMEOUT else failures + 1
            reached = max(reached, part.size) if failures == 0 else reached
            if failures == _FAILURES:
                raise _ConnectionLostError(
                    f"cannot download {what} from {url}: {problem}. {part.size} bytes have arrived"
                    + (", from which the next call goes on." if part.size and part.origin()[0] else ".")
                )
            time.sleep(_PAUSE * 2 ** max(0, failures - 1))


def _receive(url: str, part: _Part, what: str, size: int | None, most: int | None, bar: Any) -> None:
    """One connection: asks for the bytes that are missing and writes what comes."""
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
    with _answer(opener, urllib.request.Request(url, headers=headers)) as response:
        if response.headers.get_content_type() == "text/html":
            raise WeightsError(
                f"cannot download {what} from {url}: a web page came instead of the file. Does a proxy, or the login "
                "page of the network, answer for the server?"
            )
        if response.status == 206:
            # Some servers do as asked although the file is not the one of If-Range.
            given = re.match(r"bytes (\d{1,18})-", response.headers.get("Content-Range", ""))
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
        limit = most if size is None else size
        too_long = (
            f"the file of {what} from {url} is wrong: it has more than the {limit} bytes that it can have at most."
        )
        if limit is not None and total is not None and total > limit:
            raise ContentError(too_long)
        bar.total, bar.n = total, start
        end = limit + 1 if total is None and limit is not None else total
        with writing(what, folder):
            file = part.file.open("ab", buffering=0)  # unbuffered: no second error, of a full disk, when it is closed
        since, before = time.monotonic(), start
        with file:
            # Not beyond the length: a server that keeps the connection open would let older Pythons wait for more.
            while start != end and (chunk := response.read1(_CHUNK if end is None else min(_CHUNK, end - start))):
                with writing(what, folder):
                    _write(file, chunk)
                start += len(chunk)
                bar.update(len(chunk))
                if time.monotonic() - since > _READ_TIMEOUT:
                    if start - before < _SLOWEST * _READ_TIMEOUT:
                        raise OSError(f"{start - before} bytes in {_READ_TIMEOUT:g} seconds is all that comes")
                    since, before = time.monotonic(), start
    if limit is not None and start > limit:
        raise ContentError(too_long)
    if total is not None and start != total:
        raise OSError(f"the connection was closed after {start} of {total} bytes")


def _answer(opener: urllib.request.OpenerDirector, request: urllib.request.Request) -> Any:
    """A server's answer, of which the head has come.

    In a thread, since the timeout is that of each byte: a head that comes byte by byte would take days.
    """
    outcomes: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            outcomes.put(opener.open(request, timeout=_READ_TIMEOUT))
        except BaseException as error:
            outcomes.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        outcome = outcomes.get(timeout=2 * _READ_TIMEOUT)
    except queue.Empty:
        raise OSError(f"no answer within {2 * _READ_TIMEOUT:g} seconds") from None
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


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
