"""Loading checkpoints of any project into a network, strictly."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from slowfast_zoo.errors import WeightsError, printable
from slowfast_zoo.models import (
    ARCHITECTURES,
    FeatureNetwork,
    SlowFastConfig,
    VideoNetwork,
    build,
    materialize,
    unwrapped,
)
from slowfast_zoo.models.record import WeightsRecord
from slowfast_zoo.models.wrappers import INSIDE, whole

from .layouts import Layout
from .layouts.image import Inflation, inflate, is_kept
from .layouts.layout import IMAGENET_MEAN
from .manifest import default_record, records
from .parts import describe_aside, describe_places
from .reading import Checkpoint, Prefix, describe_unread, read_checkpoints

_log = logging.getLogger(__name__)
_CLASSIFIER = ("head.fc.weight", "head.fc.bias")
IMAGENET = {"mean": IMAGENET_MEAN, "std": (0.229, 0.224, 0.225)}
_SHOWN = 3  # names in an error before the rest is counted

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# What is no tensor of a network's classifier in the layouts, and yet belongs to one.
_HEAD = "head."
_WRAPPER = re.compile(rf"\b(?:{'|'.join(INSIDE)})\.")  # what wrappers of single parts put into a network's names
_MOST_TIMES = 100  # how much larger than an image network the network is that it fills: the Fast pathway, a classifier


def load_checkpoint(
    model: VideoNetwork[Any] | FeatureNetwork,
    path: str | os.PathLike[str],
    *,
    prefix: Prefix = None,
    new_classifier: bool = False,
    adapt_stems: bool = False,
) -> None:
    """Reads a checkpoint into a network of its architecture, strictly.

    The network is looked for in all that training loops and wrappers put around and next to it: other networks, heads,
    weights of losses, metrics. One warning names what is left aside. Where several networks in the file fit, an average
    of the weights (``model_ema``, ``state_dict_ema``, ``shadow``, ``swa``) is taken; any other two are refused.

    An image ResNet (torchvision's or timm's) is inflated: see :func:`load_image_weights`.

    Args:
        model: the network, changed in place. One on the meta device gets the checkpoint's tensors as its own. A
            :class:`~slowfast_zoo.models.FeatureNetwork` takes what it has; the classifier and stages that it lacks are
            left aside.
        path: a file of this library, PySlowFast (also in Caffe2), PyTorchVideo, MMAction2 or GluonCV, recognised by its
            content; or the index of one in several files (``model.safetensors.index.json``), or the folder with it.
        new_classifier: keep the network's own classifier where the checkpoint's has another number of classes, or none;
            said in one line of the log. What ``create_model(..., num_classes=...)`` does.
        adapt_stems: fit weights for three channels to a network on another number, as timm does. What
            ``create_model(..., in_chans=...)`` does.
        prefix: which network of several in the file: what stands before its names, such as ``"encoder_q."``, or a part
            of that between dots; or a function from a tensor's name in the file, as it stands in its dict, to the
            network's name for it, or to None for what is to be left aside.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: ``model`` is not a network of this library, or ``prefix`` neither a string nor such a function.
        WeightsError: the file cannot be read, or its tensors are not those of the network: missing, unexpected or of
            another shape; or several networks in it fit, and none of them is an average. The message names the first
            few. The network is then unchanged.
    """
    given: Any = whole(unwrapped(model), "load_checkpoint")
    network = given.network if isinstance(given, FeatureNetwork) else given
    if not isinstance(network, VideoNetwork):
        raise TypeError(f"load_checkpoint takes a network made by create_model, not {type(given).__name__}")
    if prefix is not None and not isinstance(prefix, str) and not callable(prefix):
        raise TypeError(f"prefix is a string such as 'encoder_q.' or a function that gives names, not {prefix!r}")
    on_meta = next(network.parameters()).is_meta
    checkpoints = read_checkpoints(path, mapped=not on_meta, prefix=prefix)
    expected = _tensors(network)
    unused = _find_lacking(network) if isinstance(given, FeatureNetwork) else None

    def fit(checkpoint: Checkpoint) -> Fit:
        if checkpoint.layout.name == "image":
            return _fit_image(checkpoint, network, "center", adapt_stems=adapt_stems)
        return _fit(
            checkpoint, expected, network, adapt_stems=adapt_stems, new_classifier=new_classifier, unused=unused
        )

    fitted = _choose(checkpoints, expected, fit)
    _report(fitted, checkpoints)
    if fitted.checkpoint.layout.name == "image":
        _fill_from_image(network, fitted, IMAGENET)
        given.pretrained_cfg = network.pretrained_cfg
        return
    _warn_of_other_rules(fitted.checkpoint, network)
    state = _copy_shared(fitted.state) if on_meta else fitted.state
    _load(network, state, assign=on_meta)
    if on_meta and network.num_classes and _CLASSIFIER[0] in expected.keys() - state.keys():
        network.reset_classifier(network.num_classes)


def load_inflated(
    model: VideoNetwork[Any],
    checkpoints: list[Checkpoint],
    how: Inflation,
    *,
    adapt_stems: bool = False,
    normalisation: Mapping[str, Sequence[float]] = IMAGENET,
) -> None:
    """Loads an image network into a video network: what :func:`load_image_weights` says of it.

    Args:
        model: the network, changed in place.
        checkpoints: the networks that the source holds.
        how: "center" or "mean".
        adapt_stems: fit stems for three channels to another number.
        normalisation: mean and standard deviation of the image network's input, which the network takes over.

    Raises:
        WeightsError: it is no image network, or does not fit.
    """
    fitted = _choose(checkpoints, _tensors(model), lambda c: _fit_image(c, model, how, adapt_stems=adapt_stems))
    _report(fitted, checkpoints)
    _fill_from_image(model, fitted, normalisation)


def convert_file(path: str | os.PathLike[str], record: WeightsRecord) -> dict[str, Tensor]:
    """A published checkpoint as the state dict of the network that its record describes.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: the file cannot be read, or is not what the record says.
    """
    checkpoints = read_checkpoints(path)
    if record.source_layout is not None and record.source_layout not in [c.layout.name for c in checkpoints]:
        raise WeightsError(
            f"{checkpoints[0].path!r} is in the layout of {checkpoints[0].layout.title}, which {record.name} is not "
            "published in: it is another file"
        )
    with torch.device("meta"):
        model = build(record.config)
    expected = model.state_dict()
    return _choose(checkpoints, expected, lambda c: _fit(c, expected, model)).state


def _find_lacking(network: VideoNetwork[Any]) -> frozenset[str]:
    """The tensors of a whole network that the one of a FeatureNetwork lacks."""
    with torch.device("meta"):
        complete = build(network.config)
    return frozenset(complete.state_dict().keys() - _tensors(network).keys())


def _tensors(network: VideoNetwork[Any]) -> dict[str, Tensor]:
    """A network's tensors by the names that they have where no part of it is wrapped, as by ``torch.compile``."""
    return {_WRAPPER.sub("", name): tensor for name, tensor in network.state_dict().items()}


