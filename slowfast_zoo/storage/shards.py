"""Checkpoints in several files, as other libraries save large networks: an index names the file of each tensor."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from slowfast_zoo.errors import WeightsError, printable

from .container import read_container

_LONGEST_INDEX = 16 << 20  # bytes
_MOST_FILES = 1000
_WHOLE = ("model.safetensors", "pytorch_model.bin")  # what a folder has where the weights are in one file
_INDEX = ".index.json"


def read_file(path: str | os.PathLike[str], *, mapped: bool = False) -> Any:
    """What a checkpoint holds: a file, an index of several, or a folder with one of the two.

    Args:
        path: as :func:`read_container` takes it, or a file named ``*.index.json``, or a folder with exactly one of
            those, or with ``model.safetensors`` or ``pytorch_model.bin``.
        mapped: as in :func:`read_container`.

    Raises:
        FileNotFoundError: there is no such file, or one that the index names is missing.
        WeightsError: it cannot be read, or the index is none.
    """
    given = Path(path)
    if os.path.isdir(given):  # which no name makes fail, as the method does of one that is too long
        given = _find_in_folder(given)
    if not given.name.endswith(_INDEX) or not os.path.isfile(given):
        return read_container(given if given != Path(path) else path, mapped=mapped)
    tensors: dict[str, Tensor] = {}
    for file, names in _read_index(given).items():
        shard = given.parent / file
        if not os.path.isfile(shard):
            raise FileNotFoundError(f"{str(given)!r} names {file!r}, which is not there: fetch all of its files")
        content = read_container(shard, mapped=mapped)
        found = content if isinstance(content, dict) else {}
        for name in names:
            if not isinstance(found.get(name), Tensor):
                raise WeightsError(f"{str(shard)!r} has no tensor {printable(name, 80)!r}, which {given.name!r} says")
            tensors[name] = found[name]
    return tensors


def _find_in_folder(folder: Path) -> Path:
    """The checkpoint in a folder."""
    indices = sorted(folder.glob(f"*{_INDEX}"))
    whole = [folder / name for name in _WHOLE if (folder / name).is_file()]
    if len(indices) > 1 and not whole:
        names = ", ".join(repr(printable(path.name, 80)) for path in indices[:3])
        raise WeightsError(f"{str(folder)!r} has several checkpoints: give the path of one of {names}")
    if not indices and not whole:
        raise WeightsError(
            f"{str(folder)!r} is a directory without {' or '.join(_WHOLE)}, or an index of several files "
            f"(*{_INDEX}): give the path of the checkpoint itself"
        )
    return (whole or indices)[0]


def _read_index(index: Path) -> dict[str, list[str]]:
    """The names of tensors by the file that they are in.

    Raises:
        WeightsError: it is no index, or leads out of its folder.
    """
    try:
        if index.stat().st_size > _LONGEST_INDEX:
            raise ValueError("it is longer than any")
        values = json.loads(index.read_text(encoding="utf-8"))
        places = values["weight_map"]
        if not isinstance(places, dict) or not places:
            raise ValueError("its weight_map is empty or no object")
        files: dict[str, list[str]] = {}
        for name, file in places.items():
            if not isinstance(file, str) or file in ("", ".", "..") or set(file) & set("/\\:\0") or len(file) > 255:
                raise ValueError(f"it names {printable(repr(file), 80)}, which is no file in the same folder")
            files.setdefault(file, []).append(name)
        if len(files) > _MOST_FILES:
            raise ValueError(f"it names {len(files)} files")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        reason = "it has no weight_map" if isinstance(error, KeyError) else printable(error)
        raise WeightsError(f"{str(index)!r} is no index of a checkpoint's files: {reason}") from error
    return files
