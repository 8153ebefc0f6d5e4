"""Scores and features over time, from files and from streams of frames."""

from __future__ import annotations

import itertools
import json
import math
import weakref
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from videos import write_video

import slowfast_zoo as sfz
from slowfast_zoo.inference import VideoClassifier
from slowfast_zoo.inference.classify.stream import cut_windows
from slowfast_zoo.video import open_video, sample_clip
from tests.inference.classify.test_classifier import SIX, network

SHORT: dict[str, Any] = {"window": 0.4, "stride": 0.2, "clip_frames": 4}


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds at 30 fps."""
    return write_video(tmp_path_factory.mktemp("videos") / "moves.mp4", 120, width=128, height=96)


@pytest.fixture(scope="module")
def classify() -> VideoClassifier:
    return VideoClassifier(network(), labels=SIX)


def frames_of(path: Path) -> list[np.ndarray[Any, Any]]:
    with open_video(path) as reader:
        return [frame.permute(1, 2, 0).numpy() for _, frame in reader.frames()]


def by_hand(classify: VideoClassifier, path: Path, start: float, window: float, fps: float = 30) -> torch.Tensor:
    """The clip (1, C, T, S, S) of a window, its frames picked by index."""
    frames, count = frames_of(path), classify.model.config.clip_frames
    times = [start + window * i / count + 0.5 / fps for i in range(count)]
    picked = [torch.from_numpy(frames[min(int(time * fps + 1e-6), len(frames) - 1)]).permute(2, 0, 1) for time in times]
    return classify.transform(torch.stack(picked))[None]


# Timeline


def test_a_timeline_covers_the_video(classify: VideoClassifier, video: Path) -> None:
    timeline = classify.timeline(video, window=1.5, stride=1.0, top_k=2)
    assert timeline.starts.tolist() == pytest.approx([0, 1, 2, 2.5])
    assert timeline.ends.tolist() == pytest.approx([1.5, 2.5, 3.5, 4.0])
    assert timeline.probabilities.shape == (4, 6)
    for window in timeline:
        with torch.inference_mode():
            expected = classify.model.probabilities(by_hand(classify, video, window.start, 1.5))[0]
        torch.testing.assert_close(window.probabilities, expected, atol=1e-5, rtol=0)
        assert window.label == SIX[int(expected.argmax())]
    best = timeline.best()
    peaks = timeline.probabilities.amax(0)
    assert [index for index, _ in best] == peaks.argsort(descending=True)[:2].tolist()
    plain = json.loads(json.dumps(timeline.to_dict()))
    assert plain["classes"] == [label for _, label in best]
    assert plain["windows"][1]["scores"] == pytest.approx(timeline.probabilities[1, [i for i, _ in best]].tolist())
    assert "4 windows" in str(timeline)


def test_a_timeline_of_the_networks_own_windows(classify: VideoClassifier, video: Path) -> None:
    length = 32 / 30  # 16 frames, every 2nd of 30 a second
    timeline = classify.timeline(video)
    assert timeline[0].end == pytest.approx(length)
    assert timeline[1].start == pytest.approx(length / 2)
    assert timeline[-1].end == pytest.approx(4.0)
    prediction = classify(video, clips=1, crops=1)
    same = classify.timeline(video, stride=prediction.clips[0].start)[1]
    torch.testing.assert_close(same.probabilities, prediction.probabilities, atol=1e-5, rtol=0)


def test_a_timeline_of_a_short_video(classify: VideoClassifier, tmp_path: Path) -> None:
    timeline = classify.timeline(write_video(tmp_path / "short.mp4", 5))
    assert len(timeline) == 1
    assert timeline[0].end == pytest.approx(5 / 30)
    assert "shorter than a window, its last frame was repeated" in str(timeline)


def test_the_timeline_of_the_sample_clip_tells_its_moves() -> None:
    timeline = VideoClassifier().timeline(sample_clip(), window=1.0, stride=0.75)
    moves = ("static", "pan_right", "zoom_in", "roll_clockwise", "whip_pan", "shake")
    inside = [w for w in timeline if int(w.start / 1.5) == int((w.end - 1e-6) / 1.5)]
    right = [w.label == moves[int(w.start / 1.5)] for w in inside]
    assert len(right) >= 6
    assert sum(right) >= len(right) - 1


@pytest.mark.parametrize("wrong", [{"window": 0}, {"stride": -1.0}, {"window": math.inf}, {"top_k": 0}, {"crops": 2}])
def test_wrong_windows(classify: VideoClassifier, video: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        classify.timeline(video, **wrong)


# Features


def test_features_are_what_the_classifier_is_applied_to(classify: VideoClassifier, video: Path) -> None:
    features, times = classify.extract_features(video, window=32, stride=16, fps=30)
    assert features.dtype == np.float32
    assert times.dtype == np.float64
    assert features.shape == (6, classify.model.num_features)
    assert times[:, 0].tolist() == pytest.approx([i * 16 / 30 for i in range(6)])
    assert (times[:, 1] - times[:, 0]).tolist() == pytest.approx([32 / 30] * 6)
    with torch.inference_mode():
        clip = by_hand(classify, video, times[2, 0], 32 / 30)
        expected = classify.model.forward_head(classify.model.forward_features(clip), pre_logits=True)[0]
    np.testing.assert_allclose(features[2], expected.numpy(), atol=1e-5)


def test_features_of_other_rates_and_ends(classify: VideoClassifier, video: Path) -> None:
    features, times = classify.extract_features(video, window=16, stride=16, fps=15)
    assert times[:, 0].tolist() == pytest.approx([0, 16 / 15, 32 / 15])
    whole, covered = classify.extract_features(video, window=16, stride=16, fps=15, cover_end=True)
    assert covered[-1].tolist() == pytest.approx([4 - 16 / 15, 4])
    np.testing.assert_allclose(whole[:3], features, atol=1e-5)
    own = classify.extract_features(video, window=32, stride=32, fps=None)
    np.testing.assert_allclose(own.features, classify.extract_features(video, 32, 32).features, atol=1e-5)


def test_features_from_a_network_without_a_classifier(video: Path) -> None:
    encoder = VideoClassifier(network(num_classes=0))
    features, _ = encoder.extract_features(video, crops="full")
    assert features.shape[1] == encoder.model.num_features
    for call in (encoder, encoder.timeline, encoder.stream, lambda v: next(encoder.predict_many([v]))):
        with pytest.raises(ValueError, match="no classifier"):
            call(video)


def test_slowfast_r50_has_2304_features(video: Path) -> None:
    model = sfz.create_model("slowfast_r50_8x8", num_classes=0, depths=(1, 1, 1, 1), crop=32)
    features, times = VideoClassifier(model).extract_features(video, window=32, stride=64, fps=30)
    assert features.shape == (2, 2304)
    assert times.shape == (2, 2)


@pytest.mark.parametrize("wrong", [{"window": 0}, {"stride": 1.5}, {"fps": 0}])
def test_wrong_features(classify: VideoClassifier, video: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        classify.extract_features(video, **wrong)


# Streams


def test_a_stream_gives_the_windows_of_the_timeline(classify: VideoClassifier, video: Path) -> None:
    timeline = classify.timeline(video, window=1.0, stride=0.5)
    frames = frames_of(video)
    stamped = [(7.5 + index / 30, frame) for index, frame in enumerate(frames)]
    for source, fps in ((video, None), (str(video), None), (iter(frames), 30), (stamped, None)):
        found = list(classify.stream(source, window=1.0, stride=0.5, fps=fps))
        assert [window.start for window in found] == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5, 3])
        for window, expected in zip(found, timeline, strict=True):
            torch.testing.assert_close(window.probabilities, expected.probabilities, atol=1e-5, rtol=0)


def test_a_stream_answers_as_soon_as_it_can_and_forgets(classify: VideoClassifier, video: Path) -> None:
    frames = frames_of(video)
    taken = 0

    def endless() -> Iterator[np.ndarray[Any, Any]]:
        nonlocal taken
        for frame in itertools.cycle(frames):
            taken += 1
            yield frame

    stream = classify.stream(endless(), window=1.0, stride=2.0, fps=30)
    for number in range(5):
        window = next(stream)
        assert (window.start, window.end) == pytest.approx((2.0 * number, 2.0 * number + 1))
        # The last of 16 frames of a second is the one shown at 0.954, number 28; the next one, at 0.967, tells.
        assert taken == 60 * number + 30


def test_a_stream_shorter_than_a_window(classify: VideoClassifier, video: Path) -> None:
    (window,) = classify.stream(iter(frames_of(video)[:10]), fps=30)
    assert window.span.short
    assert list(classify.stream(iter([]), fps=30)) == []


def test_stride_longer_than_window_and_frame_rates_lower_than_the_clips(classify: VideoClassifier, video: Path) -> None:
    slow = [(index * 0.25, frame) for index, frame in enumerate(frames_of(video)[:40])]
    found = list(classify.stream(slow, window=1.0, stride=3.0))
    assert [window.start for window in found] == pytest.approx([0, 3, 6, 9])


def test_a_slow_taker_of_a_live_source_gets_the_newest_window() -> None:
    waiting: deque[float] = deque()
    comes = iter([index * 0.1 for index in range(100)])

    def taken() -> Iterator[tuple[float, torch.Tensor]]:
        while True:
            if not waiting:
                waiting.extend(itertools.islice(comes, 1))
            if not waiting:
                return
            stamp = waiting.popleft()
            yield stamp, torch.full((3, 8, 8), stamp)

    def newest() -> float:
        waiting.extend(itertools.islice(comes, 1))  # frames come no slower than they are taken
        return waiting[-1] if waiting else -math.inf

    found = []
    for span, clip in cut_windows(taken(), lambda frame: frame, skip=newest, **SHORT):
        found.append(span.start)
        assert clip[:, 0, 0, 0].tolist() == pytest.approx([math.floor(t * 10 + 1e-5) / 10 for t in span.times])
        waiting.extend(itertools.islice(comes, 32))  # while the network computes
    assert found == pytest.approx([0.0, 3.4, 6.6, 9.4, 9.6])  # the end at 10.0 completes one more


@pytest.mark.parametrize("skip", [None, lambda: -math.inf])
def test_windows_without_a_frame_of_their_own_are_left_out(skip: Any) -> None:
    for later in (9.0, 1.7e9):
        stamped = [(index * 0.1, torch.zeros(3, 8, 8)) for index in range(5)] + [(later, torch.ones(3, 8, 8))]
        found = [span.start for span, _ in cut_windows(iter(stamped), lambda frame: frame, skip=skip, **SHORT)]
        assert found == pytest.approx([0.0, 0.4] if skip else [0.0, 0.2, 0.4])
    milliseconds = [(index * 33.0, torch.zeros(3, 8, 8)) for index in range(20)]
    found = [span.start for span, _ in cut_windows(iter(milliseconds), lambda frame: frame, skip=skip, **SHORT)]
    assert 19 <= len(found) <= 40


def test_only_frames_that_a_window_shows_are_prepared_and_held() -> None:
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    prepared = 0

    def prepare(frame: torch.Tensor) -> torch.Tensor:
        nonlocal prepared
        prepared += 1
        alive.add(copy := frame.clone())
        return copy

    stamped = ((index / 30, torch.full((1, 1, 1), index / 30)) for index in range(30 * 60))
    held = []
    for span, clip in cut_windows(stamped, prepare, window=20.0, stride=10.0, clip_frames=4, skip=None):
        held.append(len(alive))
        assert (torch.tensor(span.times) - clip.flatten()).abs().max() < 1 / 30
    assert len(held) == 5
    assert prepared <= 2 * 4 + 4 * 4
    assert max(held) <= 8


@pytest.mark.parametrize(
    "frame", [np.zeros((8, 8), np.uint8), np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), "frame"]
)
def test_frames_of_the_wrong_kind(classify: VideoClassifier, frame: Any) -> None:
    with pytest.raises(ValueError, match=r"uint8 RGB frames \(H, W, 3\), got"):
        list(classify.stream([frame], fps=30))


def test_frames_without_times(classify: VideoClassifier) -> None:
    with pytest.raises(ValueError, match="pass fps="):
        list(classify.stream([np.zeros((8, 8, 3), np.uint8)]))
    with pytest.raises(TypeError, match="live=True takes"):
        classify.stream([np.zeros((8, 8, 3), np.uint8)], live=True)


@pytest.mark.parametrize("stamps", [[0.0, 0.5, 0.5], [1.0, 0.5], [0.0, math.nan], [math.inf]])
def test_times_that_make_no_sense(classify: VideoClassifier, stamps: list[float]) -> None:
    frames = [[stamp, np.zeros((8, 8, 3), np.uint8)] for stamp in stamps]
    before = f", after {stamps[-2]} s" if len(stamps) > 1 else ""
    with pytest.raises(ValueError, match=rf"frame {len(stamps) - 1} is at {stamps[-1]} s{before}$"):
        list(classify.stream(frames))


@pytest.mark.parametrize("fps", [0, -30, math.nan, math.inf])
def test_frame_rates_that_make_no_sense(classify: VideoClassifier, fps: float) -> None:
    with pytest.raises(ValueError, match=f"fps must be .*a positive number.*, got {fps}"):
        classify.stream([np.zeros((8, 8, 3), np.uint8)], fps=fps)


def test_frames_that_change_size(classify: VideoClassifier) -> None:
    frames = [np.zeros((8, 12, 3), np.uint8)] * 3 + [np.zeros((10, 8, 3), np.uint8)]
    with pytest.raises(ValueError, match="frame 3 is 8x10, after 12x8"):
        list(classify.stream(frames, fps=30))


def test_memory_that_is_used_again_for_the_next_frame(classify: VideoClassifier, video: Path) -> None:
    frames = frames_of(video)[:40]
    memory = np.empty_like(frames[0])

    def overwritten() -> Iterator[np.ndarray[Any, Any]]:
        for frame in frames:
            memory[:] = frame
            yield memory

    found, expected = (list(classify.stream(source, window=1.0, fps=30)) for source in (overwritten(), frames))
    assert len(found) == len(expected) > 0
    assert all(torch.equal(a.probabilities, b.probabilities) for a, b in zip(found, expected, strict=True))


def test_cameras_as_other_libraries_have_them(classify: VideoClassifier) -> None:
    class Capture:
        def read(self) -> tuple[bool, None]:
            return False, None

    for source in (0, Capture()):
        with pytest.raises(TypeError, match=r'such as "/dev/video0", a LiveReader, or an iterable'):
            classify.stream(source)
        with pytest.raises(TypeError, match='such as "/dev/video0", or a LiveReader, not'):
            classify.stream(source, live=True)


def test_the_path_of_a_camera(classify: VideoClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    class Reader:
        def __init__(self, *source: str, **settings: str) -> None:
            opened.append((*source, settings))
            raise ConnectionError

    monkeypatch.setattr("slowfast_zoo.inference.classify.stream.LiveReader", Reader)
    for source in ("/dev/video0", Path("/dev/video0")):
        with pytest.raises(ConnectionError):
            classify.stream(source)
    assert opened == [("/dev/video0", {"format": "v4l2"})] * 2
