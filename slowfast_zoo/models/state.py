"""What of a network is saved: the tensors that its configuration's network has, if it is still that network."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slowfast_zoo.layers.split_norm import SplitBatchNorm3d

from .config import config_from_dict
from .wrappers import INSIDE, Network

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_COUNTERS = ("total_ops", "total_params")
_NO_SETTINGS = ("training", "grad_checkpointing", "in_features", "frozen_stages", "frozen_norms")
# What layers say of themselves that changes nothing of what they compute in use.
_IN_TRAINING = re.compile(r"momentum=[^,]*(, )?|(, )?inplace=\w+")
_REMEDY = "torch.save(model.state_dict(), ...) keeps it, for code that changes the layers again before it loads"
# What to do, by a part of the names of tensors that are no network's own.
_REMEDIES = {
    r"parametrizations\.": "make it plain with torch.nn.utils.parametrize.remove_parametrizations first",
    r"_mask$|_orig$": "make it plain with torch.nn.utils.prune.remove (or remove_spectral_norm) for each layer first",
    r"_[gv]$": "make it plain with torch.nn.utils.remove_weight_norm first",
    r"lora_|base_layer": "merge the adapters first, as PEFT's merge_and_unload does",
}


def state_to_save(model: Any, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors to save: those that the network of this configuration has, exactly.

    Raises:
        ValueError: the network has other tensors or other layers, so that the folder would give another network.
    """
    with torch.device("meta"):
        plain = model._plain(config_from_dict(config))
    wanted = plain.state_dict()
    # Names go through wrappers of single stages; the counters that thop leaves in the layers belong to no network.
    state = {
        re.sub(rf"\b(?:{'|'.join(INSIDE)})\.", "", name): tensor
        for name, tensor in model.state_dict().items()
        if name.rpartition(".")[2] not in _COUNTERS
    }
    other = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    differing = [*(state.keys() - wanted.keys()), *(wanted.keys() - state.keys()), *other]
    if differing:
        names = sorted(differing, key=lambda name: (not name.startswith("head."), name))
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        raise ValueError(
            f"the network cannot be saved as a folder, because its tensors are not those of its configuration (they "
            f"differ in {shown}): {_remedy(names)}"
        )
    if any(tensor.is_meta for tensor in state.values()):
        raise ValueError("the network is on the meta device and has no values to save: load its weights first")
    replaced = _replaced_layer(model, plain) or ("hooks change what it gives" if _hooks_change(model) else "")
    if replaced:
        raise ValueError(
            f"the network cannot be saved as a folder, because {replaced}, which its configuration does not say: "
            f"{_REMEDY}"
        )
    # FSDP's are parts, which all processes put together.
    return {name: getattr(state[name], "full_tensor", lambda t=state[name]: t)() for name in wanted}


def _remedy(names: Sequence[str]) -> str:
    """What to do about tensors that a folder cannot hold."""
    for part, remedy in _REMEDIES.items():
        if any(re.search(part, name) for name in names):
            return remedy
    if all(name.startswith("head.") for name in names):
        return (
            "model.reset_classifier(num_classes) makes a classifier that a folder holds, an nn.Linear with a bias; "
            "torch.save(model.state_dict(), ...) keeps another"
        )
    return _REMEDY


