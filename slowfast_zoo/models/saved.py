"""Networks as folders: what ``save_pretrained`` writes, a repository on the Hugging Face Hub holds, and both give back.

A folder has ``model.safetensors``, ``config.json`` (architecture, configuration, preprocessing, labels, and the record
of the weights if they are published ones) and a model card, ``README.md``. That is all it takes to rebuild the network.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from slowfast_zoo.errors import WeightsError, printable
from slowfast_zoo.storage.hub import hub_file
from slowfast_zoo.storage.tensors import save_state_dict
from slowfast_zoo.transforms import ClipTransform
from slowfast_zoo.utils import checks
from slowfast_zoo.utils.files import write_whole
from slowfast_zoo.utils.labels import load_labels
from slowfast_zoo.utils.version import __version__

from .card import model_card
from .config import ResNet3DConfig, SlowFastConfig, config_from_dict
from .record import WeightsRecord, record_from_dict
from .state import state_to_save
from .wrappers import Network, unwrapped

WEIGHTS_FILE, CONFIG_FILE, CARD_FILE = "model.safetensors", "config.json", "README.md"
_HUB, _LOCAL = "hf-hub:", "local-dir:"
# What of a network's pretrained_cfg describes its input and its test.
_PREPROCESSING = (
    "mean",
    "std",
    "channel_order",
    "scale",
    "crop",
    "flip",
    "clips",
    "crops",
    "view_average",
    "clip_sampling",
)


_CHOICES: dict[str, tuple[Any, ...]] = {
    "crops": (1, 3, "full"),
    "view_average": ("scores", "logits", "max"),
    "clip_sampling": ("uniform", "pyslowfast", "mmaction2", "gluoncv", "segments", "keyframe"),
}
_LONGEST_CONFIG = 16 << 20  # bytes
# The largest numbers that are read in a configuration, some times those of any network.
_LARGEST = {"stride": 100_000, "crop": 20_000, "scale": 20_000, "num_classes": 1_000_000, "clips": 1_000, "depths": 500}
_LARGEST_OTHER = 10_000
_MOST_FRAMES = 100_000
_ALWAYS_ROOM_FOR, _BYTES_OF_A_BLOCK = 200, 1_000  # of a block, the names of its tensors alone have more bytes


@dataclass(frozen=True)
class Folder:
    """A network that was saved.

    Attributes:
        name: as it was asked for.
        architecture: the registered name that it was made by.
        config: the network's configuration.
        preprocessing: as in a weights record.
        labels: class names in the order of the outputs, or None.
        record: the published weights that it holds, or None.
        based_on: the name of the published weights that it was made with, which may have been trained since; or "".
        weights_path: its safetensors file.
    """

    name: str
    architecture: str
    config: SlowFastConfig | ResNet3DConfig
    preprocessing: Mapping[str, Any]
    labels: tuple[str, ...] | None
    record: WeightsRecord | None
    based_on: str
    weights_path: Path


class SavableNetwork(Network):
    """What networks have for being saved and read back."""

    # create_model, which stands on a floor above: the factory puts it here.
    _create_model: ClassVar[Callable[..., Any]]
    config: Any
    pretrained_cfg: dict[str, Any]

    def _plain(self, config: Any) -> nn.Module:
        """A new network of the class that the configuration is for, made of its own layers alone."""
        raise NotImplementedError  # the networks have it

    def save_pretrained(self, folder: str | os.PathLike[str], labels: Sequence[str] | None = None) -> Path:
        """Writes the network as a folder, which ``create_model("local-dir:FOLDER")`` reads.

        Args:
            folder: made if need be; ``model.safetensors``, ``config.json`` and ``README.md`` in it are replaced, each
                whole or not at all.
            labels: class names in the order of the outputs; None takes those of the network's weights.

        Returns:
            The folder.

        Raises:
            ValueError: another number of labels than classes.
            OSError: the folder cannot be written.
        """
        return save_pretrained(self, folder, labels)

    def push_to_hub(
        self,
        repo_id: str,
        labels: Sequence[str] | None = None,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload a slowfast_zoo model",
    ) -> str:
        """Uploads to the Hugging Face Hub what :meth:`save_pretrained` writes.

        Args:
            repo_id: ``owner/name``; made if need be.
            labels: class names in the order of the outputs; None takes those of the network's weights.
            private: whether a new repository is private; None is the owner's setting.
            token: a token that may write; None takes the one of ``hf auth login`` or ``HF_TOKEN``.
            commit_message: of the commit.

        Returns:
            The commit, 40 hex digits: ``create_model("hf-hub:owner/name@COMMIT")`` is this very network.

        Raises:
            ValueError: another number of labels than classes, or not a name of a repository.
            WeightsError: the Hub refuses, or cannot be reached.
        """
        with tempfile.TemporaryDirectory() as folder:
            save_pretrained(self, folder, labels, name=f"hf-hub:{repo_id}")
            return upload(repo_id, folder, private=private, token=token, commit_message=commit_message)

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **kwargs: Any) -> Any:
        """A network from a folder, a repository on the Hub, or any name that ``create_model`` takes.

        Args:
            name: a folder that exists, ``owner/repo`` or ``owner/repo@revision``, or a name.
            **kwargs: as ``create_model`` takes them.

        Raises:
            TypeError: it is a network of another class.
        """
        given = os.fspath(name)
        scheme = "local-dir:" if os.path.isdir(given) else "hf-hub:" if "/" in given and ":" not in given else ""
        model = cls._create_model(scheme + given, **{"pretrained": True, **kwargs})
        if not isinstance(getattr(model, "network", model), cls):  # features_only wraps it
            raise TypeError(f"{given!r} is a {type(model).__name__}, not a {cls.__name__}")
        return model


def is_folder(name: str) -> bool:
    """Whether a name stands for a folder or a repository: ``local-dir:PATH``, ``hf-hub:owner/repo[@revision]``."""
    return isinstance(name, str) and name.startswith((_HUB, _LOCAL))


def read_folder(name: str, cache_dir: str | os.PathLike[str] | None = None) -> Folder:
    """What a folder or a repository holds. Of a repository, what is not in the cache is downloaded.

    Args:
        name: ``local-dir:PATH`` or ``hf-hub:owner/repo[@revision]``.
        cache_dir: as in :func:`~slowfast_zoo.create_model`.

    Raises:
        FileNotFoundError: the folder, or a file that it should have, is not there.
        WeightsError: the repository cannot be had, or the configuration is not one of this library.
        ValueError: the name is malformed.
    """
    if name.startswith(_LOCAL):
        folder = Path(name.removeprefix(_LOCAL))
        config_path, weights_path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
        for path in (folder, config_path, weights_path):
            if not path.exists():
                raise FileNotFoundError(
                    f"{name!r}: there is no {os.fspath(path)!r}; model.save_pretrained writes such folders"
                )
    else:
        repo, _, revision = name.removeprefix(_HUB).partition("@")
        if repo.count("/") != 1 or not all(repo.split("/")):
            raise ValueError(f"a repository is named 'hf-hub:owner/repo' or 'hf-hub:owner/repo@revision', not {name!r}")
        config_path = hub_file(repo, CONFIG_FILE, revision=revision or None, cache_dir=cache_dir, what=name)
        # Of the same commit, whatever is pushed meanwhile. The client's cache has a folder for each.
        commit = config_path.parent.name
        weights_path = hub_file(repo, WEIGHTS_FILE, revision=commit, cache_dir=cache_dir, what=name)
    return _parse(name, config_path, weights_path)


def _parse(name: str, config_path: Path, weights_path: Path) -> Folder:
    try:
        if config_path.stat().st_size > _LONGEST_CONFIG:
            raise ValueError(f"it has more than {_LONGEST_CONFIG} bytes")
        values = json.loads(config_path.read_text(encoding="utf-8"))
        weights = values["weights"]
        labels = values["labels"]
        preprocessing = {key: values["preprocessing"][key] for key in _PREPROCESSING if key in values["preprocessing"]}
        _check_sizes(values["config"], preprocessing, weights_path.stat().st_size)
        _check_preprocessing(preprocessing)
        ClipTransform.from_record(preprocessing)  # which checks how they go together
        config = config_from_dict(values["config"])
        if labels is not None and len(labels) != config.num_classes:
            raise ValueError(f"it has {len(labels)} labels for {config.num_classes} classes")
        return Folder(
            name=name,
            architecture=str(values["architecture"]),
            config=config,
            preprocessing=preprocessing,
            labels=None if labels is None else tuple(str(label) for label in labels),
            record=None if weights is None else record_from_dict(weights["name"], weights),
            based_on=str(values["based_on"] if weights is None else weights["name"]),
            weights_path=weights_path,
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        reason = printable(f"it has no {error}" if isinstance(error, KeyError) else error)
        raise WeightsError(
            f"{name!r} is no network of slowfast_zoo, or one of a newer version: {config_path.name} cannot be used, "
            f"{reason}"
        ) from error


def _check_sizes(config: Mapping[str, Any], preprocessing: Mapping[str, Any], weights_bytes: int) -> None:
    """Compares what a folder claims with what networks have, before anything of that size is made.

    Raises:
        ValueError: a number is larger than any network's, or there are more blocks than the weights have room for.
    """
    for name, value in (*config.items(), *preprocessing.items()):
        for number in _numbers(value):
            if not abs(number) <= _LARGEST.get(name, _LARGEST_OTHER):
                raise ValueError(f"{name} is {printable(number, 40)}, more than any network has")
    frames, alpha = (max([1, *_numbers(config.get(name))]) for name in ("frames", "alpha"))
    if frames * alpha > _MOST_FRAMES:
        raise ValueError(f"its clips have {frames} x {alpha} frames, more than any network's")
    blocks = sum(_numbers(config.get("depths")))
    if blocks > _ALWAYS_ROOM_FOR and blocks * _BYTES_OF_A_BLOCK > weights_bytes:
        raise ValueError(f"it has {blocks:g} blocks, more than fit into a weights file of {weights_bytes} bytes")


def _check_preprocessing(values: Mapping[str, Any]) -> None:
    """Checks what a folder says of its input and its test, value by value.

    Raises:
        ValueError: one of them is of another kind.
    """
    for name in ("mean", "std"):
        for value in values.get(name, ()):
            checks.number(value, f"each value of {name}")
    for name in ("clips", "scale", "crop"):
        checks.integer(values.get(name, 1), name, at_least=1)
    checks.boolean(values.get("flip", True), "flip")
    for name, allowed in _CHOICES.items():
        checks.one_of(values.get(name, allowed[0]), allowed, name)


def _numbers(value: Any) -> list[float]:
    """The numbers in a value of a configuration, however they are nested there."""
    if isinstance(value, (int, float)):
        return [value]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [number for part in inside for number in _numbers(part)]


def save_pretrained(
    model: SavableNetwork,
    folder: str | os.PathLike[str],
    labels: Sequence[str] | None = None,
    *,
    record: WeightsRecord | None = None,
    source_sha256: str | None = None,
    name: str = "",
) -> Path:
    """Writes a network as a folder, each file whole or not at all: see :meth:`VideoNetwork.save_pretrained`.

    Args:
        model: made by ``create_model``.
        folder: made if need be; files of these names in it are replaced.
        labels: class names in the order of the outputs; None takes those of the network's weights.
        record: the published weights that the network holds, unchanged; their licence, metrics and origin go with them.
        source_sha256: hash of the publisher's file that they were converted from.
        name: what the model card tells ``create_model``, for a folder that is going to be a repository.
    """
    model = unwrapped(model)
    config = {**_config(model, labels, record), "source_sha256": source_sha256}
    state = state_to_save(model, config["config"])
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    save_state_dict(state, path / WEIGHTS_FILE)
    terms = record.license if record else model.pretrained_cfg.get("license") if config["based_on"] else None
    write_whole(path / CARD_FILE, model_card(config, record, terms, name or f"local-dir:{path}").encode())
    write_whole(path / CONFIG_FILE, (json.dumps(config, indent=2) + "\n").encode())
    return path


def check_savable(model: SavableNetwork) -> None:
    """Refuse now what :func:`save_pretrained` would refuse after the work.

    Raises:
        ValueError: the network has other tensors or other layers than its configuration says, or no values.
    """
    state_to_save(model, _config(model, None, None)["config"])


def upload(
    repo_id: str,
    folder: str | os.PathLike[str],
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str,
) -> str:
    """Makes the repository if need be and uploads the folder; gives the commit's 40 hex digits.

    Raises:
        WeightsError: the Hub refuses, or cannot be reached.
        ValueError: not a name of a repository.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=os.fspath(folder), commit_message=commit_message).oid)
    except ValueError:  # the name
        raise
    except Exception as error:  # the client's versions raise those of three HTTP libraries, with no common base
        raise WeightsError(
            f"cannot upload to {repo_id!r}: {printable(next(iter(str(error).splitlines()), ''))}. Writing needs a "
            "token: set HF_TOKEN, or log in with the Hub's client (`hf auth login`)."
        ) from error


