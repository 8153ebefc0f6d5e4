"""The manifest: one record for each set of weights, read from weights_manifest.json."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from slowfast_zoo.models import ARCHITECTURES, ResNet3DConfig, SlowFastConfig

_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class WeightsRecord:
    """One set of weights.

    Attributes:
        name: ``architecture.tag``.
        architecture: the registered architecture that holds them.
        overrides: configuration fields in which they differ from it.
        default: whether the untagged architecture name stands for them.
        dataset: what they were trained on.
        labels: name of the label list in the order of the outputs, or None where the order is not known.
        file: file name inside the package's bundle, or None.
        sha256: hash of that file.
        bytes: its size.
        license: SPDX identifier.
        origin: who made them and how.
        preprocessing: mean, std, channel_order, scale (shorter side), crop; flip, whether mirroring keeps the label;
            crops, how many crops of a clip to average.
        metrics: each with its name, value, protocol, and either ``measured_by`` or ``claimed_by``.
    """

    name: str
    architecture: str
    overrides: Mapping[str, Any]
    default: bool
    dataset: str
    labels: str | None
    file: str | None
    sha256: str
    bytes: int
    license: str
    origin: str
    preprocessing: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...]

    @property
    def tag(self) -> str:
        """What follows the architecture in the name: source and dataset."""
        return self.name.partition(".")[2]

    @property
    def config(self) -> SlowFastConfig | ResNet3DConfig:
        """The configuration of the network that holds the weights."""
        return ARCHITECTURES[self.architecture].replace(**self.overrides)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the manifest."""
        return dataclasses.asdict(self)


@cache
def records() -> Mapping[str, WeightsRecord]:
    """All records by name, in the manifest's order."""
    entries = json.loads(_manifest_path().read_text(encoding="utf-8"))["weights"]
    return MappingProxyType(
        {
            name: WeightsRecord(name=name, **{**entry, "metrics": tuple(entry["metrics"])})
            for name, entry in entries.items()
        }
    )


def default_record(architecture: str) -> WeightsRecord | None:
    """The weights that an untagged architecture name stands for, if it has any."""
    return next((r for r in records().values() if r.architecture == architecture and r.default), None)


def _manifest_path() -> Path:
    """Inside the package when installed from a wheel, beside it in a checkout."""
    installed = _PACKAGE / "weights_manifest.json"
    return installed if installed.is_file() else _PACKAGE.parent / "weights_manifest.json"
