"""From a configuration to its network."""

from __future__ import annotations

from .config import ResNet3DConfig, SlowFastConfig
from .resnet3d import ResNet3D
from .slowfast import SlowFast


def build(config: SlowFastConfig | ResNet3DConfig) -> SlowFast | ResNet3D:
    """The network of a configuration, freshly initialised."""
    return SlowFast(config) if isinstance(config, SlowFastConfig) else ResNet3D(config)
