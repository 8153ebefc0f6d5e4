"""The networks under timm's roof: :func:`register_with_timm`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from .errors import WeightsError
from .factory import create_model, list_models, pretrained_cfg
from .models import ARCHITECTURES, VideoNetwork
from .storage.hub import hub_file
from .transforms import ClipTransform
from .utils.torchvision_guard import require_timm
from .weights import read_folder, records

__all__ = ["register_with_timm"]  # timm.models.register_model adds what it registers

_WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")  # of timm's folders, the first that is there
# Where weights are, in a record of timm's; not what they are.
_PLACES = ("file", "url", "hf_hub_id", "hf_hub_filename", "state_dict", "source")
# What timm saves of how the network is given its input, next to its own words for it.
_PREPROCESSING = (
    *("mean", "std", "channel_order", "scale", "crop", "crop_pct"),
    *("flip", "clips", "crops", "view_average", "clip_sampling"),
)

default_cfgs: dict[str, Any] = {}  # where timm.models.register_model looks for the weights of a name


def register_with_timm() -> list[str]:
    """Registers every network and every set of weights with timm.

    From then on ``timm.create_model("slowfast_r50_4x16")`` takes the keywords of :func:`slowfast_zoo.create_model`, and
    ``timm.list_models``, ``timm.list_pretrained``, ``timm.models.is_model_pretrained`` and
    ``timm.models.get_pretrained_cfg`` know the names. It is a call of its own because importing timm takes longer than
    importing torch. A second call changes nothing. A name that timm has of its own stays timm's, with a warning.

    Returns:
        The architectures that are registered, sorted.

    Raises:
        MissingDependencyError: timm is not installed, or cannot work in this environment.
    """
    require_timm()
    from timm.models import PretrainedCfg, generate_default_cfgs, is_model, model_entrypoint, register_model

    taken = [name for name in list_models() if is_model(name) and model_entrypoint(name).__module__ != __name__]
    if taken:
        warnings.warn(f"timm has models of its own by these names, not registered: {', '.join(taken)}", stacklevel=2)
    names = [name for name in list_models() if name not in taken]
    new = [name for name in names if not is_model(name)]

    fields = {field.name for field in dataclasses.fields(PretrainedCfg)}
    cfgs: dict[str, dict[str, Any] | PretrainedCfg] = {}
    for architecture in new:
        tagged = [record for record in records().values() if record.architecture == architecture]
        for record in tagged or (None,):
            config = record.config if record else ARCHITECTURES[architecture]
            cfg = pretrained_cfg(architecture, record, config)
            known = {key: value for key, value in cfg.items() if key in fields}
            # A star marks timm's default. File and URL are there for information: create_model finds and verifies them.
            key = f"{record.name}{'*' * record.default}" if record else architecture
            url = record.source["url"] if record and record.source else ""
            cfgs[key] = PretrainedCfg(**known, file=record.file if record else None, url=url)
    default_cfgs.update(generate_default_cfgs(cfgs))
    for architecture in new:
        globals()[architecture] = register_model(_entry_point(architecture))
    return names


def _entry_point(architecture: str) -> Callable[..., nn.Module]:
    """A function as timm's registry wants it, named like the architecture."""

    def build(
        pretrained: bool = False,
        pretrained_cfg: str | Mapping[str, Any] | Any = None,
        pretrained_cfg_overlay: Mapping[str, Any] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        global_pool: str = "avg",
        pretrained_model_args: Any = None,  # timm has put them among the others
        **kwargs: Any,
    ) -> nn.Module:
        if global_pool != "avg":
            raise ValueError(f"the head averages, so global_pool is 'avg', not {global_pool!r}")
        cfg = _as_dict(pretrained_cfg)
        overlay = dict(pretrained_cfg_overlay or {})
        for key, value in _sizes_of(overlay).items():
            kwargs.setdefault(key, value)
        if cfg.get("source") in ("local-dir", "hf-hub") and not {"file", "hf_hub_id", "state_dict"} & set(overlay):
            model: nn.Module = _create_saved(architecture, cfg, pretrained, cache_dir, kwargs)
        else:
            model = _create_known(architecture, cfg, overlay, pretrained, cache_dir, kwargs)
        _apply_overlay(model.pretrained_cfg, overlay)
        return model

    build.__name__ = build.__qualname__ = architecture
    return build


def _as_dict(pretrained_cfg: str | Mapping[str, Any] | Any) -> dict[str, Any]:
    """What timm passes as the record of weights: a tag, a mapping, its own PretrainedCfg, or None."""
    if isinstance(pretrained_cfg, str):
        return {"tag": pretrained_cfg}
    if isinstance(pretrained_cfg, Mapping):
        return dict(pretrained_cfg)
    return dict(vars(pretrained_cfg)) if pretrained_cfg is not None else {}


