"""Evaluation of a dataset: its list, the results file, several processes, the command."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from videos import write_video

import slowfast_zoo as sfz
from slowfast_zoo.cli import main
from slowfast_zoo.inference import VideoClassifier
from slowfast_zoo.inference.draw.confusion import _order_by_confusion, save_confusion_plot
from slowfast_zoo.inference.evaluation.metrics import measure
from slowfast_zoo.inference.evaluation.run import Evaluation, evaluate
from slowfast_zoo.video.dataset import LabelledVideo, read_dataset

ABCD = ("ant", "bee fly", "cat", "dog")
VIDEOS = 5
MOVES = ("static", "pan_left", "pan_right", "static", "zoom_in")
COMMAND = ("--clips", "1", "--batch-size", "1")  # each view by itself: the same numbers however the work is divided


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos 0.mp4, 1.mp4, ... of different length."""
    folder = tmp_path_factory.mktemp("videos")
    for index in range(VIDEOS):
        write_video(folder / f"{index}.mp4", 8 + 6 * index, width=48, height=48)
    return folder


def tiny(seed: int = 0, **overrides: Any) -> VideoClassifier:
    torch.manual_seed(seed)
    model: Any = sfz.create_model("slowfast_tiny_4x8", width=8, num_classes=4, crop=32, **overrides)
    torch.nn.init.normal_(model.get_classifier().weight, std=0.3)
    return VideoClassifier(model, labels=ABCD, batch_size=1)


@pytest.fixture(scope="module")
def classifier() -> VideoClassifier:
    return tiny()


