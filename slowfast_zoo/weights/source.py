"""Where the file with a set of weights comes from."""

from __future__ import annotations

import hashlib
from pathlib import Path

from slowfast_zoo.errors import WeightsError

from .manifest import WeightsRecord

_BUNDLE = Path(__file__).resolve().parent / "bundled"


def find_weights(record: WeightsRecord) -> Path:
    """The verified file of a set of weights.

    Raises:
        WeightsError: the file is missing, or is not what the manifest describes.
    """
    path = _BUNDLE / (record.file or "")
    if record.file is None or not path.is_file():
        raise WeightsError(
            f"the weights {record.name!r} belong to the package but are missing from it: reinstall slowfast-zoo"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != record.sha256:
        raise WeightsError(
            f"{path} is not the file of {record.name!r}: its SHA-256 is {digest}, the manifest's {record.sha256}. "
            "Reinstall slowfast-zoo."
        )
    return path
