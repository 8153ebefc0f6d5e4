"""The networks in a checkpoint of any project, by this library's names."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from slowfast_zoo.errors import WeightsError, printable
from slowfast_zoo.storage.shards import read_file

from .layouts import LAYOUTS
from .parts import Part, find_parts, flatten

_SHOWN = 3  # names in an error before the rest is counted
# What stands before the names of a network, or a function that gives its names for those of a file.
Prefix: TypeAlias = "str | Callable[[str], str | None] | None"


@dataclass(frozen=True)
class Checkpoint(Part):
    """A network that a file holds, by this library's names, on the CPU.

    Attributes:
        path: the file.
        config_text: the configuration of the training, where PySlowFast put its YAML into the file.
        roots: what the names of its layout begin with, up to the first dot. What begins otherwise is not its own.
        others: names of the file's tensors that are not under ``place``.
        unread: objects in the file that were not read, by the names that they stand under.
    """

    path: str
    config_text: str
    roots: frozenset[str]
    others: tuple[str, ...]
    unread: Mapping[str, str]


def read_checkpoint(path: str | os.PathLike[str], *, mapped: bool = False) -> Checkpoint:
    """Reads a file of any layout, recognised by its content. Nothing in the file is ever run.

    Of several networks in the file it is the first one that has the statistics of batch norms; averages come first.

    Args:
        path: the file; or the index of one in several files, or the folder with it.
        mapped: the tensors may be views of the file, for a caller that copies them at once.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: it cannot be read, or its tensors are in no known layout.
    """
    found = read_checkpoints(path, mapped=mapped)
    return next((c for c in found if any(name.endswith(".running_var") for name in c.state)), found[0])


def read_checkpoints(
    path: str | os.PathLike[str],
    *,
    mapped: bool = False,
    prefix: Prefix = None,
) -> list[Checkpoint]:
    """All networks in a file, averages first; one at least.

    Args:
        path: as in :func:`read_checkpoint`.
        mapped: as in :func:`read_checkpoint`.
        prefix: as in :func:`load_checkpoint`.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: it cannot be read, or its tensors are in no known layout.
    """
    return find_checkpoints(read_file(path, mapped=mapped), os.fspath(path), prefix=prefix)


def find_checkpoints(content: Any, name: str, *, prefix: Prefix = None) -> list[Checkpoint]:
    """What :func:`read_checkpoints` makes of a file's content, for content that comes from elsewhere.

    Args:
        content: a state dict, or what a training loop saves around it.
        name: where it comes from, for messages.
        prefix: as in :func:`load_checkpoint`.

    Raises:
        WeightsError: its tensors are in no known layout.
    """
    if isinstance(content, (list, tuple)) and any(isinstance(part, Mapping) for part in content):
        content = dict(enumerate(content))
    if not isinstance(content, Mapping):
        raise WeightsError(f"{name!r} holds no state dict but a {type(content).__name__}: save model.state_dict()")
    flat = flatten(content, name, prefix if callable(prefix) else None)
    if not flat.tensors:
        keys = ", ".join(printable(repr(key), 80) for key in list(content)[:_SHOWN]) or "nothing"
        raise WeightsError(
            f"{name!r} holds no tensors where weights are looked for; at its top it has {keys}"
            f"{describe_unread(flat.unread)}"
        )
    parts = find_parts(flat, name, None if callable(prefix) else prefix)
    if not parts:
        names = ", ".join(printable(full, 80) for full in list(flat.tensors)[:_SHOWN])
        raise WeightsError(
            f"{name!r} is in no layout that is known ({', '.join(known.title for known in LAYOUTS)}); its tensors are "
            f"named {names}, ...{describe_unread(flat.unread)}"
        )
    config_text = content.get("cfg")
    found = []
    for part in parts:
        converted = part.layout.convert(part.state)
        before = f"{part.place}." if part.place else ""
        found.append(
            Checkpoint(
                place=part.place,
                layout=part.layout,
                state=_add_counts(converted),
                rank=part.rank,
                path=name,
                config_text=config_text if isinstance(config_text, str) else "",
                roots=frozenset(full.partition(".")[0] for full in part.state.keys() - converted.keys()),
                others=tuple(full for full in flat.tensors if not full.startswith(before)),
                unread=flat.unread,
            )
        )
    return found


def _add_counts(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Batch norms count their batches; files older than that, and Caffe2's, lack the counters, which no output uses."""
    for name in [name for name in state if name.endswith(".running_var")]:
        state.setdefault(
            name.removesuffix("running_var") + "num_batches_tracked", torch.zeros((), dtype=torch.long, device="cpu")
        )
    return state


def describe_unread(unread: Mapping[str, str]) -> str:
    """Says which objects of a file were passed over, for one in which something is missing."""
    if not unread:
        return ""
    shown = ", ".join(
        f"{printable(place, 60)} ({printable(kind, 60)})" for place, kind in list(unread.items())[:_SHOWN]
    )
    return (
        f". Not loaded, since objects could run code or are no plain tensors: {shown}"
        f"{'' if len(unread) <= _SHOWN else ', ...'}. If the weights are there, read the file with its own project and "
        "save the state dict alone"
    )