def _create_known(
    architecture: str,
    cfg: Mapping[str, Any],
    overlay: Mapping[str, Any],
    pretrained: bool,
    cache_dir: str | os.PathLike[str] | None,
    kwargs: dict[str, Any],
) -> Any:
    """A network with the weights of a tag, or with those that the host says are somewhere else."""
    tag = cfg.get("tag")
    name = f"{architecture}.{tag}" if tag else architecture
    record = records().get(name)
    given = {**cfg, **overlay}
    for key, value in _sizes_of(cfg).items() if record is None else ():  # a record of ours is known better
        kwargs.setdefault(key, value)
    state = given.get("state_dict")
    if pretrained and state is None:
        # A record of ours names its own file, for information: create_model finds and verifies it.
        file, repo = given.get("file"), given.get("hf_hub_id")
        if file and not (record and file == record.file):
            kwargs["checkpoint_path"] = file
        elif repo:
            found = given.get("hf_hub_filename")
            kwargs["checkpoint_path"] = _hub_weights(str(repo), cache_dir, (found,) if found else _WEIGHTS_FILES)
        elif "url" in overlay:
            raise ValueError(
                "weights are not read from an address that nothing verifies: download them, and pass "
                "pretrained_cfg_overlay={'file': PATH}"
            )
    model: Any = create_model(name, pretrained and state is None, cache_dir=cache_dir, **kwargs)
    if pretrained and state is not None:
        getattr(model, "network", model).load_state_dict(state, strict=not kwargs.get("features_only"))
    return model


def _create_saved(
    architecture: str,
    cfg: Mapping[str, Any],
    pretrained: bool,
    cache_dir: str | os.PathLike[str] | None,
    kwargs: dict[str, Any],
) -> Any:
    """A network that was saved in a folder or a repository, by this library or by timm."""
    local = cfg["source"] == "local-dir"
    place = str(cfg["file"] if local else cfg["hf_hub_id"])
    if "library_version" in cfg and "preprocessing" in cfg:  # as VideoNetwork.save_pretrained writes
        name = f"{cfg['source']}:{place}"
        if pretrained:
            return create_model(name, True, cache_dir=cache_dir, **kwargs)
        folder = read_folder(name, cache_dir)
        fields = {field.name: getattr(folder.config, field.name) for field in dataclasses.fields(folder.config)}
        model: Any = create_model(architecture, **{**fields, **kwargs})
        model.pretrained_cfg.update(pretrained_cfg(architecture, folder.record, model.config, folder))
        return model
    tagged = f"{architecture}.{cfg.get('tag')}"
    if pretrained:
        kwargs["checkpoint_path"] = place if local else _hub_weights(place, cache_dir, _WEIGHTS_FILES)
    name = tagged if tagged in records() else architecture
    model = create_model(name, **{**_sizes_of(cfg), **kwargs})
    labels = cfg.get("label_names") or cfg.get("labels")
    if labels and not isinstance(labels, str) and getattr(model, "num_classes", 0) != len(labels):
        labels = None  # of another classifier
    model.pretrained_cfg.update({key: cfg[key] for key in _PREPROCESSING if cfg.get(key) is not None})
    if isinstance(model, VideoNetwork):
        model.pretrained_cfg["labels"] = labels
        model.remember_classifier()
    return model


def _sizes_of(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """What a record of weights says of the network that they are of, as arguments of create_model."""
    size = cfg.get("input_size") or (None,)
    found = {"num_classes": cfg.get("num_classes"), "in_chans": size[0], "crop": cfg.get("crop") or size[-1]}
    return {key: value for key, value in found.items() if value is not None}


def _apply_overlay(record: Any, overlay: Mapping[str, Any]) -> None:
    """Writes what the host says over the record of a network that was made with its classes, channels and crop."""
    share = overlay.get("crop_pct")
    if share is not None and "scale" not in overlay:
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise ValueError(f"crop_pct is the crop as a part of the picture's shorter side, up to 1, not {share!r}")
        record["scale"] = int(record["crop"] / share)  # as timm rounds
    described = ("num_classes", "input_size", "crop", "crop_pct")
    record.update({key: value for key, value in overlay.items() if key not in (*_PLACES, *described)})
    record["crop_pct"] = record["crop"] / record["scale"]
    ClipTransform.from_record(record)  # which checks it


def _hub_weights(name: str, cache_dir: str | os.PathLike[str] | None, filenames: Sequence[str]) -> str:
    repo, _, revision = name.partition("@")
    for filename in filenames[:-1]:
        with contextlib.suppress(WeightsError):
            return str(hub_file(repo, filename, revision=revision or None, cache_dir=cache_dir, what=name))
    return str(hub_file(repo, filenames[-1], revision=revision or None, cache_dir=cache_dir, what=name))
