"""What the fields of a configuration may hold: each check raises a sentence that says what was given and expected."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import Depths, NetworkConfig, TemporalKernels

STAGES = ("res2", "res3", "res4", "res5")
ROWS = ("conv1", *STAGES)


def integer(value: Any, name: str, at_least: int) -> None:
    """An integer, of at least so much."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ValueError(f"{name} is an integer of at least {at_least}, not {value!r}")


def number(value: Any, name: str) -> float:
    """A finite number, as a float."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name} is a finite number, not {value!r}")
    return float(value)


def boolean(value: Any, name: str) -> None:
    """True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is True or False, not {value!r}")


def known_keywords(given: Mapping[str, Any], config: type[Any], what: str) -> None:
    """Only fields that the configuration has; near ones are suggested."""
    known = [field.name for field in dataclasses.fields(config)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        near = [match for name in unknown for match in difflib.get_close_matches(name, known, n=1)]
        hint = f"did you mean {' and '.join(map(repr, near))}?" if near else f"it takes {', '.join(known)}"
        raise TypeError(f"{what} takes no keyword {', '.join(map(repr, unknown))}; {hint}")


def odd(value: Any, name: str) -> None:
    """An odd integer above 0."""
    integer(value, name, at_least=1)
    if value % 2 == 0:
        raise ValueError(f"{name} is odd, so that frames keep their places; given: {value}")


def one_of(value: Any, allowed: Sequence[Any], name: str) -> None:
    """One of some values."""
    if isinstance(value, bool) or value not in allowed:
        raise ValueError(f"{name} is one of {', '.join(map(repr, allowed))}, not {value!r}")


def int_tuple(value: Any, length: int, name: str, at_least: int) -> tuple[int, ...]:
    """So many integers, as a tuple."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != length:
        raise ValueError(f"{name} holds {length} integers, not {value!r}")
    for item in value:
        integer(item, f"each entry of {name}", at_least)
    return tuple(value)


def is_pair(value: Any) -> bool:
    """Whether there is something for each pathway."""
    return isinstance(value, Sequence) and len(value) == 2 and all(isinstance(v, Sequence) for v in value)


def depths(value: Any, name: str) -> Depths:
    """Blocks of res2 to res5."""
    return int_tuple(value, 4, f"{name} (blocks of res2 to res5)", at_least=1)  # type: ignore[return-value]


def temporal_kernels(value: Any, depths: Depths) -> TemporalKernels:
    """A kernel for conv1, and one or one a block for each of res2 to res5."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != len(ROWS):
        raise ValueError(f"temporal_kernels has an entry for each of {', '.join(ROWS)}; given: {value!r}")
    odd(value[0], "the temporal kernel of conv1")
    rows: list[int | tuple[int, ...]] = [value[0]]
    for stage, entry, depth in zip(STAGES, value[1:], depths, strict=True):
        if isinstance(entry, Sequence) and not isinstance(entry, str):
            if len(entry) != depth:
                raise ValueError(
                    f"{stage} has {depth} blocks but temporal_kernels gives {len(entry)} for them: "
                    f"{tuple(entry)!r}. Give one kernel a block, or one for the whole stage."
                )
            entry = tuple(entry)
        for kernel in entry if isinstance(entry, tuple) else (entry,):
            odd(kernel, f"a temporal kernel of {stage}")
        rows.append(entry)
    return tuple(rows)  # type: ignore[return-value]


def stage_blocks(value: Any, name: str) -> tuple[tuple[int, ...], ...]:
    """Block indices for each of res2 to res5, from a sequence or a mapping of stages."""
    if isinstance(value, Mapping):
        if not set(value) <= set(STAGES):
            raise ValueError(f"{name} maps stages ({', '.join(STAGES)}) to block indices, not {dict(value)!r}")
        value = tuple(value.get(stage, ()) for stage in STAGES)
    if not isinstance(value, Sequence) or len(value) != len(STAGES):
        raise ValueError(f"{name} holds the block indices of each of {', '.join(STAGES)}, not {value!r}")
    for indices in value:
        if not isinstance(indices, Sequence) or len(set(indices)) != len(indices):
            raise ValueError(f"{name} holds a sequence of different block indices for each stage, not {value!r}")
    return tuple(int_tuple(indices, len(indices), name, at_least=0) for indices in value)


def blocks_exist(blocks: tuple[tuple[int, ...], ...], depths: Depths, name: str) -> None:
    """No block index beyond the depth of its stage."""
    for stage, indices, depth in zip(STAGES, blocks, depths, strict=True):
        if any(i >= depth for i in indices):
            raise ValueError(f"{name}: {stage} has {depth} blocks, 0 to {depth - 1}, so none of {indices} beyond that")


def fit_kernels(kernels: TemporalKernels, depths: Depths) -> TemporalKernels:
    """Temporal kernels for other depths: cut, or going on with the last one."""
    rows = [
        entry if isinstance(entry, int) else (entry + (entry[-1],) * depth)[:depth]
        for entry, depth in zip(kernels[1:], depths, strict=True)
    ]
    return (kernels[0], *rows)  # type: ignore[return-value]


def fit_blocks(blocks: tuple[tuple[int, ...], ...], depths: Depths) -> tuple[tuple[int, ...], ...]:
    """Block indices without those beyond the depth."""
    return tuple(tuple(i for i in indices if i < depth) for indices, depth in zip(blocks, depths, strict=True))


def at_least_one_channel(config: NetworkConfig) -> None:
    """beta leaves the stem at least one channel."""
    if config.beta * config.width < 1 - 1e-6:
        raise ValueError(
            f"beta={config.beta:g} of width={config.width} gives no whole channel; "
            f"choose a beta of at least {1 / config.width:g}"
        )
