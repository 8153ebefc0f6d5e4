"""The parts that networks are assembled from. Nothing here knows configurations, files or the network."""

from .conv import ConvNorm
from .fast_input import FAST_INPUTS, FastInput, fast_input_channels, weaken
from .head import ClassifierHead, RoIHead, RoITemporalPool, as_rois
from .lateral import Bidirectional, LateralConnection, TimeStridedConv, TimeStridedSample, TimeToChannel
from .non_local import INSTANTIATIONS, Instantiation, NonLocal
from .residual import Bottleneck, Stage
from .stem import Stem

__all__ = [
    "FAST_INPUTS",
    "INSTANTIATIONS",
    "Bidirectional",
    "Bottleneck",
    "ClassifierHead",
    "ConvNorm",
    "FastInput",
    "Instantiation",
    "LateralConnection",
    "NonLocal",
    "RoIHead",
    "RoITemporalPool",
    "Stage",
    "Stem",
    "TimeStridedConv",
    "TimeStridedSample",
    "TimeToChannel",
    "as_rois",
    "fast_input_channels",
    "weaken",
]
