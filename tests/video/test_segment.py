"""Segments of videos: two lines of one video are two videos for everything that reads lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from videos import read_code, write_video

import slowfast_zoo as sfz
from slowfast_zoo.cli import main
from slowfast_zoo.errors import VideoDecodeError
from slowfast_zoo.finetuning import finetune
from slowfast_zoo.inference import VideoClassifier
from slowfast_zoo.inference.evaluation.run import evaluate
from slowfast_zoo.video import Segment, VideoReader, open_video, video_name
from slowfast_zoo.video.dataset import LabelledVideo, labels_in_list, read_dataset, read_videos


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds at 30 fps, each frame with its number."""
    return write_video(tmp_path_factory.mktemp("segments") / "long.mp4", 120, width=64, height=48)


def classifier() -> VideoClassifier:
    torch.manual_seed(0)
    model: Any = sfz.create_model("slowfast_tiny_4x8", width=8, num_classes=2, crop=32)
    torch.nn.init.normal_(model.get_classifier().weight, std=0.3)
    return VideoClassifier(model, labels=("ant", "bee"), batch_size=1)


# Reading


def test_a_segment_is_a_video_of_its_own(video: Path) -> None:
    with open_video(Segment(video, 1.0, 2.5)) as source:
        assert source.duration == pytest.approx(1.5)
        assert (source.fps, source.width, source.height) == (30.0, 64, 48)
        asked = [-1.0, 0.0, 0.5, 1.49, 1.5, 99.0]
        assert [read_code(frame) for frame in source.frames_at(asked)] == [30, 30, 45, 74, 74, 74]
        assert [read_code(frame) for clip in source.clips_at([[0.1, 0.9], [0.9]]) for frame in clip] == [33, 57, 57]
        shown = [(round(30 * time), read_code(frame)) for time, frame in source.frames()]
        assert shown == [(index, 30 + index) for index in range(45)]
        assert np.allclose(source.frame_times(), np.arange(45) / 30, atol=1e-3)
        assert [read_code(frame) for _, frame in source.frames(1.4)] == [72, 73, 74]
    with open_video(Segment(str(video), 3.0)) as source:
        assert source.duration == pytest.approx(1.0)
        assert len(list(source.frames())) == len(source.frame_times()) == 30
    with open_video(Segment(video, 3.0, 99.0)) as source:
        assert source.duration == pytest.approx(1.0)
    with pytest.raises(VideoDecodeError, match=r"from 7 s to 9 s.*the video ends before, after 4.00 s"):
        open_video(Segment(video, 7.0, 9.0))
    assert video_name(Segment("a.mp4", 1.5)) == "a.mp4 (from 1.5 s to the end)"


def test_of_arrays_and_folders(video: Path) -> None:
    frames = np.zeros((100, 8, 8, 3), np.uint8)
    frames[:, 0, 0, 0] = np.arange(100)
    with open_video(Segment(frames, 2.0, 3.0), fps=10) as source:
        assert [int(frame[0, 0, 0]) for _, frame in source.frames()] == list(range(20, 30))


@pytest.mark.parametrize("times", [(-1.0, 2.0), (2.0, 2.0), (3.0, 2.0), (float("nan"), None), (0.0, float("inf"))])
def test_times_that_are_none(times: tuple[float, float | None]) -> None:
    with pytest.raises(ValueError, match="begins at 0 s or later and ends after that"):
        Segment("a.mp4", *times)


def test_a_reader_of_files_reads_no_segments(video: Path) -> None:
    with pytest.raises(TypeError, match="open_video reads those"):
        VideoReader(Segment(video, 1.0))  # type: ignore[arg-type]


# Lists


@pytest.mark.parametrize(
    "text",
    [
        "path,start,end,label\nlong.mp4,0,1.5,ant\nlong.mp4,1.5,,bee\n",
        "video;class;Start (s);Stop (s)\nlong.mp4;ant;0,0;1,5\nlong.mp4;bee;1,5;\n",
        "label,video,time_start,time_end,split\nant,long.mp4,0.0,1.5,val\nbee,long.mp4,1.5,nan,val\n",
        "path\tlabel\tstart_time\tend_time\nlong.mp4\tant\t00:00\t00:00:01.5\nlong.mp4\tbee\t00:01.5\t\n",
        ",path,label,start_timestamp,stop_timestamp,start_frame,stop_frame\n"
        "0,long.mp4,ant,0,1.5,0,45\n1,long.mp4,bee,00:00:01.50,,45,\n",
    ],
)
def test_two_lines_of_one_video_are_two_segments(text: str, video: Path) -> None:
    path = video.with_name("list.csv")
    path.write_text(text)
    found = read_dataset(path, ("ant", "bee"))
    assert [(e.name, e.targets, e.start or 0, e.end) for e in found] == [
        ("long.mp4", (0,), 0, 1.5),
        ("long.mp4", (1,), 1.5, None),
    ]
    assert labels_in_list(path) == ("ant", "bee")


