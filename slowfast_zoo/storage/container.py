"""Checkpoint files of every container, told apart by content; nothing in a file is ever run.

Published checkpoints come in four: safetensors, torch's zip archive, torch's older kind (a row of pickles, then the
numbers) and plain pickles, which Caffe2 used. ``torch.load(weights_only=True)`` reads the second and third, and makes
whatever they ask for: 500 bytes that ask for a ``bytearray`` of 4 GB get it. Here one reader reads every pickle.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import re
import struct
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from slowfast_zoo.errors import WeightsError, printable

from .pickled import Pickles, RefusedError, numbers
from .tensors import read_safetensors

_TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of torch's older kind is this number
_TORCH_PROTOCOL = 1001  # and the second this
_LONGEST_LIST = 8 << 20  # bytes of a list of a file's parts; a checkpoint's is a hundredth of it
_SHOWN = 200  # characters of what a file or another library says
_ARCHIVES = {
    "gzip": rb"\x1f\x8b",
    "bzip2": rb"BZh",
    "xz": rb"\xfd7zXZ\0",
    "zstd": rb"\x28\xb5\x2f\xfd",
    "7z": rb"7z\xbc\xaf\x27\x1c",
    "tar": rb"(?s:.{257})ustar",
}


def read_container(path: str | os.PathLike[str], *, mapped: bool = False) -> Any:
    """What a checkpoint file holds, whichever container it is. Nothing in the file is ever run.

    The container is recognised by content; the file's name does not matter. Tensors have memory of their own, so that
    the file may be overwritten while they are in use; those that share memory in the file still do. Whatever sizes the
    file claims, memory stays within a few times its own, or some hundred MB where that is more.

    Args:
        path: a safetensors file, torch's zip archive or older kind, or a pickle of any protocol, Python 2's included.
        mapped: the tensors of a safetensors file may be views of the file, for a caller that copies them at once.

    Returns:
        Dicts, lists, tuples, numbers, strings, bytes, None, ``torch.dtype`` and tensors on the CPU. Numpy's arrays
        come as tensors, its scalars as numbers, parameters as plain tensors, ordered dicts and what is derived from a
        dict as dicts. Everything else (objects of any class, sets, complex, sparse and quantised tensors) comes as an
        :class:`~slowfast_zoo.storage.pickled.Unread` that has its name; in a dict, what has no plain key is left out.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the file cannot be opened.
        WeightsError: it is no checkpoint, a damaged one, or one that is a single object instead of data. The message
            names the file, what it looks like and what is wrong with it.
    """
    name = os.fspath(path)
    if not os.path.exists(name):
        raise FileNotFoundError(f"no checkpoint at {name!r}")
    if not os.path.isfile(name):
        raise WeightsError(f"{name!r} is a directory or a device, not a checkpoint file")
    if not Path(name).stat().st_size:
        raise WeightsError(f"{name!r} is an empty file")
    with open(name, "rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # torch warns of memory that it may not write to
    try:
        looks, read = _recognise(name, content, mapped)
        try:
            with torch.device("cpu"):  # whatever the caller's default is
                return read(content)
        except RefusedError as error:
            traceback.clear_frames(error.__traceback__)
            raise WeightsError(f"{name!r} looks like {looks}, but it {error}") from error
        except Exception as error:  # damaged bytes fail in any way, here and in the libraries below
            traceback.clear_frames(error.__traceback__)
            reason = printable(" ".join(f"{type(error).__name__}: {error}"[: 2 * _SHOWN].split()), _SHOWN)
            raise WeightsError(f"{name!r} looks like {looks}, but it is damaged or cut short ({reason})") from error
    finally:
        with contextlib.suppress(BufferError):  # what still looks at it lets go of it soon
            content.close()  # on Windows nobody could delete the file before


def _recognise(name: str, content: mmap.mmap, mapped: bool) -> tuple[str, Callable[[mmap.mmap], Any]]:
    """What a file looks like, and what reads that."""
    head = content[:512]
    # First, because it begins with the length of its header, and that may be the bytes that begin a pickle.
    if head[4:9] == b"\0\0\0\0{":
        if int.from_bytes(head[:8], "little") > _LONGEST_LIST:
            raise WeightsError(f"{name!r} looks like a safetensors file, but has a header that no checkpoint needs")
        return "a safetensors file", lambda _: read_safetensors(name, mapped=mapped)
    if head.startswith(b"PK\x03\x04"):
        return "a torch zip archive", _torch_zip
    if _TORCH_MAGIC.to_bytes(10, "little") in head[:32]:
        return "a torch file of the older kind", _torch_older
    if re.match(rb"\x80[\0-\5]|\([dl]|[}\]][.qr]|c[\w.]+\n\w+\n", head):
        return "a pickle", _plain_pickle
    for kind, magic in _ARCHIVES.items():
        if re.match(magic, head):
            raise WeightsError(f"{name!r} is a {kind} archive: unpack it, and give the checkpoint that is in it")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{name!r} is a Git LFS pointer, not the checkpoint itself: fetch that with git lfs pull")
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        raise WeightsError(f"{name!r} is a web page or other XML, not a checkpoint: download the file anew")
    raise WeightsError(f"{name!r} is no safetensors file, torch file or pickle: it begins with {head[:16]!r}")


def _plain_pickle(content: mmap.mmap) -> Any:
    pickles = Pickles(content, len(content))
    return pickles.plain(pickles.load())


def _torch_zip(content: mmap.mmap) -> Any:
    """An archive of a pickle, NAME/data.pkl, and the bytes of each storage, NAME/data/KEY."""
    with zipfile.ZipFile(cast(IO[bytes], _Bounded(content))) as archive:
        records = {record.filename: record for record in archive.infolist()}
    folders = [record.removesuffix("data.pkl") for record in records if re.fullmatch(r"[^/]+/data\.pkl", record)]
    if len(folders) != 1:
        raise RefusedError("is another kind of zip archive: there is no data.pkl in it")
    if f"{folders[0]}constants.pkl" in records:
        raise RefusedError("is a TorchScript program: save the state_dict() of what torch.jit.load makes of it")

    def find(name: str) -> tuple[int, int]:
        """Where a record's bytes begin, and how many they are."""
        if folders[0] + name not in records:
            raise RefusedError(f"has no record {name!r:.{_SHOWN}}")
        record = records[folders[0] + name]
        # Torch never compresses, and what is not unpacked is not larger than the file.
        if record.compress_type or record.flag_bits & 1 or record.compress_size != record.file_size:
            raise RefusedError("is compressed or encrypted, which torch does not do: somebody packed it anew")
        lengths = struct.unpack_from("<HH", content, record.header_offset + 26)  # of the name and of the extra field
        start = record.header_offset + 30 + sum(lengths)
        if not 0 <= start <= start + record.file_size <= len(content):
            raise RefusedError("ends before its records do")
        return start, record.file_size

    def read(name: str) -> bytes:
        start, size = find(name)
        return content[start : start + size]

    order = read("byteorder").decode() if f"{folders[0]}byteorder" in records else "little"
    if order not in ("little", "big"):
        raise RefusedError("has bytes in an order that is neither little nor big")
    pickles = Pickles(io.BytesIO(read("data.pkl")), len(content))
    value = pickles.load()
    if sum(storage.nbytes for storage in pickles.storages.values()) > len(content):
        raise RefusedError("claims more bytes than it has")  # as records can that are all in one place
    for key, storage in pickles.storages.items():
        if storage.is_unread:
            continue
        start, size = find(f"data/{key}")
        if storage.nbytes > size:
            raise RefusedError(f"claims {storage.nbytes} bytes for a storage of {size}")
        storage.numbers = numbers(_copy(content, start, storage.nbytes), storage.dtype, order)
    return pickles.plain(value)


