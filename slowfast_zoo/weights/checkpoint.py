"""Reading checkpoints of any project into a network, strictly."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from slowfast_zoo.errors import WeightsError
from slowfast_zoo.models import (
    ARCHITECTURES,
    FeatureNetwork,
    SlowFastConfig,
    VideoNetwork,
    build,
    materialize,
    unwrapped,
)

from .container import read_container
from .layouts import LAYOUTS, Layout, recognise
from .layouts.image import Inflation, inflate, is_kept
from .manifest import WeightsRecord, default_record, records

_log = logging.getLogger(__name__)
_CLASSIFIER = ("head.fc.weight", "head.fc.bias")
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_SHOWN = 3  # names in an error before the rest is counted
_LONGEST_SHOWN = 100  # characters of a name in an error
# Components of a name, its characters, and parts of a file that are looked at for where a network is: no network in use
# comes near, and a file made to take time does.
_DEEPEST, _LONGEST_START, _MOST_PARTS = 32, 1000, 1000

# Where training loops put the weights, what is to be preferred first: an average of the weights was kept to be used.
_AVERAGED = ("state_dict_ema", "model_ema", "ema", "shadow")
_NESTED = (*_AVERAGED, "model_state", "model_state_dict", "state_dict", "model", "net", "network", "blobs")
# What wrappers put before every name: DistributedDataParallel and averaged models, torch.compile, Lightning modules,
# FeatureNetwork.
_PREFIXES = ("module.", "_orig_mod.", "model.", "network.")


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        path: the file.
        layout: the project whose names its tensors had.
        state: the tensors by this library's names, on the CPU.
        config_text: the configuration of the training, where PySlowFast put its YAML into the file.
    """

    path: str
    layout: Layout
    state: dict[str, Tensor]
    config_text: str = ""


def read_checkpoint(path: str | os.PathLike[str], *, mapped: bool = False) -> Checkpoint:
    """Reads a file of any layout, recognised by its content. Nothing in the file is ever run.

    Args:
        path: the file.
        mapped: the tensors may be views of the file, for a caller that copies them at once.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: it cannot be read, or its tensors are in no known layout.
    """
    return named_checkpoint(read_container(path, mapped=mapped), os.fspath(path))


def named_checkpoint(content: Any, name: str) -> Checkpoint:
    """What :func:`read_checkpoint` makes of a file's content, for content that comes from elsewhere.

    Args:
        content: a state dict, or what a training loop saves around it.
        name: where it comes from, for messages.

    Raises:
        WeightsError: its tensors are in no known layout.
    """
    state = _unwrap(content, name)
    layout = recognise(state)
    if layout is None:
        names = _first(state)
        raise WeightsError(
            f"{name!r} is in no layout that is known ({', '.join(known.title for known in LAYOUTS)}); its tensors are "
            f"named {names}, ..."
        )
    config_text = content.get("cfg", "") if isinstance(content, Mapping) else ""
    converted = _with_counts(layout.convert(state))
    return Checkpoint(name, layout, converted, config_text if isinstance(config_text, str) else "")


def load_checkpoint(
    model: VideoNetwork[Any] | FeatureNetwork,
    path: str | os.PathLike[str],
    *,
    prefix: str | Callable[[str], str | None] | None = None,
    new_classifier: bool = False,
    adapt_stems: bool = False,
) -> None:
    """Reads a checkpoint into a network of its architecture, strictly.

    The network may be a part of what the file holds, as in a training loop's: its tensors under any prefix, beside
    others (a loss, metrics, another head, a queue). The part that fits the network wholly is taken, and a warning names
    what is left aside. Of two that fit, an average of the weights is taken (a prefix with "ema" in it); any other two
    are refused. An image ResNet (torchvision's or timm's) is inflated: see :func:`load_image_weights`.

    Args:
        model: the network, changed in place. One on the meta device gets the checkpoint's tensors as its own. One made
            with ``features_only`` takes what it has of a whole network's.
        path: a file of this library, PySlowFast (also in Caffe2), PyTorchVideo, MMAction2 or GluonCV, recognised by its
            content.
        prefix: what the names of the network's tensors begin with in the file, such as "encoder_q."; or a function from
            a name in the file to the name without it, or to None for what is to be left aside. None looks for it.
        new_classifier: keep the network's own classifier where the checkpoint's has another number of classes, or none;
            said in one line of the log. What ``create_model(..., num_classes=...)`` does.
        adapt_stems: fit weights for three channels to a network on another number, as timm does. What
            ``create_model(..., in_chans=...)`` does.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: ``model`` is not a network of this library.
        WeightsError: the file cannot be read, or its tensors are not those of the network: missing, unexpected or of
            another shape. The message names the first few. The network is then unchanged. Also where two parts of the
            file fit.
    """
    given: Any = unwrapped(model)
    if isinstance(given, FeatureNetwork):
        _load_features(given, path, prefix)
        return
    model = given
    if not isinstance(model, VideoNetwork):
        raise TypeError(f"load_checkpoint takes a network made by create_model, not {type(model).__name__}")
    on_meta = next(model.parameters()).is_meta
    checkpoint = _checkpoint_for(
        model, path, prefix, mapped=not on_meta, new_classifier=new_classifier, adapt_stems=adapt_stems
    )
    if checkpoint.layout.name == "image":
        load_inflated(model, checkpoint, "center", adapt_stems=adapt_stems)
        return
    expected = model.state_dict()
    if new_classifier:
        _leave_out_classifier(checkpoint, expected)
    state = _fit(checkpoint, expected, model, adapt_stems=adapt_stems)
    _warn_of_other_rules(checkpoint, model)
    if on_meta:
        state = _unshared(state)
    model.load_state_dict(state, strict=False, assign=on_meta)  # _fit was strict, but for the classifier
    if on_meta and model.num_classes and _CLASSIFIER[0] not in state:
        model.reset_classifier(model.num_classes)


