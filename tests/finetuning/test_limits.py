"""Settings and networks at the edge of what fine-tuning takes: they work, or one error names them before training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import slowfast_zoo as sfz
from slowfast_zoo.finetuning import finetune, loop
from slowfast_zoo.video.encode import write_video

SHORT: dict[str, Any] = {"epochs": 1, "batch_size": 4, "lr": 1e-3, "workers": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for label in range(2):
        for index in range(5):
            path = folder / ("train" if index < 4 else "val") / "ab"[label] / f"{index}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            frames = np.random.default_rng([label, index]).integers(0, 90, (12, 36, 48, 3)).astype(np.uint8)
            write_video(path, frames + np.uint8(120 * label), 30, preset="ultrafast")
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "draw_curves", lambda *args: None)


def network(**settings: Any) -> Any:
    torch.manual_seed(0)
    return sfz.create_model("slow_tiny_4x8", width=4, crop=32, num_classes=2, **settings)


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
    if isinstance(value, int) and value > 1 and name in ("epochs", "clips", "workers"):
        return  # as long, or as much, as somebody wants
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
        ({"crops": 2}, 'crops must be 1, 3, or "full"'),
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
