"""Image networks as a start for video networks: 2-D weights inflated in time."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from torch import Tensor, nn

from slowfast_zoo.errors import WeightsError, printable
from slowfast_zoo.models import VideoNetwork, unwrapped
from slowfast_zoo.utils.torchvision_guard import require_timm

from .checkpoint import IMAGENET, load_inflated
from .layouts.image import Inflation
from .reading import Checkpoint, find_checkpoints, read_checkpoints

_SUFFIXES = (".pth", ".pt", ".pyth", ".safetensors", ".bin")


def load_image_weights(
    model: VideoNetwork[Any],
    source: str | os.PathLike[str] | Mapping[str, Tensor] | nn.Module,
    *,
    inflate: Inflation = "center",
) -> None:
    """Starts a network from an image ResNet of its depth: the Slow pathway, or the only one.

    Kernels that are longer in time get the 2-D one: in their middle, with zeros around ("center"), or in every frame,
    divided by their length ("mean": Carreira and Zisserman, "Quo Vadis, Action Recognition?", CVPR 2017, section 2.4).
    Both give a video of one still image the image network's features, away from the ends of the clip. Channels that
    lateral connections add start at zero, so that the Slow pathway begins as the image network; MMAction2 does the same
    (mmaction/models/backbones/resnet3d_slowfast.py). The Fast pathway, lateral connections and non-local blocks keep
    what they have; so does the classifier, unless it has as many classes. ``model.pretrained_cfg`` takes over the image
    network's mean and standard deviation.

    Args:
        model: the network, changed in place.
        source: a file (torchvision's or timm's names, or PySlowFast's image network), a state dict, a module, or the
            name of a timm model such as "resnet50.a1_in1k", whose pretrained weights timm then finds.
        inflate: "center" or "mean".

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: ``model`` is not a network of this library.
        ValueError: ``inflate`` is neither.
        WeightsError: the source is not an image ResNet, or one of another depth or width.
        MissingDependencyError: a timm model is named but timm cannot be used.
    """
    model = unwrapped(model)
    if not isinstance(model, VideoNetwork):
        raise TypeError(f"load_image_weights takes a network made by create_model, not {type(model).__name__}")
    if inflate not in get_args(Inflation):
        raise ValueError(f"inflate is 'center' or 'mean', not {inflate!r}")
    checkpoints, normalisation = _read(source)
    adapt_stems = model.config.in_chans != 3
    load_inflated(model, checkpoints, inflate, adapt_stems=adapt_stems, normalisation=normalisation)


def _read(source: Any) -> tuple[list[Checkpoint], Mapping[str, Sequence[float]]]:
    """The image network, and the mean and standard deviation of its input: timm's models say theirs."""
    path = Path(source) if isinstance(source, (str, os.PathLike)) else None
    if path and (path.is_file() or not isinstance(source, str) or path.name != source or path.suffix in _SUFFIXES):
        return read_checkpoints(path), IMAGENET
    if isinstance(source, Mapping):
        return find_checkpoints(source, "the state dict"), IMAGENET
    network: Any = source
    if isinstance(source, str):
        require_timm()
        import timm

        try:
            network = timm.create_model(source, pretrained=True)
        except (RuntimeError, OSError) as error:  # an unknown name; no weights; no network, which takes timm a while
            reason = printable(next(iter(str(error).splitlines()), type(error).__name__))
            raise WeightsError(f"timm cannot give the weights of {source!r}: {reason}") from error
    name = source if isinstance(source, str) else type(source).__name__
    cfg = getattr(network, "pretrained_cfg", None) or {}
    normalisation = {key: cfg[key] for key in ("mean", "std")} if {"mean", "std"} <= set(cfg) else IMAGENET
    return find_checkpoints(network.state_dict(), name), normalisation
