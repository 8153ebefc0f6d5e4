"""create_model and its sisters: from a name to a network, ready to use."""

from __future__ import annotations

import copy
import difflib
import fnmatch
import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from .errors import WeightsError
from .models import ARCHITECTURES, FeatureNetwork, NetworkConfig, SlowFastConfig, VideoNetwork, build, unwrapped
from .models.network import for_channels
from .transforms import ClipTransform
from .weights import (
    Folder,
    WeightsRecord,
    default_record,
    find_weights,
    is_folder,
    load_checkpoint,
    load_image_weights,
    read_folder,
    records,
)

__all__ = ["create_model", "create_transform", "list_models", "load_checkpoint", "load_image_weights"]

# FAIR's normalisation, on a scale from 0 to 1: what the paper's own weights were trained with.
_FAIR_MEAN, _FAIR_STD = 0.45, 0.225


def create_model(
    name: str,
    pretrained: bool = False,
    *,
    checkpoint_path: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
    in_chans: int = 3,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    drop_rate: float | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    **architecture_overrides: Any,
) -> VideoNetwork[Any] | FeatureNetwork:
    """Makes a network by name.

    Args:
        name: an architecture, such as ``slowfast_r50_4x16`` (T x tau: 4 Slow frames at a temporal stride of 16), or one
            of its sets of weights, ``architecture.tag``, whose configuration it then has even without ``pretrained``.
            Also ``hf-hub:owner/repo[@revision]``, a repository on the Hugging Face Hub, and ``local-dir:PATH``, a
            folder, as ``model.push_to_hub`` and ``model.save_pretrained`` make them; their weights are loaded whatever
            ``pretrained`` says.
        pretrained: load the weights: the tag's, or for an untagged name the architecture's default ones, whose
            configuration it then has too. They are looked for in the package, the cache, on the Hugging Face Hub and at
            their publisher's, and verified.
        checkpoint_path: load this file instead, of any layout that :func:`load_checkpoint` reads; which has more to say
            about where in the file the network is.
        num_classes: classes; another number than the weights have gives a new classifier, 0 none at all.
        in_chans: channels of a frame. The stems of weights for three channels are fitted to another number.
        features_only: give a :class:`~slowfast_zoo.models.FeatureNetwork`, which returns the stages' feature maps.
        out_indices: which stages those are, from 0 (stem) to 4 (res5); all of them by default.
        drop_rate: dropout before the classifier.
        cache_dir: where downloaded weights are kept, instead of the Hugging Face Hub's cache (``HF_HOME``).
        **architecture_overrides: fields of the configuration, such as ``width``, ``depths``, ``frames``, ``stride``,
            ``alpha``, ``beta``, ``fusion``, ``fast_input`` or ``non_local``:
            see :class:`~slowfast_zoo.models.SlowFastConfig` and :class:`~slowfast_zoo.models.ResNet3DConfig`.

    Returns:
        The network in training mode, like any new module. ``model.config`` is its configuration,
        ``model.pretrained_cfg`` the record of its weights and preprocessing.

    Raises:
        ValueError: an unknown name (near ones are suggested), or values that make no network.
        TypeError: a keyword that the architecture does not have.
        FileNotFoundError: there is no file at ``checkpoint_path``, or no folder after ``local-dir:``.
        WeightsError: no weights of that name, or weights that cannot be found, verified or read, or do not fit.
    """
    if not isinstance(pretrained, bool):
        raise TypeError(
            f"pretrained is True or False, not {pretrained!r}: the name says which weights, as architecture.tag"
        )
    if out_indices is not None and not features_only:
        raise ValueError("out_indices selects feature maps and needs features_only=True")
    architecture, record, config, folder = _look_up(name, cache_dir, use_default=pretrained)
    if folder:
        checkpoint_path = checkpoint_path or folder.weights_path
    if pretrained and checkpoint_path is None:
        record = _require(record, architecture)
    depths = architecture_overrides.get("depths")
    if depths is not None and not {"temporal_kernels", "non_local"} & set(architecture_overrides):
        config = config.with_depths(architecture_overrides.pop("depths"))
    config = config.replace(
        in_chans=in_chans if folder is None or in_chans != 3 else config.in_chans,
        num_classes=config.num_classes if num_classes is None else num_classes,
        drop_rate=config.drop_rate if drop_rate is None else drop_rate,
        **architecture_overrides,
    )
    published = record if pretrained and checkpoint_path is None else None
    if published:
        checkpoint_path = find_weights(published, cache_dir)
    # Weights that are about to be read need no initialisation, and no memory besides their own.
    with torch.device("meta") if checkpoint_path is not None else nullcontext():
        model = build(config)
    model.pretrained_cfg = pretrained_cfg(architecture, record, config, folder)
    network = FeatureNetwork(model, out_indices) if features_only else model
    if checkpoint_path is not None:
        new_classifier = num_classes is not None
        load_checkpoint(network, checkpoint_path, new_classifier=new_classifier, adapt_stems=config.in_chans != 3)
        model.to(torch.get_default_device())
        if published:
            model.pretrained_cfg["based_on"] = published.name
    model.remember_classifier()
    return network


def list_models(pattern: str = "", pretrained: bool = False) -> list[str]:
    """Names that :func:`create_model` takes, sorted.

    Args:
        pattern: a shell-style pattern such as ``"slowfast_r101*"``, or a part of the name; empty for all. For sets of
            weights it may fit the whole name or its architecture.
        pretrained: list sets of weights (``architecture.tag``) instead of architectures.

    Raises:
        TypeError: the pattern is not a string.
    """
    if not isinstance(pattern, str):
        raise TypeError(f"pattern is a string such as 'slowfast_r101*', not {pattern!r}")
    names = sorted(records() if pretrained else ARCHITECTURES)
    if not pattern:
        return names
    if not any(c in pattern for c in "*?["):
        pattern = f"*{pattern}*"
    return [name for name in names if fnmatch.filter((name, name.partition(".")[0]), pattern)]


