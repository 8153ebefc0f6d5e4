"""The public surface, held against a committed list: names, signatures, entry points, commands, exit codes, JSON keys.

A change that is meant is written down by ``python tests/test_surface.py --write``, and seen in the diff.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import enum
import importlib
import inspect
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from slowfast_zoo.video import sample_clip

ROOT = Path(__file__).parent.parent
LIST = Path(__file__).with_name("surface.json")
MODEL = "slowfast_tiny_4x8.motion"
DETECTOR = "slowfast_tiny_4x8_det.objects"

# Documented modules, with the names that the documentation has of those that list no names themselves.
MODULES: dict[str, tuple[str, ...]] = {
    "slowfast_zoo": (),
    "slowfast_zoo.errors": (
        "ExportError",
        "MissingDependencyError",
        "SlowFastZooError",
        "VideoDecodeError",
        "WeightsError",
    ),
    "slowfast_zoo.finetuning": (),
    "slowfast_zoo.inference": (),
    "slowfast_zoo.inference.explain": ("Explanation", "VideoExplanation", "explain", "explain_video"),
    "slowfast_zoo.inference.explain_plot": ("save_explanation",),
    "slowfast_zoo.inference.frame_map": ("FrameMAP", "frame_map"),
    "slowfast_zoo.layers": (),
    "slowfast_zoo.models": (),
    "slowfast_zoo.models.freezing": ("freeze", "unfreeze"),
    "slowfast_zoo.models.feature_info": ("FeatureInfo",),
    "slowfast_zoo.video": (),
    "slowfast_zoo.video.dataset": ("LabelledVideo", "read_class_folders", "read_dataset"),
    "slowfast_zoo.video.encode": ("VideoWriter", "write_video"),
    "slowfast_zoo.weights": (),
}
# Each command with the exit code that it has to end with; what it prints is JSON where it is asked for.
RUNS: dict[str, tuple[int, list[str]]] = {
    "version": (0, ["--version"]),
    "help": (0, ["--help"]),
    "no command": (2, []),
    "unknown command": (2, ["predic"]),
    "list": (0, ["list", "slowfast_tiny*"]),
    "list as JSON": (0, ["list", "slowfast_tiny*", "--json"]),
    "nothing to list": (2, ["list", "no such network"]),
    "info": (0, ["info", MODEL, "--json"]),
    "info of none": (2, ["info", "no_such_network"]),
    "predict": (0, ["predict", "VIDEO", "--clips", "1", "--crops", "1", "--json"]),
    "predict nothing": (2, ["predict", "no such file.mp4"]),
    "predict one of two": (2, ["predict", "VIDEO", "no such file.mp4", "--clips", "1", "--json"]),
    "timeline": (0, ["predict", "VIDEO", "--timeline", "FOLDER/scores.json"]),
    "detect": (
        0,
        ["detect", "VIDEO", "--model", DETECTOR, "--boxes", "full", "--every", "2", "--threshold", "0", "--json"],
    ),
    "features": (0, ["features", "VIDEO", "--output", "FOLDER", "--json"]),
    "explain": (0, ["explain", "VIDEO", "--output", "FOLDER/heat.png", "--json"]),
    "evaluate": (0, ["evaluate", "FOLDER/list.csv", "--clips", "1", "--json"]),
    "export": (0, ["export", MODEL, "FOLDER/model.pt2", "--format", "torch", "--json"]),
    "download": (0, ["download", MODEL, "--json"]),
    "convert": (0, ["convert", MODEL, "--output", "FOLDER/saved"]),
    "publish": (0, ["publish", MODEL, "--namespace", "somebody"]),
    "verify": (0, ["verify", "--cache-dir", "FOLDER/cache"]),
    "bench": (0, ["bench", MODEL, "--repeats", "1", "--size", "64", "--json"]),
}


def describe(value: Any) -> Any:
    """What of a public name its users rely on."""
    if not inspect.isclass(value):
        return str(inspect.signature(value)) if callable(value) else type(value).__name__
    members = {}
    for name, member in inspect.getmembers_static(value) if sys.version_info >= (3, 11) else inspect.getmembers(value):
        if name.startswith("_") or name in _inherited():
            continue
        plain = getattr(member, "__func__", member)
        if isinstance(member, property):
            members[name] = "property"
        elif callable(plain) and not inspect.isclass(plain):
            members[name] = str(inspect.signature(plain))
        else:
            members[name] = type(member).__name__
    for field in dataclasses.fields(value) if dataclasses.is_dataclass(value) else ():
        members[field.name] = str(field.type)
    if not issubclass(value, (BaseException, enum.Enum)):
        members["()"] = str(inspect.signature(value))
    return members


def _inherited() -> set[str]:
    return {*dir(torch.nn.Module), *dir(Exception), *dir(list), *dir(dict)} - {"forward"}


def describe_parser(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """A command's options, as --help shows them; sub-commands with theirs."""
    found: dict[str, Any] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help for choice in action._choices_actions}
            for name, inner in action.choices.items():
                found[f"command {name}"] = {"help": helps[name], **describe_parser(inner)}
            continue
        key = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        found[key] = {
            "action": type(action).__name__.strip("_"),
            "metavar": action.metavar,
            "choices": None if action.choices is None else [str(choice) for choice in action.choices],
            "nargs": action.nargs,
            "default": None if action.default is argparse.SUPPRESS else repr(action.default),
            "help": action.help,
        }
    return found


