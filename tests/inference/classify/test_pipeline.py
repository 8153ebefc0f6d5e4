"""Decoding beside the network: many videos, bad ones among them, batches, memory."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from videos import write_video

import slowfast_zoo as sfz
from slowfast_zoo.errors import VideoDecodeError
from slowfast_zoo.inference import VideoClassifier
from slowfast_zoo.inference.classify import pipeline
from slowfast_zoo.inference.classify.pipeline import BatchRunner
from tests.inference.classify.test_classifier import network


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five videos of different lengths and shapes."""
    folder = tmp_path_factory.mktemp("videos")
    return [
        write_video(folder / f"{i}.mp4", frames, width=width, height=96)
        for i, (frames, width) in enumerate([(50, 160), (12, 96), (90, 128), (33, 160), (64, 200)])
    ]


@pytest.fixture(scope="module")
def model() -> Any:
    return network()


def decoders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("slowfast-zoo decoder")]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("crops", [1, 3, "full"])
def test_many_videos_give_what_each_gives_alone(model: Any, videos: list[Path], workers: int, crops: int | str) -> None:
    classify = VideoClassifier(model, workers=workers, batch_size=4)
    found = list(classify.predict_many(videos, clips=3, crops=crops))
    assert [prediction.position for prediction in found] == [0, 1, 2, 3, 4]
    assert [prediction.video for prediction in found] == [str(video) for video in videos]
    for prediction, video in zip(found, videos, strict=True):
        alone = VideoClassifier(model, batch_size=1)(video, clips=3, crops=crops)
        torch.testing.assert_close(prediction.probabilities, alone.probabilities, atol=1e-5, rtol=0)
        assert [clip.span for clip in prediction.clips] == [clip.span for clip in alone.clips]
    assert not decoders()


def test_a_list_gives_a_list(model: Any, videos: list[Path]) -> None:
    classify = VideoClassifier(model)
    assert [prediction.video for prediction in classify(videos[:2], clips=1)] == [str(video) for video in videos[:2]]
    assert [prediction.video for prediction in classify(tuple(videos[1:2]), clips=1)] == [str(videos[1])]
    assert classify([], clips=1) == []