def _load_features(model: FeatureNetwork, path: str | os.PathLike[str], prefix: Any) -> None:
    """The stages that are there, from a checkpoint of the whole network."""
    inner: VideoNetwork[Any] = model.network
    with torch.device("meta"):
        whole = build(inner.config)
    whole.pretrained_cfg = inner.pretrained_cfg
    checkpoint = _checkpoint_for(whole, path, prefix, mapped=True, new_classifier=True, adapt_stems=False)
    expected = whole.state_dict()
    _leave_out_classifier(checkpoint, expected)
    state = _fit(checkpoint, expected, whole)
    _warn_of_other_rules(checkpoint, whole)
    inner.load_state_dict({name: state[name] for name in inner.state_dict()})


def _checkpoint_for(
    model: VideoNetwork[Any],
    path: str | os.PathLike[str],
    prefix: str | Callable[[str], str | None] | None,
    *,
    mapped: bool,
    new_classifier: bool,
    adapt_stems: bool,
) -> Checkpoint:
    """A file's part that is the network's; where none is, what the whole file holds, which then tells why not."""
    name = os.fspath(path)
    content = read_container(path, mapped=mapped)
    state = _unwrap(content, name)
    if prefix is not None:
        find = prefix if callable(prefix) else _without(prefix)
        chosen = {found: tensor for old, tensor in state.items() if (found := find(old)) is not None}
        if not chosen:
            raise WeightsError(f"{name!r} holds no tensor under {prefix!r}; its tensors are named {_first(state)}")
        return named_checkpoint(_like(content, chosen), name)

    def fits(checkpoint: Checkpoint) -> bool:
        expected = model.state_dict()
        trial = replace(checkpoint, state=dict(checkpoint.state))
        if new_classifier:
            _leave_out_classifier(trial, expected, is_trial=True)
        try:
            _fit(trial, expected, model, adapt_stems=adapt_stems)
        except WeightsError:
            return False
        return True

    error: WeightsError | None = None
    try:
        whole = named_checkpoint(content, name)
        if whole.layout.name == "image" or fits(whole):
            return whole
    except WeightsError as unknown:
        error = unknown
    least = sum(not key.endswith("num_batches_tracked") and key not in _CLASSIFIER for key in model.state_dict())
    parts: dict[str, tuple[Checkpoint, list[str]]] = {}
    for start in _common_starts(state, least):
        part, aside = _own_part({key[len(start) :]: t for key, t in state.items() if key.startswith(start)}, model)
        if part is not None and fits(candidate := named_checkpoint(_like(content, part), name)):
            others = [key for key in state if not key.startswith(start)] + [start + key for key in aside]
            parts[start] = candidate, others
    averaged = [start for start in parts if "ema" in start.lower()]
    if len(parts) > 1 and len(averaged) != 1:
        raise WeightsError(
            f"{name!r} holds more than one network that fits, under {', '.join(map(repr, parts))}: choose with "
            f"load_checkpoint(model, path, prefix={next(iter(parts))!r})"
        )
    if not parts:
        if error:
            raise error
        return whole
    checkpoint, others = parts[averaged[0] if len(parts) > 1 else next(iter(parts))]
    if others:
        shown = ", ".join(repr(key[:_LONGEST_SHOWN]) for key in others[:_SHOWN])
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        warnings.warn(f"{name!r}: tensors that are not the network's are left aside: {shown}{more}", stacklevel=3)
    return checkpoint


def _without(prefix: str) -> Callable[[str], str | None]:
    return lambda name: name[len(prefix) :] if name.startswith(prefix) else None


