"""The settings of a fine-tuning, each said once: its type, its default, its bounds and what it means.

The signature of :func:`~slowfast_zoo.finetune`, its documentation, the checks of its arguments and the options of the
command follow from the fields of :class:`Settings`.
"""
# ruff: noqa: RUF009 - the defaults are made by dataclasses.field

from __future__ import annotations

import functools
import inspect
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from numbers import Real
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from slowfast_zoo.models.config import FEATURE_NAMES

if TYPE_CHECKING:
    from typing import Literal

    import torch

    from slowfast_zoo.models import VideoNetwork

    from .data import VideoList

    BatchNorm = Literal["batch", "sync", "split", "frozen"]
    Precision = Literal["bfloat16", "float16"]

P = ParamSpec("P")
R = TypeVar("R")

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

# The groups of options in the command's help.
SCHEDULE, REGULARISATION = "schedule", "augmentation and regularisation"
PARTS, MACHINE = "what trains", "validation, memory and files"


@dataclass(frozen=True)
class Check:
    """What a value has to be, in words and as a test; None is allowed too where it is the default."""

    wanted: str
    fits: Callable[[Any], bool]
    choices: tuple[Any, ...] = ()


def _whole(least: int, most: int = 10**6) -> Check:
    return Check(f"a whole number from {least} to {most}", lambda v: isinstance(v, int) and least <= v <= most)


def _number(wanted: str, fits: Callable[[Any], bool]) -> Check:
    return Check(f"a number {wanted}", lambda v: isinstance(v, Real) and fits(v))


def _one_of(*choices: Any) -> Check:
    # The test of the type keeps 1.0 and arrays from being taken for 1.
    fits: Callable[[Any], bool] = lambda v: isinstance(v, (int, str)) and v in choices  # noqa: E731
    return Check("one of " + ", ".join(map(repr, choices)), fits, choices)


_FLAG = Check("True or False", lambda v: True)  # every other kind refuses bool
_LARGEST = sys.float_info.max
_ABOVE_0 = _number("above 0", lambda v: 0 < v <= _LARGEST)
_AT_LEAST_0 = _number("at least 0", lambda v: 0 <= v <= _LARGEST)
_BELOW_1 = _number("at least 0 and below 1", lambda v: 0 <= v < 1)
_BETWEEN = _number("above 0 and below 1", lambda v: 0 < v < 1)
_SHARE = _number("from 0 to 1", lambda v: 0 <= v <= 1)
_TEXT = Check("the name of one of timm's", lambda v: isinstance(v, str))


def _setting(
    default: Any,
    check: Check | None,
    meaning: str,
    group: str = "",
    metavar: str | None = None,
    *,
    option: tuple[str, str] | None = None,
    may_change: bool = False,
) -> Any:
    """A field of :class:`Settings`.

    Args:
        default: its value unless given.
        check: what a value has to be.
        meaning: what the documentation and the command's help say; ``{}`` stands for the default.
        group: the group of its option in the command's help; empty for what the command adds by hand.
        metavar: what the command's help calls the value.
        option: an option of another name, which switches it off, and its help.
        may_change: a run goes on with another value of it than it began with.
    """
    about = {"meaning": meaning.replace("{}", str(default)), "check": check, "group": group, "metavar": metavar}
    return field(default=default, metadata={**about, "option": option, "may_change": may_change})