def _load(network: VideoNetwork[Any], state: Mapping[str, Tensor], *, assign: bool = False) -> None:
    """Loads tensors by the names that :func:`_tensors` gives; what is missing was allowed when they were fitted."""
    plain = {_WRAPPER.sub("", name): name for name in network.state_dict()}
    network.load_state_dict({plain[name]: tensor for name, tensor in state.items()}, strict=False, assign=assign)


@dataclass(frozen=True)
class Fit:
    """A network of a file that fits the one that is to be filled.

    Attributes:
        checkpoint: the network in the file.
        state: what is to be loaded.
        aside: names in the file that are not of the network.
        notes: what else is to be said, in words.
    """

    checkpoint: Checkpoint
    state: dict[str, Tensor]
    aside: list[str]
    notes: list[str]


def _choose(checkpoints: list[Checkpoint], expected: Mapping[str, Tensor], fit: Callable[[Checkpoint], Fit]) -> Fit:
    """The network of a file that fits wholly; of several, a video network, and the average of that.

    Args:
        checkpoints: the networks that the file holds.
        expected: the tensors of the network that is to be filled, whose types those of the result have.
        fit: fits one of them.

    Raises:
        WeightsError: none fits, or several that are not the same.
    """
    chosen: Fit | None = None
    others: list[str] = []
    failures: dict[int, WeightsError] = {}
    for checkpoint in sorted(checkpoints, key=_preference):
        if chosen is not None and _preference(checkpoint) > _preference(chosen.checkpoint):
            break
        try:
            found = fit(checkpoint)
        except WeightsError as error:
            failures.setdefault(checkpoint.rank, error.with_traceback(None))  # which would keep all tensors
            continue
        if chosen is None:
            chosen = found
        elif not _is_same(chosen.state, found.state, expected):
            others.append(checkpoint.place)
    if chosen is None:
        first = failures.get(1) or failures[min(failures)]
        if len(checkpoints) == 1:
            raise first
        places = describe_places([c.place for c in checkpoints])
        raise WeightsError(f"none of the networks in it ({places}) fits. Of one of them: {first}") from first
    if others:
        places = describe_places([chosen.checkpoint.place, *others])
        raise WeightsError(
            f"{checkpoints[0].path!r} has several networks that fit, under {places}, with different weights: name the "
            "one that is meant, as in load_checkpoint(model, path, prefix=...)"
        )
    state = {name: tensor.to(expected[name].dtype).contiguous() for name, tensor in chosen.state.items()}
    return replace(chosen, state=state)


