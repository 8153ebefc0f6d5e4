"""Files that appear whole or not at all, and their hashes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .signals import unwound_when_ended


def write_whole(path: str | os.PathLike[str], *parts: bytes | memoryview) -> None:
    """Writes a file of these parts so that it appears whole or not at all.

    Raises:
        OSError: it cannot be written; the error names ``path``.
    """
    with whole_file(Path(path)) as temporary, temporary.open("wb") as file:
        for part in parts:
            file.write(part)


_CHUNK = 1 << 20


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """The hash of a file's content, in hexadecimal digits."""
    digest = hashlib.new(algorithm, usedforsecurity=False)  # md5 is refused otherwise where FIPS holds
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_target(path: str | os.PathLike[str]) -> Path:
    """The path of a file that can be written, known before the work that leads up to it.

    Raises:
        FileNotFoundError: the folder is not there.
        ValueError: what is there is a folder, a device or the like.
        OSError: nothing can be written there.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no folder to write into", str(target.parent))
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except OSError as error:
        raise _unwritable(target, error) from error
    if not stat.S_ISREG(mode):
        raise ValueError(f"cannot write {target}: it is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}")
    _make_temporary(target).unlink()
    return target


def keep_inputs(targets: Iterable[Path], inputs: Iterable[Any]) -> None:
    """Refuse to write over what is read.

    Args:
        targets: files that are to be written.
        inputs: paths, open files, and whatever else may be read, which no file can be taken for. A folder stands for
            the files that are in it.

    Raises:
        ValueError: a target is one of the inputs, under whatever name.
    """
    originals = {_identity(one) for one in inputs} - {None}
    for target in targets:
        there = _identity(target)
        if there and originals & {there, _identity(target.parent)}:
            raise ValueError(f"cannot write {target}: that would replace what is read; name another file")


def _identity(file: Any) -> tuple[int, int] | None:
    """The same for all names of a file or folder; None for what is neither."""
    if isinstance(file, str):
        file = file.removeprefix("file://")
    elif hasattr(file, "fileno"):
        with contextlib.suppress(OSError, ValueError):
            file = file.fileno()
    if isinstance(file, str | int | os.PathLike):
        with contextlib.suppress(OSError, ValueError):
            found = os.stat(file)
            return found.st_dev, found.st_ino
    return None


@contextlib.contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A temporary file next to another, of the same suffix, whose place it takes unless an exception is raised.

    It is removed, too, when the process is told to end.

    Raises:
        OSError: it cannot be written; the error names ``target``.
    """
    with unwound_when_ended():
        temporary = _make_temporary(target)
        try:
            yield temporary
            temporary.chmod(0o644)
            temporary.replace(target)
        except OSError as error:
            if error.filename == str(temporary) or error.errno in _FULL:
                raise _unwritable(target, error) from error
            raise
        finally:
            temporary.unlink(missing_ok=True)


def _make_temporary(target: Path) -> Path:
    """A new, empty file."""
    try:
        # Of a long name only a part, so that the longest that a file system takes can be written.
        handle, name = tempfile.mkstemp(prefix=f".{target.stem[:32]}.", suffix=target.suffix, dir=target.parent)
    except OSError as error:
        raise _unwritable(target, error) from error
    os.close(handle)
    return Path(name)


def _unwritable(target: Path, error: OSError) -> OSError:
    """The same error, of the file that was asked for."""
    return OSError(error.errno, f"cannot write ({error.strerror})", str(target))
