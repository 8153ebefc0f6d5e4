"""Checkpoints and folders made to take time or memory that no network needs, or errors that nobody documents."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import slowfast_zoo as sfz
from slowfast_zoo.errors import printable
from tests.weights.test_layouts import awake, same_weights

NAME = "slow_r50_4x16"
STEM = "pathway.stem.conv1.conv.weight"


def image(**changed: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """A few tensors by the names of an image ResNet, some with shapes of no such network."""
    shapes = {"layer1.0.conv1.weight": (8, 8, 1, 1), "layer1.0.conv3.weight": (32, 8, 1, 1)}
    return {name: torch.zeros(shape) for name, shape in {**shapes, **changed}.items()}


def nested(key: str, depth: int) -> dict[str, Any]:
    inside: dict[str, Any] = {str(i): torch.ones(1) for i in range(20_000)}
    for _ in range(depth):
        inside = {key: inside}
    return inside


HOSTILE: dict[str, Any] = {
    "repeated prefixes": lambda: {"module." * 200_000 + STEM: torch.ones(1)},
    "mixed prefixes": lambda: {"_orig_mod.module.model." * 60_000 + STEM: torch.ones(1), "a": torch.ones(1)},
    "many networks": lambda: {f"{i}.{STEM}": torch.ones(1) for i in range(50_000)},
    "networks in networks around many tensors": lambda: {
        **{"a." * i + STEM: torch.ones(1) for i in range(49)},
        **{"a." * 49 + str(i): torch.ones(1) for i in range(10_000)},
    },
    "a network of 30,000 stages": lambda: {
        "blocks.0.conv.weight": torch.ones(1),
        **{f"blocks.{i}.res_blocks.0.branch2.conv_a.weight": torch.ones(1) for i in range(30_000)},
    },
    "one long key, again and again": lambda: [{"x" * 2_000_000: torch.ones(1), "a": 1}] * 3_000,
    "networks in networks": lambda: {"a." * i + STEM: torch.ones(1) for i in range(450)},
    "long keys around many tensors": lambda: nested("x" * 900, 40),
    "many keys around many tensors": lambda: nested("x" * 20, 40),
    "a block of 900 digits": lambda: {
        "blocks.0.conv.weight": torch.ones(1),
        f"blocks.{'9' * 900}.res_blocks.0.a": torch.ones(1),
    },
    "a block of 5,000 digits": lambda: {
        "blocks.0.conv.weight": torch.ones(1),
        f"blocks.{'9' * 5000}.res_blocks.0.a": torch.ones(1),
    },
    "an image network that grows": lambda: image(**{"layer4.0.conv1.weight": (1_000_000, 1, 1, 1)}),
    "an image network that grows in time": lambda: image(**{"layer4.0.conv1.weight": (1, 1, 1000, 1000)}),
    "a stem for more channels": lambda: image(**{"conv1.weight": (300_000, 3, 1, 1)}),
}

LOADS = """
import json, os, resource, sys, torch
import slowfast_zoo as sfz

def status(name):  # in MiB
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(name))

model = sfz.create_model("slow_r50_4x16", num_classes=5, in_chans=40)
limit = int(status("VmSize") + 1500) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
told = {}
for name in sorted(os.listdir(sys.argv[1])):
    try:
        sfz.load_checkpoint(model, os.path.join(sys.argv[1], name), adapt_stems=True)
        told[name] = "was read"
    except sfz.WeightsError as error:
        told[name] = str(error)
