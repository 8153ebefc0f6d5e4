"""What the fields of a configuration may hold: each check raises a sentence that says what was given and expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slowfast_zoo.utils.checks import int_tuple, odd

STAGES = ("res2", "res3", "res4", "res5")
ROWS = ("conv1", *STAGES)


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


Depths = tuple[int, int, int, int]


# One entry for conv1 and each of res2 to res5; a stage's entry is one kernel for all of its blocks, or one a block.
TemporalKernels = tuple[
    int, "int | tuple[int, ...]", "int | tuple[int, ...]", "int | tuple[int, ...]", "int | tuple[int, ...]"
]
