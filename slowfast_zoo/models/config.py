"""Configurations: one frozen dataclass describes one network to the last channel, and round-trips through JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar, get_args

from slowfast_zoo.layers import FAST_INPUTS, INSTANTIATIONS, FastInput, Instantiation, RoITemporalPool
from slowfast_zoo.utils import checks

from . import validation as check
from .validation import (
    STAGES,  # the paper's names, for whoever imports the configurations
    Depths,
    TemporalKernels,
)

Fusion = Literal[
    "time_to_channel_sum",
    "time_to_channel_concat",
    "time_strided_sample",
    "time_strided_conv",
    "bidirectional",
    "none",
]
SlowFrames = Literal["linspace", "strided"]
HeadActivation = Literal["softmax", "sigmoid"]
HeadAverage = Literal["scores", "logits"]

FEATURE_NAMES = ("stem", *STAGES)  # the stem is conv1 and pool1


R50: Depths = (3, 4, 6, 3)
R101: Depths = (3, 4, 23, 3)
SLOW_KERNELS: TemporalKernels = (1, 1, 1, 3, 3)
FAST_KERNELS: TemporalKernels = (5, 3, 3, 3, 3)

C = TypeVar("C", bound="NetworkConfig")


@dataclass(frozen=True)
class NonLocalConfig:
    """Where non-local blocks stand and what they compute.

    Attributes:
        blocks: for each of res2 to res5, the (zero-based) residual blocks of the Slow, or only, pathway that a
            non-local block follows. Also taken as a mapping, ``{"res4": (6, 13, 20)}``.
        fast_blocks: the same for the Fast pathway.
        instantiation: the pairwise function: gaussian, embedded_gaussian, dot_product or concatenation.
        pool: (T, H, W) max pooling of the keys and values.
        pool_first: pool before the convolutions phi and g (PySlowFast), or after them (MMAction2).
        scaled: divide the embedded Gaussian's products by the square root of the inner channels.
        out_bias: whether the last convolution has a bias, of little use before its batch norm.
    """

    blocks: tuple[tuple[int, ...], ...] = ((), (), (), ())
    fast_blocks: tuple[tuple[int, ...], ...] = ((), (), (), ())
    instantiation: Instantiation = "embedded_gaussian"
    pool: tuple[int, int, int] = (1, 2, 2)
    pool_first: bool = True
    scaled: bool = True
    out_bias: bool = True

    def __post_init__(self) -> None:
        for name in ("blocks", "fast_blocks"):
            object.__setattr__(self, name, check.stage_blocks(getattr(self, name), f"non_local {name}"))
        checks.one_of(self.instantiation, INSTANTIATIONS, "non_local instantiation")
        object.__setattr__(self, "pool", checks.int_tuple(self.pool, 3, "non_local pool", at_least=1))
        for name in ("pool_first", "scaled", "out_bias"):
            checks.boolean(getattr(self, name), f"non_local {name}")


@dataclass(frozen=True)
class RoIConfig:
    """How a detection head sees a box (section 5 of the paper).

    Attributes:
        resolution: side of the grid that RoIAlign samples a box at.
        aligned: RoIAlign's half-pixel shift. Off in PySlowFast's published models, on in MMAction2's.
        temporal_pool: how frames are pooled before: "avg" (the paper) or "max".
        context: concatenate the whole map's features, pooled on the same grid, to those of each box (MMAction2).
    """

    resolution: int = 7
    aligned: bool = False
    temporal_pool: RoITemporalPool = "avg"
    context: bool = False

    def __post_init__(self) -> None:
        checks.integer(self.resolution, "roi resolution", at_least=1)
        checks.one_of(self.temporal_pool, get_args(RoITemporalPool), "roi temporal_pool")
        for name in ("aligned", "context"):
            checks.boolean(getattr(self, name), f"roi {name}")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """What every network of the family has.

    Attributes:
        frames: T, the frames of the Slow pathway.
        stride: tau, the temporal stride of the Slow pathway, in frames of a 30 fps video.
        alpha: frame-rate ratio of the Fast to the Slow pathway. A clip holds alpha x T frames.
        beta: channel ratio of the Fast to the Slow pathway.
        width: channels of the Slow stem.
        in_chans: channels of a frame.
        num_classes: classes; 0 leaves the classifier out.
        drop_rate: dropout before the classifier (0.5 in the paper).
        crop: side of the square test crop in pixels. Advice to the user; the network takes any size from 32.
        res5_stride: spatial stride of res5: 2, or 1 for detection.
        res5_dilation: spatial dilation of res5: 1, or 2 for detection.
        head_window: side of the averaging windows of the head in res5 positions; None averages the whole map.
        head_activation: how classes are scored: softmax, or sigmoid where a clip has several labels.
        head_average: whether probabilities of several window positions are averaged, or their logits.
        non_local: non-local blocks, or None.
        roi: how boxes are seen, in a network that detects actions; None in one that classifies clips.
    """

    family: ClassVar[str]

    frames: int = 4
    stride: int = 16
    alpha: int = 8
    beta: float = 1 / 8
    width: int = 64
    in_chans: int = 3
    num_classes: int = 400
    drop_rate: float = 0.5
    crop: int = 256
    res5_stride: int = 2
    res5_dilation: int = 1
    head_window: int | None = None
    head_activation: HeadActivation = "softmax"
    head_average: HeadAverage = "scores"
    non_local: NonLocalConfig | None = None
    roi: RoIConfig | None = None

    def __post_init__(self) -> None:
        for name in ("frames", "stride", "alpha", "width", "in_chans", "res5_dilation"):
            checks.integer(getattr(self, name), name, at_least=1)
        checks.integer(self.num_classes, "num_classes", at_least=0)
        checks.integer(self.crop, "crop", at_least=32)
        if self.head_window is not None:
            checks.integer(self.head_window, "head_window", at_least=1)
        checks.one_of(self.res5_stride, (1, 2), "res5_stride")
        checks.one_of(self.head_activation, get_args(HeadActivation), "head_activation")
        checks.one_of(self.head_average, get_args(HeadAverage), "head_average")
        for name in ("beta", "drop_rate"):
            object.__setattr__(self, name, checks.number(getattr(self, name), name))
        if not 0 <= self.drop_rate < 1:
            raise ValueError(f"drop_rate is a probability, at least 0 and below 1, not {self.drop_rate!r}")
        if self.beta <= 0:
            raise ValueError(
                f"beta is the ratio of Fast to Slow channels, above 0 (the paper has 1/8), not {self.beta!r}"
            )
        if self.stride % self.alpha:
            raise ValueError(
                f"alpha={self.alpha} does not divide the temporal stride {self.stride}: the Fast pathway takes every "
                f"(stride / alpha)-th frame. Choose an alpha that divides {self.stride}, or another stride."
            )
        for name, kind in (("non_local", NonLocalConfig), ("roi", RoIConfig)):
            part: Any = getattr(self, name)
            if isinstance(part, Mapping):
                checks.known_keywords(part, kind, name)
                part = kind(**part)
                object.__setattr__(self, name, part)
            if part is not None and not isinstance(part, kind):
                raise TypeError(f"{name} is a {kind.__name__}, its fields in a mapping, or None, not {part!r}")
        if self.roi and self.head_window is not None:
            raise ValueError("head_window is for classifying clips; a network with roi pools boxes instead")

    # -- what clip the network wants -----------------------------------------------------------------------------------

    @property
    def clip_frames(self) -> int:
        """Frames in a clip: alpha x T."""
        return self.alpha * self.frames

    @property
    def clip_stride(self) -> int:
        """tau / alpha: a clip takes every so-many-th frame of a 30 fps video."""
        return self.stride // self.alpha

    @property
    def clip_span(self) -> int:
        """T x tau: frames of a 30 fps video that a clip covers."""
        return self.frames * self.stride

    def clip_seconds(self, fps: float = 30.0) -> float:
        """Seconds of a video at ``fps`` that a clip covers."""
        return self.clip_span / fps

    def describe_clip(self) -> str:
        """In words, what a clip is: frames, stride, seconds at 30 fps, crop."""
        return (
            f"{_count(self.clip_frames, 'frame')} of {_count(self.in_chans, 'channel')}, "
            f"{_every(self.clip_stride)} of a 30 fps video ({self.clip_span} frames, {self.clip_seconds():.2f} s), "
            f"crop {self.crop} x {self.crop}: (B, {self.in_chans}, {self.clip_frames}, {self.crop}, {self.crop})"
        )

    def slow_indices(self, clip_frames: int | None = None) -> tuple[int, ...]:
        """Which frames of a clip the Slow pathway takes; of a network of one pathway, all.

        Args:
            clip_frames: frames in the clip, a multiple of alpha; alpha x T if not given.
        """
        return tuple(range(clip_frames or self.clip_frames))

    # -- channels ----------------------------------------------------------------------------------------------------

    def fast_channels(self, slow_channels: int) -> int:
        """beta C, rounded up to whole channels.

        The paper has beta = 1/6 and 1/12, which do not divide its channels; of the possible readings, rounding each
        layer's channels up is the one that gives the GFLOPs of its Table 5b.
        """
        return math.ceil(self.beta * slow_channels - 1e-6)

    # -- JSON --------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the family that :func:`config_from_dict` needs."""
        return {"family": self.family, **dataclasses.asdict(self)}

    def replace(self: C, **overrides: Any) -> C:
        """A copy with other values.

        Raises:
            TypeError: a keyword that this family does not have.
            ValueError: a value that makes no network.
        """
        checks.known_keywords(overrides, type(self), "this network")
        return dataclasses.replace(self, **overrides)

    def with_depths(self: C, depths: Any) -> C:
        """A copy with other depths, what stands block by block being fitted to them.

        A stage's temporal kernels are cut, or go on with the last one; non-local blocks beyond the depth are left out.

        Raises:
            ValueError: not depths.
        """
        pairs: Any = depths if check.is_pair(depths) else (depths, depths)
        given: Any = self.temporal_kernels  # type: ignore[attr-defined]
        if check.is_pair(given):
            kernels: Any = tuple(
                check.fit_kernels(k, check.depths(d, "depths")) for k, d in zip(given, pairs, strict=True)
            )
        else:
            kernels = check.fit_kernels(given, check.depths(depths, "depths"))
        non_local = self.non_local and dataclasses.replace(
            self.non_local,
            blocks=check.fit_blocks(self.non_local.blocks, pairs[0]),
            fast_blocks=check.fit_blocks(self.non_local.fast_blocks, pairs[1]),
        )
        return self.replace(depths=depths, temporal_kernels=kernels, non_local=non_local)


