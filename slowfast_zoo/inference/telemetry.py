"""Keeps other runtimes from reporting their use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

# ONNX Runtime reads its switch when it is imported, and writes a database into the user's home without it. OpenVINO
# reports its import and each convert_model, but not from continuous integration, which is the only one of its switches
# that is no file in the user's home.
_SWITCHES = {"ORT_DISABLE_TELEMETRY": "1", "CI": "true"}


@contextlib.contextmanager
def no_telemetry() -> Iterator[None]:
    """Keeps ONNX Runtime and OpenVINO, when imported in it, and OpenVINO's convert_model from reporting anything.

    The environment is afterwards what it was before.
    """
    before = {name: os.environ.get(name) for name in _SWITCHES}
    os.environ.update(_SWITCHES)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