def create_transform(model_or_name: nn.Module | str, training: bool = False, **overrides: Any) -> ClipTransform:
    """The transform from decoded frames to the clip that a network's weights were trained on.

    Args:
        model_or_name: a network made by :func:`create_model`, in a wrapper or not, or a name.
        training: random scale, crop and mirroring instead of the test crop.
        **overrides: ``mean``, ``std``, ``scale``, ``crop``, ``crops``, ``channel_order``, ``flip`` or ``convention``,
            in place of the record's.

    Returns:
        A callable: uint8 frames (T, C, H, W) -> float clip (C, T, S, S); see
        :class:`~slowfast_zoo.video.ClipTransform` for three crops and full frames.

    Raises:
        ValueError: an unknown name, or settings that contradict each other.
        TypeError: an unknown keyword, or something that is neither a network of this library nor a name.
    """
    if isinstance(model_or_name, str):
        cfg = pretrained_cfg(*_look_up(model_or_name, None, use_default=True))
    else:
        network: VideoNetwork[Any] | FeatureNetwork = unwrapped(model_or_name)
        return network.transform(training, **overrides)
    return ClipTransform.from_record(cfg, training=training, **overrides)


def resolve(name: str) -> tuple[str, WeightsRecord | None]:
    """The architecture of a name, and its record where the name has a tag.

    Raises:
        ValueError: an unknown name; near ones are suggested.
        TypeError: not a string.
    """
    if not isinstance(name, str):
        raise TypeError(f"a model name is a string, not {type(name).__name__}")
    if name in records():
        return records()[name].architecture, records()[name]
    if name in ARCHITECTURES:
        return name, None
    architecture = name.partition(".")[0]
    if architecture in ARCHITECTURES:
        tags = [full.partition(".")[2] for full in list_models(f"{architecture}.*", pretrained=True)]
        has = f"{architecture} has the tags {', '.join(tags)}" if tags else f"{architecture} has no published weights"
        raise ValueError(f"no weights named {name!r}; {has}")
    near = difflib.get_close_matches(name, [*ARCHITECTURES, *records()], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "list_models() gives the known ones."
    raise ValueError(f"unknown model {name!r}: {hint}")


def _look_up(
    name: str, cache_dir: str | os.PathLike[str] | None, *, use_default: bool
) -> tuple[str, WeightsRecord | None, Any, Folder | None]:
    """The architecture, record, configuration and folder of a name; one without a tag may stand for default weights."""
    if is_folder(name):
        folder = read_folder(name, cache_dir)
        return folder.architecture, folder.record, folder.config, folder
    architecture, record = resolve(name)
    record = record or (default_record(architecture) if use_default else None)
    return architecture, record, record.config if record else ARCHITECTURES[architecture], None


def _require(record: WeightsRecord | None, architecture: str) -> WeightsRecord:
    if record is None:
        near = difflib.get_close_matches(architecture, sorted(records()), n=3, cutoff=0.4)
        raise WeightsError(
            f"{architecture} has no pretrained weights; among those that have some: {', '.join(near)}. Load a file of "
            "your own with checkpoint_path=..., or start from scratch with pretrained=False. "
            "list_models(pretrained=True), or slowfast-zoo list --pretrained, gives all."
        )
    return record


def pretrained_cfg(
    architecture: str, record: WeightsRecord | None, config: NetworkConfig, folder: Folder | None = None
) -> dict[str, Any]:
    """The record of weights and preprocessing that a network carries, with timm's keys where timm has them.

    Args:
        architecture: the registered name.
        record: the weights that the network was named for, if any. Without them it has the preprocessing of its
            architecture's default weights, or FAIR's where there are none either.
        config: the network's configuration.
        folder: where the network was saved, if it comes from there; its preprocessing and labels come first.
    """
    first_conv: Any = "pathway.stem.conv1.conv"
    if isinstance(config, SlowFastConfig):
        first_conv = ("slow.stem.conv1.conv", "fast.stem.conv1.conv")
    known = record or default_record(architecture)
    usual = folder.config if folder else known.config if known else ARCHITECTURES[architecture]
    preprocessing: dict[str, Any] = {
        "mean": [_FAIR_MEAN] * 3,
        "std": [_FAIR_STD] * 3,
        "channel_order": "rgb",
        "scale": usual.crop,
    }
    described = folder.preprocessing if folder else known.preprocessing if known else {}
    preprocessing.update(copy.deepcopy(dict(described)))
    for key in ("mean", "std"):
        preprocessing[key] = for_channels(preprocessing[key], config.in_chans)
    # Another crop sees the same part of the picture.
    preprocessing["scale"] = preprocessing["scale"] * config.crop // usual.crop
    preprocessing["crop"] = config.crop
    preprocessing["crop_pct"] = config.crop / preprocessing["scale"]  # timm's word for both
    origin = record or (records().get(folder.based_on) if folder else None)
    labels: Any = folder.labels if folder else record.labels if record else None
    return {
        "architecture": architecture,
        "tag": record.tag if record else "",
        "based_on": folder.based_on if folder else "",  # the published weights that were loaded
        **preprocessing,
        "interpolation": "bilinear",
        "input_size": (config.in_chans, config.clip_frames, config.crop, config.crop),
        "num_classes": config.num_classes,
        "labels": labels if usual.num_classes == config.num_classes else None,
        "license": origin.license if origin else None,
        "first_conv": first_conv,
        "classifier": "head.fc",
        "paper_ids": "arXiv:1812.03982",
    }


VideoNetwork._create_model = staticmethod(create_model)
