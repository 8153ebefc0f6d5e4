"""What is known of a set of weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .architectures import ARCHITECTURES
from .config import ResNet3DConfig, SlowFastConfig


@dataclass(frozen=True)
class WeightsRecord:
    """One set of weights.

    Attributes:
        name: ``architecture.tag``.
        architecture: the registered architecture that holds them.
        overrides: configuration fields in which they differ from it; the rule for the Slow frames and the head at test
            time are always among them.
        default: whether the untagged architecture name stands for them.
        task: "classification", "detection" or "image_classification".
        dataset: what they were trained on.
        labels: name of the label list in the order of the outputs, or None where the order is not known.
        hub: where they are on the Hugging Face Hub: ``repo``, ``file`` and the ``revision`` (a commit); None as long as
            nobody has published them there.
        source: the publisher's own file: ``project``, ``name``, ``config``, ``url``, ``layout``, ``hash`` (algorithm,
            full value or published prefix, and where that stands) and ``bytes``; None for weights made here.
        file: file name inside the package's bundle, or None.
        sha256: hash of the safetensors file in the bundle or on the Hub, or None.
        bytes: its size, or None.
        license: SPDX identifier.
        origin: who made them and how.
        preprocessing: mean, std, channel_order, scale (shorter side), crop; flip, whether mirroring keeps the label;
            clips and crops of the test, how views are averaged (view_average) and clips placed (clip_sampling).
        metrics: each with its name, value, protocol, and either ``measured_by`` or ``claimed_by``.
        cost: what the publisher claims: ``parameters_m`` (millions), ``gflops`` (for one view); or None.
        notes: what a user should know.
    """

    name: str
    architecture: str
    overrides: Mapping[str, Any]
    default: bool
    task: str
    dataset: str
    labels: str | None
    hub: Mapping[str, str] | None
    source: Mapping[str, Any] | None
    file: str | None
    sha256: str | None
    bytes: int | None
    license: str
    origin: str
    preprocessing: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...]
    cost: Mapping[str, Any] | None
    notes: tuple[str, ...]

    @property
    def tag(self) -> str:
        """What follows the architecture in the name: source and dataset."""
        return self.name.partition(".")[2]

    @property
    def config(self) -> SlowFastConfig | ResNet3DConfig:
        """The configuration of the network that holds the weights."""
        return ARCHITECTURES[self.architecture].replace(**self.overrides)

    @property
    def source_layout(self) -> str | None:
        """The layout of the publisher's file, where it is known before the file is read."""
        return self.source["layout"] if self.source else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the manifest."""
        return dataclasses.asdict(self)


def record_from_dict(name: str, entry: Mapping[str, Any]) -> WeightsRecord:
    """The record of a manifest's entry, or of one that came with weights on the Hub."""
    fields = {**entry, "name": name, "metrics": tuple(entry["metrics"]), "notes": tuple(entry["notes"])}
    return WeightsRecord(**fields)
