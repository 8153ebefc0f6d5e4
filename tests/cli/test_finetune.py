"""``slowfast-zoo finetune``."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import slowfast_zoo as sfz
from slowfast_zoo.cli import finetune as command
from slowfast_zoo.finetuning import FinetuneResult, finetune
from slowfast_zoo.video.encode import write_video


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser()
    command.add_command(whole.add_subparsers())
    return whole


def run(*words: str) -> int:
    args = parser().parse_args(["finetune", *words])
    return int(args.run(args))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """What the function that does the work is called with."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    row = {"epoch": 1, "learning_rate": 0.1, "train_loss": 2.0, "val_loss": 1.0, "val_top1": 0.75, "val_top5": 1.0}

    def recorded(*args: Any, **kwargs: Any) -> FinetuneResult:
        calls.append((args, kwargs))
        return FinetuneResult(Path("out/best"), Path("out/last"), (row,), 1, (("a.mp4", "no video"),))

    monkeypatch.setattr(sys.modules["slowfast_zoo.finetuning"], "finetune", recorded)
    return calls


OPTIONS = [
    ("--val 0.3", {"val": 0.3}),
    ("--val val.csv", {"val": "val.csv"}),
    ("--root videos --multi-label", {"root": "videos", "multi_label": True}),
    ("--single-label", {"multi_label": False}),
    ("--epochs 3 --batch-size 4 --accumulate 2 --seed 7", {"epochs": 3, "batch_size": 4, "accumulate": 2, "seed": 7}),
    ("--lr 0.1 --warmup-epochs 0.5 --clip-grad 2", {"lr": 0.1, "warmup_epochs": 0.5, "clip_grad": 2.0}),
    ("--optimizer adamw --momentum 0.8 --weight-decay 0.1 --layer-decay 0.7",
     {"optimizer": "adamw", "momentum": 0.8, "weight_decay": 0.1, "layer_decay": 0.7}),
    ("--no-flip --drop-rate 0 --label-smoothing 0.1", {"flip": False, "drop_rate": 0.0, "label_smoothing": 0.1}),
    ("--mixup 0.2 --ema 0.99", {"mixup": 0.2, "ema": 0.99}),
    ("--freeze res4 --batch-norm split", {"freeze": "res4", "batch_norm": "split"}),
    ("--from-scratch --crop 64 --restart", {"pretrained": False, "crop": 64, "resume": False}),
    ("--clips 2 --crops full", {"clips": 2, "crops": "full"}),
    ("--device cpu --amp bfloat16 --workers 2", {"device": "cpu", "amp": "bfloat16", "workers": 2}),
    ("--grad-checkpointing --tensorboard", {"grad_checkpointing": True, "tensorboard": True}),
    ("--max-bad 0.2", {"max_bad": 0.2}),
]  # fmt: skip


def test_every_argument_has_an_option(asked: list[Any]) -> None:
    mirrored = set().union(*(settings for _, settings in OPTIONS)) | {"model", "train", "output", "labels", "progress"}
    assert mirrored == set(inspect.signature(finetune).parameters)
    for words, settings in OPTIONS:
        asked.clear()
        assert run("data/mine.csv", *words.split()) == 2
        assert asked == [
            (("slowfast_tiny_4x8.motion", "data/mine.csv"), {"output": "mine.finetuned", "progress": True, **settings})
        ]


def test_what_it_prints(
    asked: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.txt").write_text("dog\n\nbee fly\n")
    words = ("data", "--output", "out", "--model", "local-dir:x", "--labels", str(tmp_path / "labels.txt"))
    assert run(*words) == 2
    assert asked[0] == (("local-dir:x", "data"), {"output": "out", "labels": ["dog", "bee fly"], "progress": True})
    shown = capsys.readouterr()
    assert "after epoch 1 of 1: top-1 75.00 %, top-5 100.00 %" in shown.out
    assert "slowfast-zoo predict VIDEO --model local-dir:out/best" in shown.out
    assert "1 videos could not be read" in shown.err
    assert run("data", "--json") == 2
    report = json.loads(capsys.readouterr().out)
    assert report["best"] == "out/best" and report["history"][0]["val_top1"] == 0.75
    assert report["skipped"] == [{"video": "a.mp4", "reason": "no video"}]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run("data") == 0, "or torchrun would end the others"
    assert "1 videos could not be read, see above; the exit code is 0" in capsys.readouterr().err
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setenv("RANK", "1")
    assert run("data") == 2
    assert capsys.readouterr() == ("", "")


def test_it_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--help")
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "train and val",
        "an interrupted training goes on",
        "(default: 20)",
        "0 under torchrun",
        "--model local-dir:FOLDER",
    ):
        assert words in text
    assert "SUPPRESS" not in text


def test_from_videos_to_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("dark", "light"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for index in range(3):
            frames = np.full((12, 36, 48, 3), 40 + 160 * (name == "light") + index, np.uint8)
            write_video(tmp_path / "mine" / name / f"{index}.mp4", frames, 30, preset="ultrafast")
    words = ("mine", "--epochs", "2", "--batch-size", "2", "--crop", "32", "--lr", "0.02", "--no-flip")
    assert run(*words) == 0
    shown = capsys.readouterr()
    assert shown.err.count("val_top1") == 2, "a line an epoch"
    assert sorted(path.name for path in (tmp_path / "mine.finetuned").iterdir()) == [
        "best", "curves.png", "last", "metrics.csv", "state.pt"
    ]  # fmt: skip
    assert sfz.VideoClassifier("local-dir:mine.finetuned/best").labels == ("dark", "light")
    assert run(*words) == 0, "done already"
    assert "val_top1" not in capsys.readouterr().err
