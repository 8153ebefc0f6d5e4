"""Reading weights into a network, and writing them."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from slowfast_zoo.errors import WeightsError
from slowfast_zoo.models import VideoNetwork

_log = logging.getLogger(__name__)
_CLASSIFIER = ("head.fc.weight", "head.fc.bias")
_SHOWN = 3  # names in an error before the rest is counted


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU. Nothing in the file is ever run.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: it is not a whole safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not Path(path).is_file():
        raise FileNotFoundError(f"no checkpoint at {os.fspath(path)!r}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{os.fspath(path)!r} is not a safetensors file, or not a whole one: {error}") from error


def save_state_dict(state: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Writes tensors as a safetensors file, whole or not at all."""
    from safetensors.torch import save

    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, {"format": "pt"})
    target = Path(path)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).chmod(0o644)  # mkstemp's files are the owner's alone
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink()
        raise


def load_checkpoint(model: VideoNetwork[Any], path: str | os.PathLike[str], *, new_classifier: bool = False) -> None:
    """Reads a checkpoint into a network of its architecture, strictly.

    Args:
        model: the network, changed in place.
        path: a safetensors file with this library's names, as ``model.state_dict()`` has them.
        new_classifier: keep the network's own classifier where the checkpoint's has another number of classes; said in
            one line of the log. What ``create_model(..., num_classes=...)`` does.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: ``model`` is not a network of this library.
        WeightsError: the file cannot be read, or its tensors are not those of the network: missing, unexpected or of
            another shape. The message names the first few. The network is then unchanged.
    """
    if not isinstance(model, VideoNetwork):
        raise TypeError(f"load_checkpoint takes a network made by create_model, not {type(model).__name__}")
    state = read_state_dict(path)
    expected = model.state_dict()
    if new_classifier:
        theirs, ours = state.get(_CLASSIFIER[1]), expected.get(_CLASSIFIER[1])
        if theirs is not None and (ours is None or theirs.shape != ours.shape):
            _log.info(
                "%s: classifier of %d classes left out, the network's own has %d", path, len(theirs), model.num_classes
            )
            for name in _CLASSIFIER:
                state.pop(name, None)
                if name in expected:
                    state[name] = expected[name]
    problems = [
        _problem("missing", sorted(expected.keys() - state.keys())),
        _problem("unexpected", sorted(state.keys() - expected.keys())),
        _problem(
            "of another shape",
            [
                f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
                for name in sorted(expected.keys() & state.keys())
                if state[name].shape != expected[name].shape
            ],
        ),
    ]
    if any(problems):
        raise WeightsError(
            f"{os.fspath(path)!r} does not fit the network ({model.config}): " + "; ".join(p for p in problems if p)
        )
    model.load_state_dict(state)


def _problem(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{more}"
