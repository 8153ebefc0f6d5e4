"""What stays as in evaluation in a network whose stages or batch norms are frozen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from slowfast_zoo.layers.conv import BATCH_NORMS

from .config import FEATURE_NAMES
from .wrappers import INSIDE, inside

# Where a stage's layers are: in the pathways, and in the lateral connection that reads its output.
_OWNERS = ("slow", "fast", "pathway", "lateral")
# The beginning of their parameters' names, whatever the network or a part of it is wrapped in.
STAGE_PREFIX = rf"^(?:[^.]+\.)*?(?:{'|'.join(_OWNERS)})\.(?:(?:{'|'.join(INSIDE)})\.)*"


def keep_frozen(network: Any) -> None:
    """What ``network.train()`` does last: back to evaluation with what is frozen."""
    for module in (*frozen_stages_of(network), *(batch_norms_of(network) if network.frozen_norms else ())):
        module.eval()
        for norm in batch_norms_of(module):
            # On the module itself: its class may be any batch norm, and must stay what it is.
            norm.__dict__["reset_running_stats"] = _keep_statistics


def frozen_stages_of(network: Any) -> Iterator[nn.Module]:
    """The modules of the frozen stages."""
    for name in _OWNERS:
        owner = getattr(network, name, None)
        while owner is not None and inside(owner) is not owner:
            owner = inside(owner)
        for stage, module in owner.named_children() if owner is not None else ():
            if stage in FEATURE_NAMES[: network.frozen_stages]:
                yield module


def _keep_statistics() -> None:
    """``reset_running_stats`` of a frozen batch norm."""


def batch_norms_of(network: nn.Module) -> list[nn.Module]:
    """All batch norms in a network or a part of it."""
    return [module for module in network.modules() if isinstance(module, BATCH_NORMS)]
