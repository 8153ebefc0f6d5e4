"""The local cache: its folder, and how the content of a file in it is made sure of."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from slowfast_zoo.errors import WeightsError
from slowfast_zoo.utils.files import file_hash


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
        cache_dir: as in :func:`cache_folder`; the marks of verified files are kept there, where it can be written.
        fresh: read the file in any case.

    Raises:
        OSError: the file cannot be read.
    """
    mark = _mark(path, sha256, cache_dir)
    if not fresh and os.path.isfile(mark):
        return True
    if file_hash(path) == sha256.lower():
        mark_verified(path, sha256, cache_dir)
        return True
    with contextlib.suppress(OSError):
        mark.unlink()
    return False


def mark_verified(path: Path, sha256: str, cache_dir: str | os.PathLike[str] | None = None) -> None:
    """Notes that a file, as it is now, has this hash. Does nothing where nothing can be written."""
    mark = _mark(path, sha256, cache_dir)
    with contextlib.suppress(OSError):
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def _mark(path: Path, sha256: str, cache_dir: str | os.PathLike[str] | None) -> Path:
    """An empty file whose name stands for a file in the state it is in. Another size or time is another name."""
    status = path.stat()
    state = f"{path.resolve()}\n{status.st_size}\n{status.st_mtime_ns}\n{sha256.lower()}"
    return cache_folder(cache_dir) / ".verified" / hashlib.sha256(os.fsencode(state)).hexdigest()


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
