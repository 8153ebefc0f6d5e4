"""Parts of a network that do not train, and stay as in evaluation whatever ``model.train()`` says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .config import FEATURE_NAMES
from .wrappers import INSIDE, inside, unwrapped

if TYPE_CHECKING:
    from .network import FeatureNetwork, VideoNetwork

# Where a stage's layers are: in the pathways, and in the lateral connection that reads its output.
_OWNERS = ("slow", "fast", "pathway", "lateral")
# The beginning of their parameters' names, whatever the network or a part of it is wrapped in.
STAGE_PREFIX = rf"^(?:[^.]+\.)*?(?:{'|'.join(_OWNERS)})\.(?:(?:{'|'.join(INSIDE)})\.)*"


def freeze(
    model: VideoNetwork[Any] | FeatureNetwork,
    until: str | None = None,
    *,
    batch_norm: bool = False,
    affine: bool = False,
) -> None:
    """Exclude parts of a network from training, beside those that are excluded already.

    Frozen parameters require no gradient. Frozen batch norms normalise by their running statistics, and leave them
    alone; they do so after ``model.train()`` too. ``reset_running_stats`` leaves them alone as well, so that
    ``torch.optim.swa_utils.update_bn`` measures the other norms anew and keeps these.

    Args:
        model: from ``create_model``, in a wrapper such as torch.compile's or not. Changed in place.
        until: "stem", "res2", "res3", "res4" or "res5": the last stage that is frozen, and with it all before it, in
            all pathways, and the lateral connections that read them. "res5" leaves only the head to train.
        batch_norm: freeze the statistics of all batch norms. Their weights and biases train on.
        affine: freeze these too.

    Raises:
        ValueError: no such stage, ``affine`` without ``batch_norm``, or an optimised network.
        TypeError: no network from ``create_model``.
    """
    network = _network(model)
    if until is not None and until not in FEATURE_NAMES:
        raise ValueError(f"until is the last stage to freeze, one of {', '.join(FEATURE_NAMES)}, not {until!r}")
    if affine and not batch_norm:
        raise ValueError("affine=True freezes the weights of batch norms whose statistics are frozen: batch_norm=True")
    if network.optimized:
        raise ValueError("an optimised network does not train: freeze the network that it was made from")
    stages = 0 if until is None else FEATURE_NAMES.index(until) + 1
    network.frozen_stages = max(network.frozen_stages, stages)
    network.frozen_norms = network.frozen_norms or batch_norm
    for module in _parts(network):
        module.requires_grad_(False)
    if affine:
        for norm in _norms(network):
            norm.requires_grad_(False)
    keep_frozen(network)


def unfreeze(model: VideoNetwork[Any] | FeatureNetwork) -> None:
    """Let all of a network train again: undoes :func:`freeze`, and every ``requires_grad_(False)``.

    Args:
        model: from ``create_model``. Changed in place.

    Raises:
        ValueError: an optimised network.
        TypeError: no network from ``create_model``.
    """
    network = _network(model)
    if network.optimized:
        raise ValueError("an optimised network does not train: use the network that it was made from")
    network.frozen_stages, network.frozen_norms = 0, False
    network.requires_grad_(True)
    for norm in _norms(network):
        norm.__dict__.pop("reset_running_stats", None)
    network.train(network.training)


def keep_frozen(network: VideoNetwork[Any]) -> None:
    """What ``network.train()`` does last: back to evaluation with what is frozen."""
    for module in (*_parts(network), *(_norms(network) if network.frozen_norms else ())):
        module.eval()
        for norm in _norms(module):
            # On the module itself: its class may be any batch norm, and must stay what it is.
            norm.__dict__["reset_running_stats"] = _keep_statistics


def _network(model: Any) -> VideoNetwork[Any]:
    network = unwrapped(model)
    return getattr(network, "network", network)  # type: ignore[no-any-return]  # of a FeatureNetwork


def _parts(network: VideoNetwork[Any]) -> Iterator[nn.Module]:
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


def _norms(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]
