"""How a network is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from typing import Any, Literal, get_args

from slowfast_zoo.models.config import FEATURE_NAMES

BatchNorm = Literal["batch", "sync", "split", "frozen"]
Precision = Literal["bfloat16", "float16"]

SPLIT_CLIPS = 8  # of which batch norm takes the statistics in the paper

# The paper trains with a rate of 1.6 for 1024 clips a step (its appendix), which is 0.1 for 64; rates grow with clips.
_SCRATCH_RATE = 0.1 / 64
# Half of it is a choice, and no figure of the paper's: pretrained weights are to be moved, not lost.
_FINETUNE_RATE = _SCRATCH_RATE / 2
# With a sigmoid for each class the loss is a mean over classes, and gradients are small: what the paper fine-tunes
# Charades with, 0.0375 for 16 clips.
_SETS_RATE = 0.0375 / 16
# The paper warms up for 8 of 60 thousand steps.
_WARMUP = 2 / 15

_LARGEST_SEED = 2**62  # PyTorch's generators take 64 bits with a sign, and epochs are added
# More than any use has.
_MOST = {"clips": 1_000, "crop": 20_000, "workers": 256} | dict.fromkeys(("epochs", "batch_size", "accumulate"), 10**6)
_OPTIONAL = ("lr", "warmup_epochs", "layer_decay", "clip_grad", "ema")  # where None is a value


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a training's result depends on beside network and data; :func:`~slowfast_zoo.finetune` says what.

    Raises:
        ValueError: a value that makes no sense.
    """

    epochs: int
    batch_size: int
    accumulate: int
    lr: float | None
    optimizer: str
    momentum: float
    weight_decay: float
    warmup_epochs: float | None
    layer_decay: float | None
    drop_rate: float
    flip: bool
    label_smoothing: float
    mixup: float
    freeze: str | None
    batch_norm: BatchNorm
    amp: Precision | None
    clip_grad: float | None
    ema: float | None
    clips: int
    crops: int | str
    seed: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if getattr(value, "ndim", None) == 0:  # numpy's, which a state could not be loaded with
                object.__setattr__(self, field.name, value.item())
        for name in ("epochs", "batch_size", "accumulate", "clips"):
            check_whole(name, getattr(self, name), 1)
        self._check("seed", lambda v: is_whole(v) and 0 <= v <= _LARGEST_SEED, "a whole number from 0 to 2**62")
        check_flag("flip", self.flip)
        for name in ("lr", "clip_grad"):
            self._check_real(name, lambda value: 0 < value < float("inf"), "above 0")
        for name in ("weight_decay", "mixup"):
            self._check_real(name, lambda value: 0 <= value < float("inf"), "at least 0")
        for name in ("momentum", "drop_rate", "label_smoothing"):
            self._check_real(name, lambda value: 0 <= value < 1, "at least 0 and below 1")
        for name in ("layer_decay", "ema"):
            self._check_real(name, lambda value: 0 < value < 1, "above 0 and below 1")
        self._check_real("warmup_epochs", lambda v: 0 <= v < self.epochs, f"from 0 to below {self.epochs} epochs")
        self._check("crops", lambda v: v in (1, 3, "full") and not isinstance(v, float), '1, 3, or "full"')
        self._check("optimizer", lambda value: isinstance(value, str), "the name of one of timm's")
        for name, known in (("batch_norm", get_args(BatchNorm)), ("amp", (None, *get_args(Precision)))):
            self._check(name, known.__contains__, "one of " + ", ".join(map(repr, known)))
        self._check("freeze", (None, *FEATURE_NAMES).__contains__, f"one of {', '.join(FEATURE_NAMES)}, or None")
        if self.mixup and self.batch_size % 2:
            raise ValueError(f"mixup mixes pairs of clips and needs an even batch_size, not {self.batch_size}")
        if self.batch_norm == "split" and self.batch_size % SPLIT_CLIPS:
            raise ValueError(
                f'batch_norm="split" takes the statistics of {SPLIT_CLIPS} clips each, so batch_size must be a '
                f"multiple of {SPLIT_CLIPS}, not {self.batch_size}"
            )

    def _check(self, name: str, fits: Callable[[Any], bool], wanted: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or getattr(value, "ndim", False) or not fits(value):
            raise ValueError(f"{name} must be {wanted}, not {value!r}")

    def _check_real(self, name: str, fits: Callable[[float], bool], wanted: str) -> None:
        """Like :meth:`_check`, of a number, which is a float from then on; None where that is the default."""
        value = getattr(self, name)
        if value is None and name in _OPTIONAL:
            return
        self._check(name, lambda value: is_real(value) and fits(_as_float(value)), f"a number {wanted}")
        object.__setattr__(self, name, float(value))

    @property
    def least_batch(self) -> int:
        """The smallest batch that the other settings take."""
        return SPLIT_CLIPS if self.batch_norm == "split" else 2 if self.mixup else 1

    def rate(self, processes: int, *, pretrained: bool, multi_label: bool) -> float:
        """The highest learning rate."""
        if self.lr is not None:
            return self.lr
        a_clip = _SETS_RATE if multi_label else _FINETUNE_RATE if pretrained else _SCRATCH_RATE
        return a_clip * self.batch_size * self.accumulate * processes

    def warmup(self, steps_an_epoch: int) -> int:
        """Steps of linear warm-up."""
        epochs = _WARMUP * self.epochs if self.warmup_epochs is None else self.warmup_epochs
        return min(round(epochs * steps_an_epoch), self.epochs * steps_an_epoch - 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def check_whole(name: str, value: Any, least: int) -> None:
    """Raises ValueError unless it is a whole number that a training can have."""
    if not is_whole(value) or not least <= value <= _MOST[name]:
        raise ValueError(f"{name} must be a whole number from {least} to {_MOST[name]}, not {value!r}")


def check_flag(name: str, value: object) -> None:
    """Raises ValueError unless it is True or False, Python's or NumPy's: "no" would be as good as True."""
    if getattr(value, "ndim", 0) or not isinstance(getattr(value, "item", lambda: value)(), bool):
        raise ValueError(f"{name} must be True or False, not {value!r}")


def is_whole(value: object) -> bool:
    """Whether it is a whole number, Python's or NumPy's."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_real(value: object) -> bool:
    """Whether it is a number, Python's or NumPy's."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _as_float(value: Any) -> float:
    """Infinity for whole numbers that no float is as large as."""
    try:
        return float(value)
    except OverflowError:
        return float("inf")