@dataclass(frozen=True, kw_only=True)
class SlowFastConfig(NetworkConfig):
    """A SlowFast network. The defaults are the paper's Table 1: SlowFast 4 x 16, R50, alpha 8, beta 1/8.

    Attributes:
        depths: blocks of res2 to res5, one tuple for both pathways or one for each.
        temporal_kernels: (Slow, Fast), each with one entry for conv1 and each of res2 to res5; a stage's entry is one
            kernel for all blocks, or a tuple with one for each.
        fusion: the kind of lateral connection.
        lateral_kernel: temporal kernel of the time-strided convolution.
        lateral_norm: batch norm and ReLU after it.
        lateral_ratio: its output channels, as a multiple of the Fast pathway's: 2 beta C in the paper.
        slow_frames: which frames of a clip the Slow pathway takes: ``linspace``, T evenly spaced from the first to the
            last, rounded down (PySlowFast, PyTorchVideo), or ``strided``, every alpha-th from the first (MMAction2,
            GluonCV).
        fast_input: what the Fast pathway sees: one of Table 5c's.
    """

    family: ClassVar[str] = "slowfast"

    depths: tuple[Depths, Depths] = (R50, R50)
    temporal_kernels: tuple[TemporalKernels, TemporalKernels] = (SLOW_KERNELS, FAST_KERNELS)
    fusion: Fusion = "time_strided_conv"
    lateral_kernel: int = 5
    lateral_norm: bool = True
    lateral_ratio: int = 2
    slow_frames: SlowFrames = "linspace"
    fast_input: FastInput = "rgb"

    def __post_init__(self) -> None:
        super().__post_init__()
        given: Any = self.depths
        slow_depths, fast_depths = given if check.is_pair(given) else (given, given)
        if not check.is_pair(self.temporal_kernels):
            raise ValueError(
                "temporal_kernels is a pair, Slow and Fast, each with an entry for conv1 and res2 to res5, such as "
                f"{(SLOW_KERNELS, FAST_KERNELS)}; given: {self.temporal_kernels!r}"
            )
        depths = (check.depths(slow_depths, "Slow depths"), check.depths(fast_depths, "Fast depths"))
        kernels = tuple(check.temporal_kernels(k, d) for k, d in zip(self.temporal_kernels, depths, strict=True))
        object.__setattr__(self, "depths", depths)
        object.__setattr__(self, "temporal_kernels", kernels)
        checks.boolean(self.lateral_norm, "lateral_norm")
        checks.one_of(self.fusion, get_args(Fusion), "fusion")
        checks.one_of(self.slow_frames, get_args(SlowFrames), "slow_frames")
        checks.one_of(self.fast_input, FAST_INPUTS, "fast_input")
        checks.odd(self.lateral_kernel, "lateral_kernel")
        checks.integer(self.lateral_ratio, "lateral_ratio", at_least=1)
        _at_least_one_channel(self)
        if self.fusion == "time_to_channel_sum" and any(
            self.alpha * self.fast_channels(c) != c
            for c in (self.width, 4 * self.width, 8 * self.width, 16 * self.width)
        ):
            raise ValueError(
                "time_to_channel_sum adds alpha x beta x C channels to C, so alpha x beta must be 1 and alpha divide "
                f"the width; given: alpha={self.alpha}, beta={self.beta:g}, width={self.width}. Choose others, such as "
                f"beta={1 / self.alpha:g} and width={-(-self.width // self.alpha) * self.alpha}, or another fusion."
            )
        if self.fast_input == "rgb_half" and (self.head_window is not None or self.roi):
            raise ValueError(
                "head_window and roi need both pathways at one resolution, which fast_input='rgb_half' has not"
            )
        if self.non_local:
            check.blocks_exist(self.non_local.blocks, depths[0], "non_local blocks")
            check.blocks_exist(self.non_local.fast_blocks, depths[1], "non_local fast_blocks")

    def slow_indices(self, clip_frames: int | None = None) -> tuple[int, ...]:
        return slow_indices(clip_frames or self.clip_frames, self.slow_frames, self.alpha)

    def __str__(self) -> str:
        return (
            f"SlowFast {self.frames} x {self.stride}: {self.describe_clip()}. The Fast pathway sees all "
            f"{self.clip_frames} (alpha = {self.alpha}, beta = {self.beta:.3g}), the Slow pathway {self.frames} of "
            f"them, {_every(self.stride)} of the video."
        )


