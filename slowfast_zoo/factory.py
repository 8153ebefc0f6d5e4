"""create_model and its sisters: from a name to a network, ready to use."""

from __future__ import annotations

import copy
import difflib
import fnmatch
import os
from collections.abc import Sequence
from typing import Any

from torch import nn

from .errors import WeightsError
from .models import ARCHITECTURES, FeatureNetwork, NetworkConfig, SlowFastConfig, VideoNetwork, build
from .video.transforms import ClipTransform
from .weights import WeightsRecord, default_record, find_weights, load_checkpoint, records

__all__ = ["create_model", "create_transform", "list_models", "load_checkpoint"]

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
        pretrained: load the weights: the tag's, or for an untagged name the architecture's default ones.
        checkpoint_path: load this file instead.
        num_classes: classes; another number than the weights have gives a new classifier, 0 none at all.
        in_chans: channels of a frame.
        features_only: give a :class:`~slowfast_zoo.models.FeatureNetwork`, which returns the stages' feature maps.
        out_indices: which stages those are, from 0 (stem) to 4 (res5); all of them by default.
        drop_rate: dropout before the classifier.
        cache_dir: where downloaded weights are kept. All of today's weights come with the package.
        **architecture_overrides: fields of the configuration, such as ``width``, ``depths``, ``frames``, ``stride``,
            ``alpha``, ``beta``, ``fusion``, ``fast_input`` or ``non_local``:
            see :class:`~slowfast_zoo.models.SlowFastConfig` and :class:`~slowfast_zoo.models.ResNet3DConfig`.

    Returns:
        The network in training mode, like any new module. ``model.config`` is its configuration,
        ``model.pretrained_cfg`` the record of its weights and preprocessing.

    Raises:
        ValueError: an unknown name (near ones are suggested), or values that make no network.
        TypeError: a keyword that the architecture does not have.
        FileNotFoundError: there is no file at ``checkpoint_path``.
        WeightsError: no weights of that name, or weights that cannot be read or do not fit.
    """
    architecture, record = _resolve(name)
    if out_indices is not None and not features_only:
        raise ValueError("out_indices selects feature maps and needs features_only=True")
    record = record or (default_record(architecture) if pretrained else None)
    config = record.config if record else ARCHITECTURES[architecture]
    depths = architecture_overrides.get("depths")
    if depths is not None and not {"temporal_kernels", "non_local"} & set(architecture_overrides):
        config = config.with_depths(architecture_overrides.pop("depths"))
    config = config.replace(
        in_chans=in_chans,
        num_classes=config.num_classes if num_classes is None else num_classes,
        drop_rate=config.drop_rate if drop_rate is None else drop_rate,
        **architecture_overrides,
    )
    model = build(config)
    model.pretrained_cfg = pretrained_cfg(architecture, record, config)
    if checkpoint_path is not None:
        load_checkpoint(model, checkpoint_path, new_classifier=num_classes is not None)
    elif pretrained:
        load_checkpoint(model, find_weights(_must_exist(record, architecture)), new_classifier=num_classes is not None)
    return FeatureNetwork(model, out_indices) if features_only else model


def list_models(pattern: str = "", pretrained: bool = False) -> list[str]:
    """Names that :func:`create_model` takes, sorted.

    Args:
        pattern: a shell-style pattern such as ``"slowfast_r101*"``, or a part of the name; empty for all.
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
    return fnmatch.filter(names, pattern)


