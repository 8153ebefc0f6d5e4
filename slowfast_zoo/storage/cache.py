"""The local cache: its folder, and how the content of a file in it is made sure of."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from slowfast_zoo.errors import WeightsError
from slowfast_zoo.utils.files import file_hash, write_whole

_LONGEST_NOTE = 200  # characters of what is noted of a file


class ContentError(WeightsError):
    """A file has arrived, but is not the one it should be."""


class DiskError(WeightsError):
    """A file could not be written."""


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder for converted weights; it need not exist.

    Args:
        cache_dir: the folder that the user chose, or None for the one of the Hub's client, which is where ``HF_HOME``
            and ``HF_ASSETS_CACHE`` say.
    """
    if cache_dir is not None:
        return Path(cache_dir).expanduser() / "slowfast_zoo"
    from huggingface_hub import constants

    # What huggingface_hub.cached_assets_path("slowfast_zoo", "converted") gives. That one also makes the folder, which
    # a look at a read-only cache must not.
    return Path(constants.HF_ASSETS_CACHE).expanduser() / "slowfast_zoo" / "converted" / "default"


def has_sha256(
    path: Path, sha256: str, cache_dir: str | os.PathLike[str] | None = None, *, fresh: bool = False
) -> bool:
    """Whether a file's content has this hash. A file that has not changed since is not read again.

    Args:
        path: the file.
        sha256: the expected hash.
        cache_dir: as in :func:`cache_folder`; the notes on verified files are kept there, where it can be written.
        fresh: read the file in any case.

    Raises:
        OSError: the file cannot be read.
    """
    if not fresh and _read_note(path, cache_dir) == (sha256.lower(), _state(path)):
        return True
    if file_hash(path) == sha256.lower():
        note_sha256(path, sha256, cache_dir)
        return True
    known = known_sha256(path, cache_dir)
    if known:
        _write_note(path, cache_dir, known, "another")  # what is there now is not the file that has this hash
    return False


def known_sha256(path: Path, cache_dir: str | os.PathLike[str] | None = None) -> str | None:
    """The hash that a file should have by what was noted of it, whatever is in it now; None if nothing was."""
    return _read_note(path, cache_dir)[0] or None


def note_sha256(path: Path, sha256: str, cache_dir: str | os.PathLike[str] | None = None) -> None:
    """Notes that a file, as it is now, has this hash. Does nothing where nothing can be written."""
    _write_note(path, cache_dir, sha256.lower(), _state(path))


def _state(path: Path) -> str:
    """What changes when a file is written."""
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def _note(path: Path, cache_dir: str | os.PathLike[str] | None) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()
    return cache_folder(cache_dir) / ".verified" / name


def _read_note(path: Path, cache_dir: str | os.PathLike[str] | None) -> tuple[str, str]:
    """The hash that was noted of a file, and the state that the file was in."""
    with contextlib.suppress(OSError, ValueError):
        with _note(path, cache_dir).open(encoding="ascii") as file:
            sha256, _, state = file.read(_LONGEST_NOTE).partition(" ")
        if re.fullmatch("[0-9a-f]{64}", sha256):
            return sha256, state
    return "", ""


def _write_note(path: Path, cache_dir: str | os.PathLike[str] | None, sha256: str, state: str) -> None:
    note = _note(path, cache_dir)
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        write_whole(note, f"{sha256} {state}".encode())


@contextlib.contextmanager
def lock(folder: Path, name: str) -> Iterator[None]:
    """Lets other processes wait, so that eight of them do not each download the same file.

    Args:
        folder: of the cache; it is made if need be.
        name: of the weights.

    Raises:
        DiskError: there is no such folder, and it cannot be made.
    """
    from huggingface_hub import utils

    file_lock = getattr(utils, "WeakFileLock", contextlib.nullcontext)  # in all versions so far, but undocumented
    with contextlib.ExitStack() as stack:
        with writing(name, folder):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(file_lock(folder / f".{name}.lock"))
        yield


@contextlib.contextmanager
def writing(what: str, folder: Path) -> Iterator[None]:
    """Turns the disk's errors into ones that say which folder it was and what to do.

    Args:
        what: the weights being written.
        folder: where.

    Raises:
        DiskError: an ``OSError`` in the block.
    """
    try:
        yield
    except OSError as error:
        raise disk_error(what, folder, error) from error


def disk_error(what: str, folder: Path, error: OSError) -> DiskError:
    """The error for a folder that is full, read-only or no folder."""
    return DiskError(
        f"cannot write {what} in {str(folder)!r}: {error.strerror or error}. Free some space there, or keep weights in "
        "another folder: cache_dir=..., or the environment variable HF_HOME."
    )
