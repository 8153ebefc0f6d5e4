"""The settings stand in one place, from which the signature, the page and the command's options follow."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import pytest

import slowfast_zoo as sfz
from slowfast_zoo.finetuning.settings import Settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "finetune.md"
FIELDS = dataclasses.fields(Settings)


def table() -> str:
    """The rows of the page's table."""
    rows = ["keyword | default | meaning", "---|---|---"]
    for field in FIELDS:
        default = "" if field.default is dataclasses.MISSING else f"`{field.default!r}`"
        rows.append(f"`{field.name}` | {default} | {field.metadata['meaning']}")
    return "\n".join(rows)


def test_the_page_has_all_settings() -> None:
    assert PAGE.read_text(encoding="utf-8").endswith(f"\n## All settings\n\n{table()}\n")


def test_signature_and_docstring_have_all_settings() -> None:
    parameters = inspect.signature(sfz.finetune).parameters
    assert list(parameters) == [field.name for field in FIELDS]
    documented = inspect.getdoc(sfz.finetune) or ""
    for field in FIELDS:
        assert f"\n    {field.name}: {field.metadata['meaning'][:40]}" in documented


def test_unknown_and_missing_arguments_are_type_errors() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'learning_rate'"):
        sfz.finetune("slow_tiny_4x8", "videos", output="out", learning_rate=0.1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="output"):
        sfz.finetune("slow_tiny_4x8", "videos")  # type: ignore[call-arg]


def test_only_what_the_result_depends_on_is_recorded() -> None:
    recorded = Settings("slow_tiny_4x8", "videos", output="out").recorded()
    free = {"crop", "device", "grad_checkpointing", "max_bad", "resume", "tensorboard", "workers", "progress"}
    by_content = {"model", "train", "val", "output", "labels", "root", "multi_label"}
    assert recorded.keys() == {field.name for field in FIELDS} - free - by_content
