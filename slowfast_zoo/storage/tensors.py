"""Safetensors files: read without a second copy in memory, written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from slowfast_zoo.utils.files import write_whole

from .pickled import RefusedError

_CHUNK = 1 << 20
_CHECKSUM = "slowfast_zoo.checksum"


def read_safetensors(path: str | os.PathLike[str], *, mapped: bool = False) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU, in memory of their own.

    Args:
        path: the file.
        mapped: views of the file, as ``safetensors.torch.load_file`` gives them, for a caller that copies them at once.
            Whoever overwrites a mapped file in place changes the network that was made from it, or ends the process.

    Raises:
        SafetensorError: it is not a whole safetensors file.
        RefusedError: it has a checksum, as :func:`save_state_dict` writes it, which is another one.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, framework="pt"):  # checks the header against the file: types, shapes, offsets, length
        pass
    with Path(path).open("rb") as file:
        start = 8 + (length := int.from_bytes(file.read(8), "little"))
        header = json.loads(file.read(length))
        written = (header.pop("__metadata__", None) or {}).get(_CHECKSUM)
        if written and _checksum(header, file) != written:
            raise RefusedError("has changed since it was written (its checksum is another): take it from its source")
    views = load_file(path)
    if mapped:
        return views

    def read(name: str) -> Tensor:
        begin, end = header[name]["data_offsets"]
        if begin == end:
            return views[name].clone()
        content = torch.from_numpy(np.fromfile(path, np.uint8, end - begin, offset=start + begin))
        return content.view(views[name].dtype).reshape(views[name].shape)

    # Most of the time the system makes room in memory, which threads do at the same time.
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(views, pool.map(read, views), strict=True))


def _checksum(header: Mapping[str, Any], file: IO[bytes]) -> str:
    """What changes with any bit of the tensors, of whose values the rest of the file consists, and of their names.

    A sum of the numbers that the bytes are, which takes hardly longer than reading them.
    """
    total = int.from_bytes(hashlib.sha256(json.dumps(header, sort_keys=True).encode()).digest()[:8], "little")
    while chunk := file.read(_CHUNK):
        words = np.frombuffer(chunk + bytes(-len(chunk) % 8), "<u8")
        total = (31 * total + int(words.sum(dtype=np.uint64))) % 2**64
    return f"{total:016x}"


def save_state_dict(state: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Writes tensors as a safetensors file, whole or not at all. The same tensors give the same bytes.

    A checksum goes with them, by which :func:`read_safetensors` notices what has changed since.

    Args:
        state: tensors by name.
        path: the file; one that is there is replaced.
    """
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    content = save(plain)
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    # Made here, since the library writes more than one entry in an order that varies, and with it the file's hash.
    # Other libraries look for the format.
    metadata = {"__metadata__": {"format": "pt", _CHECKSUM: _checksum(header, io.BytesIO(memoryview(content)[start:]))}}
    head = json.dumps(metadata | header, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    write_whole(path, len(head).to_bytes(8, "little"), head, memoryview(content)[start:])
