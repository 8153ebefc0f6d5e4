"""The same network, made for inference: see :func:`optimize_for_inference`."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import torch
from torch import nn

from slowfast_zoo.layers import ConvNorm, LateralConnection, NonLocal, Stage
from slowfast_zoo.layers.folded import FoldedBottleneck, FoldedNonLocal, FoldedStem, FoldedTemporalPool
from slowfast_zoo.layers.folded_conv import fold
from slowfast_zoo.models import FeatureNetwork, NetworkConfig, SlowFast, VideoNetwork
from slowfast_zoo.models.config import FEATURE_NAMES
from slowfast_zoo.models.pathway import Pathway

Network = TypeVar("Network", VideoNetwork[Any], FeatureNetwork)

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
        TypeError: not a network from ``create_model``, or not one of the three types; a network whose norms or
            activations were replaced by others than batch norms and ReLUs.
        ValueError: an optimised network, or one on the meta device.
    """
    network: Any = model.network if isinstance(model, FeatureNetwork) else model
    if not isinstance(network, VideoNetwork):
        raise TypeError(f"optimize_for_inference takes a network from create_model, not a {type(model).__name__}")
    if network.optimized:
        raise ValueError("this network is optimised already; for another dtype, optimise the one that it was made from")
    parameter = next(network.parameters())
    if parameter.is_meta:
        raise ValueError("a network on the meta device has no weights to optimise")
    dtype = parameter.dtype if dtype is None else dtype
    if dtype not in DTYPES:
        raise TypeError(f"dtype is one of {', '.join(map(str, DTYPES))}, not {dtype!r}")
    # The copy shares parameters and buffers until its layers are replaced: the weights are never there three times.
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    copied = copy.deepcopy(model, shared).eval()
    network = copied.network if isinstance(copied, FeatureNetwork) else copied
    if isinstance(network, SlowFast):
        _fold_slowfast(network, dtype, winograd)
    else:
        _fold_pathway(network.pathway, network.feature_info, network.config, dtype, winograd)
        if isinstance(network.temporal_pool, nn.MaxPool3d):
            network.temporal_pool = FoldedTemporalPool()
    network.optimized = True
    # The head is a small part of the work, and its sums are what a low precision would harm.
    network.head = copy.deepcopy(network.head).float()
    network.head.dropout = nn.Identity()
    return copied.eval().requires_grad_(False)


def _fold_slowfast(network: SlowFast, dtype: torch.dtype, winograd: bool) -> None:
    slow, fast = ([record[pathway] for record in network.feature_info] for pathway in ("slow", "fast"))
    laterals = cast(dict[str, LateralConnection], network.lateral)  # the one after the stem comes first
    for lateral in laterals.values():
        lateral.channels_last = True
    for stage, following in itertools.pairwise(FEATURE_NAMES):
        if stage in laterals:
            # The copy that concatenates is spared where it is large, and no shortcut hands the sum on as it is.
            shortcuts = [getattr(p, following).blocks[0].shortcut for p in (network.slow, network.fast)]
            laterals[stage].apart = stage != "stem" and all(isinstance(shortcut, ConvNorm) for shortcut in shortcuts)
    for pathway, records, extra in ((network.slow, slow, "slow_extra"), (network.fast, fast, "fast_extra")):
        apart = [getattr(lateral, extra) * lateral.apart for lateral in laterals.values()]
        _fold_pathway(pathway, records, network.config, dtype, winograd, [0, *apart])
    for i, stage in enumerate(FEATURE_NAMES):
        for name, conv in laterals[stage].named_children() if stage in laterals else ():
            size = _size((slow if name == "slow_to_fast" else fast)[i], network.config)
            setattr(laterals[stage], name, fold(cast(ConvNorm, conv), dtype, size))


def _fold_pathway(
    pathway: Pathway,
    records: Sequence[dict[str, Any]],
    config: NetworkConfig,
    dtype: torch.dtype,
    winograd: bool,
    apart: Sequence[int] = (0, 0, 0, 0, 0),
) -> None:
    """Replaces the layers of a pathway.

    Args:
        pathway: the pathway.
        records: its feature maps, from the network's ``feature_info``.
        config: the network's.
        dtype: what to compute in.
        winograd: use Winograd's algorithm where it is faster.
        apart: channels that each stage is given apart from the others, in a map of their own.
    """
    # The largest weights come first: what is allocated and freed for the smaller ones then fits into what was for them.
    for i, name in reversed([*enumerate(FEATURE_NAMES)]):
        stage = getattr(pathway, name, None)
        if not isinstance(stage, Stage):  # the stem; or features_only has left the stage out
            continue
        after = _size(records[i], config)
        before = after[0], *_size(records[i - 1], config)[1:]
        for j, block in enumerate(cast(Any, stage.blocks)):
            channels = block.conv1.conv.in_channels - apart[i] if j == 0 and apart[i] else None
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
