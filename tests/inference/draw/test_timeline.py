"""Pictures of scores over time, and of videos that are not files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from videos import write_video

from slowfast_zoo.errors import MissingDependencyError
from slowfast_zoo.inference import ClipPrediction, Prediction, Timeline, save_prediction_plot
from slowfast_zoo.inference.draw.style import clock
from slowfast_zoo.inference.draw.timeline import best_segments, save_timeline_plot, wrap_name
from slowfast_zoo.video import ClipSpan

FIRST, SECOND = (31, 111, 139), (217, 130, 43)  # colours of the best classes


def timeline(video: Path | str, duration: float, scores: Sequence[Sequence[float]], **changes: Any) -> Timeline:
    """Windows of a second, spread evenly, with the scores of the classes in each."""
    labels = changes.pop("labels", [f"class number {index}" for index in range(len(scores[0]))])
    starts = torch.linspace(0, max(duration - 1, 0), len(scores)).tolist()
    windows = []
    for start, row in zip(starts, scores, strict=True):
        best = int(np.argmax(row))
        span = ClipSpan(start, min(start + 1, duration), (start,), short=duration < 1)
        windows.append(ClipPrediction(span, torch.tensor(row), labels[best], row[best]))
    facts = {"labels_known": True, "crops": 1, "top_k": min(5, len(labels)), **changes}
    return Timeline(str(video), "tiny", duration, tuple(labels), windows=tuple(windows), **facts)


def picture(path: Path) -> Any:
    """RGB (H, W, 3) in 0..255."""
    from matplotlib.image import imread

    return (imread(path)[..., :3] * 255).round().astype(int)


def columns(pixels: Any, colour: tuple[int, int, int]) -> Any:
    """Which columns hold a good deal of a colour."""
    return (abs(pixels - colour).max(-1) < 6).sum(0) >= 30


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "moves.mp4", 50, fps=10, width=160, height=96)


def test_segments_join_windows_of_one_class() -> None:
    a, b = [0.9, 0.1], [0.2, 0.8]
    seen = timeline("a.mp4", 5.0, [a, a, b, a, a])  # their middles are at 0.5, 1.5, ... 4.5 s
    one, two = seen.labels
    assert best_segments(seen) == [(0.0, 2.0, one), (2.0, 3.0, two), (3.0, 5.0, one)]
    assert best_segments(timeline("a.mp4", 0.4, [b])) == [(0.0, 0.4, two)]


def test_times_are_written_as_players_do() -> None:
    assert [clock(second, 100) for second in (0.0, 2.5, 90.0)] == ["0", "2.5", "90"]
    assert [clock(second, 200) for second in (0.0, 65.0)] == ["0:00", "1:05"]
    assert clock(3723, 9000) == "1:02:03"


def test_the_picture_shows_frames_and_scores_at_their_time(video: Path, tmp_path: Path) -> None:
    seen = timeline(video, 5.0, 5 * [[0.95, 0.05]] + 5 * [[0.1, 0.9]])
    save_timeline_plot(seen, tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    pixels = picture(tmp_path / "a.png")
    assert pixels.shape[1] == 1320
    # The ribbon: the first class's colour over the first half of the time axis, then the second one's.
    first, second = columns(pixels, FIRST).nonzero()[0], columns(pixels, SECOND).nonzero()[0]
    assert first.max() < second.min() + 5
    assert first.max() - first.min() == pytest.approx(second.max() - second.min(), rel=0.05)
    assert second.max() == pytest.approx(1320 - 0.45 * 120, abs=5), "the end of the video is at the right margin"
    # The test frames are red on the lower left and blue on the lower right; five of them fill the axis.
    red, blue = ((pixels[..., channel] > 170) & (np.delete(pixels, channel, -1).max(-1) < 60) for channel in (0, 2))
    for colour in (red, blue):
        stripes = (np.diff((colour.sum(0) > 20).astype(int)) == 1).sum()
        assert stripes == 5


def test_pictures_of_odd_videos(tmp_path: Path) -> None:
    long = [f"a class with quite a long name, and a $ign in it, number {index}" for index in range(40)]
    scores = torch.randn(130, 40, generator=torch.Generator().manual_seed(0)).softmax(1).tolist()
    path = write_video(tmp_path / "tall $x_1$.mp4", 6, width=48, height=160)
    save_timeline_plot(timeline(path, 0.2, scores[:1], labels=long, labels_known=False), tmp_path / "one.svg")
    assert (tmp_path / "one.svg").read_text().count("<image") == 1
    film = np.full((3, 16, 160, 3), 128, np.uint8)
    unspeakable = timeline("no encoding \udcff.mp4", 5400.0, scores, labels=long)
    save_timeline_plot(unspeakable, tmp_path / "many.png", film)
    assert 400 < picture(tmp_path / "many.png").shape[0] < 900


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("roll_counterclockwise", ["roll_", "counterclockwise"]),
        ("moving_apart_slowly", ["moving_apart_slowly"]),
        ("talk to (e.g., self, a person, a group)", ["talk to (e.g.,", "self, a person, a\N{HORIZONTAL ELLIPSIS}"]),
    ],
)
def test_names_break_between_their_words(name: str, lines: list[str]) -> None:
    assert wrap_name(name) == lines


def test_pictures_of_what_is_no_file(tmp_path: Path) -> None:
    """The frame rate follows from the number of frames."""
    film = np.zeros((20, 32, 48, 3), np.uint8)
    film[10:] = (230, 0, 0)  # from 1 s on, at 10 fps
    seen = timeline("<array>", 2.0, [[0.9, 0.1], [0.2, 0.8]])
    save_timeline_plot(seen, tmp_path / "a.png", film)
    red = (abs(picture(tmp_path / "a.png") - (230, 0, 0)).max(-1) < 20).sum(0) > 40
    # Five frames; the third, in the middle, is that of 1 s. The time axis begins at 2.45 inches and is 8.1 long.
    assert red.nonzero()[0].min() == pytest.approx((2.45 + 8.1 * 2 / 5) * 120, abs=5)
    prediction = Prediction(
        "<array>", "tiny", 2.0, seen.labels, True, torch.tensor([0.7, 0.3]), (seen[0],), 1, 2, slow_frames=(0,)
    )
    save_prediction_plot(prediction, tmp_path / "b.png", film)
    with pytest.raises(ValueError, match="pass the video once more, as video="):
        save_prediction_plot(prediction, tmp_path / "c.png")
    with pytest.raises(ValueError, match="pass the video once more, as video="):
        save_timeline_plot(seen, tmp_path / "c.png")
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.png"}


def test_a_picture_that_cannot_be_written(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = timeline(video, 5.0, [[0.9, 0.1]])
    with pytest.raises(ValueError, match=r"suffix must be one of .*\.png"):
        save_timeline_plot(seen, tmp_path / "result.txt")
    with pytest.raises(FileNotFoundError, match="no folder to draw into"):
        save_timeline_plot(seen, tmp_path / "nowhere" / "result.png")
    with pytest.raises(FileNotFoundError, match="no such video file"):
        save_timeline_plot(timeline(tmp_path / "gone.mp4", 5.0, [[0.9, 0.1]]), tmp_path / "result.png")
    assert list(tmp_path.iterdir()) == []
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r'pip install "slowfast-zoo\[plot\]"'):
        save_timeline_plot(seen, tmp_path / "result.png")
