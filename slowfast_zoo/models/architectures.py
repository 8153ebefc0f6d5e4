"""The named architectures: family _ backbone _ T x tau."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from .config import FAST_KERNELS, R50, R101, NonLocalConfig, ResNet3DConfig, RoIConfig, SlowFastConfig
from .validation import Depths, TemporalKernels

# R-101 exists in two readings. The paper's costs (106 and 213 GFLOPs) need temporal kernels in the first 6 of res4's 23
# blocks only, which is also what FAIR's "50_50" models have; published weights of the other reading, with them in all
# 23, override temporal_kernels.
_SIX_OF_23 = (3,) * 6 + (1,) * 17
_SLOW_R101: TemporalKernels = (1, 1, 1, _SIX_OF_23, 3)
_FAST_R101: TemporalKernels = (5, 3, 3, _SIX_OF_23, 3)
_C2D: TemporalKernels = (1, 1, 1, 1, 1)
_I3D: TemporalKernels = (5, 3, (3, 1, 3, 1), (3, 1, 3, 1, 3, 1), (1, 3, 1))
_I3D_R101: TemporalKernels = (5, 3, (3, 1, 3, 1), (3, 1) * 11 + (3,), (1, 3, 1))
_R152: Depths = (3, 8, 36, 3)

_slowfast_r50 = SlowFastConfig()
_slowfast_r50_8x8 = _slowfast_r50.replace(frames=8, stride=8, alpha=4, lateral_kernel=7)
_slowfast_r101 = SlowFastConfig(alpha=4, stride=8, depths=(R101, R101), temporal_kernels=(_SLOW_R101, _FAST_R101))
_slow_r50 = ResNet3DConfig()
_slow_r50_8x8 = _slow_r50.replace(frames=8, stride=8)
_slow_r101 = ResNet3DConfig(depths=R101, temporal_kernels=_SLOW_R101)
_fast_r50 = ResNet3DConfig(alpha=8, beta=1 / 8, temporal_kernels=FAST_KERNELS)
_c2d_r50 = ResNet3DConfig(frames=8, stride=8, temporal_kernels=_C2D, temporal_pool=True)
_i3d_r50 = ResNet3DConfig(frames=8, stride=8, temporal_kernels=_I3D, temporal_pool=True)
# I3D as first published takes 32 frames, which conv1 and pool1 stride down to the same 8.
_i3d_r50_32 = _i3d_r50.replace(frames=32, stride=2, conv1_stride=2, pool1_stride=2)
_i3d_r101_32 = _i3d_r50_32.replace(depths=R101, temporal_kernels=_I3D_R101)

# "We only use NL on the (fused) Slow features of res4" (the paper's appendix); keys pooled in time too, which gives its
# 234 GFLOPs for 16 x 8.
_NL_R101 = NonLocalConfig(((), (), (6, 13, 20), ()), instantiation="dot_product", pool=(2, 2, 2))
# The five blocks of the non-local paper's R-50; the SlowFast models have them as dot products.
_NL_R50 = NonLocalConfig(((), (1, 3), (1, 3, 5), ()))
_NL_SLOWFAST_R50 = NonLocalConfig(_NL_R50.blocks, instantiation="dot_product")

_NL_R101_5 = NonLocalConfig(((), (1, 3), (6, 13, 20), ()))

# Section 5 of the paper: res5 keeps its resolution, and each box is pooled by itself into scores of AVA's 80 actions.
_DET: dict[str, Any] = {
    "res5_stride": 1,
    "res5_dilation": 2,
    "roi": RoIConfig(),
    "num_classes": 80,
    "head_activation": "sigmoid",
}

# The small network of the bundled weights, which tell camera moves: all there is to see is what changes, so its Fast
# pathway is wide and sees time difference.
_TINY: dict[str, Any] = {"width": 12, "frames": 4, "stride": 8, "crop": 112}
_TINY_DEPTHS = (1, 1, 1, 1)
_slowfast_tiny = SlowFastConfig(
    alpha=4, beta=1 / 2, depths=(_TINY_DEPTHS, _TINY_DEPTHS), fast_input="time_difference", **_TINY
)
_slow_tiny = ResNet3DConfig(depths=_TINY_DEPTHS, **_TINY)
_fast_tiny = ResNet3DConfig(alpha=4, beta=1 / 2, depths=_TINY_DEPTHS, temporal_kernels=FAST_KERNELS, **_TINY)

ARCHITECTURES: MappingProxyType[str, SlowFastConfig | ResNet3DConfig] = MappingProxyType(
    {
        # Tables 2 and 3 of the paper
        "slowfast_r50_4x16": _slowfast_r50,
        "slowfast_r50_8x8": _slowfast_r50_8x8,
        "slowfast_r101_8x8": _slowfast_r101.replace(frames=8),
        "slowfast_r101_16x8": _slowfast_r101.replace(frames=16),
        "slowfast_r101_nl_16x8": _slowfast_r101.replace(frames=16, non_local=_NL_R101),
        # Further SlowFast networks that weights were published for
        "slowfast_r50_16x8": _slowfast_r50_8x8.replace(frames=16),
        "slowfast_r50_nl_4x16": _slowfast_r50.replace(non_local=_NL_SLOWFAST_R50),
        "slowfast_r50_nl_8x8": _slowfast_r50.replace(frames=8, stride=8, alpha=4, non_local=_NL_SLOWFAST_R50),
        "slowfast_r101_nl_8x8": _slowfast_r101.replace(frames=8, non_local=_NL_R101),
        "slowfast_r101_r50_4x16": _slowfast_r50.with_depths((R101, R50)),
        "slowfast_r152_r50_4x16": _slowfast_r50.with_depths((_R152, R50)),
        # Table 5a and Table 4: one pathway alone
        "slow_r50_4x16": _slow_r50,
        "slow_r50_8x8": _slow_r50_8x8,
        "slow_r50_8x4": _slow_r50.replace(frames=8, stride=4),
        "slow_r50_16x4": _slow_r50.replace(frames=16, stride=4),
        "slow_r50_32x2": _slow_r50.replace(frames=32, stride=2),
        "slow_r50_nl_4x16": _slow_r50.replace(non_local=_NL_R50),
        "slow_r50_nl_8x8": _slow_r50_8x8.replace(non_local=_NL_R50),
        "slow_r101_8x8": _slow_r101.replace(frames=8, stride=8),
        "slow_r101_16x4": _slow_r101.replace(frames=16, stride=4),
        "slow_r101_16x8": _slow_r101.replace(frames=16, stride=8),
        "slow_r101_32x2": _slow_r101.replace(frames=32, stride=2),
        "fast_r50_4x16": _fast_r50,
        "fast_r50_8x8": _fast_r50.replace(frames=8, stride=8, alpha=4),
        # Table 6 and the baselines of the non-local paper
        "c2d_r50_1x1": _c2d_r50.replace(frames=1, stride=1, temporal_pool=False, crop=224),  # an image network
        "c2d_r50_8x8": _c2d_r50,
        "c2d_r50_16x4": _c2d_r50.replace(frames=16, stride=4),
        "c2d_r50_nl_8x8": _c2d_r50.replace(non_local=_NL_R50),
        "c2d_r101_8x8": _c2d_r50.with_depths(R101),
        "i3d_r50_8x8": _i3d_r50,
        "i3d_r50_nl_8x8": _i3d_r50.replace(non_local=_NL_R50),
        "i3d_r50_16x2": _i3d_r50_32.replace(frames=16),
        "i3d_r50_32x2": _i3d_r50_32,
        "i3d_r50_nl_32x2": _i3d_r50_32.replace(non_local=_NL_R50),
        "i3d_r101_32x2": _i3d_r101_32,
        "i3d_r101_nl_32x2": _i3d_r101_32.replace(non_local=_NL_R101_5),
        # Section 5: action detection
        "slowfast_r50_4x16_det": _slowfast_r50.replace(**_DET),
        "slowfast_r50_8x8_det": _slowfast_r50_8x8.replace(**_DET),
        "slowfast_r101_nl_8x8_det": _slowfast_r101.replace(frames=8, non_local=_NL_R101, **_DET),
        "slowfast_r101_nl_16x8_det": _slowfast_r101.replace(frames=16, non_local=_NL_R101, **_DET),
        "slow_r50_4x16_det": _slow_r50.replace(**_DET),
        "slow_r50_8x8_det": _slow_r50_8x8.replace(**_DET),
        "slow_r50_nl_4x16_det": _slow_r50.replace(non_local=_NL_R50, **_DET),
        "slow_r50_nl_8x8_det": _slow_r50_8x8.replace(non_local=_NL_R50, **_DET),
        "slow_r101_8x8_det": _slow_r101.replace(frames=8, stride=8, **_DET),
        # The bundled camera-motion classifier, its pathways alone, and the bundled detector of moving objects
        "slowfast_tiny_4x8": _slowfast_tiny,
        "slow_tiny_4x8": _slow_tiny,
        "fast_tiny_4x8": _fast_tiny,
        "slowfast_tiny_4x8_det": _slowfast_tiny.replace(**{**_DET, "roi": RoIConfig(aligned=True), "crop": 160}),
    }
)
