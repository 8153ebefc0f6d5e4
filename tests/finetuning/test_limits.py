"""Settings and networks at the edge of what fine-tuning takes: they work, or one error names them before training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from trainings import network

import slowfast_zoo as sfz
from slowfast_zoo.finetuning import finetune, loop

SHORT: dict[str, Any] = {"epochs": 1, "batch_size": 4, "lr": 1e-3, "workers": 0}


@pytest.mark.parametrize("name", ["sgd", "SGD", "nesterov", "sgdw", "nesterovw", "nlars", "lookahead_sgd", "rmsprop"])
def test_every_relative_of_sgd_is_plain_without_momentum(name: str, data: Path, tmp_path: Path) -> None:
    """The last step has moved nothing but by its own gradient."""
    result = finetune(network(), data, output=tmp_path / "a", **SHORT, optimizer=name, momentum=0)
    assert math.isfinite(result.history[0]["train_loss"])
    state = torch.load(tmp_path / "a" / "state.pt", weights_only=True)
    assert not any(group.get("nesterov") for group in state["optimizer"]["param_groups"])


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 1},
        {"lr": 1e-300, "weight_decay": 0},
        {"layer_decay": 1e-300},
        {"warmup_epochs": 0.99},
        {"ema": 1e-300},
        {"clip_grad": 1e-300},
        {"drop_rate": 0.9999, "label_smoothing": 0.999, "mixup": 10},
        {"seed": 2**62},
        {"workers": np.int64(0), "max_bad": np.float64(0.05)},
        {"batch_size": 8, "accumulate": 1},
        {"optimizer": "adamw", "momentum": 0},
    ],
)
def test_extreme_settings_work(
    settings: dict[str, Any], data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = finetune(network(), data, output=tmp_path / "a", **{**SHORT, **settings})
    assert all(map(math.isfinite, result.history[0].values()))
    assert capfd.readouterr() == ("", ""), "nothing is said"


FLAGS = ("flip", "pretrained", "multi_label", "grad_checkpointing", "resume", "tensorboard", "progress")


def repr_of(value: object) -> str:
    return repr(value)[:12]


@pytest.mark.parametrize("value", ["1", float("nan"), float("inf"), -1, [1], 1j, np.array([1.0]), 10**400], ids=repr_of)
@pytest.mark.parametrize(
    "name",
    [
        "epochs", "batch_size", "accumulate", "lr", "momentum", "weight_decay", "warmup_epochs", "layer_decay",
        "drop_rate", "label_smoothing", "mixup", "clip_grad", "ema", "clips", "crops", "seed", "workers", "max_bad",
    ],
)  # fmt: skip
def test_what_is_no_number_of_a_kind_is_refused_by_name(name: str, value: Any, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=name):
        finetune(network(), data, output=tmp_path / "a", **{**SHORT, name: value})
    assert not (tmp_path / "a").is_file()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": None}, "optimizer must be"),
        ({"optimizer": "fusedsgd"}, "optimizer 'fusedsgd' cannot be used here"),
        ({"device": "banana"}, "device 'banana' cannot be used"),
        ({"device": "meta"}, "nothing is computed on the device 'meta'"),
        ({"batch_size": 9}, "8 videos to train on, and a step takes 9 of them .*: lower batch_size"),
        ({"crops": 2}, "crops must be one of 1, 3, 'full', not 2"),
        ({"workers": 10**6}, "workers must be a whole number from 0 to 256, or None, not 1000000"),
        ({"workers": 257}, "workers must be"),
        ({"clips": 1001}, "clips must be a whole number from 1 to 1000, not 1001"),
        ({"crop": 10**9}, "crop must be a whole number from 1 to 20000, or None, not 10{9}"),
        ({"val": np.float32(1.5)}, "a share above 0 and below 1 to hold out, not 1.5"),
        ({"epochs": 10**30}, "epochs must be a whole number from 1 to 1000000, not 10{30}"),
        ({"lr": "0.1"}, "lr must be a number above 0, or None, not '0.1'"),
        ({"labels": "ab"}, "labels are the names of the classes, one by one, not 'ab'"),
        *(({name: value}, f"{name} must be True or False") for name in FLAGS for value in ("no", 3, [True])),
    ],
)
def test_what_cannot_be_is_said_before_the_training(
    settings: dict[str, Any], message: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop.Trainer, "_update", lambda *args: pytest.fail("it trains"))
    if settings.get("optimizer") == "fusedsgd" and torch.cuda.is_available():
        pytest.skip("that is another error where there is a GPU")
    with pytest.raises(ValueError, match=message):
        finetune(network(), data, output=tmp_path / "a", **{**SHORT, **settings})


def test_networks_that_cannot_train_or_be_saved_are_refused_before(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop.Trainer, "_update", lambda *args: pytest.fail("it trains"))

    def refused(model: Any, message: str, **settings: Any) -> None:
        with pytest.raises(ValueError, match=message):
            finetune(model, data, output=tmp_path / "a", **SHORT, **settings)
        assert not (tmp_path / "a").exists()

    refused(network().requires_grad_(False), "all parameters of the network are frozen")
    other = network()
    other.head.fc = nn.Sequential(nn.Linear(other.head.fc.in_features, 2))
    refused(other, "cannot be saved as a folder")
    with torch.device("meta"):
        refused(network(), "on the meta device")
    with torch.inference_mode():
        refused(network(), "made in torch.inference_mode")
    for values in (nn.Module.parameters, nn.Module.buffers):
        spoilt = network()
        next(values(spoilt)).detach().fill_(math.nan)
        refused(spoilt, "weights or statistics are no finite numbers")
    refused(network().half(), "in float16 as a whole: leave amp out", amp="float16")
    refused(network().bfloat16(), "in bfloat16 as a whole: leave amp out", amp="float16")


def test_who_calls_without_gradients_trains_all_the_same(data: Path, tmp_path: Path) -> None:
    plain = finetune(network(), data, output=tmp_path / "a", **SHORT)
    model = network()
    with torch.no_grad():
        assert finetune(model, data, output=tmp_path / "b", **SHORT).history == plain.history
    model = network()
    with torch.inference_mode():
        assert finetune(model, data, output=tmp_path / "c", **SHORT).history == plain.history


def test_a_network_in_bfloat16_goes_on_to_the_same_bits(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StopError(BaseException):
        """As good as a kill."""

    settings = {**SHORT, "epochs": 2, "lr": 0.05, "ema": 0.5}
    straight = finetune(network().bfloat16(), data, output=tmp_path / "a", **settings)
    validate = loop.Trainer._validate

    def stop(trainer: Any, bar: Any) -> Any:
        if trainer.history:
            raise StopError
        return validate(trainer, bar)

    with monkeypatch.context() as patched:
        patched.setattr(loop.Trainer, "_validate", stop)
        with pytest.raises(StopError):
            finetune(network().bfloat16(), data, output=tmp_path / "b", **settings)
    with pytest.raises(ValueError, match="another fine-tuning .network .*bfloat16"):
        finetune(network(), data, output=tmp_path / "b", **settings)
    resumed = finetune(network().bfloat16(), data, output=tmp_path / "b", **settings)
    assert resumed.history == straight.history
    for name in ("best", "last"):
        one, other = ((tmp_path / run / name / "model.safetensors").read_bytes() for run in "ab")
        assert one == other


# Divergence


def test_divergence_keeps_the_last_good_state(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the state would be written between the step that spoils the weights and the loss that shows it."""
    monkeypatch.setattr(loop, "SAVE_SECONDS", -1.0)
    backward, calls = loop.Trainer._backward, iter(range(9))

    def spoil(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        loss = backward(trainer, *args, **kwargs)
        if next(calls) == 2:  # the first step of the second epoch
            with torch.no_grad():
                next(trainer.network.parameters()).fill_(math.inf)
        return loss

    with monkeypatch.context() as patched:
        patched.setattr(loop.Trainer, "_backward", spoil)
        with pytest.raises(ValueError, match="has diverged: the loss .* epoch 2.*begin again .*--restart"):
            finetune(network(), data, output=tmp_path / "a", **{**SHORT, "epochs": 2})
    state = torch.load(tmp_path / "a" / "state.pt", weights_only=True)
    assert (state["epoch"], state["step"]) == (1, 0)
    assert all(bool(tensor.isfinite().all()) for tensor in state["network"].values())
    sfz.create_model(f"local-dir:{tmp_path / 'a' / 'best'}")
    assert len(finetune(network(), data, output=tmp_path / "a", **{**SHORT, "epochs": 2}).history) == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 1e300},
        {"lr": 1e300, "optimizer": "adamw"},
        {"lr": 1e300, "optimizer": "lion", "amp": "float16"},
        {"lr": 1e10, "batch_size": 8},
        {"weight_decay": 1e300},
    ],
)
def test_steps_that_are_too_large_are_divergence(settings: dict[str, Any], data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the training has diverged: .* epoch 1\. Lower lr"):
        finetune(network(), data, output=tmp_path / "a", **{**SHORT, "warmup_epochs": 0, **settings})


def test_small_numbers_of_float16_are_named(data: Path, tmp_path: Path) -> None:
    """The smallest number that AdamW adds to what it divides by is 0 there."""
    with pytest.raises(ValueError, match=r"diverged: .* or give model\.float\(\)"):
        finetune(network().half(), data, output=tmp_path / "a", **SHORT, optimizer="adamw")


def overflowing(monkeypatch: pytest.MonkeyPatch, steps: range) -> None:
    """Let gradients be infinite in some steps."""
    forward, calls = loop.nn.CrossEntropyLoss.forward, iter(range(10**6))

    def infinite(self: Any, *args: Any) -> Any:
        loss = forward(self, *args)
        if next(calls) in steps:
            loss.register_hook(lambda gradient: gradient * math.inf)
        return loss

    monkeypatch.setattr(loop.nn.CrossEntropyLoss, "forward", infinite)


def test_steps_that_the_scaler_leaves_out_are_no_divergence(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        overflowing(patched, range(1))
        result = finetune(network(), data, output=tmp_path / "a", **SHORT, amp="float16")
    assert math.isfinite(result.history[0]["train_loss"])
    overflowing(monkeypatch, range(10**6))
    with pytest.raises(ValueError, match='diverged: the gradients are no finite.* set amp to "bfloat16"'):
        finetune(network(), data, output=tmp_path / "b", **{**SHORT, "epochs": 30}, amp="float16")


def test_infinite_gradients_without_a_scaler_are_divergence(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, settings in enumerate(({}, {"clip_grad": 1.0}, {"amp": "bfloat16"}, {"batch_size": 8})):
        with monkeypatch.context() as patched:
            overflowing(patched, range(1))
            with pytest.raises(ValueError, match="the training has diverged"):
                finetune(network(), data, output=tmp_path / str(number), **{**SHORT, **settings})
