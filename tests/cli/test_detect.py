"""slowfast-zoo detect: boxes from people and files, what is printed, and the files that come out."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from videos import decoded, write_video

import slowfast_zoo as sfz
from slowfast_zoo.cli import main
from slowfast_zoo.errors import WeightsError
from slowfast_zoo.inference.detect import person_detector

CLASSES = ("sit", "stand", "walk")
BOX = [10.0, 8.0, 60.0, 90.0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random network, and videos: two of 2.5 s, one within of the name of another, a short one, one that is none."""
    folder = tmp_path_factory.mktemp("detect")
    torch.manual_seed(0)
    settings: dict[str, Any] = {"width": 8, "depths": (1, 1, 1, 1), "num_classes": 3, "crop": 32}
    model: Any = sfz.create_model("slowfast_tiny_4x8_det", **settings)
    torch.nn.init.normal_(model.get_classifier().weight, std=0.3)
    model.save_pretrained(folder / "network", CLASSES)
    (folder / "more").mkdir()
    for name, frames in (("a.mp4", 75), ("b.mp4", 75), ("more/a.mp4", 75), ("short.mp4", 24)):
        write_video(folder / name, frames)
    (folder / "text.mp4").write_text("not a video")
    return folder


@pytest.fixture
def command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command in the folder of the videos, its words separated by spaces."""
    monkeypatch.chdir(folder)
    model = f"local-dir:{folder / 'network'}"

    def call(words: str) -> int:
        try:
            return main(["detect", *words.split(), "--model", model])
        except SystemExit as stopped:
            return int(str(stopped.code))

    return call


@pytest.fixture
def people(monkeypatch: pytest.MonkeyPatch) -> None:
    """One person in every frame, another who is not that sure."""
    found = torch.tensor([[*BOX, 0.95], [70.0, 20.0, 120.0, 95.0, 0.6]])
    monkeypatch.setattr(person_detector.TorchvisionPersons, "__call__", lambda self, frame: found)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def write_boxes(path: Path, boxes: Any) -> Path:
    path.write_text(boxes if isinstance(boxes, str) else json.dumps(boxes))
    return path


# What is printed


def test_a_table(command: Callable[..., int], people: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("a.mp4 --threshold 0") == 0
    output = capsys.readouterr()
    name, about, empty, *table = output.out.splitlines()
    assert (name, empty, output.err) == ("a.mp4", "", "")
    assert about == "2.50 s, slowfast_tiny_4x8_det, 2 key frames, 2 boxes (x1 y1 x2 y2 in pixels)"
    assert len(table) == 2 * 3
    assert [line[:26] for line in table[::3]] == ["  1.00 s    10   8  60  90", "  2.00 s    10   8  60  90"]
    assert {line.split()[-1] for line in table[:3]} == set(CLASSES)
    scores = [float(line.split()[-3]) for line in table[:3]]
    assert scores == sorted(scores, reverse=True)
    assert len({line.index(" %  ") for line in table}) == 1


def test_fewer_actions_and_more_people(
    command: Callable[..., int], people: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("a.mp4 --every 2 --person-threshold 0.5 --threshold 0 --top-k 1") == 0
    assert "1 key frame, 2 boxes" in (out := capsys.readouterr().out)
    assert len(out.splitlines()) == 3 + 2
    assert command("a.mp4 --threshold 1 --person-threshold 0.99") == 0
    assert capsys.readouterr().out.splitlines()[3:] == ["  1.00 s   nobody", "  2.00 s   nobody"]
    assert command("a.mp4 --threshold 1") == 0
    assert "90   no action from 100 % on" in capsys.readouterr().out


def test_json(command: Callable[..., int], people: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("a.mp4 text.mp4 b.mp4 --json --top-k 2 --threshold 0 --scales 32,48 --flip") == 2
    output = capsys.readouterr()
    records = json.loads(output.out)
    assert output.err.count("\n") == 1 and "error: cannot decode video 'text.mp4'" in output.err
    assert [record["video"] for record in records] == ["a.mp4", "b.mp4"]
    for record in records:
        assert [key_frame["time"] for key_frame in record["key_frames"]] == [1.0, 2.0]
        (box,) = record["key_frames"][0]["boxes"]
        assert box["box"] == BOX and box["score"] == pytest.approx(0.95) and len(box["actions"]) == 2


def test_without_the_person_detectors_weights(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Any:
        raise WeightsError("the person detector's weights cannot be downloaded: pass boxes=")

    monkeypatch.setattr(person_detector, "_pretrained", fail)
    assert command("a.mp4 b.mp4") == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    assert "cannot be downloaded" in output.err and "--boxes FILE or --boxes full" in output.err


# Boxes


def test_boxes_from_files(
    command: Callable[..., int], folder: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("a.mp4 --boxes full --json") == 0
    whole = json.loads(capsys.readouterr().out)[0]["key_frames"]
    assert [(key_frame["time"], key_frame["boxes"][0]["box"]) for key_frame in whole] == [
        (1.0, [0, 0, 128, 96]),
        (2.0, [0, 0, 128, 96]),
    ]
    boxes = write_boxes(out / "boxes.json", {"0.5": [BOX], "2": []})
    assert command(f"a.mp4 --boxes {boxes} --json") == 0
    given = json.loads(capsys.readouterr().out)[0]["key_frames"]
    assert [(key_frame["time"], [box["box"] for box in key_frame["boxes"]]) for key_frame in given] == [
        (0.5, [BOX]),
        (2.0, []),
    ]
    boxes = write_boxes(out / "boxes.csv", "a,0001,0.25,0.5,0.75,1,12\na,0001,0.25,0.5,0.75,1,80\nb,0002,0,0,1,1,12\n")
    assert command(f"a.mp4 b.mp4 short.mp4 --boxes {boxes} --json") == 2
    output = capsys.readouterr()
    first, second = (record["key_frames"] for record in json.loads(output.out))
    assert [(key_frame["time"], [box["box"] for box in key_frame["boxes"]]) for key_frame in first + second] == [
        (1.0, [[32, 48, 96, 96]]),
        (2.0, [[0, 0, 128, 96]]),
    ]
    assert output.err == f"slowfast-zoo: error: short.mp4: {boxes} holds no boxes of 'short', only of a, b\n"


# Files


def test_a_csv_of_all_scores_serves_as_boxes_and_for_the_evaluation(
    command: Callable[..., int], out: Path, people: None, capsys: pytest.CaptureFixture[str]
) -> None:
    found = out / "found.csv"
    assert command(f"a.mp4 b.mp4 short.mp4 --csv {found} --json --threshold 0.9 --top-k 1") == 2
    output = capsys.readouterr()
    assert output.err.splitlines() == [
        "slowfast-zoo: error: short.mp4 is left out of the CSV, which holds whole seconds only, as AVA's files do, for "
        "its key frame at 0.4 s; --json has it",
        f"wrote {found}",
    ]
    assert len(json.loads(output.out)) == 3
    lines = rows(found)
    assert [line[:2] + line[6:7] for line in lines] == [
        [video, second, action] for video in "ab" for second in ("0001", "0002") for action in ("11", "12", "14")
    ]
    assert lines[0][2:6] == [f"{part:.3f}" for part in (10 / 128, 8 / 96, 60 / 128, 90 / 96)]
    assert command(f"b.mp4 --boxes {found} --json --threshold 0") == 0
    (record,) = json.loads(capsys.readouterr().out)
    scores = {action["label"]: action["score"] for action in record["key_frames"][1]["boxes"][0]["actions"]}
    assert [scores[label] for label in CLASSES] == pytest.approx([float(line[7]) for line in lines[-3:]], abs=0.02)
    labels = write_boxes(out / "labels.pbtxt", 'item { name: "sit" id: 11 } item { name: "stand" id: 12 }')
    truth = write_boxes(out / "truth.csv", "".join(",".join(line[:7]) + "\n" for line in lines[::3]))
    words = ["--task", "ava", str(truth), "--detections", str(found), "--labels", str(labels), "--json"]
    assert main(["evaluate", *words]) == 0
    assert json.loads(capsys.readouterr().out)["frame_map"] == 1.0


def test_rendered_videos(
    command: Callable[..., int], out: Path, people: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(f"a.mp4 --render {out / 'seen.mp4'} --threshold 0") == 0
    assert capsys.readouterr().err == f"wrote {out / 'seen.mp4'}\n"
    frames = [pixels for _, pixels in decoded(out / "seen.mp4")]
    assert len(frames) == 75
    plain = [pixels for _, pixels in decoded(Path("a.mp4"))]
    changed = [float((a.int() - b.int()).abs().float().mean()) for a, b in zip(frames, plain, strict=True)]
    assert max(changed[:14]) < 3 < min(changed[16:]), "the first key frame, at 1 s, counts from 0.5 s on"
    assert command(f"a.mp4 more/a.mp4 text.mp4 --render {out / 'several'} --json") == 2
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.mp4")) == [
        "seen.mp4",
        "several/a.mp4",
        "several/more/a.mp4",
    ]


def test_a_video_that_cannot_be_drawn_into_is_in_the_csv(
    command: Callable[..., int], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = write_video(out / "tiny.avi", 36, width=12, height=12, codec="mpeg4")
    assert command(f"{tiny} a.mp4 --boxes full --csv {out / 'a.csv'} --render {out / 'seen'}") == 2
    assert f"error: {tiny}: H.264 needs even sides of 16 or more" in capsys.readouterr().err
    assert [path.name for path in (out / "seen").iterdir()] == ["a.mp4"]
    assert [line[0] for line in rows(out / "a.csv")] == ["tiny"] * 3 + ["a"] * 6


def test_nothing_to_write_leaves_what_was_there(
    command: Callable[..., int], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = write_boxes(out / "a.csv", "what was there before")
    assert command(f"text.mp4 --boxes full --csv {old}") == 2
    assert "wrote" not in capsys.readouterr().err
    assert old.read_text() == "what was there before"


# Mistakes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "the following arguments are required: VIDEO"),
        ("a.mp4 --boxes gone.csv", "No such file or directory: gone.csv"),
        ("a.mp4 --boxes gone.json", "no such file of boxes: gone.json"),
        ("a.mp4 --boxes text.mp4", "text.mp4, line 1: expected video,second,x1"),
        ("a.mp4 b.mp4 --boxes gone.json", "--boxes gone.json is of one video, but 2 were given"),
        ("a.mp4 --boxes text.mp4 --every 2", "--every has no effect with --boxes text.mp4"),
        ("a.mp4 --every 0", "'0' is not a number above 0"),
        ("a.mp4 --threshold 2", "'2' is not a number from 0 to 1"),
        ("a.mp4 --top-k 0", "--top-k must be an integer of at least 1, got 0"),
        ("a.mp4 --scales 224,x", "'224,x' is not a list such as 224,256,320"),
        ("a.mp4 --scales 16", "'16' is not a list such as 224,256,320"),
        ("a.mp4 more/a.mp4 --csv out.csv", "a.mp4 and more/a.mp4 would both be 'a' in out.csv"),
        ("a.mp4 --csv out.csv --every 0.5", "--csv holds whole seconds only, as AVA's files do, but --every is 0.5"),
        ("a.mp4 --csv nowhere/out.csv", "no folder to write into: nowhere"),
        ("a.mp4 --render out.gif", "the suffix must be one of .mp4"),
        ("a.mp4 b.mp4 --render out.mp4", "--render out.mp4 names one file, but 2 videos were given"),
        ("gone.mp4 --boxes full", "no such video file: gone.mp4"),
    ],
)
def test_mistakes(
    words: str, message: str, command: Callable[..., int], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.rglob("*"))
    assert command(words) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert message in output.err
    assert sorted(folder.rglob("*")) == before


def test_a_network_for_clips(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", str(folder / "a.mp4"), "--model", "slowfast_tiny_4x8.motion", "--boxes", "full"]) == 2
    assert "takes no boxes: use VideoClassifier, or a *_det network" in capsys.readouterr().err
