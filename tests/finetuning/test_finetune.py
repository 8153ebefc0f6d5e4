"""Fine-tuning: from folders and lists to networks; the same result after interruptions and by several processes."""

from __future__ import annotations

import csv
import inspect
import json
import math
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from timm.data import Mixup
from torch import Tensor, nn

import slowfast_zoo as sfz
from slowfast_zoo.errors import MissingDependencyError
from slowfast_zoo.finetuning import finetune, loop, state
from slowfast_zoo.finetuning.data import ClipDataset, read_data
from slowfast_zoo.finetuning.loop import Trainer
from slowfast_zoo.inference import VideoClassifier
from slowfast_zoo.models import SlowFastConfig
from slowfast_zoo.models.freezing import freeze
from slowfast_zoo.video.dataset import LabelledVideo, labels_in_list, read_class_folders
from slowfast_zoo.video.encode import write_video

ABC = ("ant", "bee", "cat")
SHORT: dict[str, Any] = {"epochs": 2, "batch_size": 4, "lr": 0.02}
FILES = ["README.md", "config.json", "model.safetensors"]


def write_clip(path: Path, colour: int, seed: int) -> Path:
    """A short video, more red, green or blue than anything else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.random.default_rng([colour, seed]).integers(0, 90, (12, 36, 48, 3)).astype(np.uint8)
    frames[..., colour] += np.uint8(120)
    write_video(path, frames, 30, preset="ultrafast")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per class: 4 videos to train on, 2 to validate on."""
    folder = tmp_path_factory.mktemp("data")
    for colour, name in enumerate(ABC):
        for index in range(6):
            write_clip(folder / ("train" if index < 4 else "val") / name / f"{index}.mp4", colour, index)
    return folder


def network(seed: int = 0, **overrides: Any) -> Any:
    torch.manual_seed(seed)
    return sfz.create_model("slowfast_tiny_4x8", width=8, num_classes=3, crop=32, **overrides)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def equal(one: Path, other: Path) -> bool:
    """Whether two results are the same, to the last bit."""
    names = ["best/model.safetensors", "last/model.safetensors", "best/config.json", "metrics.csv"]
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


# The whole of it


def test_from_a_folder_to_a_classifier(data: Path, tmp_path: Path) -> None:
    """What validation said is what the best network predicts."""
    state_before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
    result = finetune(
        "slowfast_tiny_4x8.motion", data, output=tmp_path / "out", crop=32, flip=False, **{**SHORT, "lr": None}
    )
    assert torch.equal(torch.random.get_rng_state(), state_before[0])
    assert np.random.get_state()[1].tolist() == state_before[1], "the caller's random numbers go on"
    assert [row["epoch"] for row in result.history] == [1, 2]
    assert (result.best, result.last, result.skipped) == (tmp_path / "out/best", tmp_path / "out/last", ())
    for folder in (result.best, result.last):
        assert sorted(path.name for path in folder.iterdir()) == FILES
    content = json.loads((result.best / "config.json").read_text())
    assert content["labels"] == list(ABC) and content["based_on"] == "slowfast_tiny_4x8.motion"
    wanted = {"mean": [0.45] * 3, "scale": 32, "crop": 32, "flip": False, "clip_sampling": "uniform"}
    assert wanted.items() <= content["preprocessing"].items()
    assert f"local-dir:{result.best}" in (result.best / "README.md").read_text()
    row = result.history[result.best_epoch - 1]
    classify = VideoClassifier(f"local-dir:{result.best}", optimize=False)
    assert classify.labels == ABC and str(sfz.create_transform(f"local-dir:{result.best}")).startswith(
        "shorter side to 32"
    )
    right, loss = 0, 0.0
    for index, name in enumerate(ABC):
        for prediction in classify(sorted((data / "val" / name).glob("*")), clips=1, crops=1):
            right += prediction[0][0] == name
            loss -= math.log(prediction.probabilities[index]) / 6
    assert right / 6 == row["val_top1"] == row["val_mean_class_accuracy"]
    assert loss == pytest.approx(row["val_loss"], rel=1e-5)
    with (tmp_path / "out" / "metrics.csv").open() as file:
        assert [{name: float(value) for name, value in line.items()} for line in csv.DictReader(file)] == list(
            result.history
        )


