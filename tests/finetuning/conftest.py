"""What the tests of fine-tuning share."""

from __future__ import annotations

from pathlib import Path

import pytest
from trainings import write_two_classes

from slowfast_zoo.finetuning import loop


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_two_classes(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pictures."""
    monkeypatch.setattr(loop, "draw_curves", lambda *args: None)