@pytest.fixture
def asked(classifier: VideoClassifier, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the videos that the classifier has been given."""
    names: list[str] = []
    original = classifier.predict_many

    def recording(videos: Sequence[str], *args: Any, **kwargs: Any) -> Iterator[Any]:
        names.extend(Path(video).name for video in videos)
        return original(videos, *args, **kwargs)

    monkeypatch.setattr(classifier, "predict_many", recording)
    return names


def entries(folder: Path, targets: Sequence[tuple[int, ...]] = ((0,), (1,), (2,), (1,), (0,))) -> list[LabelledVideo]:
    return [LabelledVideo(f"{i}.mp4", str(folder / f"{i}.mp4"), target) for i, target in enumerate(targets)]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# The list


@pytest.mark.parametrize(
    ("text", "settings", "expected"),
    [
        ("path,label\n0.mp4,cat\n1.mp4,0\n", {}, [("0.mp4", 2), ("1.mp4", 0)]),
        ("\ufeffid,Labels,VIDEO\r\n7,bee fly,0.mp4\r\n\r\n8,3,1.mp4", {}, [("0.mp4", 1), ("1.mp4", 3)]),
        ('"with, comma.mp4",dog\nwith space.mp4, cat', {}, [("with, comma.mp4", 3), ("with space.mp4", 2)]),
        ("with space.mp4 1\nwith, comma.mp4 2\n", {}, [("with space.mp4", 1), ("with, comma.mp4", 2)]),
        ("with, comma.mp4 2\n", {}, [("with, comma.mp4", 2)]),
        ("0.mp4\tbee fly\n1.mp4\t2\n", {}, [("0.mp4", 1), ("1.mp4", 2)]),
        ("path label\n0.mp4 cat\n", {}, [("0.mp4", 2)]),
        ("0.mp4,0;cat\n1.mp4,3|0|3\n2.mp4,\n", {}, [("0.mp4", 0, 2), ("1.mp4", 3, 0), ("2.mp4",)]),
        ("0.mp4,0,2\n1.mp4,3\n", {}, [("0.mp4", 0, 2), ("1.mp4", 3)]),
        ("0.mp4 0 2\nyear 1999 x.mp4 1\n", {"multi_label": True}, [("0.mp4", 0, 2), ("year 1999 x.mp4", 1)]),
        ("year 1999 1\n0.mp4 1\n", {}, [("year 1999", 1), ("0.mp4", 1)]),
        ("0.mp4,1\n0.mp4,1\n", {}, [("0.mp4", 1), ("0.mp4", 1)]),
    ],
)  # fmt: skip
def test_forms_of_the_list(
    text: str, settings: dict[str, Any], expected: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    (tmp_path / expected[-1][0]).touch()
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode())
    found = read_dataset(path, ABCD, **settings)
    assert [(entry.name, *entry.targets) for entry in found] == expected
    assert found[0].video == str(tmp_path / found[0].name)


def test_where_paths_start(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "0.mp4", tmp_path / "0.mp4")
    (tmp_path / "list.csv").write_text(f"0.mp4,0\n{folder / '1.mp4'},0\nhttps://example.org/a.mp4,0\n")
    found = [entry.video for entry in read_dataset(tmp_path / "list.csv", ABCD)]
    assert found == [str(tmp_path / "0.mp4"), str(folder / "1.mp4"), "https://example.org/a.mp4"]


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("", {}, r"list\.csv has no videos: expected lines of a path and a label"),
        ("path,label\n", {}, "has no videos"),
        ("path,score\n0.mp4,1\n", {}, "line 1: no column label or labels in the header 'path, score'"),
        ("owner,label\n0.mp4,1\n", {}, "line 1: no column path or video or file in the header"),
        ("0.mp4,1\n1.mp4\n", {}, r"line 2: expected a path and a label, got '1\.mp4'"),
        ("path,x,label\n\n0.mp4,1\n", {}, r"line 3: expected a path and a label, got '0\.mp4 1'"),
        ("0.mp4,1\n1.mp4,Bee_flies\n", {}, "line 2: unknown class 'Bee_flies'; did you mean 'bee fly'?"),
        ("0.mp4,abseiling\n", {}, r"line 1: unknown class 'abseiling'; classes are ant, bee fly, cat, \.\.\."),
        ("0.mp4,4\n", {}, "line 1: there is no class 4, indices go from 0 to 3"),
        ("0.mp4 -1\n", {}, "line 1: there is no class -1"),
        ("0.mp4,1\n1.mp4,1;2\n", {"multi_label": False}, r"line 2: expected one label for '1\.mp4', got 2"),
        ("path,label\n0.mp4,1\n1.mp4,\n", {}, "line 3: expected one label for .*, got none"),
        ("0.mp4,1\n1.mp4,0\n0.mp4,2\n", {}, r"line 3: '0\.mp4' has other labels in line 1; several .* separated by ;"),
        ('0.mp4,1\n"1.mp4,2\n2.mp4,2\n', {}, "line 3: .*quotation mark"),
        ("0.mp4,1\n\0", {}, "is no text in UTF-8"),
        ("nowhere.mp4,1\n", {}, r"no video of .*list\.csv is there, the first would be .*nowhere\.mp4: is root"),
    ],
)
def test_mistakes_in_the_list(text: str, settings: dict[str, Any], message: str, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_dataset(path, ABCD, root=folder, **settings)


# The evaluation


def test_equals_the_videos_one_by_one(classifier: VideoClassifier, folder: Path, tmp_path: Path) -> None:
    want = [classifier(folder / f"{i}.mp4", clips=1, crops=3).probabilities for i in range(VIDEOS)]
    result = evaluate(classifier, entries(folder), clips=1, crops=3, results=tmp_path / "r.jsonl")
    expected = measure(torch.stack(want).numpy(), [e.targets for e in entries(folder)], ABCD, multi_label=False)
    assert result.top1 == expected.top1 and result.mean_class_accuracy == expected.mean_class_accuracy
    assert result.confusion is not None and expected.confusion is not None
    assert result.confusion.tolist() == expected.confusion.tolist()
    assert (result.clips, result.crops, result.views, result.dtype) == (1, 3, "1 clip x 3 crops", "float32")
    assert (result.videos, result.skipped) == (VIDEOS, ())
    header, *found = lines(tmp_path / "r.jsonl")
    assert header["model"] == "slowfast_tiny_4x8" and header["clips"] == 1
    for line, scores, entry in zip(found, want, entries(folder), strict=True):
        assert (line["video"], line["targets"]) == (entry.name, list(entry.targets))
        assert torch.equal(torch.tensor(line["probabilities"]), scores), "to the last bit of float32"
        assert [label for label, _ in line["top"]] == [ABCD[i] for i in scores.argsort(descending=True)]


def test_the_protocol_of_the_weights(folder: Path) -> None:
    """Charades: sigmoid, the maximum over the views, mean average precision."""
    classifier = tiny(head_activation="sigmoid")
    classifier.model.pretrained_cfg.update(clips=2, crops=1, view_average="max")
    classifier = VideoClassifier(classifier.model, labels=ABCD)
    targets: list[tuple[int, ...]] = [(0, 2), (1,), (), (1, 3), (0,)]
    want = [classifier(folder / f"{i}.mp4").probabilities for i in range(VIDEOS)]
    result = evaluate(classifier, entries(folder, targets))
    assert result.multi_label and result.top1 is None
    expected = measure(torch.stack(want).numpy(), targets, ABCD, multi_label=True)
    assert result.mean_average_precision == expected.mean_average_precision
    assert (result.clips, result.crops, result.view_average) == (2, 1, "max")
    plain = json.loads(json.dumps(result.to_dict()))
    assert plain["top1"] is None and plain["classes"][0]["average_precision"] == result.classes[0].value
    with pytest.raises(ValueError, match="no confusion matrix"):
        save_confusion_plot(result, "a.png")
    single = evaluate(classifier, entries(folder), multi_label=False)
    assert single.top1 is not None


def test_bad_files_are_skipped_and_tried_again(
    classifier: VideoClassifier, asked: list[str], folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    listed = [
        *(LabelledVideo(name, str(tmp_path / name), (0,)) for name in ("text.mp4", "gone.mp4")),
        *entries(folder),
    ]
    told: list[tuple[str, Exception]] = []
    settings: dict[str, Any] = {"clips": 1, "results": tmp_path / "r.jsonl"}
    result = evaluate(classifier, listed, on_error=lambda *args: told.append(args), **settings)
    assert [name for name, _ in result.skipped] == ["text.mp4", "gone.mp4"]
    assert "no such video" in result.skipped[1][1]
    assert [Path(video).name for video, _ in told] == ["text.mp4", "gone.mp4"]
    assert result.videos == VIDEOS
    asked.clear()
    shutil.copy(folder / "0.mp4", tmp_path / "text.mp4")
    result = evaluate(classifier, listed, **settings)
    assert asked == ["text.mp4", "gone.mp4"]
    assert (result.videos, [name for name, _ in result.skipped]) == (VIDEOS + 1, ["gone.mp4"])
    with pytest.raises(ValueError, match=r"none of the 1 videos could be read; .*gone\.mp4: no such video"):
        evaluate(classifier, listed[1:2], clips=1)


def test_scores_that_are_not_finite_are_skipped(folder: Path) -> None:
    classifier = tiny()
    with torch.no_grad():
        classifier.model.get_classifier().bias[1] = float("nan")
    with pytest.raises(ValueError, match="the network's scores are not finite numbers"):
        evaluate(classifier, entries(folder)[:2], clips=1)


def test_an_interrupted_evaluation_goes_on(
    classifier: VideoClassifier, asked: list[str], folder: Path, tmp_path: Path
) -> None:
    """Wherever in the file it was interrupted."""
    path = tmp_path / "r.jsonl"
    whole = evaluate(classifier, entries(folder), clips=1, results=path)
    content = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(content) if byte == ord("\n")]
    for length in (0, 1, ends[0] - 1, ends[0], ends[0] + 1, ends[2] - 1, ends[2], ends[4] + 30, len(content)):
        path.write_bytes(content[:length])
        asked.clear()
        result = evaluate(classifier, entries(folder), clips=1, results=path)
        done = sum(end <= length for end in ends[1:])
        assert asked == [f"{index}.mp4" for index in range(done, VIDEOS)]
        assert path.read_bytes() == content
        assert result.to_dict() == whole.to_dict()


def test_the_first_videos_only(classifier: VideoClassifier, asked: list[str], folder: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"clips": 1, "results": tmp_path / "r.jsonl"}
    assert evaluate(classifier, entries(folder), limit=2, **settings).videos == 2
    assert evaluate(classifier, entries(folder), **settings).videos == VIDEOS
    assert asked == [f"{index}.mp4" for index in range(VIDEOS)], "each once"
    assert evaluate(classifier, entries(folder), limit=3, **settings).videos == 3


def test_results_of_another_evaluation_are_refused(classifier: VideoClassifier, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    evaluate(classifier, entries(folder), limit=1, clips=1, crops=1, results=path)
    before = path.read_bytes()
    renamed = [replace(entry, name=f"x{entry.name}") for entry in entries(folder)]
    for what, other, listed, clips in (
        ("clips 1 there, 2 here", classifier, entries(folder), 2),
        ("dataset '.*' there", classifier, renamed, 1),
        ("weights '.*' there", tiny(seed=1), entries(folder), 1),
    ):
        with pytest.raises(
            ValueError, match=rf"r\.jsonl holds the results of another evaluation \({what}.*choose another"
        ):
            evaluate(other, listed, clips=clips, crops=1, results=path)
    assert path.read_bytes() == before
    for content in (b"what is this", b"[1]\n[2]\n", b"path,label\n"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="holds no results of an evaluation, and is left as it is"):
            evaluate(classifier, entries(folder), clips=1, crops=1, results=path)
        assert path.read_bytes() == content
    path.write_bytes(before + b'{"index": 1, "probabilities": [1]}\n')
    with pytest.raises(ValueError, match="line 3 is damaged: delete that line"):
        evaluate(classifier, entries(folder), clips=1, crops=1, results=path)


def test_scores_are_used_again_where_only_labels_changed(
    classifier: VideoClassifier, folder: Path, tmp_path: Path, asked: list[str]
) -> None:
    path = tmp_path / "r.jsonl"
    first = evaluate(classifier, entries(folder), clips=1, crops=1, results=path)
    best = [json.loads(line)["top"][0][0] for line in path.read_text().splitlines()[1:]]
    right = [(classifier.labels.index(label),) for label in best]
    seen = len(asked)
    again = evaluate(classifier, entries(folder, right), clips=1, crops=1, results=path)
    assert (first.videos, again.videos, len(asked)) == (len(right), len(right), seen)
    assert again.top1 is not None and again.top1.value == 1


def test_arguments_that_make_no_sense(classifier: VideoClassifier, folder: Path, tmp_path: Path) -> None:
    cases: list[tuple[list[LabelledVideo], dict[str, Any], str]] = [
        ([], {}, "no videos"),
        (entries(folder), {"limit": 0}, "limit must be at least 1"),
        (entries(folder), {"clips": 0}, "clips must be"),
        (entries(folder, [(4,)]), {}, r"'0\.mp4' has the labels \(4,\), but there are 4 classes"),
        (entries(folder, [(0, 1)]), {"multi_label": False}, "multi_label cannot be False"),
        (entries(folder, [(), ()]), {}, "no video has a label"),
    ]
    for listed, settings, message in cases:
        with pytest.raises(ValueError, match=message):
            evaluate(classifier, listed, results=tmp_path / "r.jsonl", **settings)
    assert list(tmp_path.iterdir()) == []


# Pictures


def made_up(classes: int, videos: int = 4) -> Evaluation:
    """Every second class is often taken for the one half of all classes away."""
    targets = np.repeat(np.arange(classes), videos)
    scores = np.eye(classes)[targets]
    wrong = (targets % 2 == 0) & (np.arange(len(targets)) % videos > 1)
    scores[wrong, (targets[wrong] + classes // 2) % classes] += 1
    names = [f"class $number_{i}$ with a long name" for i in range(classes)]
    metrics = measure(scores, [(int(t),) for t in targets], names, multi_label=False)
    return Evaluation(
        **vars(metrics), model="m", dtype="float32", clips=1, crops="full", view_average="scores", skipped=()
    )


@pytest.mark.parametrize("classes", [1, 13, 75])
def test_pictures(classes: int, tmp_path: Path) -> None:
    from matplotlib.image import imread

    save_confusion_plot(made_up(classes), tmp_path / "c.png")
    assert [path.name for path in tmp_path.iterdir()] == ["c.png"]
    pixels = imread(tmp_path / "c.png")[..., :3]
    assert pixels.shape[1] == 1760
    red, blue = pixels[..., 0], pixels[..., 2]
    assert (blue > red + 0.3).sum() > 1000, "teal, for what is right"
    assert (red > blue + 0.3).sum() > 1000 or classes == 1, "orange, for what is wrong"
    with pytest.raises(ValueError, match="the suffix must be one of"):
        save_confusion_plot(made_up(2), tmp_path / "c.txt")


def test_classes_without_videos_are_one_column(tmp_path: Path) -> None:
    labels = [f"name{i}" for i in range(400)]
    metrics = measure(np.eye(400)[[3, 9, 9]], [(3,), (3,), (5,)], labels, multi_label=False)
    result = Evaluation(
        **vars(metrics), model="m", dtype="float32", clips=1, crops=1, view_average="scores", skipped=()
    )
    save_confusion_plot(result, tmp_path / "c.svg")
    text = (tmp_path / "c.svg").read_text()
    assert "<!-- other classes -->" in text and "<!-- name3 -->" in text and "<!-- name5 -->" in text
    assert "<!-- name9 -->" not in text


def test_classes_that_are_confused_become_neighbours() -> None:
    shares = np.eye(6)
    shares[0, 3] = shares[3, 5] = shares[1, 4] = 0.5
    order = _order_by_confusion(shares)
    assert sorted(order) == list(range(6))
    places = [order.index(index) for index in range(6)]
    assert abs(places[0] - places[3]) == abs(places[3] - places[5]) == abs(places[1] - places[4]) == 1


# The command


@pytest.fixture
def dataset(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A list in the current folder."""
    path = tmp_path / "some list.csv"
    path.write_text("path,label\n" + "".join(f"{i}.mp4,{move}\n" for i, move in enumerate(MOVES)))
    monkeypatch.chdir(tmp_path)
    return path


@pytest.fixture
def command(folder: Path) -> Callable[..., int]:
    return lambda path, *words: main(["evaluate", str(path), "--root", str(folder), *COMMAND, *map(str, words)])


def test_the_command(dataset: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--output", "summary.json", "--confusion", "picture.png", "--crops", "full")
    assert command(dataset.name, *words) == 0
    output = capsys.readouterr()
    first, second, *rest = output.out.splitlines()
    assert first == "some list.csv: 5 videos of 4 classes"
    assert second == "slowfast_tiny_4x8.motion, float32, 1 clip x full frame"
    assert [line.split("  ")[1] for line in rest if "%   " in line][:3] == ["top-1", "top-5", "mean class accuracy"]
    results = "some_list.slowfast_tiny_4x8.motion.1xfull.results.jsonl"
    assert output.err.splitlines() == [
        f"each video's scores are in {results}",
        "wrote summary.json",
        "wrote picture.png",
    ]
    names = {path.name for path in Path.cwd().iterdir()}
    assert names == {dataset.name, results, "summary.json", "picture.png"}
    assert command(dataset.name, "--json", "--crops", "full") == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(Path("summary.json").read_text())
    assert report["videos"] == 5 and report["top1"]["low"] < report["top1"]["value"] < report["top1"]["high"]
    assert [entry["videos"] for entry in report["classes"]][:3] == [2, 1, 1]
    assert command(dataset.name, "--per-class", "--crops", "full") == 0
    table = capsys.readouterr().out.split("\n\n")[2].splitlines()
    assert [line.split()[0] for line in table] == ["class", "static", "pan_left", "pan_right", "zoom_in"]


def test_the_command_with_sets_of_labels(
    dataset: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    dataset.write_text("0.mp4,static;shake\n1.mp4,pan_left\n")
    assert command(dataset, "--crops", "1") == 0
    assert "mean average precision" in capsys.readouterr().out
    for words, message in (
        (["--single-label"], "line 1: expected one label for '0.mp4', got 2"),
        (["--confusion", "c.png"], "--confusion is for videos with one label each"),
        (["--confusion", "c.txt"], "the suffix must be one of"),
        (["--output", "nowhere/a.json"], "no folder to write into: nowhere"),
        (["--root", "nowhere"], "no video of"),
    ):
        assert command(dataset, *words) == 2
        output = capsys.readouterr()
        assert output.out == "" and output.err.count("\n") == 1
        assert message in output.err
    assert command("nowhere.csv") == 2
    assert capsys.readouterr().err == "slowfast-zoo: error: No such file or directory: nowhere.csv\n"


def test_a_killed_command_goes_on(
    dataset: Path, command: Callable[..., int], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(dataset, "--crops", "1", "--results", "whole.jsonl", "--json") == 0
    whole = capsys.readouterr().out
    code = f"""
import os, signal
from slowfast_zoo.cli.main import main
from slowfast_zoo.inference.evaluation.run import _ResultsFile
add = _ResultsFile.add
def add_and_die(self, index, *args):
    add(self, index, *args)
    if index == 2:
        self._file.write(b'{{"index": 3, "vid')
        os.kill(os.getpid(), signal.SIGKILL)
_ResultsFile.add = add_and_die
main(["evaluate", {str(dataset)!r}, "--root", {str(folder)!r}, "--crops", "1", "--results", "r.jsonl", *{COMMAND!r}])
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=100, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert killed.stdout == b""
    before = Path("r.jsonl").read_bytes()
    assert len(before.splitlines()) == 5, "header, three videos, a half"
    assert command(dataset, "--crops", "1", "--results", "r.jsonl", "--json") == 0
    assert capsys.readouterr().out == whole
    assert Path("r.jsonl").read_bytes().startswith(before[: before.rfind(b"\n")])
    assert [line.get("index") for line in lines(Path("r.jsonl"))] == [None, 0, 1, 2, 3, 4]


@pytest.mark.slow
def test_two_processes(
    dataset: Path, command: Callable[..., int], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The result of one; either can go on with the other's files; one that fails does not leave the other waiting."""
    dataset.write_text(dataset.read_text() + "gone.mp4,shake\n")
    assert command(dataset, "--crops", "1", "--results", "one.jsonl", "--output", "one.json") == 2
    capsys.readouterr()
    script = f"""
import os, sys
import torch.distributed as dist
from slowfast_zoo.cli.main import main

words = ["evaluate", {str(dataset)!r}, "--root", {str(folder)!r}, "--crops", "1", *{COMMAND!r}]
code = main([*words, "--results", "two.jsonl", "--output", "two.json", "--json"])
rank = int(os.environ["RANK"])
with open(f"{{rank}}.txt", "w") as file:
    print(code, dist.is_initialized(), file=file)

from slowfast_zoo.inference import VideoClassifier
from slowfast_zoo.video.dataset import read_dataset
from slowfast_zoo.inference.evaluation.run import evaluate
dist.init_process_group("gloo", init_method="file://" + os.path.abspath("meeting"), rank=rank, world_size=2)
classifier = VideoClassifier(batch_size=1)
if rank == 1:
    def out_of_memory(*args, **kwargs):
        raise MemoryError("too much")
    classifier.predict_many = out_of_memory
try:
    evaluate(classifier, read_dataset({str(dataset)!r}, classifier.labels, root={str(folder)!r}), clips=1)
except (MemoryError, ConnectionError) as error:
    with open(f"{{rank}}.txt", "a") as file:
        print(type(error).__name__, error, file=file)
dist.barrier()  # both are still there
dist.destroy_process_group()
"""
    Path("script.py").write_text(script)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "script.py"]
    done = subprocess.run(torchrun, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    first, second = (Path(f"{rank}.txt").read_text().splitlines() for rank in range(2))
    assert [first[0], second[0]] == ["2 False", "0 False"]
    assert first[1].startswith("ConnectionError another process of this evaluation has stopped")
    assert second[1] == "MemoryError too much"
    report = json.loads(done.stdout)
    assert report == json.loads(Path("one.json").read_text()) == json.loads(Path("two.json").read_text())
    assert done.stderr.count("no such video file") == 1
    parts = [lines(Path(f"two.jsonl.rank{rank}"))[1:] for rank in range(2)]
    assert [[line["index"] for line in part] for part in parts] == [[0, 2, 4], [1, 3]]
    assert sorted(parts[0] + parts[1], key=lambda line: line["index"]) == lines(Path("one.jsonl"))[1:]
    # One process goes on with the files of two: nothing is left to do but the bad file.
    assert command(dataset, "--crops", "1", "--results", "two.jsonl", "--json") == 2
    assert json.loads(capsys.readouterr().out) == report
    assert len(lines(Path("two.jsonl"))) == 1