def test_it_learns(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # with a picture
    model = network()
    result = finetune(model, data, output=tmp_path / "out", epochs=5, batch_size=4, lr=0.05)
    assert result.history[-1]["train_loss"] < 0.8 * result.history[0]["train_loss"]
    assert result.history[result.best_epoch - 1]["val_top1"] == 1
    assert not model.training and all(torch.equal(v, model.state_dict()[k]) for k, v in weights(result.last).items())
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_schedule_is_the_papers(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a period of the cosine after a linear warm-up from a tenth; rates grow with the clips of a step."""
    rates: list[float] = []
    original = torch.optim.SGD.step

    def step(self: Any, *args: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        groups = {group["weight_decay"]: {p.ndim for p in group["params"]} for group in self.param_groups}
        assert groups == {0.0: {1}, 1e-4: {2, 5}}, "batch norms and biases have no weight decay"
        assert all(group["momentum"] == 0.9 and group["nesterov"] for group in self.param_groups)
        return original(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    monkeypatch.setattr(Trainer, "_backward", lambda self, *a, last: self._optimizer.step() or torch.zeros(()))
    monkeypatch.setattr(Trainer, "_validate", lambda *a: {"val_loss": 0.0, "val_top1": 0.0})
    finetune(network(), data, output=tmp_path / "a", epochs=5, batch_size=4, warmup_epochs=2)
    peak = 0.1 / 64 * 4 / 2  # half of the paper's, for 4 clips
    warm = [peak * (0.1 + 0.9 * i / 6) for i in range(6)]
    assert rates == pytest.approx(warm + [peak / 2 * (1 + math.cos(math.pi * i / 9)) for i in range(9)])
    rates.clear()
    finetune("slowfast_tiny_4x8", data, output=tmp_path / "b", pretrained=False, crop=32, epochs=1, batch_size=6)
    assert rates == pytest.approx([0.1 / 64 * 6, 0.1 / 64 * 6 / 2])


# The same again


def test_the_seed_decides(data: Path, tmp_path: Path) -> None:
    """Not the number of workers, nor what the caller did with random numbers before."""
    model, settings = "slowfast_tiny_4x8", {"crop": 32, "pretrained": False, "epochs": 1, "batch_size": 4}
    finetune(model, data, output=tmp_path / "a", **settings)
    torch.rand(3)
    finetune(model, data, output=tmp_path / "b", workers=2, **settings)
    assert equal(tmp_path / "a", tmp_path / "b")
    finetune(model, data, output=tmp_path / "c", seed=1, **settings)
    assert not equal(tmp_path / "a", tmp_path / "c")


class StopError(BaseException):
    """As good as a kill: nothing handles it."""


def stopping(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
    """Let one call of a function end the run instead."""
    original, calls = getattr(owner, name), iter(range(1000))

    def function(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            raise StopError
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, function)


MUCH: dict[str, Any] = {**SHORT, "ema": 0.5, "mixup": 0.4, "label_smoothing": 0.1, "clip_grad": 1.0, "layer_decay": 0.8}


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    output = tmp_path_factory.mktemp("whole") / "out"
    finetune(network(), data, output=output, **MUCH)
    return output


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (Trainer, "_update", 4),
        (Trainer, "_validate", 1),
        (state.OutputFolder, "write_network", 0),
        (loop, "write_metrics", 1),
    ],
)
def test_an_interrupted_run_goes_on(
    owner: Any, name: str, call: int, whole: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the same result, wherever it was, with averaged weights, dropout, mixup and momentum."""
    monkeypatch.setattr(loop, "SAVE_SECONDS", -1.0)  # after each step
    with monkeypatch.context() as patched:
        stopping(patched, owner, name, call)
        with pytest.raises(StopError):
            finetune(network(), data, output=tmp_path, **MUCH)
    (tmp_path / ".state.a_half_0.pt").touch()  # what a kill leaves
    done: list[int] = []
    update = Trainer._update
    monkeypatch.setattr(Trainer, "_update", lambda self, *args: done.append(1) or update(self, *args))
    result = finetune(network(seed=5), data, output=tmp_path, **MUCH)
    assert equal(tmp_path, whole)
    left = {"_update": 2, "_validate": 0, "write_network": 3, "write_metrics": 0}
    assert len(done) == left[name], "what was done is not done again"
    assert not list(tmp_path.glob(".*"))
    done.clear()
    again = finetune(network(), data, output=tmp_path, **MUCH)
    assert done == [] and again.history == result.history, "a finished run is finished"


def test_what_is_in_the_folder(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    settings = {**SHORT, "epochs": 1}
    finetune(network(), data, output=output, **settings)
    with pytest.raises(ValueError, match=r"another fine-tuning \(lr 0.02 there, 0.01 here\): name another folder, or"):
        finetune(network(), data, output=output, **{**settings, "lr": 0.01})
    with pytest.raises(ValueError, match="network 'slowfast_tiny_4x8 .*' there"):
        finetune(network(alpha=2), data, output=output, **settings)
    with pytest.raises(ValueError, match="train '.*' there"):
        finetune(network(), data / "train", 0.5, output=output, **settings)
    finetune(network(), data, output=output, grad_checkpointing=True, workers=1, max_bad=0.5, **settings)  # may differ
    other = finetune(network(), data, output=output, resume=False, **{**settings, "lr": 0.01})
    assert other.history[0]["learning_rate"] < 0.01
    (output / "state.pt").write_bytes(b"what is this")
    with pytest.raises(ValueError, match=r"state\.pt cannot be read .*delete this one"):
        finetune(network(), data, output=output, **settings)
    torch.save({"a": 1}, output / "state.pt")
    with pytest.raises(ValueError, match="no state of a fine-tuning"):
        finetune(network(), data, output=output, **settings)
    (output / "state.pt").unlink()
    with pytest.raises(ValueError, match=r"out is not empty \(best, last, metrics\.csv\), and holds no fine-tuning"):
        finetune(network(), data, output=output, **settings)


def test_a_folder_of_somebody_elses_keeps_everything(tmp_path: Path) -> None:
    def refused(message: str, resume: bool) -> None:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(ValueError, match=message) as raised:
            state.OutputFolder(tmp_path, {}).open(resume)
        assert sorted(tmp_path.rglob("*")) == before and "\x1b" not in str(raised.value)

    half = ".config.0123abcd.json"
    touch(tmp_path, ".state.abcd_123.pt")
    assert state.OutputFolder(tmp_path, {}).open(True) is None and not list(tmp_path.iterdir()), "halves only"
    touch(tmp_path, "notes.txt", ".config.json.bak", ".state.db", ".best.friends/a", ".last.response/a", "best/b", half)
    for resume in (True, False):
        (tmp_path / "state.pt").unlink(missing_ok=True)
        refused("is not empty", resume)
        for content in ({"a": 1}, {"run": 3}, {"run": {"lr": 0.1}}):
            torch.save(content, tmp_path / "state.pt")
            refused(r"cannot be read .* delete this one by hand", resume)
    state.OutputFolder(tmp_path, {"lr": 0.1}).write_state({})
    assert state.OutputFolder(tmp_path, {}).open(False) is None
    names = {".best.friends", ".last.response", ".config.json.bak", ".state.db", "best", "notes.txt", "state.pt"}
    assert {path.name for path in tmp_path.iterdir()} == names, "but for the half"


def test_numpy_values_are_as_good(data: Path, tmp_path: Path) -> None:
    """In the state there are only plain ones."""
    given = {"epochs": np.int64(1), "batch_size": np.int32(6), "lr": np.float64(0.02), "flip": np.bool_(True)}
    settings: dict[str, Any] = {**given, "batch_norm": np.str_("batch"), "labels": np.array(ABC)}
    first = finetune(network(), data, output=tmp_path, **settings)
    plain = {"epochs": 1, "batch_size": 6, "lr": 0.02}
    assert finetune(network(), data, output=tmp_path, **plain).history == first.history


KILLED = """
import os, random, shutil, signal, sys, time
import av
import torch
import torchvision.transforms.v2
from slowfast_zoo.finetuning import finetune, loop
import slowfast_zoo as sfz

torch.set_num_threads(1)
loop.SAVE_SECONDS = 0.0

def start(output):
    pid = os.fork()
    if pid:
        return pid
    torch.manual_seed(0)
    model = sfz.create_model("slowfast_tiny_4x8", width=8, num_classes=3, crop=32)
    finetune(model, DATA, output=output, epochs=3, batch_size=4, lr=0.02, ema=0.5)
    os._exit(0)

began = time.monotonic()
assert os.waitpid(start("whole"), 0)[1] == 0
length = time.monotonic() - began
random.seed(SEED)
kills = 0
while True:
    pid = start("killed")
    time.sleep(random.uniform(0.1, 0.4) * length)
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if status == 0 and kills >= 2:
        break
    if status == 0:  # too late
        shutil.rmtree("killed")
        length, kills = length / 2, 0
        continue
    kills += 1
    for name in ("best", "last"):  # whole, or not there
        if os.path.exists("killed/" + name):
            sfz.create_model("local-dir:killed/" + name)
    if kills == 6:
        assert os.waitpid(start("killed"), 0)[1] == 0
        break
print(kills)
"""


@pytest.mark.slow
def test_killed_at_random_times(data: Path, tmp_path: Path) -> None:
    script = f"DATA, SEED = {str(data)!r}, 0\n{KILLED}"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 2
    assert equal(tmp_path / "killed", tmp_path / "whole")
    assert not list((tmp_path / "killed").rglob(".*"))


# Several processes


TWO = """
import json, os, sys
import torch
import slowfast_zoo as sfz
from slowfast_zoo.finetuning import finetune
from slowfast_zoo.finetuning.data import ClipDataset

torch.set_num_threads(1)
order, get = [], ClipDataset.__getitem__
def recorded(self, index):
    order.append((self.epoch, index))
    return get(self, index)
ClipDataset.__getitem__ = recorded

def train(output, **settings):
    torch.manual_seed(0)
    model = sfz.create_model("slowfast_tiny_4x8", width=8, num_classes=3, crop=32)
    order.clear()
    result = finetune(model, DATA, output=output, lr=0.02, warmup_epochs=0, **settings)
    with open(f"{output}.{os.environ['RANK']}.json", "w") as file:
        json.dump({"order": order, "history": result.history, "skipped": result.skipped}, file)

train("frozen", epochs=2, batch_size=3, batch_norm="frozen", drop_rate=0.0)
train("parts", epochs=1, batch_size=1, accumulate=3, batch_norm="frozen", drop_rate=0.0, ema=0.5)
train("bad", epochs=1, batch_size=2, max_bad=0.2, **BAD)
assert torch.distributed.is_initialized()
"""


@pytest.mark.slow
def test_two_processes(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same videos in the same order, and the same weights as one process with the doubled batch."""
    for part in ("train", "val"):
        shutil.copytree(data / part, tmp_path / "bad data" / part)
    (tmp_path / "bad data" / "train" / "bee" / "0.mp4").write_text("no video")
    (tmp_path / "bad data" / "val" / "ant" / "5.mp4").write_text("no video")
    script = TWO.replace("DATA", "settings.pop('data', " + repr(str(data)) + ")")
    script = script.replace("**BAD", "data=" + repr(str(tmp_path / "bad data")))
    (tmp_path / "script.py").write_text(script)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "script.py"]
    done = subprocess.run(torchrun, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    orders: list[Any] = []
    get = ClipDataset.__getitem__
    monkeypatch.setattr(ClipDataset, "__getitem__", lambda self, i: orders.append([self.epoch, i]) or get(self, i))
    same: dict[str, Any] = {"batch_size": 6, "lr": 0.02, "warmup_epochs": 0, "batch_norm": "frozen", "drop_rate": 0.0}
    for name, settings in (("frozen", {"epochs": 2}), ("parts", {"epochs": 1, "ema": 0.5})):
        orders.clear()
        result = finetune(network(), data, output=tmp_path / "one" / name, **settings, **same)
        ranks = [json.loads((tmp_path / f"{name}.{rank}.json").read_text()) for rank in range(2)]
        assert orders[::2] == ranks[0]["order"] and orders[1::2] == ranks[1]["order"]
        assert ranks[0]["history"] == ranks[1]["history"]
        for row, other in zip(result.history, ranks[0]["history"], strict=True):
            assert row == pytest.approx(other, rel=1e-4)
        ours, theirs = weights(result.last), weights(tmp_path / name / "last")
        start = network().state_dict()
        moved = max(float((ours[key] - start[key]).abs().max()) for key in ours)
        for key, tensor in ours.items():
            torch.testing.assert_close(theirs[key], tensor, rtol=1e-4, atol=1e-4 * moved, msg=key)
    for rank in range(2):
        told = json.loads((tmp_path / f"bad.{rank}.json").read_text())["skipped"]
        assert sorted(name for name, _ in told) == ["ant/5.mp4", "bee/0.mp4"]
    assert done.stderr.count("bee/0.mp4 cannot be read and is left out") == 1


def test_what_goes_with_processes(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="SyncBatchNorm, which is for GPUs"):
        finetune(network(), data, output=tmp_path / "a", batch_norm="sync", **SHORT)
    with pytest.raises(ValueError, match="12 videos to train on, and a step takes 16 of them"):
        finetune(network(), data, output=tmp_path / "a", batch_size=8, accumulate=2)


# What trains


def test_only_the_head(data: Path, tmp_path: Path) -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = finetune(model, data, output=tmp_path / "a", freeze="res5", **SHORT)
    changed = {name for name, tensor in weights(result.last).items() if not torch.equal(tensor, before[name])}
    assert changed == {"head.fc.weight", "head.fc.bias"}


def test_a_frozen_network_stays_so(data: Path, tmp_path: Path) -> None:
    model = network()
    freeze(model, "res3")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = finetune(model, data, output=tmp_path / "a", batch_norm="frozen", **SHORT)
    changed = {name for name, tensor in weights(result.last).items() if not torch.equal(tensor, before[name])}
    assert {name.split(".")[1] for name in changed} == {"res4", "res5", "fc"}
    assert not any("running" in name for name in changed)


def trained(model: Any, data: Path, output: Path, **settings: Any) -> dict[str, Tensor]:
    same = {"epochs": 1, "lr": 0.02, "drop_rate": 0.0, "batch_norm": "frozen", "warmup_epochs": 0}
    return weights(finetune(model, data, output=output, **{**same, **settings}).last)


@pytest.fixture(scope="module")
def plain(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return trained(network(), data, tmp_path_factory.mktemp("plain") / "out", batch_size=6)


def changes(tensors: dict[str, Tensor]) -> Tensor:
    """How far the parameters are from where they began."""
    start: dict[str, Tensor] = dict(network().named_parameters())
    return torch.cat([(tensors[name] - tensor).detach().flatten() for name, tensor in start.items()])


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({"batch_size": 2, "accumulate": 3}, 1e-4),
        ({"batch_size": 6, "grad_checkpointing": True}, 1e-4),
        ({"batch_size": 6, "clip_grad": 1e6}, 1e-4),
        ({"batch_size": 6, "amp": "bfloat16"}, 0.2),
        ({"batch_size": 6, "amp": "float16"}, 0.1),
    ],
)
def test_what_makes_no_difference(
    settings: dict[str, Any], tolerance: float, plain: dict[str, Tensor], data: Path, tmp_path: Path
) -> None:
    tensors = trained(network(), data, tmp_path / "out", **settings)
    assert float((changes(tensors) - changes(plain)).norm()) <= tolerance * float(changes(plain).norm()) > 0


def test_split_batch_norm(data: Path, tmp_path: Path) -> None:
    """The state dict and the folder are those of other batch norms."""
    settings = {"epochs": 1, "batch_size": 8, "batch_norm": "split"}
    result = finetune(network(), data, output=tmp_path / "a", **settings)
    names = sfz.create_model(f"local-dir:{result.last}").state_dict().keys()
    assert names == network().state_dict().keys() == weights(result.last).keys()


def test_clipped_gradients_and_averaged_weights(plain: dict[str, Tensor], data: Path, tmp_path: Path) -> None:
    clipped = trained(network(), data, tmp_path / "b", batch_size=6, clip_grad=1e-3, weight_decay=0.0)
    # Two steps of Nesterov's momentum 0.9: the first gradient goes 1.9 + 0.81 steps, the second 1.9.
    assert 0 < float(changes(clipped).norm()) < 1.01 * 1e-3 * 0.02 * (2.71 + 1.9) < float(changes(plain).norm())
    model = network()
    average = trained(model, data, tmp_path / "c", batch_size=6, ema=0.9)
    torch.testing.assert_close(changes(dict(model.named_parameters())), changes(plain))
    assert float(changes(average).norm()) < 0.95 * float(changes(plain).norm()), "the average is what is written"


# Data


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.mp4", "b/10.MKV", "b/notes.txt", "b/.hidden.mp4", "b/more/deep.avi", "b/frames/001.jpg")
    touch(tmp_path, "a b/x.webm", "notes.txt", ".cache/x.mp4")
    entries, labels = read_class_folders(tmp_path)
    assert labels == ("a b", "b")
    names = ["a b/x.webm", "b/10.MKV", "b/2.mp4", "b/frames", "b/more/deep.avi"]
    assert [(entry.name, entry.targets) for entry in entries] == [(name, (int(name[0] == "b"),)) for name in names]
    assert entries[0].video == str(tmp_path / "a b" / "x.webm")
    again, labels = read_class_folders(tmp_path, ["b", "c", "a b"])
    assert labels == ("b", "c", "a b") and again[0].targets == (2,)
    with pytest.raises(ValueError, match="folder b: unknown class 'b'"):
        read_class_folders(tmp_path, ["a b", "c"])


def test_class_names_of_a_list(tmp_path: Path) -> None:
    for text, expected in (
        ("path,label\na.mp4,dog\nb.mp4,bee fly\n", ("bee fly", "dog")),
        ("a.mp4,dog;ant\nb.mp4,\n", ("ant", "dog")),
        ("a.mp4 3\nb.mp4 0\n", None),
        ("a.mp4\tdog\nb.mp4\tant\n", ("ant", "dog")),
    ):
        (tmp_path / "list").write_text(text)
        assert labels_in_list(tmp_path / "list") == expected
    (tmp_path / "list").write_text("a.mp4\tdog\nb.mp4\t3\n")
    with pytest.raises(ValueError, match="names or indices, not both"):
        labels_in_list(tmp_path / "list")
    (tmp_path / "list").write_text("path,label\na.mp4,\n")
    with pytest.raises(ValueError, match="has no labels"):
        labels_in_list(tmp_path / "list")


def test_where_validation_videos_come_from(tmp_path: Path) -> None:
    for name, count in (("ant", 10), ("bee", 5), ("cat", 1), ("train", 2)):
        touch(tmp_path / "all", *(f"{name}/{i}.mp4" for i in range(count)))
    found = read_data(tmp_path / "all")
    assert found.labels == ("ant", "bee", "cat", "train"), "train is a class among others"
    counts = [Counter(found.labels[e.targets[0]] for e in part) for part in (found.train, found.val)]
    assert counts == [{"ant": 8, "bee": 4, "cat": 1, "train": 1}, {"ant": 2, "bee": 1, "train": 1}]
    assert {e.name for e in found.train}.isdisjoint(e.name for e in found.val)
    assert read_data(tmp_path / "all").val == found.val != read_data(tmp_path / "all", seed=3).val
    half = read_data(tmp_path / "all", 0.5)
    assert Counter(e.targets[0] for e in half.val) == {0: 5, 1: 2, 3: 1}
    apart = read_data(tmp_path / "all", tmp_path / "all")
    assert len(apart.train) == len(apart.val) == 18
    touch(tmp_path / "split", "train/b/0.mp4", "train/a/0.mp4", "val/b/1.mp4", "test/x/0.mp4")
    split = read_data(tmp_path / "split")
    assert [e.name for e in split.val] == ["b/1.mp4"] and split.val[0].targets == (1,) and split.labels == ("a", "b")
    with pytest.raises(ValueError, match="no labelled videos to validate on"):
        read_data(tmp_path / "split", 0.4)


def test_lists(tmp_path: Path) -> None:
    touch(tmp_path, "v/0.mp4")
    for name, text in (
        ("names.csv", "path,label\n0.mp4,dog\n1.mp4,ant\n2.mp4,dog\n3.mp4,ant\n"),
        ("numbers.csv", "0.mp4,1\n1.mp4,0\n2.mp4,1\n3.mp4,0\n"),
        ("val.csv", "path,label\n0.mp4,ant\n"),
        ("sets.csv", "0.mp4,a;b\n1.mp4,\n2.mp4,a\n3.mp4,b\n4.mp4,a|b\n5.mp4,c\n"),
    ):
        (tmp_path / name).write_text(text)
    names = read_data(tmp_path / "names.csv", tmp_path / "val.csv", root=tmp_path / "v")
    assert names.labels == ("ant", "dog") and [e.targets for e in names.train] == [(1,), (0,), (1,), (0,)]
    assert names.val == [LabelledVideo("0.mp4", str(tmp_path / "v" / "0.mp4"), (0,))]
    moved = names.with_labels(("dog", "ant"))
    assert [e.targets for e in moved.train] == [(0,), (1,), (0,), (1,)] and moved.val[0].targets == (1,)
    given = read_data(tmp_path / "names.csv", labels=("dog", "ant"), root=tmp_path / "v")
    assert given.labels == ("dog", "ant")
    numbers = read_data(tmp_path / "numbers.csv", root=tmp_path / "v")
    assert numbers.labels == ("class 0", "class 1") and not numbers.named
    assert numbers.with_labels(("x", "y")).train == numbers.train
    sets = read_data(tmp_path / "sets.csv", root=tmp_path / "v")
    assert sets.multi_label and {t for e in sets.train for t in e.targets} == {0, 1, 2} and sets.val
    videos = [LabelledVideo(e.name, e.video, (np.int64(e.targets[0]),)) for e in names.train]
    read = read_data(videos, names.val, labels=names.labels)
    assert state.digest_of(read.train) == state.digest_of(names.train)
    assert (read.train, read.labels) == (names.train, names.labels)


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        ([], {}, "has no folders: expected one for each class"),
        (["a/0.mp4", "b/notes.txt"], {}, "b has no videos, but stands for a class"),
        (["a/0.mp4", "a/1.mp4"], {}, r"one class only \(a\)"),
        (["train/a/0.mp4", "train/b/0.mp4", "val/c/0.mp4"], {}, "folder c: unknown class 'c'"),
        (
            ["a/0.mp4", "a/1.mp4", "b/0.mp4"],
            {"labels": ["a", "b", "x", "y"]},
            "2 of the 4 classes have no video .* x, y",
        ),
        (["a/0.mp4", "b/0.mp4"], {}, "no labelled videos to validate on"),
        (["a/0.mp4", "b/0.mp4"], {"val": 1.5}, "a share above 0 and below 1"),
        (["a/0.mp4", "b/0.mp4"], {"val": "nowhere"}, "nowhere"),
    ],
)
def test_data_that_nothing_can_be_learnt_from(
    files: Sequence[str], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """One error, before anything is written."""
    touch(tmp_path / "data", "x")
    touch(tmp_path / "data", *files)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        finetune(network(), tmp_path / "data", output=tmp_path / "out", **settings)
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        finetune(network(), tmp_path / "elsewhere", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_class_that_some_videos_do_not_have(data: Path, tmp_path: Path) -> None:
    def videos(part: str) -> list[Any]:
        return [(path, [0] if name == "ant" else []) for name in ABC for path in sorted((data / part / name).iterdir())]

    model = network()
    model.reset_classifier(1)
    result = finetune(model, videos("train"), videos("val"), output=tmp_path / "a", multi_label=True, **SHORT)
    classify = VideoClassifier(f"local-dir:{result.last}", optimize=False)
    scores = np.array([classify(path, clips=1, crops=1).probabilities[0] for path, _ in videos("val")])
    shown = np.array([bool(targets) for _, targets in videos("val")])
    loss = -np.log(np.where(shown, scores, 1 - scores)).mean()
    assert loss == pytest.approx(result.history[-1]["val_loss"], rel=1e-4)
    with pytest.raises(ValueError, match="one class only"):
        read_data([video for video in videos("train") if video[1]], multi_label=True)
    with pytest.raises(ValueError, match="there are no videos"):
        read_data([], videos("val"))


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    videos = [LabelledVideo(f"{i}.mp4", f"{i}.mp4", (i % 2,)) for i in range(4)]
    several = [*videos, LabelledVideo("9.mp4", "9.mp4", (0, 1))]
    for train, val, settings, message in (
        (videos, [LabelledVideo("5.mp4", "5.mp4", (2,))], {}, r"'5\.mp4' has the labels \(2,\), but the 2 classes"),
        (several, videos, {"multi_label": False}, r"'9\.mp4' has 2 labels"),
        (videos, videos, {"labels": ("a", "b", "b")}, "labels has 'b' more than once"),
        (videos, [LabelledVideo("5.mp4", "5.mp4", ())], {"multi_label": True}, "no labelled videos to validate on"),
    ):
        with pytest.raises(ValueError, match=message):
            read_data(train, val, **settings)  # type: ignore[arg-type]


def test_classes_that_know_left_from_right(data: Path, tmp_path: Path) -> None:
    from slowfast_zoo.finetuning.data import Data, warn_about

    for label in (
        "pan_left", "Turn RIGHT", "leftwards", "roll_counterclockwise", "right-handed", "turnLeft", "TurnRight",
        "swipeleft", "spin ccw", "rotateCCW", "CWTurn",
    ):  # fmt: skip
        with pytest.warns(UserWarning, match=f"the class '{label}' knows its left from its right"):
            warn_about(Data([], [], ("bright", label), True, False), flip=True)
    warn_about(Data([], [], ("pan_left", "turnRight"), True, False), flip=False)
    video = LabelledVideo("a.mp4", "a.mp4", (0,))
    with pytest.warns(UserWarning, match=r"1 videos are trained on and validated on, such as a\.mp4"):
        warn_about(
            Data(
                [video],
                [video],
                ("upright", "cleft", "Copyright sign", "sitUpright", "playwright", "a leftover"),
                True,
                False,
            ),
            flip=True,
        )


def sample(data: Path, index: int, epoch: int = 0, **settings: Any) -> Tensor:
    found = read_data(data)
    transform = sfz.create_transform(network(), training=True, scale=36, crop=32, flip=settings.pop("flip", True))
    arguments: dict[str, Any] = {"seed": 0, "segments": False, "patience": 0, **settings}
    dataset = ClipDataset(found, transform, SlowFastConfig(frames=4, stride=2, alpha=2), **arguments)
    dataset.epoch = epoch
    clips: Tensor = dataset[index].clips  # type: ignore[assignment]
    return clips


def test_clips_are_drawn_by_seed_epoch_and_index(data: Path) -> None:
    clip = sample(data, 3)
    assert clip.shape == (1, 3, 8, 32, 32)
    torch.manual_seed(9)
    assert torch.equal(clip, sample(data, 3))
    for other in (sample(data, 4), sample(data, 3, epoch=1), sample(data, 3, seed=1)):
        assert not torch.equal(clip, other)
    spread = [sample(data, 3, epoch=e, segments=True) for e in range(3)]
    assert len({tuple(clip.flatten().tolist()) for clip in spread}) == 3
    # All frames of a clip are scaled, cropped and mirrored alike: these twelve frames are noise, but for their colour.
    assert float(clip[0, 0].mean() - clip[0, 1].mean()) > 1


def test_mirroring_can_be_switched_off(tmp_path: Path) -> None:
    frames = np.zeros((12, 36, 48, 3), np.uint8)
    frames[:, :, :24] = 255
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        write_video(tmp_path / "train" / name / "0.mp4", frames, 30)
    shutil.copytree(tmp_path / "train", tmp_path / "val")
    for flip, expected in ((True, {True, False}), (False, {True})):
        clips = [sample(tmp_path, 0, epoch=epoch, flip=flip)[0, 0] for epoch in range(12)]
        assert {bool((clip[..., 0] > clip[..., -1]).all()) for clip in clips} == expected


# Videos that cannot be read


def test_unreadable_videos_are_left_out(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data/train/bee/1.mp4").write_text("no video")
    (tmp_path / "data/val/cat/4.mp4").write_bytes(b"")
    with pytest.warns(RuntimeWarning, match=r"(bee/1|cat/4)\.mp4 cannot be read and is left out: ") as told:
        result = finetune(network(), tmp_path / "data", output=tmp_path / "a", max_bad=0.12, **SHORT)
    assert [name for name, _ in result.skipped] == ["bee/1.mp4", "cat/4.mp4"] and len(told) == 2
    assert "empty" in result.skipped[1][1]
    message = r"1 of the 18 videos cannot be read, more than 5 % \(max_bad\): bee/1\.mp4: "
    with pytest.raises(ValueError, match=message), pytest.warns(RuntimeWarning):
        finetune(network(), tmp_path / "data", output=tmp_path / "b", **SHORT)
    for path in (tmp_path / "data").rglob("*.mp4"):
        path.write_text("no video")
    for workers, share in ((0, 1.0), (1, 0.5)):
        with pytest.raises(ValueError, match="videos .*read"), pytest.warns(RuntimeWarning):
            finetune(
                network(),
                tmp_path / "data",
                output=tmp_path / "c",
                workers=workers,
                max_bad=share,
                resume=False,
                **SHORT,
            )


# Networks


def test_networks_that_do_not_fit(data: Path, tmp_path: Path) -> None:
    def refused(model: Any, message: str, error: type[Exception] = ValueError, **settings: Any) -> None:
        with pytest.raises(error, match=message):
            finetune(model, data, output=tmp_path / "out", **settings)

    other = network()
    other.reset_classifier(4)
    refused(
        other, r"has 4 outputs, and the data have 3 classes \(ant, bee, cat, \.\.\.\): call model.reset_classifier\(3\)"
    )
    other.reset_classifier(3)
    other.pretrained_cfg["labels"] = ("x", "y", "z")
    refused(other, "has outputs for other classes")
    refused(network(), "crop goes with the name", crop=64)
    refused(sfz.optimize_for_inference(network()), "an optimised network does not train")
    refused("slowfast_tiny_4x8_det", "detects actions in boxes", pretrained=False)
    refused(nn.Linear(2, 2), "from create_model, got Linear", TypeError)
    refused("slowfast_r50_8x7", "unknown model")
    assert not (tmp_path / "out").exists()


def test_the_order_of_a_networks_own_classes(data: Path, tmp_path: Path) -> None:
    """Its outputs keep their meaning, by name and as a network."""
    model = network()
    model.save_pretrained(tmp_path / "before", labels=("cat", "ant", "bee"))
    before = weights(tmp_path / "before")
    for number, start in enumerate(
        ("local-dir:" + str(tmp_path / "before"), sfz.create_model(f"local-dir:{tmp_path / 'before'}"))
    ):
        result = finetune(start, data, output=tmp_path / str(number), **{**SHORT, "epochs": 1, "lr": 1e-9})
        assert json.loads((result.best / "config.json").read_text())["labels"] == ["cat", "ant", "bee"]
        torch.testing.assert_close(weights(result.best)["head.fc.weight"], before["head.fc.weight"])
    assert equal(tmp_path / "0", tmp_path / "1")


def test_sets_of_labels(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        f"{part}/{name}/{i}.mp4,{label}"
        for part, indices in (("train", range(4)), ("val", (4, 5)))
        for name, label in (("ant", "red;warm"), ("bee", "green"), ("cat", ""))
        for i in indices
    ]
    for name, part in (("train.csv", lines[:12]), ("val.csv", lines[12:])):
        (data / name).write_text("path,label\n" + "\n".join(part) + "\n")
    lists = data / "train.csv", data / "val.csv"
    result = finetune(network(), *lists, output=tmp_path / "a", epochs=2, batch_size=4)
    row = result.history[-1]
    assert row.keys() == {"epoch", "learning_rate", "train_loss", "val_loss", "val_mean_average_precision"}
    classify = VideoClassifier(f"local-dir:{result.best}", optimize=False)
    assert classify.labels == ("green", "red", "warm") and classify.model.config.head_activation == "sigmoid"
    best = result.history[result.best_epoch - 1]
    scores = np.stack([classify(data / line.split(",")[0], clips=1, crops=1).probabilities for line in lines[12:]])
    shown = np.array([[0, 1, 1], [0, 1, 1], [1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]], bool)
    loss = -np.where(shown, np.log(scores), np.log(1 - scores)).mean()
    assert loss == pytest.approx(best["val_loss"], rel=1e-4)
    assert best["learning_rate"] < 0.0375 / 16 * 4
    smooth = {**SHORT, "epochs": 1, "mixup": 0.5, "label_smoothing": 0.1}
    if "multi_label" in inspect.signature(Mixup).parameters:
        assert finetune(network(), *lists, output=tmp_path / "b", **smooth).history[0]["train_loss"] > 0
    monkeypatch.setattr(loop._data, "Mixup", lambda *args, num_classes, label_smoothing: None)
    with pytest.raises(MissingDependencyError, match="newer timm"):
        finetune(network(), *lists, output=tmp_path / "c", **smooth)


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number from 1 to 1000000, not 0"),
        ({"batch_size": True}, "batch_size must be a whole number"),
        ({"lr": 0.0}, "lr must be a number above 0"),
        ({"drop_rate": 1.0}, "drop_rate must be a number at least 0 and below 1"),
        ({"warmup_epochs": 20}, "warmup_epochs must be a number from 0 to below 20 epochs"),
        ({"batch_norm": "group"}, "batch_norm must be one of 'batch', 'sync', 'split', 'frozen', not 'group'"),
        ({"amp": "int8"}, "amp must be one of 'bfloat16', 'float16', or None"),
        ({"freeze": "head"}, "freeze must be one of 'stem', 'res2', 'res3', 'res4', 'res5', or None"),
        ({"mixup": 0.2, "batch_size": 3}, "an even batch_size, not 3"),
        ({"batch_norm": "split", "batch_size": 12}, "a multiple of 8, not 12"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"max_bad": 2}, "max_bad must be a number from 0 to 1, not 2"),
        ({"workers": -1}, "workers must be a whole number from 0"),
        ({"optimizer": "sgdd"}, "sgdd"),
        ({"optimizer": "adahessian"}, "optimizer 'adahessian' needs second derivatives"),
        ({"crops": 2, "epochs": 1, "batch_size": 6}, "crops must be"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        finetune(network(), data, output=tmp_path / "out", **settings)


def test_out_of_memory_says_what_to_lower(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(message: str) -> Callable[..., Any]:
        def backward(*args: Any, **kwargs: Any) -> Tensor:
            raise RuntimeError(message)

        return backward

    monkeypatch.setattr(Trainer, "_backward", failing("DefaultCPUAllocator: can't allocate memory"))
    message = (
        r"a batch of 4 clips \(16 frames, crop 32\) does not fit in the memory of cpu: lower batch_size and raise "
        'accumulate as much, or set grad_checkpointing, or set amp to "bfloat16"'
    )
    with pytest.raises(MemoryError, match=message):
        finetune(network(), data, output=tmp_path / "a", **SHORT)
    with pytest.raises(MemoryError, match="raise accumulate as much$"):
        finetune(network(), data, output=tmp_path / "b", grad_checkpointing=True, amp="bfloat16", **SHORT)
    with pytest.raises(MemoryError, match="of cpu: set grad_checkpointing, or set amp"):
        finetune(network(), data, output=tmp_path / "e", **{**SHORT, "batch_size": 1})
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_backward", lambda *args, **kwargs: torch.zeros(()))
        patched.setattr(
            loop.VideoClassifier,
            "predict_many",
            lambda *args, **kwargs: failing("DefaultCPUAllocator: can't allocate memory")(),
        )
        with pytest.raises(MemoryError, match=r"single clip of validation .* memory of cpu: take a smaller crop or"):
            finetune(network(), data, output=tmp_path / "f", **SHORT)
    monkeypatch.setattr(Trainer, "_backward", failing("DataLoader worker (pid 1) is killed by signal: Killed."))
    with pytest.raises(MemoryError, match="lower workers"):
        finetune(network(), data, output=tmp_path / "c", **SHORT)
    monkeypatch.setattr(Trainer, "_backward", failing("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        finetune(network(), data, output=tmp_path / "d", **SHORT)


def test_a_loss_that_is_no_number(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"diverged: the loss is no finite number any more, in step . of epoch .\. "):
        finetune(network(), data, output=tmp_path / "a", **{**SHORT, "lr": 1e30, "warmup_epochs": 0})


def test_tensorboard(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**SHORT, "epochs": 1, "tensorboard": True}
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependencyError, match="pip install tensorboard"):
        finetune(network(), data, output=tmp_path / "a", **settings)


def test_without_matplotlib(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.warns(UserWarning, match=r"curves\.png is not drawn"):
        finetune(network(), data, output=tmp_path / "a", **{**SHORT, "epochs": 1})
