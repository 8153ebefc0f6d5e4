"""The network inside what was put around it: torch.compile, data parallelism, averages of weights, training loops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.fx
from torch import nn

# Where a wrapper keeps the one module that it stands for: torch.compile, data parallelism and averages, checkpointing
# of activations, and FSDP.
INSIDE = ("_orig_mod", "module", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")


class Network(nn.Module):
    """What ``create_model`` gives: a :class:`VideoNetwork`, or its features alone, a :class:`FeatureNetwork`."""


def unwrapped(model: Any, *, said: str = "expected a network from create_model, not") -> Any:
    """The network from ``create_model`` inside a wrapper, or the network itself.

    Wrappers are known by what they hold, not by their names: one module under one of the names that PyTorch uses
    (``torch.compile``, ``DataParallel``, ``DistributedDataParallel``, ``AveragedModel`` and their like in other
    libraries), or exactly one network among the modules, as in a Lightning module. An object that is no module stands
    for the one module among its attributes, as timm's ``ModelEma``.

    Args:
        model: a network, or what holds one.
        said: how the error begins.

    Returns:
        A :class:`VideoNetwork` or a :class:`FeatureNetwork`.

    Raises:
        TypeError: there is no network in it, or more than one, or an ``nn.Sequential`` with other layers beside it.
    """
    found = model
    while not isinstance(found, Network):
        inner = inside(found)
        if inner is found:
            break
        found = inner
    if isinstance(found, Network):
        return found
    networks = list(_outermost(found)) if isinstance(found, nn.Module) else []
    if len(networks) == 1 and not (isinstance(found, nn.Sequential) and len(found) > 1):
        return networks[0]
    more = ""
    if len(networks) > 1:
        more = f" with {len(networks)} networks in it: pass the one that is meant"
    elif networks:
        more = " of the network and other layers: pass the network alone"
    elif isinstance(found, (torch.fx.GraphModule, torch.jit.ScriptModule)):
        more = " that was traced: pass the network that it was made from"
    raise TypeError(f"{said} {type(model).__name__}{more}")


def whole(model: Any, what: str) -> Any:
    """The network, if its weights are here as a whole.

    Args:
        model: a network.
        what: what asks, for the error.

    Raises:
        TypeError: they are parts, as FSDP makes them (``fully_shard``).
    """
    # Between a forward pass and the next step the weights may be whole for a while; FSDP's classes have this method.
    if any(hasattr(module, "reshard") for module in model.modules()):
        raise TypeError(
            f"{what} needs whole weights, and this network's are shared out among processes (FSDP): save_pretrained in "
            "all processes writes them whole, for create_model('local-dir:...')"
        )
    return model


def inside(module: Any) -> Any:
    """What a wrapper stands for, one level in; anything else is given back."""
    held = vars(module).get("_modules", {}) if isinstance(module, nn.Module) else getattr(module, "__dict__", {})
    for name in INSIDE:
        if isinstance(held.get(name), nn.Module):
            return held[name]
    if isinstance(module, (nn.Module, type)):
        return module
    found = {id(value): value for value in held.values() if isinstance(value, nn.Module)}
    return next(iter(found.values())) if len(found) == 1 else module


def unwrap_parts(network: nn.Module) -> None:
    """Takes PyTorch's own wrappers (compilation, checkpointing) off the parts of a network."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            while type(child).__module__.startswith("torch.") and inside(child) is not child:
                parent._modules[name] = child = inside(child)


def _outermost(module: nn.Module) -> Iterator[nn.Module]:
    """The networks in a module, each once, without those inside another."""
    seen: set[int] = set()
    waiting = [module]
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, Network):
            yield current
        else:
            waiting.extend(current.children())
