"""slowfast-zoo evaluate --task ava: AVA's measure from a shell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from slowfast_zoo.cli import main
from slowfast_zoo.inference.evaluation.ava import write_ava_csv

# Random boxes, and what PySlowFast's copy of the evaluation printed for them.
SAMPLE = Path(__file__).resolve().parents[1] / "conformance" / "ava"
TRUTH, FOUND = str(SAMPLE / "gt.csv"), str(SAMPLE / "detections.csv")
SETTINGS = ("--detections", FOUND, "--exclude", str(SAMPLE / "excluded_timestamps.csv"))
WHOLE, LEFT = (0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.5, 1.0)


def test_the_command_prints_upstreams_numbers(tmp_path: Path) -> None:
    words = ["evaluate", "--task", "ava", TRUTH, *SETTINGS, "--json", "--output", str(tmp_path / "report.json")]
    done = subprocess.run([sys.executable, "-m", "slowfast_zoo", *words], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, f"wrote {tmp_path / 'report.json'}\n")
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "report.json").read_text())
    expected = json.loads((SAMPLE / "expected.json").read_text())
    assert report["frame_map"] == pytest.approx(expected.pop("PascalBoxes_Precision/mAP@0.5IOU"), abs=1e-9)
    found = [entry["average_precision"] for entry in report["classes"]]
    assert found == [None if value is None else pytest.approx(value, abs=1e-9) for value in expected.values()]


def test_mean_and_classes_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--task", "ava", TRUTH, *SETTINGS]) == 0
    short = capsys.readouterr().out
    assert short.startswith("frame mAP 20.84 % at IoU 0.5, 52 of 60 classes\n")
    assert "strongest" in short
    assert main(["evaluate", "--task", "ava", TRUTH, *SETTINGS, "--per-class"]) == 0
    head, table, *notes = capsys.readouterr().out.split("\n\n")
    assert short.startswith(head)
    lines = [line.split("  ") for line in table.splitlines()]
    assert len(lines) == 1 + 60
    assert next(line[-1].strip() for line in lines if "walk" in line) == "46.94 %"
    assert all(note.startswith("note: ") for note in notes)


def test_other_classes_overlaps_and_protocols(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One box; half of it is found first, but with a lower score than the whole."""
    write_ava_csv(tmp_path / "truth.csv", [("v", 1, WHOLE, 3, 1.0)])
    write_ava_csv(tmp_path / "found.csv", [("v", 1, LEFT, 3, 0.4), ("v", 1, WHOLE, 3, 0.9), ("v", 1, WHOLE, 4, 0.9)])
    (tmp_path / "labels.pbtxt").write_text('item { name: "roll" id: 3 }')
    words = ["evaluate", "--task", "ava", str(tmp_path / "truth.csv"), "--detections", str(tmp_path / "found.csv")]
    words += ["--labels", str(tmp_path / "labels.pbtxt"), "--json"]
    for more, mean in (([], 0.5), (["--iou", "0.6"], 1.0), (["--protocol", "mmaction2"], 1.0)):
        assert main([*words, *more]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["frame_map"] == mean
        assert [entry["label"] for entry in report["classes"]] == ["roll"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "ava", TRUTH], "--task ava needs --detections FILE"),
        (["--task", "ava", TRUTH, *SETTINGS, "--crops", "1"], "--crops is for --task classify, and this is --task ava"),
        (["--task", "ava", TRUTH, *SETTINGS, "--single-label"], "--single-label is for --task classify"),
        (["--task", "ava", TRUTH, *SETTINGS, "--batch-size", "2"], "--batch-size is for --task classify"),
        ([TRUTH, "--detections", FOUND], "--detections is for --task ava, and this is --task classify"),
        ([TRUTH, "--iou", "0.4", "--multi-label"], "--iou is for --task ava"),
        (["--task", "ava", TRUTH, *SETTINGS, "--iou", "0"], "iou lies above 0"),
        (["--task", "ava", "gone.csv", *SETTINGS], "No such file or directory: gone.csv"),
        (["--task", "ava", TRUTH, "--detections", TRUTH, "--output", "nowhere/a.json"], "no folder to write into"),
        (["--task", "ava", TRUTH, "--detections", str(SAMPLE / "expected.json")], "expected.json, line 1: expected"),
    ],
)
def test_mistakes(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", *words]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    assert message in output.err