def test_batches_are_filled_across_videos(model: Any, videos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = model.probabilities

    def counting(clip: torch.Tensor) -> torch.Tensor:
        seen.append(len(clip))
        result: torch.Tensor = original(clip)
        return result

    monkeypatch.setattr(model, "probabilities", counting)
    monkeypatch.setattr(pipeline, "_PATIENCE", 60.0)  # however slowly frames come
    list(VideoClassifier(model, batch_size=4).predict_many(videos, clips=3, crops=1))
    assert sum(seen) == 13  # the second is too short for more than one clip
    assert seen[:-1] == [4, 4, 4]


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_videos_are_told_of_and_left_out(model: Any, videos: list[Path], tmp_path: Path, workers: int) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    mixed = [tmp_path / "gone.mp4", videos[0], tmp_path / "text.mp4", videos[1], tmp_path]
    told: list[tuple[Any, Exception]] = []
    classify = VideoClassifier(model, workers=workers)
    found = list(classify.predict_many(mixed, clips=1, crops=1, on_error=lambda *failure: told.append(failure)))
    assert [prediction.position for prediction in found] == [1, 3]
    assert [video for video, _ in told] == [mixed[0], mixed[2], mixed[4]]
    assert [type(error) for _, error in told] == [FileNotFoundError, VideoDecodeError, VideoDecodeError]
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4"):
        list(classify.predict_many(mixed, clips=1, crops=1))
    assert not decoders()


def test_bad_arguments_are_told_before_anything_is_read(model: Any) -> None:
    classify = VideoClassifier(model)
    for wrong in ({"clips": 0}, {"crops": 2}, {"crops": "half"}, {"top_k": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            classify.predict_many(["nowhere.mp4"], **wrong)
    assert not decoders()


def test_threads_have_a_bound(model: Any) -> None:
    assert VideoClassifier(model, workers=256).workers == 256
    for wrong in (0, 257, 1.5):
        with pytest.raises(ValueError, match="workers"):
            VideoClassifier(model, workers=wrong)  # type: ignore[arg-type]


def test_whoever_stops_early_leaves_no_thread(model: Any, videos: list[Path]) -> None:
    given = []

    def endless() -> Iterator[Path]:
        while True:
            given.append(1)
            yield videos[1]

    predictions = VideoClassifier(model, batch_size=2, workers=2).predict_many(endless(), clips=1, crops=1)
    assert next(predictions).position == 0
    assert len(decoders()) == 2
    predictions.close()  # type: ignore[attr-defined]
    assert not decoders()
    assert len(given) < 40, "decoders wait for the network"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_source_that_does_not_answer_holds_nothing_up(model: Any, videos: list[Path], workers: int) -> None:
    """Neither a finished video, for which a larger batch would have room, nor whoever wants no more."""
    answer = threading.Event()
    asked = []

    def silent() -> Iterator[Path]:
        yield videos[1]
        answer.wait()
        for _ in range(9):
            asked.append(1)
            yield videos[1]

    predictions = VideoClassifier(model, batch_size=64, workers=workers).predict_many(silent(), clips=1, crops=1)
    assert next(predictions).position == 0
    left = decoders()
    predictions.close()  # type: ignore[attr-defined]
    assert left and all(thread.is_alive() for thread in left)
    answer.set()
    for thread in left:
        thread.join()
    assert len(asked) == 1, "that one was asked for already"


def test_one_video_is_not_several(model: Any, videos: list[Path]) -> None:
    for one in (str(videos[0]), videos[0], b"content", np.zeros((2, 8, 8, 3), np.uint8), io.BytesIO(), None):
        with pytest.raises(TypeError, match=f"several videos, got {type(one).__name__}; for one, call the classifier"):
            VideoClassifier(model).predict_many(one)  # type: ignore[arg-type]


def test_items_that_are_no_video_are_told_of_too(model: Any, videos: list[Path]) -> None:
    closed = io.BytesIO(b"content")
    closed.close()
    mixed: list[Any] = [np.zeros((8, 8, 3), np.uint8), videos[1], closed, None]
    told: list[str] = []
    found = VideoClassifier(model).predict_many(
        mixed, clips=1, crops=1, fps=25, on_error=lambda _, error: told.append(f"{type(error).__name__}: {error}")
    )
    assert [prediction.position for prediction in found] == [1]
    for line, expected in zip(told, ("ValueError: frames must be", "ValueError: the file", "TypeError: "), strict=True):
        assert line.startswith(expected)
    with pytest.raises(ValueError, match="'<file>' is closed"):
        list(VideoClassifier(model).predict_many(mixed[2:], clips=1))


def test_scores_that_are_not_finite(videos: list[Path]) -> None:
    model = network()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    classify = VideoClassifier(model)
    calls = (
        lambda: classify(videos[1], clips=1),
        lambda: classify.timeline(videos[1]),
        lambda: classify.extract_features(videos[1]),
        lambda: next(classify.stream(str(videos[1]))),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"1\.mp4: the network's scores are not finite numbers: try dtype"):
            call()
    told: list[Any] = []
    found = classify.predict_many(videos[1:2], clips=1, on_error=lambda video, _: told.append(video))
    assert list(found) == []
    assert told == videos[1:2]


def test_what_fails_in_a_thread_reaches_the_caller(model: Any, videos: list[Path]) -> None:
    def failing() -> Iterator[Path]:
        yield videos[1]
        raise KeyError("what the caller's own generator raises")

    with pytest.raises(KeyError, match="own generator"):
        list(VideoClassifier(model).predict_many(failing(), clips=1, crops=1))
    with pytest.raises(ValueError, match="fps"):
        VideoClassifier(model)(np.zeros((20, 64, 64, 3), np.uint8))
    assert not decoders()


def test_arrays_bytes_and_files(model: Any, videos: list[Path]) -> None:
    classify = VideoClassifier(model)
    expected = classify(videos[0], clips=2, crops=1).probabilities
    with videos[0].open("rb") as file:
        for given in (videos[0].read_bytes(), file):
            torch.testing.assert_close(classify(given, clips=2, crops=1).probabilities, expected, atol=0, rtol=0)
    with sfz.video.open_video(videos[0]) as reader:
        frames = torch.stack([frame for _, frame in reader.frames()]).permute(0, 2, 3, 1)
    for array in (frames, frames.numpy()):
        prediction = classify(array, clips=2, crops=1, fps=30)
        assert prediction.video == "<array>"
        torch.testing.assert_close(prediction.probabilities, expected, atol=0, rtol=0)


# Memory


class Hungry:
    """Takes at most some views at once, like a device with little memory."""

    def __init__(self, most: int, error: Exception) -> None:
        self.most, self.error = most, error
        self.sizes: list[int] = []

    def __call__(self, views: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(views))
        if len(views) > self.most:
            raise self.error
        return views.flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_a_batch_that_does_not_fit_is_halved(error: Exception) -> None:
    run = BatchRunner(torch.nn.Linear(1, 1), 8)
    views = torch.arange(10.0)[:, None]
    hungry = Hungry(3, error)
    with pytest.warns(RuntimeWarning, match="do not fit in the memory of cpu: going on with") as told:
        rows = run(hungry, views)
    assert torch.equal(rows, views)
    assert hungry.sizes == [8, 4, 2, 2, 2, 2, 2]
    assert len(told) == 2
    assert run.size == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(hungry, views)  # it is not tried again
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(MemoryError, match=r"a single view of shape \(1,\) "),
    ):
        run(Hungry(0, error), views)


def test_other_errors_are_not_taken_for_it() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        BatchRunner(torch.nn.Linear(1, 1), 8)(Hungry(3, RuntimeError("shapes cannot be multiplied")), torch.ones(8, 1))