def _preference(checkpoint: Checkpoint) -> tuple[bool, int]:
    return checkpoint.layout.name == "image", checkpoint.rank


def _is_same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.equal(tensor.to(expected[name].dtype), theirs[name].to(expected[name].dtype))
        for name, tensor in ours.items()
    )


def _report(fitted: Fit, checkpoints: list[Checkpoint]) -> None:
    """Says what was taken and what was left aside, where that is not the whole file."""
    checkpoint = fitted.checkpoint
    if checkpoint.rank == 0:
        _log.info("%s: the averaged weights (%s) are taken", checkpoint.path, printable(checkpoint.place))
    for note in fitted.notes:
        _log.info("%s: %s", checkpoint.path, note)
    rest = [other.place for other in checkpoints if other.place and other.place != checkpoint.place]
    if rest:
        _log.info("%s: other networks in it are left aside: %s", checkpoint.path, describe_places(rest))
    before = f"{checkpoint.place}." if checkpoint.place else ""
    names = [*(f"{before}{name}" for name in fitted.aside), *checkpoint.others]
    aside = describe_aside([name for name in names if not name.startswith(tuple(f"{place}." for place in rest))])
    if aside:
        where = f", under {printable(checkpoint.place)!r}" if before else ""
        warnings.warn(f"{checkpoint.path!r}: its network{where} is read; left aside: {aside}", stacklevel=3)


def _fit_image(checkpoint: Checkpoint, model: VideoNetwork[Any], how: Inflation, *, adapt_stems: bool) -> Fit:
    """An image network inflated to those parts of a video network that image networks have."""
    long = [name for name, tensor in checkpoint.state.items() if tensor.ndim == 5 and tensor.shape[2] != 1]
    if long:
        raise WeightsError(
            f"{checkpoint.path!r} is no image network: {printable(long[0], 80)} sees "
            f"{checkpoint.state[long[0]].shape[2]} frames. load_checkpoint reads the weights of video networks."
        )
    complete = _tensors(model)
    expected = {name: tensor for name, tensor in complete.items() if not is_kept(name)}
    checkpoint = replace(checkpoint, state=inflate(checkpoint.state, expected, how))
    fitted = _fit(checkpoint, expected, model, adapt_stems=adapt_stems, new_classifier=True)
    size = sum(tensor.numel() for tensor in fitted.state.values())
    if sum(tensor.numel() for name, tensor in complete.items() if not name.startswith(_HEAD)) > _MOST_TIMES * size:
        raise WeightsError(f"{checkpoint.path!r} is too small an image network for this one ({model.config})")
    return fitted


