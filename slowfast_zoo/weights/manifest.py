"""The manifest: one record for each set of weights, read from weights_manifest.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from slowfast_zoo.models.record import WeightsRecord, record_from_dict

_PACKAGE = Path(__file__).resolve().parents[1]


@cache
def records() -> Mapping[str, WeightsRecord]:
    """All records by name, in the manifest's order."""
    entries = expand(read_manifest())
    return MappingProxyType({name: record_from_dict(name, entry) for name, entry in entries.items()})


@cache
def read_manifest() -> Mapping[str, Any]:
    """The manifest as it is written; its entries under ``weights``."""
    return MappingProxyType(json.loads(_manifest_path().read_text(encoding="utf-8")))


def expand(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The manifest's entries by name, with the defaults and the preprocessing of their presets put in."""
    defaults, presets = manifest["defaults"], manifest["presets"]
    expanded = {}
    for name, entry in manifest["weights"].items():
        record = {**defaults["record"], **entry}
        if record["source"] is not None:
            record["source"] = {**defaults["source"], **record["source"]}
        changes = dict(record["preprocessing"])
        record["preprocessing"] = {**presets[changes.pop("preset")], **changes}
        expanded[name] = record
    return expanded


def default_record(architecture: str) -> WeightsRecord | None:
    """The weights that an untagged architecture name stands for, if it has any."""
    return next((r for r in records().values() if r.architecture == architecture and r.default), None)


def _manifest_path() -> Path:
    """Inside the package when installed from a wheel, next to it in a checkout."""
    installed = _PACKAGE / "weights_manifest.json"
    return installed if installed.is_file() else _PACKAGE.parent / "weights_manifest.json"
