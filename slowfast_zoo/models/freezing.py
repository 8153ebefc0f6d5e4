"""Parts of a network that do not train, and stay as in evaluation whatever ``model.train()`` says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .config import FEATURE_NAMES
from .frozen import batch_norms_of, frozen_stages_of, keep_frozen
from .wrappers import unwrapped

if TYPE_CHECKING:
    from .features import FeatureNetwork
    from .network import VideoNetwork


def freeze(
    model: VideoNetwork[Any] | FeatureNetwork,
    until: str | None = None,
    *,
    batch_norm: bool = False,
    affine: bool = False,
) -> None:
    """Exclude parts of a network from training, besides those that are excluded already.

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
    for module in frozen_stages_of(network):
        module.requires_grad_(False)
    if affine:
        for norm in batch_norms_of(network):
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
    for norm in batch_norms_of(network):
        norm.__dict__.pop("reset_running_stats", None)
    network.train(network.training)


def _network(model: Any) -> VideoNetwork[Any]:
    network = unwrapped(model)
    return getattr(network, "network", network)  # type: ignore[no-any-return]  # of a FeatureNetwork
