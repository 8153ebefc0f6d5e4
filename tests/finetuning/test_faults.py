"""What goes wrong in a fine-tuning, or nearly: each has one clear error, or works."""

from __future__ import annotations

import errno
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainings import network

import slowfast_zoo as sfz
from slowfast_zoo.finetuning import finetune, loop
from slowfast_zoo.finetuning.state import OutputFolder

SHORT: dict[str, Any] = {"epochs": 1, "batch_size": 4, "lr": 0.02, "workers": 0}


def test_tensorboard_shows_the_numbers(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = finetune(network(), data, output=tmp_path / "a", tensorboard=True, **{**SHORT, "epochs": 2})
    shown = EventAccumulator(str(tmp_path / "a" / "tensorboard"))
    shown.Reload()
    for name in ("train_loss", "val_top1"):
        events = shown.Scalars(name.replace("_", "/"))
        assert [event.step for event in events] == [1, 2]
        assert [event.value for event in events] == pytest.approx([row[name] for row in result.history])


@pytest.mark.parametrize(
    "settings",
    [
        {"momentum": 0},
        {"momentum": 0.0, "weight_decay": 0, "layer_decay": 0.5},
        {"warmup_epochs": 0},
        {"batch_size": 8},
        {"drop_rate": 0.0, "label_smoothing": 0.0, "mixup": 0.0},
    ],
)
def test_settings_at_their_bounds_work(settings: dict[str, Any], data: Path, tmp_path: Path) -> None:
    result = finetune(network(), data, output=tmp_path / "a", **{**SHORT, **settings})
    assert all(map(math.isfinite, result.history[0].values()))


def test_without_momentum_it_is_plain_sgd(data: Path, tmp_path: Path) -> None:
    finetune(network(), data, output=tmp_path / "a", **SHORT, momentum=0)
    state = torch.load(tmp_path / "a" / "state.pt", weights_only=True)
    assert all(group["momentum"] == 0 and not group["nesterov"] for group in state["optimizer"]["param_groups"])


def test_divergence_in_validation_is_called_so(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backward = loop.Trainer._backward

    def spoil(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        loss = backward(trainer, *args, **kwargs)
        with torch.no_grad():
            next(trainer.network.parameters()).fill_(math.nan)
        return loss

    monkeypatch.setattr(loop.Trainer, "_backward", spoil)
    with pytest.raises(ValueError, match="diverged.*scores are no finite numbers.*Lower lr"):
        finetune(network(), data, output=tmp_path / "a", **{**SHORT, "batch_size": 8})


def test_a_finished_run_goes_on_for_more_epochs(data: Path, tmp_path: Path) -> None:
    first = finetune(network(), data, output=tmp_path / "a", **SHORT)
    more = finetune(network(), data, output=tmp_path / "a", **{**SHORT, "epochs": 3})
    assert len(more.history) == 3 and more.history[:1] == first.history
    assert [row["epoch"] for row in more.history] == [1, 2, 3]
    # The cosine of three epochs, at their ends: an update goes by the steps done before it.
    steps = 8 // SHORT["batch_size"]
    warmup = round(0.15 * 3 * steps)
    for row in more.history[1:]:
        done = int(row["epoch"]) * steps - 1
        expected = SHORT["lr"] / 2 * (1 + math.cos(math.pi * (done - warmup) / (3 * steps - warmup)))
        assert row["learning_rate"] == pytest.approx(expected)
    with pytest.raises(ValueError, match="another fine-tuning .epochs 3 there, 2 here"):
        finetune(network(), data, output=tmp_path / "a", **{**SHORT, "epochs": 2})


def test_a_result_names_only_what_is_there(data: Path, tmp_path: Path) -> None:
    """What was removed is written again, from the state, or by an epoch that follows; else it is said."""
    output = tmp_path / "a"
    result = finetune(network(), data, output=output, **SHORT)
    before = {path: path.read_bytes() for path in (*result.best.iterdir(), *result.last.iterdir())}
    for path in (result.best, result.last):
        shutil.rmtree(path)
    metrics = (output / "metrics.csv").read_text()
    (output / "metrics.csv").unlink()
    assert finetune(network(), data, output=output, **SHORT) == result
    assert {path: path.read_bytes() for path in before} == before
    assert (output / "metrics.csv").read_text() == metrics and metrics.count("\n") == 2

    for path, content in (
        (result.best / "config.json", "{}"),
        (result.last / "config.json", ""),
        (output / "metrics.csv", metrics[:60]),
    ):
        path.write_text(content)
        assert finetune(network(), data, output=output, **SHORT) == result
        assert {path: path.read_bytes() for path in before} == before
        assert (output / "metrics.csv").read_text() == metrics

    two = {**SHORT, "epochs": 2, "lr": 1e-9}  # so that the first epoch is the best
    output = tmp_path / "b"
    result = finetune(network(), data, output=output, **two)
    state = torch.load(output / "state.pt", weights_only=True)
    state["history"][0]["val_top1"] = 2.0
    OutputFolder(output, state["run"]).write_state(state)
    assert finetune(network(), data, output=output, **two).best_epoch == 1

    weights = result.best / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(FileNotFoundError, match="'best' is gone, or its files are not as they were written"):
        finetune(network(), data, output=output, **two)
    shutil.rmtree(result.best)
    with pytest.raises(FileNotFoundError, match="'best' is gone.*train for more epochs"):
        finetune(network(), data, output=output, **two)
    more = finetune(network(), data, output=output, **{**two, "epochs": 3})
    assert more.best_epoch == 3 and sfz.create_model(f"local-dir:{more.best}").num_classes == 2


def test_what_cannot_be_saved_is_told_before_training(data: Path, tmp_path: Path) -> None:
    model = network()
    model.head.fc = torch.nn.Linear(model.num_features, 2, bias=False)
    with pytest.raises(ValueError, match=r"cannot be saved as a folder.*head\.fc\.bias"):
        finetune(model, data, output=tmp_path / "a", **SHORT)
    assert not (tmp_path / "a").exists()


def test_networks_in_bfloat16(data: Path, tmp_path: Path) -> None:
    settings = {**SHORT, "epochs": 2}
    straight = finetune(network().bfloat16(), data, output=tmp_path / "a", **settings)
    finetune(network().bfloat16(), data, output=tmp_path / "b", **SHORT)
    more = finetune(network().bfloat16(), data, output=tmp_path / "b", **settings)
    for result in (straight, more):
        model = sfz.create_model(f"local-dir:{result.last}")
        assert all(map(math.isfinite, result.history[-1].values()))
        assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_every_flipped_bit_of_a_state_is_noticed(data: Path, tmp_path: Path) -> None:
    finetune(network(), data, output=tmp_path / "a", **SHORT)
    path = tmp_path / "a" / "state.pt"
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    places = {0, len(content) - 1, len(content) - 50, *generator.integers(0, len(content), 40).tolist()}
    changed = [bytearray(content) for _ in places]
    for place, broken in zip(sorted(places), changed, strict=True):
        broken[place] ^= 1 << int(generator.integers(8))
    cut = [content[: len(content) - less] for less in (1, 52, 53, len(content) // 2, len(content))]
    for broken in (*changed, *cut, content + b"\0"):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"state\.pt cannot be read .*checksum.*delete this one by hand"):
            finetune(network(), data, output=tmp_path / "a", **{**SHORT, "epochs": 2})


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_state_that_is_no_file_is_not_read(make: Any, data: Path, tmp_path: Path) -> None:
    make(tmp_path / "state.pt")
    with pytest.raises(ValueError, match=r"is not empty \(state\.pt\), and holds no fine-tuning"):
        finetune(network(), data, output=tmp_path, **SHORT)


def test_output_that_is_no_folder(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(ValueError, match=f"{name} is no folder: name another"):
            finetune(network(), data, output=tmp_path / name, **SHORT)
    with pytest.raises(
        OSError, match=r"cannot write into .*file/a: Not a directory .*Nothing was saved before: mend that"
    ):
        finetune(network(), data, output=tmp_path / "file" / "a", **SHORT)
    assert (tmp_path / "file").read_text() == "mine" and sorted(os.listdir(tmp_path)) == ["file", "link"]


def test_tensorboard_that_cannot_write_is_told_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    writers = pytest.importorskip("tensorboard.summary.writer.record_writer")

    def write(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(writers.RecordWriter, "write", write)
        with pytest.raises(OSError, match=r"No space left on device\. The state of before is whole: make room"):
            finetune(network(), data, output=tmp_path / "a", **SHORT, tensorboard=True)
    assert "Traceback" not in capfd.readouterr().err
    assert len(finetune(network(), data, output=tmp_path / "a", **SHORT, tensorboard=True).history) == 1


FULL_DISK = """
import resource, signal, sys
import slowfast_zoo as sfz
import torch

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then writing beyond the limit is an error, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
torch.manual_seed(0)
model = sfz.create_model("slow_tiny_4x8", width=4, crop=32, num_classes=2)
try:
    sfz.finetune(model, sys.argv[1], output=sys.argv[2], epochs=2, batch_size=4, lr=0.02, workers=0)
except OSError as error:
    print(error)
else:
    print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of a process are Unix's")
def test_a_full_disk_at_the_first_of_all_saves(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(data), str(tmp_path / "a"), "1000"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "File too large. Nothing was saved before: make room, and begin again" in done.stdout
    assert "Traceback" not in done.stderr and not os.listdir(tmp_path / "a")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of a process are Unix's")
@pytest.mark.parametrize("part", [0.1, 0.9])
def test_a_full_disk_leaves_the_state_as_it_was(part: float, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "a"
    finetune(network(), data, output=output, **SHORT)
    before = (output / "state.pt").read_bytes()
    limit = str(int(part * len(before)))
    command = [sys.executable, "-c", FULL_DISK, str(data), str(output), limit]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout and str(output) in done.stdout and "Traceback" not in done.stderr
    assert (output / "state.pt").read_bytes() == before
    assert not [entry for entry in output.rglob("*") if entry.name.startswith(".")]
    finished = finetune(network(), data, output=output, **{**SHORT, "epochs": 2})
    assert len(finished.history) == 2
