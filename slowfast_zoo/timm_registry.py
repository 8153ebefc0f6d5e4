"""The networks under timm's roof: :func:`register_with_timm`."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ._torchvision import require_timm
from .factory import create_model, list_models, pretrained_cfg
from .models import ARCHITECTURES
from .weights import records

__all__ = ["register_with_timm"]  # timm.models.register_model adds what it registers

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
        **kwargs: Any,
    ) -> nn.Module:
        if isinstance(pretrained_cfg, Mapping):
            pretrained_cfg = pretrained_cfg.get("tag")
        elif not isinstance(pretrained_cfg, str):  # timm's PretrainedCfg, or None
            pretrained_cfg = getattr(pretrained_cfg, "tag", None)
        name = f"{architecture}.{pretrained_cfg}" if pretrained_cfg else architecture
        overlay = dict(pretrained_cfg_overlay or {})
        if pretrained and "file" in overlay:  # timm's way to weights in a file of one's own
            kwargs["checkpoint_path"] = overlay["file"]
        model = create_model(name, pretrained, **kwargs)
        model.pretrained_cfg.update(overlay)
        return model

    build.__name__ = build.__qualname__ = architecture
    return build