print(json.dumps(told))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory as Linux does")
def test_time_and_memory_hold(tmp_path: Path) -> None:
    """Each would take minutes or gigabytes if it were taken at its word."""
    for index, make in enumerate(HOSTILE.values()):
        torch.save(make(), tmp_path / f"{index:02}")
    done = subprocess.run([sys.executable, "-c", LOADS, tmp_path], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    for (index, message), name in zip(told.items(), HOSTILE, strict=True):
        assert message.startswith((repr(str(tmp_path / index)), "none of the networks")), f"{name}: {message}"
        assert len(message) < 1500 and message.isprintable() and "MemoryError" not in message, f"{name}: {message}"


@pytest.mark.parametrize(
    "text", ["\n" * 120_000, " " * 120_000, "\t\n " * 50_000, "ALPHA: " + "9" * 5000, "ALPHA: 8\n" * 20_000]
)
def test_configuration_texts(tmp_path: Path, text: str) -> None:
    """What PySlowFast keeps beside its weights is looked through once."""
    model = awake(NAME)
    torch.save({"model_state": model.state_dict(), "cfg": text}, tmp_path / "w.pyth")
    loaded = sfz.create_model(NAME, width=8, num_classes=5, checkpoint_path=tmp_path / "w.pyth")
    assert same_weights(loaded, model)


def test_names_are_shown_as_text(tmp_path: Path) -> None:
    for content in (
        {"\x1b[2Ja\nb" * 1000: torch.ones(1)},
        {"\x1b[2Ja\nb": torch.ones(1)},
        {STEM: torch.ones(1), "pathway.\x1b[31m\r\n": torch.ones(1)},
        {"\x1b]0;x\x07": 1},
        {f"\x1b[2J{i}.{STEM}": torch.ones(1) for i in range(3)},
    ):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(sfz.WeightsError) as caught:
            sfz.load_checkpoint(sfz.create_model(NAME, width=8), tmp_path / "w.pth")
        assert str(caught.value).isprintable() and len(str(caught.value)) < 1200
    assert printable("a\x1b\n\u202eb") == r"a\x1b\n\u202eb"
    assert printable("x" * 300, 10) == "x" * 10 + "..."


# Folders


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "network"
    sfz.create_model("slowfast_r50_4x16", width=8, num_classes=3).save_pretrained(path)
    return path


def refuses(folder: Path, text: str) -> str:
    config = folder / "config.json"
    before = config.read_text()
    try:
        config.write_text(text)
        with pytest.raises(sfz.WeightsError) as caught:
            sfz.create_model(f"local-dir:{folder}")
    finally:
        config.write_text(before)
    message = str(caught.value)
    assert "config.json" in message and message.isprintable() and len(message) < 600
    return message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("width", 10**9), ("frames", 10**9), ("alpha", 10**9), ("stride", 10**30), ("in_chans", 10**9)),
        *(("num_classes", 10**9), ("crop", 10**9), ("beta", 1e300), ("width", float("inf")), ("beta", float("nan"))),
        *(("lateral_ratio", 10**9), ("lateral_kernel", 10**9 + 1), ("res5_dilation", 10**9), ("head_window", 10**9)),
        *(("depths", [[2000] * 4, [2000] * 4]), ("depths", [2000] * 4), ("depths", [[500] * 4, [500] * 4])),
        ("temporal_kernels", [[1] * 5, [10**9 + 1] * 5]),
    ],
)
def test_sizes_that_a_folder_claims(folder: Path, field: str, value: Any) -> None:
    values = json.loads((folder / "config.json").read_text())
    values["config"][field] = value
    assert field in refuses(folder, json.dumps(values)) or field == "depths"


def test_clips_that_a_folder_claims(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    values["preprocessing"]["clips"] = 10**9
    assert "clips is 1000000000" in refuses(folder, json.dumps(values))


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 100_000, '{"a":' * 100_000, "9" * 5000, '{"weights": ' + "9" * 5000 + "}", "null", "[1]", "", "\ud83d"),
        '{"config": "\\u001b[2J"}',
    ],
)
def test_what_is_no_configuration(folder: Path, text: str) -> None:
    refuses(folder, text.encode("utf-8", "replace").decode())


def test_names_in_a_configuration_are_shown_as_text(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    for field, value in (("x\x1b[2J" * 1000, 1), ("fusion", "\x1b\n" * 5000), ("family", "\x1b" * 5000)):
        refuses(folder, json.dumps({**values, "config": {**values["config"], field: value}}))
