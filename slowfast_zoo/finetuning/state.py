"""The folder that a fine-tuning writes: its state, from which it goes on, and the networks."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from slowfast_zoo.models import VideoNetwork
from slowfast_zoo.models.saved import CONFIG_FILE, WEIGHTS_FILE, save_pretrained
from slowfast_zoo.utils.files import write_whole
from slowfast_zoo.utils.signals import unwound_when_ended
from slowfast_zoo.video.dataset import LabelledVideo

STATE_FILE, METRICS_FILE, CURVES_FILE = "state.pt", "metrics.csv", "curves.png"
BEST, LAST, BOARD = "best", "last", "tensorboard"
_FORMAT = "slowfast-zoo finetune, version 1"

# Names of what a killed process had not finished: those that ``tempfile`` made for our files and folders.
_HALF_STATE = re.compile(r"\.state\.[a-z0-9_]{8}\.pt")  # the first file of all
_HALF = re.compile(
    rf"\.({BEST}|{LAST})\.[a-z0-9_]{{8}}"
    r"|\.(state|metrics|curves|model|config|README)\.[a-z0-9_]{8}\.(pt|csv|png|safetensors|json|md)"
)
# What a state ends with, behind torch's archive: a checksum of it, since torch reads archives with flipped bits.
_SEAL = b"slowfast-zoo sha256 "
_SEAL_SIZE = len(_SEAL) + hashlib.sha256().digest_size
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class OutputFolder:
    """Files that appear whole or not at all, in an order in which a killed process leaves nothing to be repaired.

    The state is what counts: a run goes on after the step that it tells of, and writes again what was written since.

    Args:
        path: made if need be.
        run: everything that the result depends on.
    """

    def __init__(self, path: str | os.PathLike[str], run: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._run = {"finetune": _FORMAT, **run}

    def open(self, resume: bool) -> dict[str, Any] | None:
        """Prepare the folder.

        Args:
            resume: go on with what is in it; else begin again, if it is a fine-tuning.

        Returns:
            The state to go on from, or None to begin.

        Raises:
            ValueError: it holds something else, or another fine-tuning.
            OSError: it cannot be made or read.
        """
        if os.path.lexists(self.path) and not self.path.is_dir():
            raise ValueError(f"{self.path} is no folder: name another one for what is written")
        with self.explain_write_errors():
            self.path.mkdir(parents=True, exist_ok=True)
        state_file = self.path / STATE_FILE
        if not state_file.is_file():
            there = sorted(entry.name for entry in self.path.iterdir())
            if not all(map(_HALF_STATE.fullmatch, there)):
                raise ValueError(
                    f"{self.path} is not empty ({', '.join(there[:3])}), and holds no fine-tuning to go on with: name "
                    "another folder"
                )
            _remove_halves(self.path)
            return None
        state = _read_state(state_file)
        before: dict[str, Any] = state["run"]
        wrong = [
            f"{name} {before.get(name)!r} there, {value!r} here"
            for name, value in self._run.items()
            if before.get(name) != value
            and not (name == "epochs" and before.get(name, value) < value)  # goes on longer
        ]
        if resume and wrong:
            raise ValueError(
                f"{self.path} holds another fine-tuning ({'; '.join(wrong)}): name another folder, or begin again with "
                "resume=False (--restart)"
            )
        for folder in (self.path, self.path / BEST, self.path / LAST):
            _remove_halves(folder)
        return state if resume else None

    def write_state(self, state: Mapping[str, Any]) -> None:
        """From now on, runs go on from here."""
        content = io.BytesIO()
        torch.save({**state, "run": self._run}, content)
        payload = content.getbuffer()
        with self.explain_write_errors():
            write_whole(self.path / STATE_FILE, payload, _SEAL + hashlib.sha256(payload).digest())

    @contextlib.contextmanager
    def explain_write_errors(self) -> Iterator[None]:
        """One error for what cannot be written, as on a full disk."""
        try:
            yield
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            if error.errno in _FULL:
                remedy = "make room"
            else:
                remedy = "mend that"
                reason += f" ({os.fsdecode(error.filename)})" if error.filename else ""
            if os.path.isfile(self.path / STATE_FILE):
                advice = f"The state of before is whole: {remedy}, and the same call goes on from it"
            else:
                advice = f"Nothing was saved before: {remedy}, and begin again with the same call"
            message = f"cannot write into {self.path}: {reason}. {advice}"
            raise (OSError(error.errno, message) if error.errno else OSError(message)) from error

    def clear(self) -> None:
        """Remove what earlier runs made of epochs that the state does not tell of."""
        with self.explain_write_errors():
            for name in (BEST, LAST, BOARD):
                shutil.rmtree(self.path / name, ignore_errors=True)
            for name in (METRICS_FILE, CURVES_FILE):
                (self.path / name).unlink(missing_ok=True)

    def write_network(self, network: VideoNetwork[Any], name: str, labels: Sequence[str]) -> Path:
        """Write a network as a folder; a network of the same configuration that is there is replaced."""
        folder = self.path / name
        with self.explain_write_errors():
            if folder.is_dir():  # only the weights differ, and files are replaced whole
                return save_pretrained(network, folder, labels, name=f"local-dir:{folder}")
            with unwound_when_ended(), tempfile.TemporaryDirectory(prefix=f".{name}.", dir=self.path) as temporary:
                whole = save_pretrained(network, Path(temporary) / name, labels, name=f"local-dir:{folder}")
                return whole.rename(folder)

    def digest_of_network(self, name: str) -> str:
        """Of the files that make the network in a folder; empty where one of them is not there."""
        files = [self.path / name / file for file in (CONFIG_FILE, WEIGHTS_FILE)]
        if not all(path.is_file() for path in files):
            return ""
        return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def digest_of(entries: Sequence[LabelledVideo]) -> str:
    """Other videos or labels have another one."""
    listed = json.dumps([(*entry.place, entry.targets) for entry in entries])
    return hashlib.sha256(listed.encode()).hexdigest()[:16]


def _read_state(path: Path) -> dict[str, Any]:
    content = memoryview(path.read_bytes())
    payload, seal = content[:-_SEAL_SIZE], bytes(content[-_SEAL_SIZE:])
    if seal != _SEAL + hashlib.sha256(payload).digest():
        raise ValueError(
            f"{path} cannot be read (it is no state of a fine-tuning, or not as it was written, by its checksum): name "
            "another folder, or delete this one by hand"
        )
    state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    return state


def _remove_halves(folder: Path) -> None:
    """Remove what a killed process had not finished."""
    for entry in list(folder.glob(".*")):
        if not _HALF.fullmatch(entry.name):
            continue
        if not entry.is_dir():
            entry.unlink()
        elif {inner.name for inner in entry.iterdir()} <= {BEST, LAST} and not entry.is_symlink():
            shutil.rmtree(entry)
