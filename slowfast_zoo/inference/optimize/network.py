"""The same network, made for inference: see :func:`optimize_for_inference`."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from slowfast_zoo.layers import (
    Bottleneck,
    ConvNorm,
    LateralConnection,
    NonLocal,
    Stage,
    Stem,
)
from slowfast_zoo.layers.conv import BATCH_NORMS
from slowfast_zoo.layers.split_norm import SplitBatchNorm3d
from slowfast_zoo.models import FeatureNetwork, NetworkConfig, ResNet3D, SlowFast, VideoNetwork, unwrapped
from slowfast_zoo.models.config import FEATURE_NAMES
from slowfast_zoo.models.pathway import Pathway
from slowfast_zoo.models.wrappers import unwrap_parts, whole

from .blocks import FoldedBottleneck, FoldedNonLocal, FoldedStem, FoldedTemporalPool, concatenate_rows, keep_apart
from .convs import fold

_Module = TypeVar("_Module", bound=nn.Module)
Network = TypeVar("Network", VideoNetwork[Any], FeatureNetwork)

_NORM_OR_NONE: Any = (BATCH_NORMS, nn.Identity)
_ACT_OR_NONE: Any = (nn.ReLU, nn.Identity)
# The classes of a network's layers, each before its bases, and of what is inside them.
_INSIDE: dict[type[nn.Module], dict[str, Any]] = {
    SlowFast: {"slow": Pathway, "fast": Pathway, "lateral": nn.ModuleDict},
    ResNet3D: {"pathway": Pathway, "temporal_pool": (nn.MaxPool3d, nn.Identity)},
    Pathway: {name: Stage if name.startswith("res") else Stem for name in FEATURE_NAMES},
    Stem: {"conv1": ConvNorm, "pool1": nn.MaxPool3d},
    Stage: {"blocks": nn.ModuleList, "non_local": nn.ModuleDict},
    Bottleneck: {
        **dict.fromkeys(("conv1", "conv2", "conv3"), ConvNorm),
        "shortcut": (ConvNorm, nn.Identity),
        "act": _ACT_OR_NONE,
    },
    ConvNorm: {"conv": nn.Conv3d, "norm": _NORM_OR_NONE, "act": _ACT_OR_NONE},
    NonLocal: {**dict.fromkeys(("g", "theta", "phi", "w_theta", "w_phi", "out"), nn.Conv3d), "norm": BATCH_NORMS},
}
_KINDS: tuple[type[nn.Module], ...] = (
    *_INSIDE,
    nn.ModuleDict,
    nn.ModuleList,
    nn.Conv3d,
    SplitBatchNorm3d,
    nn.SyncBatchNorm,
    nn.BatchNorm3d,
    nn.ReLU,
    nn.MaxPool3d,
    nn.Identity,
)
_LAYERED = ("", "slow", "fast", "lateral", "pathway", "temporal_pool")
# Kernel in time, whether nothing else is special, whether it halves the frames, whether it tells where the maxima lie.
_POOLINGS = ((1, True, False, False), (2, True, True, False))
_COMPUTED = (BasePruningMethod, SpectralNorm, WeightNorm)  # hooks that compute a weight before each call

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@torch.inference_mode(False)  # tensors made in it could not give gradients later
@torch.no_grad()
def optimize_for_inference(model: Network, dtype: torch.dtype | None = None, *, winograd: bool = True) -> Network:
    """A copy of a network that computes the same, faster.

    Batch norms are folded into the convolutions before them, memory is channels-last, and each factorised kernel runs
    as a 2-D convolution on a view; on a CPU with oneDNN's fused operations, residual sums and ReLUs are part of the
    convolutions, and in float32 some are computed by Winograd's algorithm. The copy has the network's class, methods
    and attributes, and is called like it. It is in evaluation for good: it cannot be trained, nor saved as a checkpoint
    (save the network that it was made from).

    Args:
        model: a network from ``create_model``, also with ``features_only=True``, on the device where the copy is to
            run. It is not changed, and not needed any more afterwards.
        dtype: what to compute in: ``torch.float32``, ``torch.bfloat16`` or ``torch.float16``; None is the network's
            own. Clips may be given in any floating-point type, and logits come in float32. Feature maps come in
            ``dtype``, in channels-last memory.
        winograd: in float32 on a CPU, halve the multiplications of wide convolutions by Winograd's algorithm where that
            is faster for clips of the network's own frames and crop: above all of the temporal ones of res4 and res5
            and the spatial ones of res4. It costs memory: their weights take twice as much.

    Returns:
        The copy, with ``optimized`` set. In float32 its logits differ from the network's as two orders of summation do:
        on a CPU by less than 1e-4 of the largest. In bfloat16 and float16 by what the type can tell apart;
        docs/speed.md has measured figures. A NaN in a clip need not reach them: oneDNN's ReLU makes it zero.

    Raises:
        TypeError: not a network from ``create_model``, or not one of the three types; a network some of whose layers
            were replaced by others than convolutions of the same form, batch norms, ReLUs or nothing. The head may be
            anything.
        ValueError: an optimised network, or one on the meta device.
    """
    model = unwrapped(model, said="optimize_for_inference takes a network from create_model, not")
    whole(model, "optimize_for_inference")
    network: Any = model.network if isinstance(model, FeatureNetwork) else model
    if network.optimized:
        raise ValueError("this network is optimised already; for another dtype, optimise the one that it was made from")
    network.follow_modules()
    parameter = next(network.parameters())
    if any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
        raise ValueError("a network on the meta device has no weights to optimise")
    dtype = parameter.dtype if dtype is None else dtype
    if dtype not in DTYPES:
        raise TypeError(f"dtype is one of {', '.join(map(str, DTYPES))}, not {dtype!r}")
    # The copy shares parameters and buffers until its layers are replaced: the weights are never there three times.
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    copied = copy_of(model, shared).eval()
    network = copied.network if isinstance(copied, FeatureNetwork) else copied
    unwrap_parts(network)
    refuse_changed(network)
    if isinstance(network, SlowFast):
        _fold_slowfast(network, dtype, winograd)
    else:
        _fold_pathway(network.pathway, network.feature_info, network.config, dtype, winograd)
        if isinstance(network.temporal_pool, nn.MaxPool3d):
            network.temporal_pool = FoldedTemporalPool()
    network.optimized = True
    # The head is a small part of the work, and its sums are what a low precision would harm.
    network.head = copy.deepcopy(network.head).float()
    network.head.converts_input = True
    network.head.dropout = nn.Identity()
    return copied.eval().requires_grad_(False)


def copy_of(model: _Module, memo: dict[int, Any] | None = None) -> _Module:
    """A deep copy, with weights that are computed from others (pruning, spectral and weight norm) as they are now.

    Args:
        model: a network, which is not changed.
        memo: what is not to be copied, by its id.
    """
    memo = {} if memo is None else memo
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:  # the last of them, which has a history
                memo[id(value)] = value.detach().clone()
    copied = copy.deepcopy(model, memo)
    with torch.no_grad():
        for module in copied.modules():
            training = module.training
            module.training = False  # whose computing leaves nothing behind
            for hook in module._forward_pre_hooks.values():
                if isinstance(hook, _COMPUTED):
                    hook(module, ())
            module.training = training
    return copied


def refuse_changed(network: nn.Module) -> None:
    """Refuses a network with layers that cannot be replaced by folded ones.

    Raises:
        TypeError: there are such; the first of them is named.
    """
    for path, module in network.named_modules():
        top, _, inside = path.partition(".")
        if top not in _LAYERED or ".parametrizations" in inside:  # the head; what else was put beside the layers
            continue
        is_lateral = type(module).__module__ == LateralConnection.__module__  # of any form
        kind = type(module) if is_lateral else next((kind for kind in _KINDS if isinstance(module, kind)), None)
        # By its forward: parametrizations make a class of their own for each layer.
        if kind is None or type(module).forward is not kind.forward or "forward" in vars(module):
            raise TypeError(_refusal(path, f"is another layer: {type(module).__name__}"))
        for name, child in module.named_children():
            wanted = Bottleneck if kind is nn.ModuleList else _INSIDE.get(kind, {}).get(name, ())
            if is_lateral:
                wanted = ConvNorm
            if kind is nn.ModuleDict:
                wanted = LateralConnection if path == "lateral" else NonLocal
            if wanted and not isinstance(child, wanted):
                raise TypeError(_refusal(f"{path}.{name}", f"is another layer: {type(child).__name__}"))
        if (isinstance(module, nn.Conv3d) and not _is_known(module, in_stem=".stem." in path)) or (
            isinstance(module, nn.MaxPool3d) and _settings(module) not in _POOLINGS
        ):
            raise TypeError(_refusal(path, f"has another form: {module}"))


def _refusal(path: str, reason: str) -> str:
    return (
        "only networks of the layers that create_model gave them can be optimised, with norms and activations that are "
        f"batch norms, ReLUs or nothing; {path} {reason}"
    )


def _is_known(conv: nn.Conv3d, in_stem: bool) -> bool:
    """Whether a convolution has one of the forms that a folded one can have."""
    if conv.groups != 1 or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return False
    if in_stem:
        return conv.dilation == (1, 1, 1)
    each = [*zip(conv.kernel_size, conv.stride, cast(Any, conv.padding), strict=True)]
    untouched = (1, 1, 0)
    return each[0] == untouched or each[1:] == [untouched] * 2


def _settings(pool: nn.MaxPool3d) -> tuple[int, bool, bool, bool]:
    """What pool1 and the temporal pooling have in common with others, or not."""
    kernel, stride, padding, dilation = (
        setting if isinstance(setting, tuple) else (setting,) * 3
        for setting in (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    )
    plain = dilation == (1, 1, 1) and not pool.ceil_mode and padding[0] == 0
    halves_time = (kernel, stride, padding) == ((2, 1, 1), (2, 1, 1), (0, 0, 0))
    return kernel[0], plain, halves_time, bool(pool.return_indices)


def _fold_slowfast(network: SlowFast, dtype: torch.dtype, winograd: bool) -> None:
    slow, fast = ([record[pathway] for record in network.feature_info] for pathway in ("slow", "fast"))
    laterals = cast(dict[str, LateralConnection], network.lateral)  # the one after the stem comes first
    is_apart = {}
    for stage, following in itertools.pairwise(FEATURE_NAMES):
        if stage in laterals:
            # The copy that concatenates is spared where it is large, and no shortcut hands the sum on as it is.
            shortcuts = [getattr(p, following).blocks[0].shortcut for p in (network.slow, network.fast)]
            is_apart[stage] = stage != "stem" and all(isinstance(shortcut, ConvNorm) for shortcut in shortcuts)
            lateral: Any = laterals[stage]
            lateral.concatenate = keep_apart if is_apart[stage] else concatenate_rows
    for pathway, records, extra in ((network.slow, slow, "slow_extra"), (network.fast, fast, "fast_extra")):
        apart = [bool(getattr(lateral, extra)) and is_apart[stage] for stage, lateral in laterals.items()]
        _fold_pathway(pathway, records, network.config, dtype, winograd, [False, *apart])
    for i, stage in enumerate(FEATURE_NAMES):
        for name, conv in laterals[stage].named_children() if stage in laterals else ():
            size = _size((slow if name in laterals[stage].reads_slow else fast)[i], network.config)
            setattr(laterals[stage], name, fold(cast(ConvNorm, conv), dtype, size))


def _fold_pathway(
    pathway: Pathway,
    records: Sequence[dict[str, Any]],
    config: NetworkConfig,
    dtype: torch.dtype,
    winograd: bool,
    apart: Sequence[bool] = (False,) * 5,
) -> None:
    """Replaces the layers of a pathway.

    Args:
        pathway: the pathway.
        records: its feature maps, from the network's ``feature_info``.
        config: the network's.
        dtype: what to compute in.
        winograd: use Winograd's algorithm where it is faster.
        apart: whether each stage is given the channels that a lateral connection adds in a map of their own.
    """
    # The largest weights come first: what is allocated and freed for the smaller ones then fits into what was for them.
    for i, name in reversed([*enumerate(FEATURE_NAMES)]):
        stage = getattr(pathway, name, None)
        if not isinstance(stage, Stage):  # the stem; or features_only has left the stage out
            continue
        after = _size(records[i], config)
        before = after[0], *_size(records[i - 1], config)[1:]
        for j, block in enumerate(cast(Any, stage.blocks)):
            channels = None
            if j == 0 and apart[i]:
                channels = getattr(pathway, FEATURE_NAMES[i - 1]).blocks[-1].conv3.conv.out_channels
            # What enters a stage may be looked at elsewhere: by a lateral connection, as a feature map, by the caller.
            stage.blocks[j] = FoldedBottleneck(
                block, dtype, after if j else before, after, keeps_input=j == 0, apart=channels, winograd=winograd
            )
        for key, block in stage.non_local.items():
            stage.non_local[key] = FoldedNonLocal(cast(NonLocal, block), dtype, after)
        stage.grad_checkpointing = False
    pathway.stem = FoldedStem(pathway.stem, dtype)  # type: ignore[assignment]


def _size(record: dict[str, Any], config: NetworkConfig) -> tuple[int, int, int]:
    """T, H and W of a feature map of one clip of the network's own size."""
    side = -(-config.crop // record["reduction"])
    return config.clip_frames // record["temporal_reduction"], side, side
