"""Networks of one pathway: Slow-only, Fast-only, and the 3D ResNet baselines C2D and I3D."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from .config import FEATURE_NAMES, ResNet3DConfig
from .feature_info import FeatureInfo
from .init import init_weights
from .network import Clip, Maps, VideoNetwork
from .pathway import Pathway


class ResNet3D(VideoNetwork[ResNet3DConfig]):
    """conv1 and pool1, res2 to res5, and the head: a Pathway that stands alone.

    Slow-only and Fast-only networks are the columns of the paper's Table 1 (Table 5a compares them); C2D and I3D are
    the baselines of "Non-local Neural Networks" (Table 1 there) that the paper's Table 6 trains, with frames halved
    after res2.

    Attributes:
        pathway: the layers stem and res2 to res5.
        temporal_pool: the pooling after res2, or the identity.
        head: the classifier head.
    """

    def __init__(self, config: ResNet3DConfig) -> None:
        super().__init__(config)
        self.pathway = Pathway(
            config.in_chans,
            config.fast_channels,
            config.depths,
            config.temporal_kernels,
            (0, 0, 0, 0),
            config.non_local.blocks if config.non_local else (),
            config,
            config.pool1_padding,
            (config.conv1_stride, config.pool1_stride),
        )
        self.temporal_pool = nn.MaxPool3d((2, 1, 1)) if config.temporal_pool else nn.Identity()
        features = self.pathway.out_channels[-1]
        self.head = self._build_head(features)
        # The pooling belongs to the input of res3: the map of res2 still has all frames of the stem's.
        strided, all_of_it = config.conv1_stride * config.pool1_stride, config.temporal_reduction
        self.feature_info = FeatureInfo(
            self.pathway.feature_info(i, "pathway.", temporal_reduction=all_of_it if i > 1 else strided)
            for i in range(len(FEATURE_NAMES))
        )
        init_weights(self)

    def _plain(self, config: ResNet3DConfig) -> ResNet3D:
        return ResNet3D(config)

    def forward_stages(self, clip: Clip, out_indices: Sequence[int]) -> list[Maps]:
        if isinstance(clip, (tuple, list)) and len(clip) == 1:  # as other projects' pipelines hand over one pathway
            clip = clip[0]
        multiple = self.config.alpha * self.config.temporal_reduction
        x = self._check_frames(clip, "clip", self.in_chans, multiple)
        maps: dict[int, Maps] = {}
        for i, stage in enumerate(FEATURE_NAMES[: max(out_indices) + 1]):
            x = getattr(self.pathway, stage)(x)
            if i in out_indices:
                maps[i] = (x,)
            if stage == "res2":
                x = self.temporal_pool(x)
        return [maps[i] for i in out_indices]

    def drop_stages_after(self, stage: int) -> None:
        self.last_stage = stage
        for name in FEATURE_NAMES[stage + 1 :]:
            delattr(self.pathway, name)