@dataclass(frozen=True, kw_only=True)
class ResNet3DConfig(NetworkConfig):
    """A network of one pathway: Slow-only, Fast-only, C2D or I3D.

    ``alpha`` and ``beta`` mean what they mean in a SlowFast network: the one pathway sees alpha x T frames and has beta
    x width channels. Both are 1 but in a Fast-only network. The defaults are the Slow pathway of Table 1.

    Attributes:
        depths: blocks of res2 to res5.
        temporal_kernels: one entry for conv1 and each of res2 to res5; a stage's entry is one kernel for all blocks, or
            a tuple with one for each.
        conv1_stride: temporal stride of conv1: 2 in the I3D networks on 32 frames, else 1.
        pool1_stride: temporal stride of pool1, likewise.
        temporal_pool: halve the frames by max pooling after res2, as C2D and I3D do.
        pool1_padding: padding of pool1: 1, or 0 as in the original code of the 3D ResNet baselines.
    """

    family: ClassVar[str] = "resnet3d"

    alpha: int = 1
    beta: float = 1.0
    depths: Depths = R50
    temporal_kernels: TemporalKernels = SLOW_KERNELS
    conv1_stride: int = 1
    pool1_stride: int = 1
    temporal_pool: bool = False
    pool1_padding: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        depths = check.depths(self.depths, "depths")
        object.__setattr__(self, "depths", depths)
        object.__setattr__(self, "temporal_kernels", check.temporal_kernels(self.temporal_kernels, depths))
        _at_least_one_channel(self)
        checks.boolean(self.temporal_pool, "temporal_pool")
        checks.one_of(self.pool1_padding, (0, 1), "pool1_padding")
        for name in ("conv1_stride", "pool1_stride"):
            checks.integer(getattr(self, name), name, at_least=1)
        if self.clip_frames < self.temporal_reduction:
            raise ValueError(
                f"conv1_stride, pool1_stride and temporal_pool divide the frames by {self.temporal_reduction}, so a "
                f"clip needs at least as many, not {self.clip_frames}"
            )
        if self.non_local:
            check.blocks_exist(self.non_local.blocks, depths, "non_local blocks")
            if any(self.non_local.fast_blocks):
                raise ValueError("a network of one pathway takes non_local blocks, not fast_blocks")

    @property
    def temporal_reduction(self) -> int:
        """By how much the temporal strides and the pooling after res2 divide the frames of a clip."""
        return self.conv1_stride * self.pool1_stride * (2 if self.temporal_pool else 1)

    def __str__(self) -> str:
        return f"{self.frames} x {self.stride}, one pathway: {self.describe_clip()}."


