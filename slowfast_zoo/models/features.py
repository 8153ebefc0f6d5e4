"""A network without its head: the feature maps of its stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from slowfast_zoo.layers import ClassifierHead
from slowfast_zoo.transforms import ClipTransform

from .config import FEATURE_NAMES, NetworkConfig
from .feature_info import FeatureInfo
from .network import Clip, Maps, Stages, VideoNetwork
from .wrappers import Network


class FeatureNetwork(Network):
    """A network without its head that returns feature maps: what ``create_model(..., features_only=True)`` gives.

    It takes the network over and removes what lies behind the last stage of ``out_indices``.

    Attributes:
        network: what is left of the network.
        feature_info: the records of those stages, as in :attr:`VideoNetwork.feature_info`.
        out_indices: the stages, 0 (stem) to 4 (res5).
    """

    def __init__(self, network: VideoNetwork[Any], out_indices: Sequence[int] | None = None) -> None:
        super().__init__()
        count = len(FEATURE_NAMES)
        given: Any = range(count) if out_indices is None else out_indices
        if (
            not isinstance(given, Sequence)
            or not given
            or any(isinstance(i, bool) or not isinstance(i, int) or not -count <= i < count for i in given)
        ):
            raise ValueError(
                f"out_indices holds integers from 0 ({FEATURE_NAMES[0]}) to {count - 1} ({FEATURE_NAMES[-1]}), "
                f"in a sequence, not {out_indices!r}"
            )
        self.out_indices = tuple(i % count for i in given)
        self.network = network
        network.follow_modules()
        network.has_classifier = False
        every = [_inside("network.", record) for record in network.feature_info]
        self.feature_info = FeatureInfo((every[i] for i in self.out_indices), every, self.out_indices)
        network.head = ClassifierHead(network.num_features, 0, 0.0, None)
        network.drop_stages_after(max(self.out_indices))

    @property
    def config(self) -> NetworkConfig:
        """The network's."""
        return self.network.config  # type: ignore[no-any-return]

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """The network's."""
        return self.network.pretrained_cfg

    @pretrained_cfg.setter
    def pretrained_cfg(self, record: dict[str, Any]) -> None:
        self.network.pretrained_cfg = record

    @property
    def default_cfg(self) -> dict[str, Any]:
        """timm's older name of ``pretrained_cfg``."""
        return self.pretrained_cfg

    @property
    def in_chans(self) -> int:
        """Channels of a frame: what the stem takes."""
        return self.network.in_chans

    def transform(self, training: bool = False, **overrides: Any) -> ClipTransform:
        """See :meth:`VideoNetwork.transform`."""
        return self.network.transform(training, **overrides)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """See :meth:`VideoNetwork.group_matcher`."""
        return self.network.group_matcher(coarse)

    def no_weight_decay(self) -> set[str]:
        """See :meth:`VideoNetwork.no_weight_decay`."""
        return {f"network.{name}" for name in self.network.no_weight_decay()}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """See :meth:`VideoNetwork.set_grad_checkpointing`."""
        self.network.set_grad_checkpointing(enable)

    def set_inplace_relu(self, enable: bool = True) -> None:
        """See :meth:`VideoNetwork.set_inplace_relu`."""
        self.network.set_inplace_relu(enable)

    def forward_intermediates(self, x: Clip, indices: Stages = None, **kwargs: Any) -> Any:
        """See :meth:`VideoNetwork.forward_intermediates`; there are the stages up to the last of ``out_indices``."""
        return self.network.forward_intermediates(x, indices, **kwargs)

    def forward(self, clip: Clip) -> list[Tensor | Maps]:
        """Feature maps of clips (B, in_chans, alpha T, H, W), one entry a stage of ``out_indices``.

        Returns:
            For a SlowFast network pairs (Slow map, Fast map), for a network of one pathway maps (B, C, T, H, W), sized
            as ``feature_info`` says: the stages' outputs, before any lateral connection.
        """
        maps = self.network.forward_stages(clip, self.out_indices)
        return [m if len(m) > 1 else m[0] for m in maps]


def _inside(prefix: str, info: dict[str, Any]) -> dict[str, Any]:
    """A record of feature maps as seen from a module that holds the network."""
    if "module" in info:
        return {**info, "module": prefix + info["module"]}
    return {pathway: _inside(prefix, record) for pathway, record in info.items()}
