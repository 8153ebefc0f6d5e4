"""Parts of a network that do not train, and stay as in evaluation whatever ``model.train()`` says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .config import FEATURE_NAMES

if TYPE_CHECKING:
    from .network import FeatureNetwork, VideoNetwork

# Where a stage's layers are: in the pathways, and in the lateral connection that reads its output.
STAGE_PREFIX = r"^(?:slow|fast|pathway|lateral)\."
_STAGE = re.compile(rf"{STAGE_PREFIX}(stem|res\d)$")


def freeze(
    model: VideoNetwork[Any] | FeatureNetwork,
    until: str | None = None,
    *,
    batch_norm: bool = False,
    affine: bool = False,
) -> None:
    """Exclude parts of a network from training, beside those that are excluded already.

    Frozen parameters require no gradient. Frozen batch norms normalise by their running statistics, and leave them
    alone; they do so after ``model.train()`` too.

    Args:
        model: from ``create_model``. Changed in place.
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
    network.train(network.training)


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
    network.train(network.training)


def keep_frozen(network: VideoNetwork[Any]) -> None:
    """What ``network.train()`` does last: back to evaluation with what is frozen."""
    for module in (*_parts(network), *(_norms(network) if network.frozen_norms else ())):
        module.eval()


def _network(model: Any) -> VideoNetwork[Any]:
    network = getattr(model, "network", model)  # of a FeatureNetwork
    if not hasattr(network, "frozen_stages"):
        raise TypeError(f"expected a network from create_model, not {type(model).__name__}")
    return network  # type: ignore[no-any-return]


def _parts(network: VideoNetwork[Any]) -> Iterator[nn.Module]:
    """The modules of the frozen stages."""
    for name, module in network.named_modules():
        stage = _STAGE.match(name)
        if stage and FEATURE_NAMES.index(stage[1]) < network.frozen_stages:
            yield module


def _norms(network: VideoNetwork[Any]) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]
