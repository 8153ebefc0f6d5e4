"""The network behind a classifier or detector: found by name or taken as it is, put in place, its classes named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from slowfast_zoo.factory import create_model
from slowfast_zoo.models import VideoNetwork, unwrapped
from slowfast_zoo.utils.checks import checked_device
from slowfast_zoo.weights import class_names

from .optimize.network import optimize_for_inference


def loaded(model_or_name: str | nn.Module, pretrained: bool) -> Any:
    """The network of a name, or the one given.

    Args:
        model_or_name: a name as for ``create_model``, or a network that it made, in a wrapper or not.
        pretrained: load the weights of a named model.

    Raises:
        ValueError: an unknown name.
        TypeError: a network that is not from ``create_model``.
        WeightsError: the weights cannot be found or loaded.
    """
    model: Any = model_or_name
    if isinstance(model_or_name, str):
        model = create_model(model_or_name, pretrained=pretrained)
    network = unwrapped(model, said="expected a model name or a network from create_model, got")
    if not isinstance(network, VideoNetwork):
        raise TypeError(f"expected a model name or a network from create_model, got {type(network).__name__}")
    return network


def made_ready(
    model_or_name: str | nn.Module,
    model: Any,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
    optimize: bool | None,
) -> Any:
    """A network in evaluation, where and in what it is to compute.

    Args:
        model_or_name: what the user gave. A named network is ours to choose for: None as ``device`` is then the GPU if
            there is one, and None as ``optimize`` is an optimised copy on a CPU.
        model: from :func:`loaded`.
        device: None leaves a network that was given where it is.
        dtype: None is the network's own.
        optimize: whether to take a copy made by :func:`~slowfast_zoo.optimize_for_inference`.

    Raises:
        ValueError: a device that is not there.
    """
    named = isinstance(model_or_name, str)
    if named:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device=checked_device(device)).eval()
    if optimize is None:
        optimize = named and next(model.parameters()).device.type == "cpu"
    return optimize_for_inference(model, dtype) if optimize else model.to(dtype=dtype)


def named_classes(model: Any, labels: Sequence[str] | None) -> tuple[tuple[str, ...], bool]:
    """Names of a network's outputs, and whether they are known; "class 0", "class 1", ... if they are not.

    Args:
        model: a network from ``create_model``.
        labels: the names; None takes those of the weights.

    Raises:
        ValueError: another number of names than of classes.
    """
    known = labels_of(model) if labels is None else tuple(labels)
    if known is not None and len(known) != model.num_classes:
        raise ValueError(f"the network has {model.num_classes} classes, but {len(known)} labels were given")
    return known or tuple(f"class {index}" for index in range(model.num_classes)), known is not None


def model_name(model: Any) -> str:
    """``architecture.tag`` of a network from ``create_model``, as far as it knows them."""
    record = model.pretrained_cfg
    return ".".join(part for part in (record.get("architecture"), record.get("tag")) if part) or type(model).__name__


def labels_of(model: Any) -> tuple[str, ...] | None:
    """The class names of the model's weights, unless it has got another classifier since."""
    labels = class_names(model.labels)
    return labels if labels is not None and len(labels) == model.num_classes else None
