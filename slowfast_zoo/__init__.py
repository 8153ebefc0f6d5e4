"""SlowFast networks for video recognition: a model zoo for PyTorch.

    >>> import slowfast_zoo as sfz
    >>> model = sfz.create_model("slowfast_tiny_4x8.motion", pretrained=True)

The networks are those of Feichtenhofer, Fan, Malik and He, "SlowFast Networks for Video Recognition", ICCV 2019.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import ExportError, MissingDependencyError, SlowFastZooError, VideoDecodeError, WeightsError
from .factory import create_model, create_transform, list_models, load_checkpoint, load_image_weights
from .models import NonLocalConfig, RoIConfig, freeze, unfreeze
from .utils.torchvision_guard import check_torchvision
from .utils.version import __version__ as __version__

if TYPE_CHECKING:
    from .finetuning import FinetuneResult, finetune
    from .inference.classify.classifier import VideoClassifier
    from .inference.classify.results import Prediction
    from .inference.detect.detector import ActionDetector
    from .inference.explain import explain
    from .inference.export import export_model
    from .inference.optimize.network import optimize_for_inference
    from .timm_registry import register_with_timm

__all__ = [
    "ActionDetector",
    "ExportError",
    "FinetuneResult",
    "MissingDependencyError",
    "NonLocalConfig",
    "Prediction",
    "RoIConfig",
    "SlowFastZooError",
    "VideoClassifier",
    "VideoDecodeError",
    "WeightsError",
    "create_model",
    "create_transform",
    "explain",
    "export_model",
    "finetune",
    "freeze",
    "list_models",
    "load_checkpoint",
    "load_image_weights",
    "optimize_for_inference",
    "register_with_timm",
    "unfreeze",
]

# Imported on first use: they are only needed once a network exists.
_LAZY = {
    "ActionDetector": ".inference.detect.detector",
    "Prediction": ".inference.classify.results",
    "VideoClassifier": ".inference.classify.classifier",
    "explain": ".inference.explain",
    "FinetuneResult": ".finetuning",
    "finetune": ".finetuning",
    "export_model": ".inference.export",
    "optimize_for_inference": ".inference.optimize.network",
    "register_with_timm": ".timm_registry",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        globals()[name] = value = getattr(import_module(_LAZY[name], __name__), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


check_torchvision()