class _Bounded:
    """A file for ``zipfile``, which would make objects of a directory of any length before anybody can ask for it."""

    def __init__(self, content: mmap.mmap) -> None:
        self.seek, self.tell = content.seek, content.tell
        self._content = content

    def read(self, size: int = -1) -> bytes:
        if (size if size >= 0 else len(self._content) - self.tell()) > _LONGEST_LIST:
            raise RefusedError("has more records than a checkpoint has")
        return self._content.read(size)


def _torch_older(content: mmap.mmap) -> Any:
    """Pickles: a magic number, a version, the machine, the data, the storages' keys. Then each storage's bytes."""
    pickles = Pickles(content, len(content))
    if (pickles.load(), pickles.load()) != (_TORCH_MAGIC, _TORCH_PROTOCOL):
        raise RefusedError("is of a version that torch does not write")
    pickles.load()
    value = pickles.load()
    keys = pickles.plain(pickles.load())
    if not isinstance(keys, list):
        raise RefusedError("has no list of its storages")
    for key in keys:
        storage = pickles.storages[key]
        (count,) = struct.unpack("<q", content.read(8))
        start = content.tell()
        if count * storage.dtype.itemsize != storage.nbytes:
            raise RefusedError(f"claims {storage.nbytes} bytes for a storage of {count} numbers")
        if storage.nbytes > len(content) - start:
            raise RefusedError("ends before its storages do")
        if not storage.is_unread:
            storage.numbers = numbers(_copy(content, start, storage.nbytes), storage.dtype, "little")
        content.seek(start + storage.nbytes)
    return pickles.plain(value)


def _copy(content: mmap.mmap, start: int, count: int) -> Tensor:
    if count == 0:
        return torch.empty(0, dtype=torch.uint8, device="cpu")
    return torch.frombuffer(content, dtype=torch.uint8, count=count, offset=start).clone()
