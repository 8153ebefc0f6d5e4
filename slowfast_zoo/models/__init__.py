"""The networks, their configurations and their names."""

from .architectures import ARCHITECTURES
from .build import build
from .config import NetworkConfig, NonLocalConfig, ResNet3DConfig, RoIConfig, SlowFastConfig, config_from_dict
from .features import FeatureNetwork
from .freezing import freeze, unfreeze
from .init import materialize
from .network import VideoNetwork
from .resnet3d import ResNet3D
from .slowfast import SlowFast
from .wrappers import unwrapped

__all__ = [
    "ARCHITECTURES",
    "FeatureNetwork",
    "NetworkConfig",
    "NonLocalConfig",
    "ResNet3D",
    "ResNet3DConfig",
    "RoIConfig",
    "SlowFast",
    "SlowFastConfig",
    "VideoNetwork",
    "build",
    "config_from_dict",
    "freeze",
    "materialize",
    "unfreeze",
    "unwrapped",
]