def _fill_from_image(model: VideoNetwork[Any], fitted: Fit, normalisation: Mapping[str, Sequence[float]]) -> None:
    materialize(model)  # an image network does not fill all of it
    _load(model, fitted.state)
    model.pretrained_cfg = {**model.pretrained_cfg, "tag": "", "labels": None}  # nothing that it was named for
    if model.config.in_chans == 3:
        taken_over = {key: list(values) for key, values in normalisation.items()}
        model.pretrained_cfg = {**model.pretrained_cfg, **taken_over}


def _has_other_classifier(checkpoint: Checkpoint, expected: Mapping[str, Tensor]) -> bool:
    """Whether the numbers of classes differ, so that the network keeps its own classifier."""
    theirs, ours = checkpoint.state.get(_CLASSIFIER[1]), expected.get(_CLASSIFIER[1])
    if theirs is not None and ours is not None and theirs.shape == ours.shape:
        return False
    # Another shape is no classifier of another size but something else, which does not fit.
    return theirs is None or theirs.ndim == 1


def _fit(
    checkpoint: Checkpoint,
    expected: Mapping[str, Tensor],
    model: VideoNetwork[Any],
    *,
    adapt_stems: bool = False,
    new_classifier: bool = False,
    unused: frozenset[str] | None = None,
) -> Fit:
    """The checkpoint's tensors, if they are the expected ones of the network.

    Args:
        checkpoint: a network in a file.
        expected: the tensors that the network has.
        model: the network.
        adapt_stems: as in :func:`load_checkpoint`.
        new_classifier: as in :func:`load_checkpoint`.
        unused: of a network for features, the tensors that it lacks; None for any other.

    Raises:
        WeightsError: missing, unexpected or wrong-shaped tensors.
    """
    state, expected, notes = dict(checkpoint.state), dict(expected), []
    if new_classifier and _has_other_classifier(checkpoint, expected):
        theirs, ours = state.get(_CLASSIFIER[1]), expected.get(_CLASSIFIER[1])
        counts = ("no" if theirs is None else len(theirs), "none" if ours is None else len(ours))
        notes.append(f"classifier of {counts[0]} classes left out, the network's own has {counts[1]}")
        for name in [name for name in state if name.startswith(_HEAD)]:
            del state[name]
        for name in _CLASSIFIER:
            expected.pop(name, None)
    if unused is not None:
        left_out = [name for name in state if name in unused or name.startswith(_HEAD)]
        stages = sorted({name.split(".")[0 if name.startswith(_HEAD) else 1] for name in left_out})
        if left_out:
            notes.append(
                f"{', '.join(printable(s, 40) for s in stages[:6])} left out, which a network for features lacks"
            )
        for name in left_out:
            del state[name]
    if adapt_stems:
        for name in [name for name in state if name.endswith("stem.conv1.conv.weight") and name in expected]:
            state[name] = _adapt_stem(state[name], expected[name])
    roots = checkpoint.roots | {"slow", "fast", "lateral", "pathway", "head"}
    leftover = [name for name in state if name not in expected]
    # Caffe2's names have no dots, so that nothing says what belongs together.
    is_flat = checkpoint.layout.name == "caffe2"
    own = [name for name in leftover if name.partition(".")[0] in roots or (is_flat and "." not in name)]
    problems = [
        _describe("missing", [name for name in expected if name not in state]),
        _describe("unexpected", own),
        _describe(
            "of another shape",
            [
                f"{name} {printable(tuple(state[name].shape), 80)} instead of {tuple(tensor.shape)}"
                for name, tensor in expected.items()
                if name in state and state[name].shape != tensor.shape
            ],
        ),
        _describe(
            "of numbers that are no weights",  # quantised ones mean nothing without their scales
            [
                f"{name} ({state[name].dtype})"
                for name, tensor in expected.items()
                if name in state and tensor.is_floating_point() and state[name].dtype not in _FLOATS
            ],
        ),
    ]
    if any(problems):
        under = f" (under {printable(checkpoint.place)!r})" if checkpoint.place else ""
        raise WeightsError(
            f"{checkpoint.path!r}{under}, in the layout of {checkpoint.layout.title}, does not fit the network "
            f"({model.config}): {'; '.join(p for p in problems if p)}.{_suggest_names(checkpoint.layout, model)}"
            f"{describe_unread(checkpoint.unread)}"
        )
    return Fit(checkpoint, {name: state[name] for name in expected}, sorted(set(leftover) - set(own)), notes)


