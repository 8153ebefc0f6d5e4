"""What a layout is: how one project names the tensors of a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

State = dict[str, Tensor]
FAIR_MEAN = (0.45, 0.45, 0.45)
IMAGENET_MEAN = (0.485, 0.456, 0.406)


@dataclass(frozen=True)
class Layout:
    """How one project names the tensors of a checkpoint.

    Attributes:
        name: as ``source.layout`` in the manifest has it.
        title: the project, for people.
        stems: what the weight of the first convolution is called; one of them is in every checkpoint of this layout,
            and tells where in a file its network is.
        recognises: whether a state dict is in this layout, told by its names and shapes.
        convert: the same tensors under this library's names. A name it does not know is kept, so that whoever compares
            the result with a network finds it left over.
        slow_frames: which frames the project's SlowFast networks give to the Slow pathway, which no tensor tells, as
            :class:`~slowfast_zoo.models.SlowFastConfig` has it; None where that is not the project's to say.
        mean: what the project subtracts from RGB frames (on a scale from 0 to 1); None where that
            is not the project's to say.
    """

    name: str
    title: str
    stems: tuple[str, ...]
    recognises: Callable[[Mapping[str, Tensor]], bool]
    convert: Callable[[Mapping[str, Tensor]], State]
    slow_frames: str | None = None
    mean: tuple[float, float, float] | None = None


def rename(state: Mapping[str, Tensor], rules: list[tuple[str, str]]) -> State:
    """The state dict with each name rewritten by the first rule whose pattern matches all of it.

    Args:
        state: tensors by upstream's names.
        rules: pairs of a pattern and what it becomes, as ``re.Match.expand`` takes it.
    """
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    renamed: State = {}
    for name, tensor in state.items():
        match, replacement = next(
            ((match, new) for pattern, new in compiled if (match := pattern.fullmatch(name))), (None, "")
        )
        renamed[match.expand(replacement) if match else name] = tensor
    return renamed
