"""Entry points for torch.hub: every registered network under its own name, and ``create_model``.

Each takes the keywords of ``slowfast_zoo.create_model``. A set of weights is chosen by ``tag``, because the name of an
entry point cannot hold a dot.
"""

from __future__ import annotations

from collections.abc import Callable as _Callable
from typing import Any as _Any

# torch.hub looks for these, and says which are missing, before it calls an entry point. torchvision and timm are not
# among them: the networks work without.
dependencies = ["torch", "numpy", "einops", "safetensors", "huggingface_hub", "tqdm"]

# torch.hub checks the dependencies only after it has imported this file, so a missing one must not stop the import.
try:
    import slowfast_zoo as _zoo
except ModuleNotFoundError as _error:
    if _error.name not in dependencies:
        raise
    _zoo = None  # type: ignore[assignment]


def create_model(name: str, pretrained: bool = False, **kwargs: _Any) -> _Any:
    """Any network by its full name, such as "slowfast_tiny_4x8.motion", as ``slowfast_zoo.create_model`` makes it."""
    return _zoo.create_model(name, pretrained=pretrained, **kwargs)


def _entry_point(name: str, description: str) -> _Callable[..., _Any]:
    def build(pretrained: bool = False, *, tag: str = "", **kwargs: _Any) -> _Any:
        return _zoo.create_model(f"{name}.{tag}" if tag else name, pretrained=pretrained, **kwargs)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"""{description}

    Args:
        pretrained: load weights: those of ``tag``, or the network's default ones.
        tag: a set of weights, what stands after the dot in ``slowfast_zoo.list_models(pretrained=True)``.
        **kwargs: as in ``slowfast_zoo.create_model``: num_classes, features_only, checkpoint_path, alpha, beta, ...
    """
    return build


if _zoo:
    from slowfast_zoo.models import ARCHITECTURES as _ARCHITECTURES

    for _name in _zoo.list_models():
        globals()[_name] = _entry_point(_name, str(_ARCHITECTURES[_name]))