def _copy_shared(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share memory in the file, or are a small part of what was saved, get memory of their own."""
    seen: set[int] = set()
    own = {}
    for name, tensor in state.items():
        alone = tensor.untyped_storage().nbytes() == tensor.nbytes and tensor.data_ptr() not in seen
        seen.add(tensor.data_ptr())
        own[name] = tensor if alone else tensor.clone()
    return own


def _adapt_stem(weight: Tensor, expected: Tensor) -> Tensor:
    """A stem for RGB as one for other channels: their sum for one, else repeated and scaled to the same response.

    What timm does (timm/models/_manipulate.py, adapt_input_conv), which takes 2-D convolutions only.
    """
    channels = expected.shape[1] if expected.ndim == 5 else 3
    if channels == 3 or weight.shape != (expected.shape[0], 3, *expected.shape[2:]):
        return weight
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight.repeat(1, -(-channels // 3), 1, 1, 1)[:, :channels] * (3 / channels)


def _describe(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {what}: {', '.join(printable(name) for name in names[:_SHOWN])}{more}"


def _suggest_names(layout: Layout, model: VideoNetwork[Any]) -> str:
    """Which tagged names have the configuration of that project's networks, where the network has not one of them."""
    architecture, tag = (model.pretrained_cfg.get(key, "") for key in ("architecture", "tag"))
    usual = default_record(architecture)
    if layout.name == "slowfast_zoo" and usual and not tag and usual.config != ARCHITECTURES[architecture]:
        return f" Weights that were trained from {usual.name!r} have its configuration: load them under that name."
    same = [r for r in records().values() if r.architecture == architecture and r.source_layout == layout.name]
    if not same or any(record.tag == tag for record in same):
        return ""
    return f" That project's networks have names of their own, such as {same[0].name!r}; they take checkpoint_path too."


def _warn_of_other_rules(checkpoint: Checkpoint, model: VideoNetwork[Any]) -> None:
    """Some of what decides the outputs is in no tensor: it fits, and predicts wrongly."""
    config, layout, cfg = model.config, checkpoint.layout, model.pretrained_cfg
    record = records().get(f"{cfg.get('architecture')}.{cfg.get('tag')}")
    differences = []
    if isinstance(config, SlowFastConfig) and layout.slow_frames not in (None, config.slow_frames):
        differences.append(
            f"its Slow pathway takes {layout.slow_frames} frames, this network's {config.slow_frames} ones "
            f"(slow_frames={layout.slow_frames!r})"
        )
    mean = tuple(cfg.get("mean", ()))
    if (
        layout.mean
        and len(mean) == 3
        and mean != layout.mean
        and (record is None or record.source_layout != layout.name)
    ):
        differences.append(f"its frames have a mean of {layout.mean} subtracted, this network's one of {mean}")
    # Spaces, but no line breaks, which would be gone through again from each of them.
    alpha = re.search(r"^[ \t]*ALPHA: (\d{1,9})[ \t\r]*$", checkpoint.config_text, re.MULTILINE)
    if isinstance(config, SlowFastConfig) and alpha and int(alpha.group(1)) != config.alpha:
        differences.append(f"it was trained with alpha = {alpha.group(1)}, this network has alpha = {config.alpha}")
    if differences:
        warnings.warn(
            f"{checkpoint.path!r} is in the layout of {layout.title}, and fits, but predictions will be wrong: "
            f"{'; '.join(differences)}.{_suggest_names(layout, model)}",
            stacklevel=3,
        )