def _like(content: Any, state: dict[str, Tensor]) -> dict[str, Any]:
    """The state dict, beside what the file tells of its training."""
    config_text = content.get("cfg") if isinstance(content, Mapping) else None
    return {"state_dict": state, "cfg": config_text} if isinstance(config_text, str) else {"state_dict": state}


def _common_starts(state: Mapping[str, Tensor], least: int) -> list[str]:
    """What at least so many names begin with, in whole components; first the empty one."""
    counts: Counter[str] = Counter()
    for name in state:
        end = 0
        for _ in range(_DEEPEST):
            counts[name[:end]] += 1
            end = name.find(".", end) + 1
            if not end or end > _LONGEST_START:
                break
    return [start for start, count in counts.items() if count >= least]


def _own_part(state: dict[str, Tensor], model: VideoNetwork[Any]) -> tuple[dict[str, Tensor] | None, list[str]]:
    """What of a state dict may be the network's, and the names of what is not.

    Where the network has anything under the first component of a name, all that stands there counts as its own: a block
    too many is a difference, and no other part of the file.
    """
    tops: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        tops.setdefault(name.partition(".")[0], {})[name] = tensor
    layout = recognise(state)
    if layout is None or layout.name in ("image", "caffe2") or len(tops) > _MOST_PARTS:
        return None, []
    expected = model.state_dict().keys()
    aside = [top for top, part in tops.items() if expected.isdisjoint(layout.convert(part))]
    own = {name: tensor for name, tensor in state.items() if name.partition(".")[0] not in aside}
    return own, [name for name in state if name not in own]


def _first(state: Mapping[str, Tensor]) -> str:
    return ", ".join(name[:_LONGEST_SHOWN] for name in list(state)[:_SHOWN]) or "none"


def load_inflated(
    model: VideoNetwork[Any],
    checkpoint: Checkpoint,
    how: Inflation,
    *,
    adapt_stems: bool = False,
    normalisation: Mapping[str, Sequence[float]] = IMAGENET,
) -> None:
    """Loads an image network into a video network: what :func:`load_image_weights` says of it.

    Args:
        model: the network, changed in place.
        checkpoint: the image network.
        how: "center" or "mean".
        adapt_stems: fit stems for three channels to another number.
        normalisation: mean and standard deviation of the image network's input, which the network takes over.

    Raises:
        WeightsError: it is no image network, or does not fit.
    """
    materialize(model)  # an image network does not fill all of it
    long = [name for name, tensor in checkpoint.state.items() if tensor.ndim == 5 and tensor.shape[2] != 1]
    if long:
        raise WeightsError(
            f"{checkpoint.path!r} is no image network: {long[0]} sees {checkpoint.state[long[0]].shape[2]} frames. "
            "load_checkpoint reads the weights of video networks."
        )
    expected = {name: tensor for name, tensor in model.state_dict().items() if not is_kept(name)}
    checkpoint = replace(checkpoint, state=inflate(checkpoint.state, expected, how))
    _leave_out_classifier(checkpoint, expected)
    model.load_state_dict(_fit(checkpoint, expected, model, adapt_stems=adapt_stems), strict=False)
    model.pretrained_cfg = {**model.pretrained_cfg, "tag": "", "labels": None}  # nothing that it was named for
    if model.config.in_chans == 3:
        taken_over = {key: list(values) for key, values in normalisation.items()}
        model.pretrained_cfg = {**model.pretrained_cfg, **taken_over}


def convert_file(path: str | os.PathLike[str], record: WeightsRecord) -> dict[str, Tensor]:
    """A published checkpoint as the state dict of the network that its record describes.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: the file cannot be read, or is not what the record says.
    """
    checkpoint = read_checkpoint(path)
    if record.source_layout not in (None, checkpoint.layout.name):
        raise WeightsError(
            f"{checkpoint.path!r} is in the layout of {checkpoint.layout.title}, which {record.name} is not published "
            "in: it is another file"
        )
    with torch.device("meta"):
        model = build(record.config)
    return _fit(checkpoint, model.state_dict(), model)


def _unwrap(content: Any, path: str) -> dict[str, Tensor]:
    """The state dict inside whatever a training loop saved."""
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path!r} holds no state dict but a {type(content).__name__}: save model.state_dict()")
    found = list(_state_dicts(content, ""))
    if not found:
        keys = ", ".join(map(repr, list(content)[:_SHOWN])) or "nothing"
        raise WeightsError(f"{path!r} holds no tensors where weights are looked for; at its top it has {keys}")
    # An average may be empty, or hold parameters only: the next has the statistics of batch norms too.
    complete = [(key, s) for key, s in found if any(name.endswith(("running_var", "_riv")) for name in s)]
    key, state = (complete or found)[0]
    if key.rpartition(".")[2] in _AVERAGED:
        _log.info("%s: the averaged weights (%s) are taken", path, key)
    return state


