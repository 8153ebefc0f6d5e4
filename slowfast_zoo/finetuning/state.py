"""The folder that a fine-tuning writes: its state, from which it goes on, and the networks."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from slowfast_zoo.models import VideoNetwork
from slowfast_zoo.video.dataset import LabelledVideo
from slowfast_zoo.video.encode import whole_file
from slowfast_zoo.weights.folder import save_pretrained

STATE_FILE, METRICS_FILE, CURVES_FILE = "state.pt", "metrics.csv", "curves.png"
BEST, LAST, BOARD = "best", "last", "tensorboard"
_FORMAT = "slowfast-zoo finetune, version 1"


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
            resume: go on with what is in it.

        Returns:
            The state to go on from, or None to begin.

        Raises:
            ValueError: it holds something else, or another fine-tuning.
            OSError: it cannot be made or read.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        for folder in (self.path, self.path / BEST, self.path / LAST):
            _remove_halves(folder)
        state_file = self.path / STATE_FILE
        if not state_file.exists():
            there = sorted(entry.name for entry in self.path.iterdir())
            if there:
                raise ValueError(
                    f"{self.path} is not empty ({', '.join(there[:3])}), and holds no fine-tuning to go on with: name "
                    "another folder"
                )
            return None
        if not resume:
            return None
        state = _read_state(state_file)
        there, here = state.get("run", {}), self._run
        wrong = [f"{k} {there.get(k)!r} there, {value!r} here" for k, value in here.items() if there.get(k) != value]
        if wrong:
            raise ValueError(
                f"{self.path} holds another fine-tuning ({'; '.join(wrong)}): name another folder, or begin again with "
                "resume=False (--restart)"
            )
        return state

    def write_state(self, state: Mapping[str, Any]) -> None:
        """From now on, runs go on from here."""
        with whole_file(self.path / STATE_FILE) as temporary:
            torch.save({**state, "run": self._run}, temporary)

    def clear(self) -> None:
        """Remove what earlier runs made of epochs that the state does not tell of."""
        for name in (BEST, LAST, BOARD):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in (METRICS_FILE, CURVES_FILE):
            (self.path / name).unlink(missing_ok=True)

    def write_network(self, network: VideoNetwork[Any], name: str, labels: Sequence[str]) -> Path:
        """Write a network as a folder; a network of the same configuration that is there is replaced."""
        folder = self.path / name
        if folder.exists():  # only the weights differ, and files are replaced whole
            return save_pretrained(network, folder, labels, name=f"local-dir:{folder}")
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=self.path) as temporary:
            whole = save_pretrained(network, Path(temporary) / name, labels, name=f"local-dir:{folder}")
            return whole.rename(folder)


def digest_of(entries: Sequence[LabelledVideo]) -> str:
    """Other videos or labels have another one."""
    listed = json.dumps([(entry.name, entry.targets) for entry in entries])
    return hashlib.sha256(listed.encode()).hexdigest()[:16]


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises for files that are not its own has no common base
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read ({reason}): name another folder, or delete this one") from error
    if not isinstance(state, dict) or "run" not in state:
        raise ValueError(f"{path} holds no fine-tuning to go on with: name another folder")
    return state


def _remove_halves(folder: Path) -> None:
    """Remove what a killed process had not finished; all of it has names that begin with a dot."""
    for entry in folder.glob(".*"):
        if entry.name.startswith((f".{BEST}.", f".{LAST}.")):
            shutil.rmtree(entry)
        elif entry.name.startswith(
            (".state.", ".metrics.", ".curves.", ".model.safetensors.", ".config.json.", ".README.md.")
        ):
            entry.unlink()
