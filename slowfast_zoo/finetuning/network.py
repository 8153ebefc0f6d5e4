"""A network that fits the data, prepared for its training."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import nn

from slowfast_zoo.factory import create_model, create_transform
from slowfast_zoo.inference.prepare import labels_of, load_network, model_name
from slowfast_zoo.layers.split_norm import SplitBatchNorm3d
from slowfast_zoo.models import VideoNetwork
from slowfast_zoo.models.freezing import freeze
from slowfast_zoo.models.network import MIN_SIDE
from slowfast_zoo.models.saved import check_savable
from slowfast_zoo.video import ClipTransform

from .data import Data
from .settings import SPLIT_CLIPS, Settings


def resolve_network(settings: Settings, data: Data) -> tuple[VideoNetwork[Any], Data]:
    """A network with an output for each class, and the data in the order of its outputs.

    The classifier of a named model is replaced unless it has these very classes; a network that was given has to fit.

    Raises:
        ValueError: an unknown name, a network that does not classify clips or has other classes, or ``crop`` for one.
        TypeError: not a network from ``create_model``.
        WeightsError: the weights cannot be found or loaded.
    """
    model, count = settings.model, len(data.labels)
    is_named = isinstance(model, str)
    if isinstance(model, str):
        overrides: dict[str, Any] = {} if settings.crop is None else {"crop": settings.crop}
        network: Any = create_model(model, settings.pretrained, **overrides)
    else:
        network = load_network(model, pretrained=False)
    if network.optimized:
        raise ValueError("an optimised network does not train: use the network that it was made from")
    if network.config.roi:
        raise ValueError("the network detects actions in boxes; fine-tuning is for networks that classify clips")
    if settings.crop is not None and not is_named:
        raise ValueError("crop goes with the name of a model; a network has its own: create_model(..., crop=...)")
    own = labels_of(network)
    has_others = data.named and own is not None and set(own) != set(data.labels)
    if is_named and (has_others or own is None or not data.named):
        network.reset_classifier(count)
        return network, data
    if network.num_classes != count or has_others:
        what = f"{network.num_classes} outputs" if network.num_classes != count else "outputs for other classes"
        raise ValueError(
            f"the network has {what}, and the data have {count} classes ({', '.join(data.labels[:3])}, ...): call "
            f"model.reset_classifier({count}) first, or pass the model's name"
        )
    return network, data if own is None else data.with_labels(own)


def prepare(network: VideoNetwork[Any], data: Data, settings: Settings, device: torch.device) -> ClipTransform:
    """Turn a network into what is going to be trained and saved; gives the transform for training.

    Raises:
        ValueError: a kind of batch norm that the device does not have, a network that could not be saved, in a type
            that ``amp`` does not go with, with weights that are no finite numbers, or all of whose parameters are
            frozen.
    """
    check_savable(network)
    dtype = next(network.parameters()).dtype
    if settings.amp and (dtype == torch.float16 or dtype == torch.bfloat16 != getattr(torch, settings.amp)):
        raise ValueError(
            f"amp computes in a shorter type what is in float32, but the network is in {str(dtype)[6:]} as a whole: "
            "leave amp out, or give model.float()"
        )
    if not all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values()):
        raise ValueError("the network's weights or statistics are no finite numbers: nothing can be learnt from there")
    if any(tensor.is_inference() for tensor in network.state_dict().values()):
        raise ValueError("the network was made in torch.inference_mode, where nothing trains: make it outside")
    if settings.batch_norm == "sync" and device.type != "cuda":
        raise ValueError('batch_norm="sync" is PyTorch\'s SyncBatchNorm, which is for GPUs: choose another')
    activation = "sigmoid" if data.multi_label else "softmax"
    network.config = network.config.replace(drop_rate=settings.drop_rate, head_activation=activation)
    network.head.dropout.p = settings.drop_rate
    record = network.pretrained_cfg
    network.pretrained_cfg = {
        **record,
        "tag": "",  # these are no published weights any more
        "labels": data.labels if data.named else None,
        "flip": settings.flip,
        # Training counts strides by time, so that clips are to be placed by time.
        "clip_sampling": "segments" if record.get("clip_sampling") == "segments" else "uniform",
    }
    if record.get("view_average") == "max" and not data.multi_label:
        network.pretrained_cfg["view_average"] = "scores"
    network.remember_classifier()
    network.to(device)
    if settings.grad_checkpointing:
        network.set_grad_checkpointing()
    freeze(network, settings.freeze, batch_norm=settings.batch_norm == "frozen")
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError("all parameters of the network are frozen, and nothing trains: sfz.unfreeze(model) first")
    if settings.batch_norm == "sync":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    if settings.batch_norm == "split":
        SplitBatchNorm3d.convert(network, SPLIT_CLIPS)
    # The paper crops 224 of 256 in training, and tests on 256.
    crop = max(MIN_SIDE, min(record["crop"], record["scale"] * 7 // 8))
    return create_transform(network, training=True, crop=crop)


def describe(network: VideoNetwork[Any]) -> str:
    """A network's architecture, the weights that it began with, and a digest of all else but its weights now."""
    dtype = next(network.parameters()).dtype
    content = json.dumps([network.config.to_dict(), network.frozen_stages, network.frozen_norms], sort_keys=True)
    names = (
        model_name(network),
        network.pretrained_cfg.get("based_on"),
        hashlib.sha256(content.encode()).hexdigest()[:8],
        "" if dtype == torch.float32 else str(dtype),
    )
    return " ".join(filter(None, names))