def test_a_duration_counts_beside_a_start_alone(video: Path) -> None:
    path = video.with_name("list.csv")
    path.write_text("path,label,start,duration\nlong.mp4,ant,1,2.5\n")
    assert read_dataset(path, ("ant", "bee"))[0].end == 3.5
    path.write_text("path,label,duration\nlong.mp4,ant,4\n")
    assert read_dataset(path, ("ant", "bee"))[0].source == str(video)


def test_lists_without_labels(video: Path) -> None:
    path = video.with_name("list.csv")
    for text, expected in (
        ("path\nlong.mp4\n", [(None, None)]),
        ("long.mp4\nlong.mp4\n", [(None, None)]),
        ("path,start,end\nlong.mp4,1,2\nlong.mp4,2,3\nlong.mp4,1,2\n", [(1.0, 2.0), (2.0, 3.0)]),
    ):
        path.write_text(text)
        assert [(entry.start, entry.end) for entry in read_videos(path)] == expected


# What reads them


def test_evaluate_sees_each_segment_by_itself(video: Path, tmp_path: Path) -> None:
    model = classifier()
    cuts = [Segment(str(video), 0.0, 1.5), Segment(str(video), 2.0)]
    entries = [LabelledVideo("long.mp4", str(video), (0,), 0.0, 1.5), LabelledVideo("long.mp4", str(video), (1,), 2.0)]
    results = tmp_path / "results.jsonl"
    found = evaluate(model, entries, clips=1, crops=1, results=results)
    assert found.videos == 2
    scores = [json.loads(line)["probabilities"] for line in results.read_text().splitlines()[1:]]
    for score, cut in zip(scores, cuts, strict=True):
        assert torch.equal(torch.tensor(score), model(cut, clips=1, crops=1).probabilities)
    assert scores[0] != scores[1]
    with pytest.raises(ValueError, match="another evaluation"):
        evaluate(
            model, [entries[0], LabelledVideo("long.mp4", str(video), (1,), 2.5)], clips=1, crops=1, results=results
        )
    late = LabelledVideo("long.mp4", str(video), (1,), 9.0)
    told: list[str] = []
    partly = evaluate(model, [entries[0], late], clips=1, crops=1, on_error=lambda name, _: told.append(name))
    assert partly.videos == 1 and "ends before" in partly.skipped[0][1]
    assert told == [f"{video} (from 9 s to the end)"]


def test_features_of_each_segment(video: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(f"path,start,end\n{video},0,1.5\n{video},2,4\n")
    output = tmp_path / "out"
    words = ["features", str(path), "--output", str(output), "--fps", "30", "--stride", "8", "--window", "16"]
    assert main(words) == 0
    model = VideoClassifier("slowfast_tiny_4x8.motion")
    for name, cut in (("long.0-1.5", Segment(video, 0, 1.5)), ("long.2-4", Segment(video, 2, 4))):
        with np.load(output / f"{name}.npz") as arrays:
            expected = model.extract_features(cut, 16, 8, 30)
            np.testing.assert_allclose(arrays["features"], expected.features, atol=1e-5)
            assert arrays["times"].max() <= cut.end - cut.start + 1e-6  # type: ignore[operator]


def test_finetune_learns_from_segments(video: Path, tmp_path: Path) -> None:
    lines = [
        f"{video},{start},{start + 1},{label}" for start, label in ((0, "ant"), (1, "bee"), (2, "ant"), (3, "bee"))
    ]
    (tmp_path / "list.csv").write_text("\n".join(["path,start,end,label", *lines]) + "\n")
    torch.manual_seed(0)
    model: Any = sfz.create_model("slowfast_tiny_4x8", width=8, num_classes=2, crop=32)
    result = finetune(model, tmp_path / "list.csv", output=tmp_path / "out", epochs=1, batch_size=2, device="cpu")
    assert result.skipped == () and "val_top1" in result.history[0]
