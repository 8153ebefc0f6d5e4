"""Safetensors files: read without a second copy in memory, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slowfast_zoo.utils.files import write_whole


def read_safetensors(path: str | os.PathLike[str], *, mapped: bool = False) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU, in memory of their own.

    Args:
        path: the file.
        mapped: views of the file, as ``safetensors.torch.load_file`` gives them, for a caller that copies them at once.
            Whoever overwrites a mapped file in place changes the network that was made from it, or ends the process.

    Raises:
        SafetensorError: it is not a whole safetensors file.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file

    if mapped:
        return load_file(path)
    with safe_open(path, framework="pt"):  # checks the header against the file: types, shapes, offsets, length
        pass
    with Path(path).open("rb", buffering=0) as file:
        start = 8 + (length := int.from_bytes(file.read(8), "little"))
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
    if any(entry["dtype"] not in _DTYPES for entry in header.values()):  # none that networks have
        return {name: tensor.clone() for name, tensor in load_file(path).items()}
    tensors = {
        name: torch.empty(entry["shape"], dtype=_DTYPES[entry["dtype"]], device="cpu") for name, entry in header.items()
    }
    # Most of the time the system makes room in memory, which threads do at the same time.
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = [(path, start, [(tensors[n], header[n]) for n in list(tensors)[i::_THREADS]]) for i in range(_THREADS)]
        for done in [pool.submit(_fill, *part) for part in parts]:
            done.result()
    return tensors


def _fill(path: str | os.PathLike[str], start: int, tensors: Iterable[tuple[Tensor, Mapping[str, Any]]]) -> None:
    """Reads tensors from their places after ``start``."""
    with Path(path).open("rb", buffering=0) as file:
        for tensor, entry in tensors:
            begin, end = entry["data_offsets"]
            if end == begin:
                continue
            file.seek(start + begin)
            view = memoryview(tensor.reshape(-1).view(torch.uint8).numpy().data)
            while view:
                got = file.readinto(view)
                if not got:
                    raise EOFError("it ends too early")
                view = view[got:]


_THREADS = 4
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def save_state_dict(state: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Writes tensors as a safetensors file, whole or not at all. The same tensors give the same bytes.

    Args:
        state: tensors by name.
        path: the file; one that is there is replaced.
    """
    from safetensors.torch import save

    # No metadata of our own: more than one entry is written in an order that varies, and with it the file's hash.
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_whole(path, save(plain, {"format": "pt"}))
