"""VideoClassifier and its pictures: from a file to labelled, timed scores."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from videos import write_video

import slowfast_zoo as sfz
from slowfast_zoo.errors import MissingDependencyError, VideoDecodeError
from slowfast_zoo.inference import VideoClassifier, save_prediction_plot
from slowfast_zoo.video import load_labels, sample_clip, sample_clips

SIX = ("one", "two", "three", "four", "five", "six")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds at 25 fps, wider than high."""
    path = tmp_path_factory.mktemp("videos") / "moves.mp4"
    return write_video(path, 100, fps=25, width=160, height=96, options={"bf": "2", "g": "20"})


def network(name: str = "slowfast_tiny_4x8", **overrides: Any) -> Any:
    """A small random network whose scores differ from clip to clip."""
    torch.manual_seed(0)
    model: Any = sfz.create_model(name, **{"width": 8, "num_classes": 6, "crop": 64, **overrides})
    if overrides.get("num_classes", 6) and not overrides.get("features_only"):
        torch.nn.init.normal_(model.get_classifier().weight, std=0.3)
    return model


def straightforward(model: Any, path: Path, clips: int, crops: int) -> torch.Tensor:
    """Decode everything, pick each frame by its time stamp, one view at a time: (clips, crops, classes)."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        shown = [(float(f.pts * stream.time_base), f.to_ndarray(format="rgb24")) for f in container.decode(stream)]
        duration = len(shown) / float(stream.average_rate)
    transform = replace(sfz.create_transform(model), crops=crops)
    model.eval()
    scores = []
    for span in sample_clips(
        duration, clips, clip_frames=model.config.clip_frames, clip_stride=model.config.clip_stride
    ):
        picked = [[image for stamp, image in shown if stamp <= time + 1e-4][-1] for time in span.times]
        views = transform(torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in picked]))
        with torch.no_grad():
            scores.append(torch.cat([model.probabilities(view[None]) for view in (views if crops == 3 else [views])]))
    return torch.stack(scores)


@pytest.mark.parametrize(("clips", "crops"), [(1, 1), (3, 3), (5, 1)])
def test_equals_the_straightforward_way(video: Path, clips: int, crops: int) -> None:
    model = network()
    expected = straightforward(model, video, clips, crops)
    assert clips == 1 or float(expected.std(0).max()) > 0.01, "scores differ from clip to clip"
    prediction = VideoClassifier(model, batch_size=4)(video, clips=clips, crops=crops)
    assert len(prediction.clips) == clips
    torch.testing.assert_close(prediction.probabilities, expected.mean((0, 1)), atol=1e-5, rtol=0)
    for clip, rows in zip(prediction.clips, expected, strict=True):
        torch.testing.assert_close(clip.probabilities, rows.mean(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 2, 50])
def test_the_batch_size_does_not_matter(video: Path, batch_size: int) -> None:
    model = network()
    expected = VideoClassifier(model, batch_size=5)(video, clips=3)
    prediction = VideoClassifier(model, batch_size=batch_size)(video, clips=3)
    torch.testing.assert_close(prediction.probabilities, expected.probabilities, atol=1e-5, rtol=0)


def test_no_more_than_a_batch_goes_through_the_network(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    seen: list[int] = []
    original = model.probabilities

    def counting(clip: torch.Tensor) -> torch.Tensor:
        seen.append(len(clip))
        assert torch.is_inference_mode_enabled()
        result: torch.Tensor = original(clip)
        return result

    monkeypatch.setattr(model, "probabilities", counting)
    VideoClassifier(model, batch_size=4)(video, clips=3, crops=3)
    assert seen == [4, 4, 1]


def test_a_prediction_is_a_sequence_of_labelled_scores(video: Path) -> None:
    prediction = VideoClassifier(network(), labels=SIX)(video, clips=2, crops=1, top_k=3)
    assert isinstance(prediction, Sequence)
    assert len(prediction) == 3
    assert [label for label, _ in prediction] == [SIX[i] for i in prediction.probabilities.argsort(descending=True)[:3]]
    scores = [score for _, score in prediction]
    assert scores == sorted(scores, reverse=True)
    assert prediction[0] == next(iter(prediction)) == prediction[:1][0]
    assert float(prediction.probabilities.sum()) == pytest.approx(1)
    assert len(VideoClassifier(network(), labels=SIX)(video, clips=1, crops=1, top_k=99)) == 6


def test_clips_have_times_and_labels(video: Path) -> None:
    prediction = VideoClassifier(network(), labels=SIX)(video, clips=3, crops=1)
    assert prediction.duration == pytest.approx(4.0)
    assert [clip.start for clip in prediction.clips] == pytest.approx([0, (4 - 32 / 30) / 2, 4 - 32 / 30])
    assert prediction.clips[-1].end == pytest.approx(4.0)
    for clip in prediction.clips:
        assert clip.label == SIX[int(clip.probabilities.argmax())]
        assert clip.score == pytest.approx(float(clip.probabilities.max()))
    assert not prediction.short


def test_words_and_json(video: Path) -> None:
    prediction = VideoClassifier(network(), labels=SIX)(str(video), clips=2, crops=3, top_k=2)
    text = str(prediction)
    assert "moves.mp4 (4.0 s, slowfast_tiny_4x8, 2 clips x 3 crops)" in text
    assert all(f"{label} " in text and f"{100 * score:.1f} %" in text for label, score in prediction)
    assert "note" not in text
    plain = json.loads(json.dumps(prediction.to_dict()))
    assert plain["video"] == str(video)
    assert plain["predictions"] == [{"label": label, "score": score} for label, score in prediction]
    assert [clip["start"] for clip in plain["clips"]] == [clip.start for clip in prediction.clips]
    assert plain["short"] is False


@pytest.mark.parametrize("frames", [1, 10])
def test_a_video_shorter_than_a_clip(tmp_path: Path, frames: int) -> None:
    path = write_video(tmp_path / "short.mp4", frames)
    prediction = VideoClassifier(network())(path)
    assert prediction.short
    assert prediction.to_dict()["short"] is True
    assert len(prediction.clips) == 1
    assert prediction.clips[0].end == pytest.approx(frames / 30)
    assert "its last frame was repeated" in str(prediction)


def test_without_class_names_the_index_is_named_and_said_to_be_one(video: Path) -> None:
    prediction = VideoClassifier(network())(video, clips=1, crops=1)
    assert prediction[0][0] == f"class {int(prediction.probabilities.argmax())}"
    assert not prediction.labels_known
    assert "without class names" in str(prediction)


def test_labels_must_be_as_many_as_classes() -> None:
    with pytest.raises(ValueError, match="6 classes, but 2 labels"):
        VideoClassifier(network(), labels=["a", "b"])


@pytest.mark.parametrize("name", ["slow_tiny_4x8", "fast_tiny_4x8"])
def test_networks_of_one_pathway(video: Path, name: str) -> None:
    model = network(name)
    prediction = VideoClassifier(model)(video, clips=2, crops=1)
    torch.testing.assert_close(
        prediction.probabilities, straightforward(model, video, 2, 1).mean((0, 1)), atol=1e-5, rtol=0
    )
    assert prediction.slow_frames == tuple(range(model.config.clip_frames))


def test_which_frames_the_slow_pathway_takes(video: Path) -> None:
    classify = VideoClassifier(network())
    assert classify(video, clips=1, crops=1).slow_frames == (0, 5, 10, 15)
    classify = VideoClassifier(network(slow_frames="strided"))
    assert classify(video, clips=1, crops=1).slow_frames == (0, 4, 8, 12)


def test_dtype(video: Path) -> None:
    model = network()
    expected = VideoClassifier(model)(video, clips=2, crops=1)
    prediction = VideoClassifier(model, dtype=torch.bfloat16)(video, clips=2, crops=1)
    assert prediction.probabilities.dtype == torch.float32
    torch.testing.assert_close(prediction.probabilities, expected.probabilities, atol=0.1, rtol=0)


def test_what_cannot_classify() -> None:
    with pytest.raises(ValueError, match="did you mean slowfast_tiny_4x8"):
        VideoClassifier("slowfast_tiny_4x9")
    for wrong in (torch.nn.Linear(2, 2), network(features_only=True)):
        with pytest.raises(TypeError, match="from create_model"):
            VideoClassifier(wrong)
    with pytest.raises(ValueError, match="device 'nonsense' cannot be used"):
        VideoClassifier(network(), device="nonsense")
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1"):
        VideoClassifier(network(), batch_size=0)


def test_wrong_calls(video: Path, tmp_path: Path) -> None:
    classify = VideoClassifier(network())
    with pytest.raises(FileNotFoundError, match="no such video file"):
        classify(tmp_path / "nowhere.mp4")
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(VideoDecodeError, match=r"text\.mp4"):
        classify(tmp_path / "text.mp4")
    for wrong in ({"clips": 0}, {"crops": 2}, {"top_k": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            classify(video, **wrong)


def test_numbers_of_every_kind(video: Path) -> None:
    classify = VideoClassifier(network(), batch_size=np.int64(2))  # type: ignore[arg-type]
    prediction = classify(video, clips=np.int32(2), crops=1, top_k=np.int64(3))  # type: ignore[call-overload]
    assert (len(prediction.clips), len(json.loads(json.dumps(prediction.to_dict()))["predictions"])) == (2, 3)
    timeline = classify.timeline(video, np.float32(2), np.int64(1))  # type: ignore[arg-type]
    assert [window.start for window in timeline] == [0, 1, 2]
    features = classify.extract_features(video, np.int64(60), np.int64(60))  # type: ignore[arg-type]
    assert len(features.times) == 2
    wrong: list[dict[str, Any]] = [{"window": "1"}, {"window": True}, {"fps": "30"}, {"crops": True}, {"crops": 3.0}]
    for call in (classify.timeline, classify.extract_features, classify.stream):
        for arguments in wrong:
            with pytest.raises(ValueError, match=next(iter(arguments))):
                call(video, **arguments)


def test_features_of_an_array_count_at_another_rate_than_its_own() -> None:
    classify = VideoClassifier(network())
    frames = np.random.default_rng(0).integers(0, 256, (50, 64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="give video_fps="):
        classify.extract_features(frames)
    _, times = classify.extract_features(frames, 30, 30, video_fps=25)
    assert times.tolist() == [[0, 1], [1, 2]]
    _, times = classify.extract_features(frames, 25, 25, fps=None, video_fps=25)
    assert times.tolist() == [[0, 1], [1, 2]]
    with pytest.warns(RuntimeWarning, match="<array> is shorter than a window, its last frame was repeated"):
        _, times = classify.extract_features(frames, 90, video_fps=25)
    assert times.tolist() == [[0, 2]]


def test_labels_of_the_package() -> None:
    labels = load_labels("motion")
    assert len(set(labels)) == len(labels) == 12
    with pytest.raises(ValueError, match=r"no labels named '\.\./motion', only .*motion"):
        load_labels("../motion")


def test_the_bundled_model_tells_the_moves_of_the_bundled_clip() -> None:
    prediction = VideoClassifier()(sample_clip(), clips=18)
    assert prediction.crops == 1  # as its record says
    assert prediction.labels_known
    # Six moves of 1.5 s; a clip that lies wholly within one of them shows that one.
    moves = ("static", "pan_right", "zoom_in", "roll_clockwise", "whip_pan", "shake")
    told = [
        (moves[int(clip.start / 1.5)], clip.label) for clip in prediction.clips if clip.end // 1.5 == clip.start // 1.5
    ]
    assert {move for move, _ in told} == set(moves[:5])
    assert all(move == label for move, label in told)


# Pictures


def picture(path: Path) -> Any:
    """RGB (H, W, 3) in 0..1."""
    from matplotlib.image import imread

    return imread(path)[..., :3]


def test_the_plot_shows_the_frames_and_the_scores(video: Path, tmp_path: Path) -> None:
    prediction = VideoClassifier(network(), labels=SIX)(video, clips=4, crops=1)
    target = tmp_path / "result.png"
    save_prediction_plot(prediction, target)
    assert [path.name for path in tmp_path.iterdir()] == ["result.png"]
    pixels = picture(target)
    assert pixels.shape[1] == 1320
    # The test frames are red on the lower left and blue on the lower right: four large ones and sixteen small ones.
    red, blue = (pixels[..., c] > 0.7 for c in (0, 2))
    dark = pixels < 0.2
    for colour in (red & dark[..., 1] & dark[..., 2], blue & dark[..., 1] & dark[..., 0]):
        assert colour.any(1).sum() > 60, "rows that the strips take"
        assert colour.any(0).sum() > 400, "columns that the strips take"
    # The surer, the more of the best class's bar is filled with the first colour.
    filled = []
    for score in (0.3, 0.9):
        scores = torch.tensor([score] + 5 * [(1 - score) / 5])
        save_prediction_plot(replace(prediction, probabilities=scores), target)
        filled.append(int((abs(picture(target) - [0.122, 0.435, 0.545]).max(-1) < 0.02).sum()))
    assert filled[1] > filled[0] + 1000


@pytest.mark.parametrize(("width", "height", "frames"), [(48, 160, 40), (160, 16, 40), (64, 64, 1)])
def test_plots_of_odd_shapes(tmp_path: Path, width: int, height: int, frames: int) -> None:
    path = write_video(tmp_path / "odd $x_1$.mp4", frames, width=width, height=height)
    long = [f"a class with quite a long name, and a $ign in it, number {index}" for index in range(6)]
    prediction = VideoClassifier(network(), labels=long)(path, crops=1)
    save_prediction_plot(prediction, tmp_path / "odd.png")
    save_prediction_plot(prediction, tmp_path / "odd.svg")
    assert 500 < picture(tmp_path / "odd.png").shape[0] < 1500
    assert (tmp_path / "odd.svg").read_text().count("<image") == 2, "one for each pathway"


def test_a_plot_of_many_clips(video: Path, tmp_path: Path) -> None:
    prediction = VideoClassifier(network(), labels=SIX)(video, clips=70, crops=1)
    save_prediction_plot(prediction, tmp_path / "many.png")
    assert picture(tmp_path / "many.png").shape[0] < 2500


def test_a_plot_that_cannot_be_written(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prediction = VideoClassifier(network())(video, clips=1, crops=1)
    with pytest.raises(ValueError, match=r"suffix must be one of .*\.png"):
        save_prediction_plot(prediction, tmp_path / "result.txt")
    with pytest.raises(FileNotFoundError, match="no folder to draw into"):
        save_prediction_plot(prediction, tmp_path / "nowhere" / "result.png")
    target = tmp_path / "result.png"
    target.write_bytes(b"what was here before")
    with pytest.raises(FileNotFoundError):
        save_prediction_plot(replace(prediction, video=str(tmp_path / "gone.mp4")), target)
    assert target.read_bytes() == b"what was here before"
    assert list(tmp_path.iterdir()) == [target]
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r'pip install "slowfast-zoo\[plot\]"'):
        save_prediction_plot(prediction, target)


def test_drawing_leaves_pyplot_alone(video: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from slowfast_zoo import VideoClassifier, create_model
from slowfast_zoo.inference import save_prediction_plot
model = create_model("slowfast_tiny_4x8", width=8, crop=64)
save_prediction_plot(VideoClassifier(model)({str(video)!r}, clips=1, crops=1), {str(tmp_path / "a.png")!r})
print("matplotlib.pyplot" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize("how", ["scores", "max", "logits"])
def test_views_are_averaged_as_the_weights_want(video: Path, how: str) -> None:
    """The record's view_average decides: probabilities' mean, their maximum (Charades), or logits' mean (GluonCV)."""
    model = sfz.create_model("slowfast_tiny_4x8.motion", pretrained=True)
    reference = sfz.VideoClassifier(model)(video, clips=2, crops=1)
    views = torch.stack([clip.probabilities for clip in reference.clips])
    want = {"scores": views.mean(0), "max": views.amax(0), "logits": views.log().mean(0).softmax(0)}[how]
    model.pretrained_cfg["view_average"] = how
    got = sfz.VideoClassifier(model)(video, clips=2, crops=1)
    assert len(got.clips) == 2
    torch.testing.assert_close(got.probabilities, want, atol=1e-5, rtol=1e-4)


def test_networks_for_boxes_are_refused() -> None:
    with pytest.raises(ValueError, match="detects actions in boxes"):
        sfz.VideoClassifier(sfz.create_model("slow_r50_4x16_det", width=8))


def test_weights_that_see_the_whole_video(video: Path) -> None:
    """Something-Something: one clip, the middle of each of as many segments as the clip has frames."""
    model = sfz.create_model("slowfast_r50_16x8.pyslowfast_ssv2", width=8)
    prediction = sfz.VideoClassifier(model)(video, crops=1)
    assert len(prediction.clips) == 1
    span = prediction.clips[0].span
    assert (span.start, span.end) == (0.0, prediction.duration)
    assert len(span.times) == 64
    step = prediction.duration / 64
    assert span.times == pytest.approx([step * (i + 0.5) for i in range(64)])
    assert prediction.labels[0] == load_labels("ssv2")[0]