# fmt: off
@dataclass(frozen=True, eq=False)
class Settings:
    """The arguments of :func:`~slowfast_zoo.finetune`.

    Raises:
        ValueError: a value that makes no sense.
    """

    model: str | VideoNetwork[Any] = field(metadata={"meaning":
        "the name of a model, whose classifier is replaced by one for these classes unless it is one already; or a "
        "network from create_model with as many outputs as there are classes, which is trained itself. One that was "
        "frozen in parts stays so"})
    train: VideoList = field(metadata={"meaning":
        "videos to train on: a folder with a folder for each class; a folder with the folders train and val, each with "
        "a folder for each class; a list of paths and labels, or what read_dataset made of one; pairs of a path and a "
        "label (a name, an index or several); or paths, whose label is the name of the folder that they lie in"})
    val: VideoList | float | None = _setting(None, None,
        "videos to validate on, given like those to train on; a number is the share of the training videos that is "
        "held out, of each class, at random. None is the folder val, or else 0.2")
    _: KW_ONLY
    output: str | os.PathLike[str] = field(metadata={"meaning":
        "folder for the networks, the state, metrics.csv and curves.png. If it holds an interrupted run of the same "
        "arguments, this one goes on with it, and its result is that of a run without interruption"})
    labels: Sequence[str] | None = _setting(None, None,
        "class names in the order of their indices; None takes those of the data, sorted, or the network's own order "
        "where it has the same names")
    root: str | os.PathLike[str] | None = _setting(None, None,
        "the folder that the paths in lists start from; None is each list's own")
    multi_label: bool | None = _setting(None, _FLAG,
        "whether videos have sets of labels: then there is a sigmoid for each class, and mean average precision is "
        "what counts. None does so if any has several")
    pretrained: bool = _setting(True, _FLAG, "load the weights of a named model", PARTS,
        option=("--from-scratch", "begin with random weights"))
    crop: int | None = _setting(None, _whole(1, 20_000),  # a run records it in the transform
        "side of the clips in pixels in validation and use (default: the model's); in training seven eighths of it",
        PARTS, "N", may_change=True)
    epochs: int = _setting(20, _whole(1), "how often each video is seen (default: {})", SCHEDULE, "N")
    batch_size: int = _setting(8, _whole(1), "clips of a process at once (default: {})", SCHEDULE, "N")
    accumulate: int = _setting(1, _whole(1), "batches of a step (default: {})", SCHEDULE, "N")
    lr: float | None = _setting(None, _ABOVE_0,
        "highest learning rate (default: by the clips of a step, half of the paper's 0.1 for 64)", SCHEDULE, "RATE")
    optimizer: str = _setting("sgd", _TEXT,
        "any of timm's that need only first derivatives (default: {}, with Nesterov's momentum)", SCHEDULE, "NAME")
    momentum: float = _setting(0.9, _BELOW_1, "of SGD (default: {})", SCHEDULE, "M")
    weight_decay: float = _setting(1e-4, _AT_LEAST_0, "not of batch norms and biases (default: 1e-4)", SCHEDULE, "W")
    warmup_epochs: float | None = _setting(None, _AT_LEAST_0,
        "epochs of linear warm-up (default: 2/15 of them)", SCHEDULE, "N")
    layer_decay: float | None = _setting(None, _BETWEEN,
        "factor of the learning rate from one stage to that before it", SCHEDULE, "F")
    drop_rate: float = _setting(0.5, _BELOW_1, "dropout before the classifier (default: {})", REGULARISATION, "P")
    flip: bool = _setting(True, _FLAG, "mirror half of the clips: not where classes know left from right",
        REGULARISATION, option=("--no-flip", "mirror no clips: for classes that know left from right"))
    label_smoothing: float = _setting(0.0, _BELOW_1,
        "share of a label that is spread over all classes", REGULARISATION, "S")
    mixup: float = _setting(0.0, _AT_LEAST_0, "mix pairs of clips and their labels", REGULARISATION, "ALPHA")
    freeze: str | None = _setting(None, _one_of(*FEATURE_NAMES),
        "the last stage that does not train; res5 leaves only the classifier", PARTS)
    batch_norm: BatchNorm = _setting("batch", _one_of("batch", "sync", "split", "frozen"),
        "statistics of each process's batch (the default), of all processes' (GPUs only), of 8 clips each as in the "
        "paper, or the pretrained ones", PARTS)
    amp: Precision | None = _setting(None, _one_of("bfloat16", "float16"),
        "compute in this type what loses nothing by it", MACHINE)
    clip_grad: float | None = _setting(None, _ABOVE_0, "longest gradient", SCHEDULE, "NORM")
    grad_checkpointing: bool = _setting(False, _FLAG, "less memory, more time", MACHINE, may_change=True)
    ema: float | None = _setting(None, _BETWEEN,
        "validate and write a moving average of the weights, of such as 0.99", REGULARISATION, "DECAY")
    clips: int = _setting(1, _whole(1, 1_000), "clips of a video in validation (default: 1, the centre)", MACHINE, "N")
    crops: int | str = _setting(1, _one_of(1, 3, "full"),
        "crops of a clip, or the full frame (default: {})", MACHINE)
    seed: int = _setting(0, _whole(0, 2**62),  # PyTorch's generators take 64 bits with a sign, and epochs are added
        "of all that is random (default: {})", SCHEDULE, "N")
    device: str | torch.device | None = _setting(None, None,
        "cpu, cuda, cuda:1, ... (default: the GPU if there is one; under torchrun one for each)", MACHINE,
        may_change=True)
    workers: int | None = _setting(None, _whole(0, 256),
        "processes that decode videos (default: none, on a GPU up to 8)", MACHINE, "N", may_change=True)
    max_bad: float = _setting(0.05, _SHARE,
        "stop if more of the videos cannot be read (default: {})", MACHINE, "SHARE", may_change=True)
    resume: bool = _setting(True, _FLAG,
        "go on with what is in the output folder, for more epochs if epochs has grown; False begins again, in place of "
        "another fine-tuning", MACHINE,
        option=("--restart", "begin again, in place of the fine-tuning in FOLDER"), may_change=True)
    tensorboard: bool = _setting(False, _FLAG, "write the numbers for TensorBoard too", MACHINE, may_change=True)
    progress: bool = _setting(False, _FLAG, "show a progress bar, and a line of numbers an epoch", may_change=True)
    # fmt: on

    def __post_init__(self) -> None:
        for known in fields(self):
            value, check = getattr(self, known.name), known.metadata.get("check")
            if getattr(value, "ndim", None) == 0:  # NumPy's, which a state could not be loaded with
                value = value.item()
            may_be_none = known.default is None
            if check and not (value is None and may_be_none):
                if isinstance(value, bool) != (check is _FLAG) or not check.fits(value):
                    none = ", or None" if may_be_none else ""
                    raise ValueError(f"{known.name} must be {check.wanted}{none}, not {value!r}")
                if str(known.type).startswith("float"):
                    value = float(value)
            object.__setattr__(self, known.name, value)
        if self.warmup_epochs is not None and self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs must be a number from 0 to below {self.epochs} epochs, not {self.warmup_epochs}"
            )
        if self.mixup and self.batch_size % 2:
            raise ValueError(f"mixup mixes pairs of clips and needs an even batch_size, not {self.batch_size}")
        if self.batch_norm == "split" and self.batch_size % SPLIT_CLIPS:
            raise ValueError(
                f'batch_norm="split" takes the statistics of {SPLIT_CLIPS} clips each, so batch_size must be a '
                f"multiple of {SPLIT_CLIPS}, not {self.batch_size}"
            )

    @property
    def least_batch(self) -> int:
        """The smallest batch that the other settings take."""
        return SPLIT_CLIPS if self.batch_norm == "split" else 2 if self.mixup else 1

    def rate(self, processes: int, *, multi_label: bool) -> float:
        """The highest learning rate."""
        if self.lr is not None:
            return self.lr
        is_pretrained = self.pretrained or not isinstance(self.model, str)
        a_clip = _SETS_RATE if multi_label else _FINETUNE_RATE if is_pretrained else _SCRATCH_RATE
        return a_clip * self.batch_size * self.accumulate * processes

    def warmup(self, steps_an_epoch: int) -> int:
        """Steps of linear warm-up."""
        epochs = _WARMUP * self.epochs if self.warmup_epochs is None else self.warmup_epochs
        return min(round(epochs * steps_an_epoch), self.epochs * steps_an_epoch - 1)

    def recorded(self) -> dict[str, Any]:
        """What a run can only go on with unchanged; the data and the network are recorded by their contents."""
        known = [one for one in fields(self) if one.metadata.get("group") and not one.metadata["may_change"]]
        return {one.name: getattr(self, one.name) for one in known}


def takes_settings(settings: Callable[P, Settings]) -> Callable[[Callable[[Settings], R]], Callable[P, R]]:
    """Give a function of :class:`Settings` the signature of its constructor, and a description of each argument.

    Type checkers see the signature too: it is that of ``settings``, which ``P`` stands for.
    """

    def decorate(work: Callable[[Settings], R]) -> Callable[P, R]:
        @functools.wraps(work)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return work(settings(*args, **kwargs))

        signature = inspect.signature(settings).replace(return_annotation=work.__annotations__["return"])
        call.__signature__ = signature  # type: ignore[attr-defined]
        before, _, after = inspect.cleandoc(work.__doc__ or "").partition("Returns:")
        lines = [
            textwrap.fill(
                f"{one.name}: {one.metadata['meaning']}.", 116, initial_indent=" " * 4, subsequent_indent=" " * 8
            )
            for one in fields(Settings)
        ]
        call.__doc__ = f"{before}Args:\n" + "\n".join(lines) + f"\n\nReturns:{after}"
        return call

    return decorate