def create_transform(model_or_name: nn.Module | str, training: bool = False, **overrides: Any) -> ClipTransform:
    """The transform from decoded frames to the clip that a network's weights were trained on.

    Args:
        model_or_name: a network made by :func:`create_model`, or a name.
        training: random scale, crop and mirroring instead of the test crop.
        **overrides: ``mean``, ``std``, ``scale``, ``crop``, ``crops``, ``channel_order`` or ``flip``, in place of the
            record's.

    Returns:
        A callable: uint8 frames (T, C, H, W) -> float clip (C, T, S, S).

    Raises:
        ValueError: an unknown name, or settings that contradict each other.
        TypeError: an unknown keyword, or something that is neither a network of this library nor a name.
    """
    if isinstance(model_or_name, str):
        architecture, record = _resolve(model_or_name)
        record = record or default_record(architecture)
        config = record.config if record else ARCHITECTURES[architecture]
        cfg = pretrained_cfg(architecture, record, config)
    else:
        cfg = getattr(model_or_name, "pretrained_cfg", None) or {}
        if not cfg:
            raise TypeError(f"expected a network made by create_model, or a name, not {type(model_or_name).__name__}")
    return ClipTransform.from_record(cfg, training=training, **overrides)


def _resolve(name: str) -> tuple[str, WeightsRecord | None]:
    """The architecture of a name, and its record where the name has a tag."""
    if not isinstance(name, str):
        raise TypeError(f"a model name is a string, not {type(name).__name__}")
    if name in records():
        return records()[name].architecture, records()[name]
    if name in ARCHITECTURES:
        return name, None
    if name.startswith(("hf-hub:", "local-dir:")):
        raise ValueError(
            f"networks cannot be made from {name!r}: load a file with checkpoint_path=..., under its own name"
        )
    architecture = name.partition(".")[0]
    if architecture in ARCHITECTURES:
        tagged = list_models(f"{architecture}.*", pretrained=True)
        raise ValueError(
            f"no weights named {name!r}; {architecture} has {', '.join(tagged) or 'no published weights here'}"
        )
    near = difflib.get_close_matches(name, [*ARCHITECTURES, *records()], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "list_models() gives the known ones."
    raise ValueError(f"unknown model {name!r}: {hint}")


def _must_exist(record: WeightsRecord | None, architecture: str) -> WeightsRecord:
    if record is None:
        known = f"the only ones are {', '.join(list_models(pretrained=True))}"
        raise WeightsError(
            f"{architecture} has no pretrained weights here; {known}. "
            "Load a file of your own with checkpoint_path=..., or start from scratch with pretrained=False."
        )
    return record


def pretrained_cfg(architecture: str, record: WeightsRecord | None, config: NetworkConfig) -> dict[str, Any]:
    """The record of weights and preprocessing that a network carries, with timm's keys where timm has them.

    Args:
        architecture: the registered name.
        record: the weights that the network was named for, if any. Without them it has the preprocessing of its
            architecture's default weights, or FAIR's where there are none either.
        config: the network's configuration.
    """
    first_conv: Any = "pathway.stem.conv1.conv"
    if isinstance(config, SlowFastConfig):
        first_conv = ("slow.stem.conv1.conv", "fast.stem.conv1.conv")
    preprocessing: dict[str, Any] = {
        "mean": [_FAIR_MEAN] * config.in_chans,
        "std": [_FAIR_STD] * config.in_chans,
        "channel_order": "rgb",
        "scale": ARCHITECTURES[architecture].crop,
    }
    known = record or default_record(architecture)
    if known and config.in_chans == 3:
        preprocessing.update(copy.deepcopy(dict(known.preprocessing)))
    # Another crop sees the same part of the picture.
    preprocessing["scale"] = preprocessing["scale"] * config.crop // ARCHITECTURES[architecture].crop
    preprocessing["crop"] = config.crop
    labels = record.labels if record and record.config.num_classes == config.num_classes else None
    return {
        "architecture": architecture,
        "tag": record.tag if record else "",
        **preprocessing,
        "interpolation": "bilinear",
        "input_size": (config.in_chans, config.clip_frames, config.crop, config.crop),
        "num_classes": config.num_classes,
        "labels": labels,
        "license": record.license if record else None,
        "first_conv": first_conv,
        "classifier": "head.fc",
        "paper_ids": "arXiv:1812.03982",
    }
