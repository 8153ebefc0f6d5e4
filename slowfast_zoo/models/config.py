"""Configurations: one frozen dataclass describes one network to the last channel, and round-trips through JSON."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Literal, TypeVar, get_args

from slowfast_zoo.layers import FAST_INPUTS, INSTANTIATIONS, FastInput, Instantiation

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

STAGES = ("res2", "res3", "res4", "res5")
ROWS = ("conv1", *STAGES)
FEATURE_NAMES = ("stem", *STAGES)  # the stem is conv1 and pool1

Depths = tuple[int, int, int, int]
# One entry for conv1 and each of res2 to res5; a stage's entry is one kernel for all of its blocks, or one a block.
TemporalKernels = tuple[
    int, "int | tuple[int, ...]", "int | tuple[int, ...]", "int | tuple[int, ...]", "int | tuple[int, ...]"
]

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
    """

    blocks: tuple[tuple[int, ...], ...] = ((), (), (), ())
    fast_blocks: tuple[tuple[int, ...], ...] = ((), (), (), ())
    instantiation: Instantiation = "embedded_gaussian"
    pool: tuple[int, int, int] = (1, 2, 2)

    def __post_init__(self) -> None:
        for name in ("blocks", "fast_blocks"):
            object.__setattr__(self, name, _stage_blocks(getattr(self, name), f"non_local {name}"))
        _one_of(self.instantiation, INSTANTIATIONS, "non_local instantiation")
        object.__setattr__(self, "pool", _int_tuple(self.pool, 3, "non_local pool", at_least=1))


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

    def __post_init__(self) -> None:
        for name in ("frames", "stride", "alpha", "width", "in_chans", "res5_dilation"):
            _integer(getattr(self, name), name, at_least=1)
        _integer(self.num_classes, "num_classes", at_least=0)
        _integer(self.crop, "crop", at_least=32)
        if self.head_window is not None:
            _integer(self.head_window, "head_window", at_least=1)
        _one_of(self.res5_stride, (1, 2), "res5_stride")
        _one_of(self.head_activation, get_args(HeadActivation), "head_activation")
        _one_of(self.head_average, get_args(HeadAverage), "head_average")
        for name in ("beta", "drop_rate"):
            object.__setattr__(self, name, _number(getattr(self, name), name))
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
        non_local: Any = self.non_local
        if isinstance(non_local, Mapping):
            _known_keywords(non_local, NonLocalConfig, "non_local")
            non_local = NonLocalConfig(**non_local)
            object.__setattr__(self, "non_local", non_local)
        if not isinstance(non_local, NonLocalConfig | None):
            raise TypeError(f"non_local is a NonLocalConfig, its fields in a mapping, or None, not {non_local!r}")

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
        _known_keywords(overrides, type(self), "this network")
        return dataclasses.replace(self, **overrides)

    def with_depths(self: C, depths: Any) -> C:
        """A copy with other depths, what stands block by block being fitted to them.

        A stage's temporal kernels are cut, or go on with the last one; non-local blocks beyond the depth are left out.

        Raises:
            ValueError: not depths.
        """
        pairs: Any = depths if _is_pair(depths) else (depths, depths)
        given: Any = self.temporal_kernels  # type: ignore[attr-defined]
        if _is_pair(given):
            kernels: Any = tuple(_fit_kernels(k, _depths(d, "depths")) for k, d in zip(given, pairs, strict=True))
        else:
            kernels = _fit_kernels(given, _depths(depths, "depths"))
        non_local = self.non_local and dataclasses.replace(
            self.non_local,
            blocks=_fit_blocks(self.non_local.blocks, pairs[0]),
            fast_blocks=_fit_blocks(self.non_local.fast_blocks, pairs[1]),
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
        slow_depths, fast_depths = given if _is_pair(given) else (given, given)
        if not _is_pair(self.temporal_kernels):
            raise ValueError(
                "temporal_kernels is a pair, Slow and Fast, each with an entry for conv1 and res2 to res5, such as "
                f"{(SLOW_KERNELS, FAST_KERNELS)}; given: {self.temporal_kernels!r}"
            )
        depths = (_depths(slow_depths, "Slow depths"), _depths(fast_depths, "Fast depths"))
        kernels = tuple(_temporal_kernels(k, d) for k, d in zip(self.temporal_kernels, depths, strict=True))
        object.__setattr__(self, "depths", depths)
        object.__setattr__(self, "temporal_kernels", kernels)
        _boolean(self.lateral_norm, "lateral_norm")
        _one_of(self.fusion, get_args(Fusion), "fusion")
        _one_of(self.slow_frames, get_args(SlowFrames), "slow_frames")
        _one_of(self.fast_input, FAST_INPUTS, "fast_input")
        _odd(self.lateral_kernel, "lateral_kernel")
        _integer(self.lateral_ratio, "lateral_ratio", at_least=1)
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
        if self.fast_input == "rgb_half" and self.head_window is not None:
            raise ValueError("head_window needs both pathways at one resolution, which fast_input='rgb_half' has not")
        if self.non_local:
            _blocks_exist(self.non_local.blocks, depths[0], "non_local blocks")
            _blocks_exist(self.non_local.fast_blocks, depths[1], "non_local fast_blocks")

    def slow_indices(self, clip_frames: int | None = None) -> tuple[int, ...]:
        n = clip_frames or self.clip_frames
        if self.slow_frames == "strided":
            return tuple(range(0, n, self.alpha))
        t = n // self.alpha
        # linspace(0, n - 1, t), truncated, in exact arithmetic. Upstream's is in float32, which takes the frame before
        # in rare clips of 22 Slow frames or more; no published network has so many.
        return tuple(k * (n - 1) // max(t - 1, 1) for k in range(t))

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
        temporal_pool: halve the frames by max pooling after res2, as C2D and I3D do.
        pool1_padding: padding of pool1: 1, or 0 as in the original code of the 3D ResNet baselines.
    """

    family: ClassVar[str] = "resnet3d"

    alpha: int = 1
    beta: float = 1.0
    depths: Depths = R50
    temporal_kernels: TemporalKernels = SLOW_KERNELS
    temporal_pool: bool = False
    pool1_padding: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        depths = _depths(self.depths, "depths")
        object.__setattr__(self, "depths", depths)
        object.__setattr__(self, "temporal_kernels", _temporal_kernels(self.temporal_kernels, depths))
        _at_least_one_channel(self)
        _boolean(self.temporal_pool, "temporal_pool")
        _one_of(self.pool1_padding, (0, 1), "pool1_padding")
        if self.temporal_pool and self.clip_frames < 2:
            raise ValueError("temporal_pool halves the frames, so a clip needs at least 2")
        if self.non_local:
            _blocks_exist(self.non_local.blocks, depths, "non_local blocks")
            if any(self.non_local.fast_blocks):
                raise ValueError("a network of one pathway takes non_local blocks, not fast_blocks")

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


def block_kernels(entry: int | tuple[int, ...], depth: int) -> tuple[int, ...]:
    """One temporal kernel a block, from a stage's entry in ``temporal_kernels``."""
    return (entry,) * depth if isinstance(entry, int) else entry


# -- validation ------------------------------------------------------------------------------------------------------


def _integer(value: Any, name: str, at_least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ValueError(f"{name} is an integer of at least {at_least}, not {value!r}")


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name} is a finite number, not {value!r}")
    return float(value)


def _boolean(value: Any, name: str) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name} is True or False, not {value!r}")


def _known_keywords(given: Mapping[str, Any], config: type[Any], what: str) -> None:
    known = [field.name for field in dataclasses.fields(config)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        near = [match for name in unknown for match in difflib.get_close_matches(name, known, n=1)]
        hint = f"did you mean {' and '.join(map(repr, near))}?" if near else f"it takes {', '.join(known)}"
        raise TypeError(f"{what} takes no keyword {', '.join(map(repr, unknown))}; {hint}")


def _odd(value: Any, name: str) -> None:
    _integer(value, name, at_least=1)
    if value % 2 == 0:
        raise ValueError(f"{name} is odd, so that frames keep their places; given: {value}")


def _one_of(value: Any, allowed: Sequence[Any], name: str) -> None:
    if isinstance(value, bool) or value not in allowed:
        raise ValueError(f"{name} is one of {', '.join(map(repr, allowed))}, not {value!r}")


def _int_tuple(value: Any, length: int, name: str, at_least: int) -> tuple[int, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != length:
        raise ValueError(f"{name} holds {length} integers, not {value!r}")
    for item in value:
        _integer(item, f"each entry of {name}", at_least)
    return tuple(value)


def _is_pair(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) == 2 and all(isinstance(v, Sequence) for v in value)


def _depths(value: Any, name: str) -> Depths:
    return _int_tuple(value, 4, f"{name} (blocks of res2 to res5)", at_least=1)  # type: ignore[return-value]


def _temporal_kernels(value: Any, depths: Depths) -> TemporalKernels:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != len(ROWS):
        raise ValueError(f"temporal_kernels has an entry for each of {', '.join(ROWS)}; given: {value!r}")
    _odd(value[0], "the temporal kernel of conv1")
    rows: list[int | tuple[int, ...]] = [value[0]]
    for stage, entry, depth in zip(STAGES, value[1:], depths, strict=True):
        if isinstance(entry, Sequence) and not isinstance(entry, str):
            if len(entry) != depth:
                raise ValueError(
                    f"{stage} has {depth} blocks but temporal_kernels gives {len(entry)} for them: "
                    f"{tuple(entry)!r}. Give one kernel a block, or one for the whole stage."
                )
            entry = tuple(entry)
        for kernel in entry if isinstance(entry, tuple) else (entry,):
            _odd(kernel, f"a temporal kernel of {stage}")
        rows.append(entry)
    return tuple(rows)  # type: ignore[return-value]


def _stage_blocks(value: Any, name: str) -> tuple[tuple[int, ...], ...]:
    if isinstance(value, Mapping):
        if not set(value) <= set(STAGES):
            raise ValueError(f"{name} maps stages ({', '.join(STAGES)}) to block indices, not {dict(value)!r}")
        value = tuple(value.get(stage, ()) for stage in STAGES)
    if not isinstance(value, Sequence) or len(value) != len(STAGES):
        raise ValueError(f"{name} holds the block indices of each of {', '.join(STAGES)}, not {value!r}")
    for indices in value:
        if not isinstance(indices, Sequence) or len(set(indices)) != len(indices):
            raise ValueError(f"{name} holds a sequence of different block indices for each stage, not {value!r}")
    return tuple(_int_tuple(indices, len(indices), name, at_least=0) for indices in value)


def _blocks_exist(blocks: tuple[tuple[int, ...], ...], depths: Depths, name: str) -> None:
    for stage, indices, depth in zip(STAGES, blocks, depths, strict=True):
        if any(i >= depth for i in indices):
            raise ValueError(f"{name}: {stage} has {depth} blocks, 0 to {depth - 1}, so none of {indices} beyond that")


def _fit_kernels(kernels: TemporalKernels, depths: Depths) -> TemporalKernels:
    rows = [
        entry if isinstance(entry, int) else (entry + (entry[-1],) * depth)[:depth]
        for entry, depth in zip(kernels[1:], depths, strict=True)
    ]
    return (kernels[0], *rows)  # type: ignore[return-value]


def _fit_blocks(blocks: tuple[tuple[int, ...], ...], depths: Depths) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(i for i in indices if i < depth) for indices, depth in zip(blocks, depths, strict=True))


def _at_least_one_channel(config: NetworkConfig) -> None:
    if config.beta * config.width < 1 - 1e-6:
        raise ValueError(
            f"beta={config.beta:g} of width={config.width} gives no whole channel; "
            f"choose a beta of at least {1 / config.width:g}"
        )


# -- words -----------------------------------------------------------------------------------------------------------


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _every(stride: int) -> str:
    if stride == 1:
        return "every frame"
    suffix = "th" if 10 <= stride % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(stride % 10, "th")
    return f"every {stride}{suffix} frame"
