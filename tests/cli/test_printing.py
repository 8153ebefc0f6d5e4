"""What files, folders and servers say does not steer the terminal that it is printed on."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tqdm import tqdm
from videos import write_video

import slowfast_zoo as sfz
from slowfast_zoo.cli.main import _Printable, main
from slowfast_zoo.errors import in_line
from slowfast_zoo.inference import VideoClassifier

EVIL = "\x1b]0;title\x07\x1b[31mred\x1b[2J\nsecond\u202eline\x9b1m"
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evil") / "model"
    torch.manual_seed(0)
    network: Any = sfz.create_model("slowfast_tiny_4x8", width=8, num_classes=2, crop=32)
    network.save_pretrained(folder)
    content = json.loads((folder / "config.json").read_text())
    content["labels"] = [EVIL, f"other {EVIL}"]
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def test_labels_and_names_of_files(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = write_video(tmp_path / "a\x1b[31m\nb.mp4", 70, width=48, height=48)
    options = ["--model", f"local-dir:{model}", "--clips", "1"]
    for index in range(3):
        shutil.copy(video, tmp_path / f"{index}\x1b[1mc.mp4")
    (tmp_path / "list.csv").write_text('path,label\n"a\x1b[31m\nb.mp4",0\n')
    for words in (
        ["predict", str(video), *options],
        ["predict", str(tmp_path), *options],
        ["predict", str(video), *options, "--csv"],
        ["features", str(video), "--model", f"local-dir:{model}", "--output", str(tmp_path / "out")],
        ["evaluate", str(tmp_path / "list.csv"), *options, "--results", str(tmp_path / "results")],
        ["predict", str(tmp_path / "gone\x1b[31m.mp4"), str(video), *options],
        ["predict", "--\x1b[31mwhat"],
    ):
        with contextlib.suppress(SystemExit):
            main(words)
        found = capsys.readouterr()
        assert found.out or found.err
        assert not STEERING.search(found.out.replace("\n", "")) and not STEERING.search(found.err.replace("\n", ""))
    classifier = VideoClassifier(f"local-dir:{model}")
    assert classifier.labels[0] == EVIL, "in Python they are what they are"
    lines = str(classifier(video, clips=1)).splitlines()
    assert len([line for line in lines if line.endswith("%")]) == 2
    assert not STEERING.search("".join(lines))


def test_labels_and_names_in_pictures() -> None:
    pytest.importorskip("matplotlib")
    from slowfast_zoo.inference.draw.style import cut, fit, load_font
    from slowfast_zoo.inference.draw.timeline import wrap_name

    for shown in (
        cut(EVIL, 99),
        *wrap_name(EVIL),
        fit(EVIL, load_font(12), 9999),
        fit("a\udcff", load_font(12), 99),
    ):
        assert shown and not STEERING.search(shown) and "\n" not in shown
        shown.encode()


def test_names_in_no_encoding(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("needs a file system of bytes")
    path = tmp_path / "a\udcff.mp4"
    try:
        path.write_text("no video")
    except OSError:
        pytest.skip("this file system has no such names")
    words = [sys.executable, "-m", "slowfast_zoo", "predict", str(path)]
    result = subprocess.run(words, capture_output=True, text=True, errors="strict", timeout=120)
    assert result.returncode == 2 and "\\udcff.mp4" in result.stderr and "Traceback" not in result.stderr


def test_other_languages_and_progress_bars_stay() -> None:
    for text in (
        "\u00fcben, \u5f39\u5409\u4ed6, \u0433\u0438\u0442\u0430\u0440\u0430, \U0001f3b8\u200d\u2728",
        "no\u00a0break",
    ):
        assert in_line(text) == text
    assert in_line("a\nb\x1b[0m") == "a\\nb\\x1b[0m"
    raw = io.StringIO()
    with tqdm(total=3, file=_Printable(raw), mininterval=0, position=1) as bar:  # type: ignore[arg-type]
        bar.update()
        bar.write("between", file=_Printable(raw))  # type: ignore[arg-type]
        bar.update()
    assert "\r" in raw.getvalue() and "\\" not in raw.getvalue() and "between\n" in raw.getvalue()
