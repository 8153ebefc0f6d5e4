"""This library's own names, as ``model.state_dict()`` has them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .layout import Layout, State


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Pathways by name: ``slow.stem.conv1.conv.weight``, or ``pathway.`` where there is but one."""
    return any(name.startswith(("slow.", "fast.", "pathway.", "head.fc.")) for name in state)


def convert(state: Mapping[str, Tensor]) -> State:
    """As they are."""
    return dict(state)


LAYOUT = Layout(
    "slowfast_zoo",
    "slowfast_zoo",
    ("slow.stem.conv1.conv.weight", "pathway.stem.conv1.conv.weight"),
    recognises,
    convert,
)