def _replaced_layer(model: nn.Module, plain: nn.Module) -> str:
    """In words, the first layer that computes something else than the one that was built, with the same tensors."""
    inside = re.compile(rf"\b(?:{'|'.join(INSIDE)})\b\.?")
    layers: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        name = inside.sub("", path).rstrip(".")
        if name in layers and not type(layers[name]).__module__.startswith("torch."):
            return f"{name} is inside a {type(layers[name]).__name__}"
        layers[name] = module
    for name, built in plain.named_modules():
        found = layers.get(name)
        if isinstance(built, nn.Dropout) and isinstance(found, (*_DROPOUTS, nn.Identity)):  # of no effect in use
            continue
        # In use, the norms of training in parts are what they replaced. FSDP makes classes of its own, with the same
        # forward.
        is_norm = isinstance(built, nn.BatchNorm3d) and isinstance(found, (nn.SyncBatchNorm, SplitBatchNorm3d))
        if not is_norm and getattr(type(found), "forward", None) is not type(built).forward:
            return f"{name or 'it'} is a {type(found).__name__} in place of a {type(built).__name__}"
        changed = _changed_by_hand(found, built)
        if changed:
            return f"{changed} of {name or 'the network'} was changed"
        settings, expected = (_IN_TRAINING.sub("", module.extra_repr()) for module in (found or built, built))
        if not list(built.children()) and settings != expected:
            return f"{name} is {type(built).__name__}({settings}) in place of {type(built).__name__}({expected})"
    return ""


def _changed_by_hand(found: Any, built: nn.Module) -> str:
    """The name of a method or a setting of a layer that is not the one that was built; "" if none.

    What other libraries put around ``forward`` says so, by an attribute with the one that was there before.
    """
    wrapped = any(hasattr(found, name) for name in ("_hf_hook", "_old_forward", "_original_forward"))
    if "forward" in vars(found) and not wrapped:
        return "forward"
    if not type(built).__module__.startswith("slowfast_zoo."):
        return ""
    for name in dir(type(built)):
        computes = name.startswith("forward") or name in ("probabilities", "pathway_inputs")
        if not (computes or (not isinstance(built, Network) and name in _own_methods(type(built)))):
            continue
        if getattr(type(found), name, None) is not getattr(type(built), name):
            return name
        if name in vars(found) and not wrapped:
            return name
    for name, value in vars(built).items():
        is_setting = value is None or isinstance(value, (str, int, float, tuple))
        if is_setting and not name.startswith("_") and name not in _NO_SETTINGS and getattr(found, name, None) != value:
            return name
    return ""


def _own_methods(kind: type) -> set[str]:
    """Methods that this library's classes have, beside the initialisation."""
    own = (base for base in kind.__mro__ if base.__module__.startswith("slowfast_zoo."))
    return {name for base in own for name, value in vars(base).items() if inspect.isfunction(value)} - {"__init__"}


def _hooks_change(model: Any) -> bool:
    """Whether hooks on the layers change what the network gives for a small clip; those that look on may stay."""
    modules = list(model.modules())
    kinds = ("_forward_pre_hooks", "_forward_hooks")
    hooks = [(getattr(module, kind), dict(getattr(module, kind))) for module in modules for kind in kinds]
    # FSDP's gather the weights, accelerate's move them: without these nothing runs.
    if not any(kept for _, kept in hooks) or any(hasattr(m, "reshard") or hasattr(m, "_hf_hook") for m in modules):
        return False
    config, like = model.config, next(model.parameters())
    clip: Any = torch.randn(1, model.in_chans, config.clip_frames, 32, 32, generator=torch.Generator().manual_seed(0))
    clip = clip.to(like)
    if getattr(config, "fast_input", None) == "flow":
        clip = clip[:, :, :: config.alpha], clip[:, :2]
    training = [module.training for module in modules]
    given: list[Any] = []
    try:
        for module in modules:
            module.training = False
        for is_hooked in (True, False):
            if not is_hooked:
                for current, _ in hooks:
                    current.clear()
            with torch.no_grad():
                given.append(model(clip, "full" if config.roi else None))
    except Exception:  # what a hook, or a layer of somebody's own, raises
        return len(given) == 0
    finally:
        for current, kept in hooks:
            current.clear()
            current.update(kept)
        for module, mode in zip(modules, training, strict=True):
            module.training = mode
    hooked, plain = given
    if not isinstance(hooked, Tensor) or hooked.shape != plain.shape:
        return True
    return not torch.allclose(hooked, plain, rtol=1e-2, atol=1e-3 * float(plain.abs().max()), equal_nan=True)