def class_names(labels: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Class names from what ``pretrained_cfg["labels"]`` holds: the name of a list, the names themselves, or None."""
    if labels is None:
        return None
    return load_labels(labels) if isinstance(labels, str) else tuple(labels)


def _config(model: Any, labels: Sequence[str] | None, record: WeightsRecord | None) -> dict[str, Any]:
    """The content of config.json."""
    if not isinstance(model, SavableNetwork):
        raise TypeError(f"only networks made by create_model are saved as folders, not {type(model).__name__}")
    if model.optimized:
        raise ValueError(
            "an optimised network has its batch norms folded away and is no checkpoint: save the network that it was "
            "made from"
        )
    cfg = model.pretrained_cfg
    known: Any = model.labels
    names = class_names(known) if labels is None else tuple(labels)
    if names is not None and not all(isinstance(name, str) for name in names):
        raise TypeError("labels are strings")
    if names is not None and len(names) != model.num_classes:
        raise ValueError(f"the network has {model.num_classes} classes, but {len(names)} labels were given")
    return {
        "library_name": "slowfast_zoo",
        "library_version": __version__,
        "architecture": cfg.get("architecture", ""),
        "config": model.config.replace(num_classes=model.num_classes, in_chans=model.in_chans).to_dict(),
        "preprocessing": {key: cfg[key] for key in _PREPROCESSING if key in cfg},
        "labels": None if names is None else list(names),
        "based_on": "" if record else cfg.get("based_on", ""),
        "weights": record.to_dict() if record else None,
    }
