"""Safetensors files: read without a second copy in memory, written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


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
        return {name: _read_tensor(file, start, entry) for name, entry in header.items()}


def _read_tensor(file: Any, start: int, entry: Mapping[str, Any]) -> Tensor:
    begin, end = entry["data_offsets"]
    tensor: Tensor = torch.empty(entry["shape"], dtype=_DTYPES[entry["dtype"]], device="cpu")
    if end > begin:
        file.seek(start + begin)
        view = memoryview(tensor.reshape(-1).view(torch.uint8).numpy().data)
        while view:
            got = file.readinto(view)
            if not got:
                raise EOFError("it ends too early")
            view = view[got:]
    return tensor


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


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file so that it appears whole or not at all."""
    target = Path(path)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).chmod(0o644)  # mkstemp's files are the owner's alone
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink()
        raise