def _state_dicts(content: Mapping[Any, Any], key: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The state dicts in a training loop's dict, with the keys they stand under, the best first."""
    nested = [name for name in _NESTED if isinstance(content.get(name), Mapping)]
    for name in nested:
        yield from _state_dicts(content[name], f"{key}.{name}".lstrip("."))
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor) and name != "n_averaged"}
    for _ in range(_DEEPEST):  # each round copies every name
        prefix = next((p for p in _PREFIXES if state and all(name.startswith(p) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    if state:
        yield key, state


def _with_counts(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Batch norms count their batches; files older than that, and Caffe2's, lack the counters, which no output uses."""
    for name in [name for name in state if name.endswith(".running_var")]:
        state.setdefault(
            name.removesuffix("running_var") + "num_batches_tracked", torch.zeros((), dtype=torch.long, device="cpu")
        )
    return state


def _leave_out_classifier(checkpoint: Checkpoint, expected: dict[str, Tensor], *, is_trial: bool = False) -> None:
    """Drops the classifier on both sides where the numbers of classes differ: the network keeps its own."""
    theirs, ours = checkpoint.state.get(_CLASSIFIER[1]), expected.get(_CLASSIFIER[1])
    if theirs is not None and ours is not None and theirs.shape == ours.shape:
        return
    if theirs is not None and theirs.ndim != 1:
        return  # no classifier of another size but something else, which does not fit
    if not is_trial:
        _tell_of_classifier(checkpoint, theirs, ours)
    for name in _CLASSIFIER:
        checkpoint.state.pop(name, None)
        expected.pop(name, None)


def _tell_of_classifier(checkpoint: Checkpoint, theirs: Tensor | None, ours: Tensor | None) -> None:
    _log.info(
        "%s: classifier of %s classes left out, the network's own has %s",
        checkpoint.path,
        "no" if theirs is None else len(theirs),
        "none" if ours is None else len(ours),
    )


def _fit(
    checkpoint: Checkpoint, expected: Mapping[str, Tensor], model: VideoNetwork[Any], *, adapt_stems: bool = False
) -> dict[str, Tensor]:
    """The checkpoint's tensors, if they are the expected ones of the network.

    Raises:
        WeightsError: missing, unexpected or wrong-shaped tensors.
    """
    state = dict(checkpoint.state)
    if adapt_stems:
        for name in [name for name in state if name.endswith("stem.conv1.conv.weight") and name in expected]:
            state[name] = _adapt_stem(state[name], expected[name].shape[1])
    problems = [
        _problem("missing", [name for name in expected if name not in state]),
        _problem("unexpected", [name for name in state if name not in expected]),
        _problem(
            "of another shape",
            [
                f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
                for name, tensor in expected.items()
                if name in state and state[name].shape != tensor.shape
            ],
        ),
    ]
    if any(problems):
        raise WeightsError(
            f"{checkpoint.path!r}, in the layout of {checkpoint.layout.title}, does not fit the network "
            f"({model.config}): {'; '.join(p for p in problems if p)}.{_names_that_fit(checkpoint.layout, model)}"
        )
    return {name: state[name].to(tensor.dtype).contiguous() for name, tensor in expected.items()}


def _unshared(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share memory in the file, or are a small part of what was saved, get memory of their own."""
    seen: set[int] = set()
    own = {}
    for name, tensor in state.items():
        alone = tensor.untyped_storage().nbytes() == tensor.nbytes and tensor.data_ptr() not in seen
        seen.add(tensor.data_ptr())
        own[name] = tensor if alone else tensor.clone()
    return own


def _adapt_stem(weight: Tensor, channels: int) -> Tensor:
    """A stem for RGB as one for so many channels: their sum for one, else repeated and scaled to the same response.

    What timm does (timm/models/_manipulate.py, adapt_input_conv), which takes 2-D convolutions only.
    """
    if weight.ndim != 5 or weight.shape[1] != 3 or channels == 3:
        return weight
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight.repeat(1, -(-channels // 3), 1, 1, 1)[:, :channels] * (3 / channels)


def _problem(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{more}"


def _names_that_fit(layout: Layout, model: VideoNetwork[Any]) -> str:
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
    alpha = re.search(r"^\s*ALPHA: (\d+)\s*$", checkpoint.config_text, re.MULTILINE)
    if isinstance(config, SlowFastConfig) and alpha and int(alpha.group(1)) != config.alpha:
        differences.append(f"it was trained with alpha = {alpha.group(1)}, this network has alpha = {config.alpha}")
    if differences:
        warnings.warn(
            f"{checkpoint.path!r} is in the layout of {layout.title}, and fits, but predictions will be wrong: "
            f"{'; '.join(differences)}.{_names_that_fit(layout, model)}",
            stacklevel=3,
        )
