"""Initial weights."""

from __future__ import annotations

from torch import nn

from slowfast_zoo.layers import Bottleneck, NonLocal
from slowfast_zoo.layers.conv import BATCH_NORMS


def init_weights(network: nn.Module) -> None:
    """Initialises a whole network as the paper's recipe does (its appendix, and the sources that it names).

    Convolutions as He et al. (fan-out), batch norms to one and zero, the gamma of each residual block's last batch norm
    and of each non-local block to zero (Goyal et al., "Accurate, Large Minibatch SGD"), the classifier N(0, 0.01).
    A network on the meta device has no values, and costs nothing here.
    """
    if next(network.parameters()).is_meta:
        return
    for module in network.modules():
        initialise(module)
    for module in network.modules():
        if isinstance(module, Bottleneck):
            nn.init.zeros_(module.conv3.norm.weight)  # type: ignore[arg-type]
        elif isinstance(module, NonLocal):
            nn.init.zeros_(module.norm.weight)


def materialize(network: nn.Module) -> None:
    """Gives a network on the meta device real tensors on the CPU, freshly initialised; any other is left alone."""
    if next(network.parameters()).is_meta:
        network.to_empty(device="cpu")
        for module in network.modules():
            if isinstance(module, BATCH_NORMS):
                module.reset_parameters()
                type(module).reset_running_stats(module)  # of a frozen one too
        init_weights(network)


def initialise(module: nn.Module) -> None:
    """Gives one layer its initial values."""
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)