def config_from_dict(values: Mapping[str, Any]) -> SlowFastConfig | ResNet3DConfig:
    """The configuration that ``to_dict`` wrote.

    Raises:
        ValueError: the family is missing or unknown.
        TypeError: a field that the family does not have.
    """
    fields = dict(values)
    family = fields.pop("family", None)
    for config in (SlowFastConfig, ResNet3DConfig):
        if family == config.family:
            return config().replace(**fields)
    raise ValueError(f"a configuration's family is 'slowfast' or 'resnet3d', not {family!r}")


def slow_indices(frames: int, rule: SlowFrames, alpha: int) -> tuple[int, ...]:
    """Which frames of a clip of so many the Slow pathway takes."""
    if rule == "strided":
        return tuple(range(0, frames, alpha))
    t = frames // alpha
    # linspace(0, frames - 1, t), truncated, in exact arithmetic. Upstream's is in float32, which takes the frame before
    # in rare clips of 22 Slow frames or more; no published network has so many.
    return tuple(k * (frames - 1) // max(t - 1, 1) for k in range(t))


def block_kernels(entry: int | tuple[int, ...], depth: int) -> tuple[int, ...]:
    """One temporal kernel a block, from a stage's entry in ``temporal_kernels``."""
    return (entry,) * depth if isinstance(entry, int) else entry


# -- words -----------------------------------------------------------------------------------------------------------


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _every(stride: int) -> str:
    if stride == 1:
        return "every frame"
    suffix = "th" if 10 <= stride % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(stride % 10, "th")
    return f"every {stride}{suffix} frame"


def _at_least_one_channel(config: NetworkConfig) -> None:
    """beta leaves the stem at least one channel."""
    if config.beta * config.width < 1 - 1e-6:
        raise ValueError(
            f"beta={config.beta:g} of width={config.width} gives no whole channel; "
            f"choose a beta of at least {1 / config.width:g}"
        )
