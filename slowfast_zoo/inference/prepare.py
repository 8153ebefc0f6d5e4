"""The network of a classifier or a detector: loaded by name or taken as it is, moved, optimised, its classes named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from slowfast_zoo.factory import create_model, create_transform
from slowfast_zoo.models import VideoNetwork, unwrapped
from slowfast_zoo.models.scores import ScoreRule
from slowfast_zoo.utils.checks import checked_device
from slowfast_zoo.video import ClipTransform
from slowfast_zoo.weights import class_names

from .optimize.network import optimize_for_inference

_WANTED = "expected a model name or a network from create_model, got"


@dataclass(frozen=True)
class Prepared:
    """A network that is ready to compute, with what comes with it.

    Attributes:
        network: in evaluation, where and in what it is to compute.
        name: ``architecture.tag``.
        transform: from decoded frames to its clips.
        score_rule: from its logits to the scores of a video.
        labels: names of its classes; "class 0", "class 1", ... if they are not known.
        labels_known: whether they are.
    """

    network: Any
    name: str
    transform: ClipTransform
    score_rule: ScoreRule
    labels: tuple[str, ...]
    labels_known: bool

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return next(self.network.parameters()).device  # type: ignore[no-any-return]


def load_network(model_or_name: str | nn.Module, pretrained: bool) -> Any:
    """The network of a name, or the one given.

    Args:
        model_or_name: a name as for ``create_model``, or a network that it made, in a wrapper or not.
        pretrained: load the weights of a named model.

    Raises:
        ValueError: an unknown name.
        TypeError: a network that is not from ``create_model``.
        WeightsError: the weights cannot be found or loaded.
    """
    model: Any = create_model(model_or_name, pretrained) if isinstance(model_or_name, str) else model_or_name
    network = unwrapped(model, said=_WANTED)
    if not isinstance(network, VideoNetwork):
        raise TypeError(f"{_WANTED} {type(network).__name__}")
    return network


def prepare_network(
    network: Any,
    named: bool,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
    optimize: bool | None,
    labels: Sequence[str] | None,
) -> Prepared:
    """Puts a network into evaluation, where and in what it is to compute.

    Args:
        network: from :func:`load_network`.
        named: whether the user gave a name. A named network is ours to choose for: None as ``device`` is then the GPU
            if there is one, and None as ``optimize`` is an optimised copy on a CPU.
        device: None leaves a network that was given where it is.
        dtype: None is the network's own.
        optimize: whether to take a copy made by :func:`~slowfast_zoo.optimize_for_inference`.
        labels: names of the classes; None takes those of the weights.

    Raises:
        ValueError: a device that is not there, or another number of labels than of classes.
    """
    names, known = resolve_classes(network, labels)
    if named:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    name, transform, score_rule = model_name(network), create_transform(network), ScoreRule.of(network)
    network = network.to(device=checked_device(device)).eval()
    if optimize is None:
        optimize = named and next(network.parameters()).device.type == "cpu"
    network = optimize_for_inference(network, dtype) if optimize else network.to(dtype=dtype)
    return Prepared(network, name, transform, score_rule, names, known)


def resolve_classes(model: Any, labels: Sequence[str] | None) -> tuple[tuple[str, ...], bool]:
    """Names of a network's outputs, and whether they are known; "class 0", "class 1", ... if they are not.

    Raises:
        ValueError: another number of labels than of classes.
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