def keys_of(value: Any) -> Any:
    """The keys of a JSON value, whatever its values are; of a list those of its first entry."""
    if isinstance(value, dict):
        return {"a path" if "/" in key else key: keys_of(inner) for key, inner in value.items()}
    return [keys_of(value[0])] if isinstance(value, list) and value else type(value).__name__


def run_command(words: list[str], folder: Path) -> dict[str, Any]:
    """Runs a command in this process: its exit code, and the keys of what it printed if that is JSON."""
    from slowfast_zoo.cli import main

    folder.mkdir(parents=True, exist_ok=True)
    video = str(sample_clip())
    (folder / "list.csv").write_text(f"{video},0\n")
    given = [word.replace("VIDEO", video).replace("FOLDER", str(folder)) for word in words]
    out, err, before = io.StringIO(), io.StringIO(), Path.cwd()
    os.chdir(folder)  # where evaluate keeps its results
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(given)
        except SystemExit as end:
            code = end.code
        finally:
            os.chdir(before)
    found: dict[str, Any] = {"exit": code}
    if "--json" in words and out.getvalue():
        found["keys"] = keys_of(json.loads(out.getvalue()))
    return found


def surface_of_names() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, listed in MODULES.items():
        module = importlib.import_module(name)
        names = listed or tuple(module.__all__)
        found[name] = {each: describe(getattr(module, each)) for each in sorted(names)}
    return found


def surface_of_hub() -> dict[str, Any]:
    sys.path.insert(0, str(ROOT))
    try:
        hub = importlib.import_module("hubconf")
    finally:
        sys.path.remove(str(ROOT))
    return {name: str(inspect.signature(getattr(hub, name))) for name in sorted(vars(hub)) if not name.startswith("_")
            and callable(getattr(hub, name))}  # fmt: skip


def surface_of_commands() -> dict[str, Any]:
    from slowfast_zoo.cli import make_parser

    return describe_parser(make_parser())


def committed(part: str) -> Any:
    return json.loads(LIST.read_text(encoding="utf-8"))[part]


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.filterwarnings("ignore:.* is now:DeprecationWarning")
def test_names_and_signatures(name: str) -> None:
    assert as_json(surface_of_names()[name]) == committed("names")[name]


def test_entry_points_of_torch_hub() -> None:
    assert as_json(surface_of_hub()) == committed("hub")


def test_commands() -> None:
    found, wanted = as_json(surface_of_commands()), committed("commands")
    assert found.keys() == wanted.keys()
    for name in found:
        assert found[name] == wanted[name], name


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.filterwarnings("ignore")
def test_exit_codes_and_json(name: str, tmp_path: Path) -> None:
    code, words = RUNS[name]
    found = run_command(words, tmp_path / "folder")
    assert found["exit"] == code
    assert found == committed("runs")[name]


def write(folder: Path) -> None:
    """Writes the list anew."""
    runs = {name: run_command(words, folder / name) for name, (_, words) in RUNS.items()}
    content = {
        "names": surface_of_names(),
        "hub": surface_of_hub(),
        "commands": surface_of_commands(),
        "runs": runs,
    }
    LIST.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    import tempfile

    assert sys.argv[1:] == ["--write"], __doc__
    with tempfile.TemporaryDirectory() as name:
        write(Path(name))
