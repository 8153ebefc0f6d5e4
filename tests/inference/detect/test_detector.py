"""ActionDetector: from a video and boxes to boxes with actions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from videos import write_video

import slowfast_zoo as sfz
from slowfast_zoo.errors import VideoDecodeError, WeightsError
from slowfast_zoo.inference import ActionDetector
from slowfast_zoo.inference.detect.person_detector import TorchvisionPersons
from slowfast_zoo.video import open_video

CLASSES = ("sit", "stand", "walk", "run", "jump")
BOXES = torch.tensor([[10.0, 8.0, 60.0, 90.0], [70.5, 20.0, 120.0, 95.0]])


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3.5 seconds at 30 fps, 128 x 96."""
    return write_video(tmp_path_factory.mktemp("videos") / "people.mp4", 105)


def network(name: str = "slowfast_r50_4x16_det", **overrides: Any) -> Any:
    torch.manual_seed(0)
    settings = {"width": 8, "depths": (1, 1, 1, 1), "num_classes": 5, **overrides}
    model: Any = sfz.create_model(name, **settings).eval()
    torch.nn.init.normal_(model.get_classifier().weight, std=0.03)
    model.pretrained_cfg.update(scale=64, crop=64, mean=(0.45,) * 3, std=(0.225,) * 3)
    return model


@pytest.fixture(scope="module")
def model() -> Any:
    return network()


def never(frame: torch.Tensor) -> torch.Tensor:
    raise AssertionError("no person detector is needed")


def by_hand(model: Any, path: Path, time: float, boxes: torch.Tensor, side: int = 64) -> torch.Tensor:
    """Scores of boxes at a key frame, its frames picked by index and resized at once."""
    with open_video(path) as reader:
        frames = torch.stack([frame for _, frame in reader.frames()])
    count, stride = model.config.clip_frames, model.config.clip_stride
    index = [round(time * 30) + (i - count // 2) * stride for i in range(count)]
    clip = frames[[min(max(i, 0), len(frames) - 1) for i in index]]
    size = (side, int(128 / 96 * side))
    resized = torch.nn.functional.interpolate(clip.float(), size=size, mode="bilinear")
    normal = ((resized / 255 - 0.45) / 0.225).transpose(0, 1)[None]
    scale = torch.tensor([size[1] / 128, size[0] / 96] * 2)
    with torch.inference_mode():
        scores: torch.Tensor = model.probabilities(normal, [boxes * scale])
    return scores


def test_equals_the_network_by_hand(model: Any, video: Path) -> None:
    detect = ActionDetector(model, never, labels=CLASSES)
    found = detect(video, {2.0: BOXES, 1.0: BOXES[:1], 3.0: BOXES[:0]})
    assert [key_frame.time for key_frame in found] == [1.0, 2.0, 3.0]
    assert [len(key_frame) for key_frame in found] == [1, 2, 0]
    for key_frame in found[:2]:
        expected = by_hand(model, video, key_frame.time, BOXES[: len(key_frame)])
        torch.testing.assert_close(key_frame.probabilities, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(key_frame.boxes, BOXES[: len(key_frame)])
        label, score = key_frame.actions(0, top_k=1)[0]
        assert label == CLASSES[int(expected[0].argmax())]
        assert score == pytest.approx(float(expected[0].max()), abs=1e-5)
    assert float(found[1].probabilities.std()) > 1e-3, "the boxes tell apart"
    assert found[2].probabilities.shape == (0, 5)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_scales_and_flips_are_averaged(model: Any, video: Path, batch_size: int) -> None:
    detect = ActionDetector(model, never, batch_size=batch_size)
    found = detect(video, {1.0: BOXES, 2.0: BOXES}, scales=(64, 96), flip=True)
    mirrored = torch.stack([128 - BOXES[:, 2], BOXES[:, 1], 128 - BOXES[:, 0], BOXES[:, 3]], dim=1)
    for key_frame in found:
        views = [by_hand(model, video, key_frame.time, BOXES, side) for side in (64, 96)]
        plain = torch.stack(views).mean(0)
        assert not torch.allclose(key_frame.probabilities, plain, atol=1e-4), "the mirrored clip counts"
    flipped = detect(video, {1.0: BOXES}, flip=True)[0].probabilities
    with open_video(video) as reader:
        frames = torch.stack([frame for _, frame in reader.frames()]).flip(-1).permute(0, 2, 3, 1)
    other = detect(frames, {1.0: mirrored}, fps=30)[0].probabilities
    torch.testing.assert_close(flipped, (other + detect(video, {1.0: BOXES})[0].probabilities) / 2, atol=1e-5, rtol=0)


def test_people_are_looked_for_every_second(model: Any, video: Path) -> None:
    seen: list[torch.Tensor] = []

    def detector(frame: torch.Tensor) -> np.ndarray[Any, Any]:
        seen.append(frame)
        return np.array([[10, 8, 60, 90, 0.95], [70, 20, 500, 95, 0.81], [0, 0, 20, 20, 0.5], [-9, -9, -1, -1, 0.9]])

    detect = ActionDetector(model, detector, labels=CLASSES)
    found = detect(video)
    assert [key_frame.time for key_frame in found] == [1.0, 2.0, 3.0]
    assert all(frame.shape == (3, 96, 128) and frame.dtype == torch.uint8 for frame in seen)
    for key_frame in found:
        assert key_frame.boxes.tolist() == [[10, 8, 60, 90], [70, 20, 128, 95]], "sure ones, inside the frame"
        assert key_frame.box_scores.tolist() == pytest.approx([0.95, 0.81])
    assert [k.time for k in detect(video, every=0.5)] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
    (only,) = detect(video, every=10)
    assert only.time == pytest.approx(1.75)
    everyone = ActionDetector(model, detector, person_threshold=0.0)(video, every=10)
    assert len(everyone[0]) == 3


def test_nobody_there(model: Any, video: Path) -> None:
    found = ActionDetector(model, lambda frame: torch.zeros(0, 4), labels=CLASSES)(video)
    assert [len(key_frame) for key_frame in found] == [0, 0, 0]
    assert "nobody" in str(found)
    assert list(found.ava_rows()) == []


def test_the_whole_frame_as_the_box(model: Any, video: Path) -> None:
    found = ActionDetector(model, never)(video, "full", every=2.0)
    expected = by_hand(model, video, 2.0, torch.tensor([[0.0, 0, 128, 96]]))
    torch.testing.assert_close(found[0].probabilities, expected, atol=1e-5, rtol=0)
    clip = torch.rand(2, 3, model.config.clip_frames, 48, 64)
    with torch.inference_mode():
        whole = model(clip, "full")
        torch.testing.assert_close(whole, model(clip, [torch.tensor([[0.0, 0, 64, 48]])] * 2))
    with pytest.raises(TypeError, match="not str 'half'"):
        model(clip, "half")


def test_results_in_other_forms(model: Any, video: Path) -> None:
    found = ActionDetector(model, never, labels=CLASSES)(video, {1.0: BOXES})
    plain = json.loads(json.dumps(found.to_dict(top_k=2)))
    (key_frame,) = plain["key_frames"]
    assert [len(box["actions"]) for box in key_frame["boxes"]] == [2, 2]
    assert key_frame["boxes"][1]["box"] == BOXES[1].tolist()
    rows = list(found.ava_rows())
    assert len(rows) == 10
    time, box, action, score = rows[6]
    assert (time, action) == (1.0, 2)
    assert box == pytest.approx([70.5 / 128, 20 / 96, 120 / 128, 95 / 96])
    assert score == pytest.approx(float(found[0].probabilities[1, 1]))
    assert "1 key frames" in str(found)
    assert "(70, 20) to (120, 95)" in str(found)


def test_background_is_no_action(video: Path) -> None:
    names = ("background", "sit", "stand", "walk", "run")
    found = ActionDetector(network(), never, labels=names)(video, {1.0: BOXES})
    assert found.labels == names[1:]
    assert found.action_ids == (1, 2, 3, 4)
    assert found[0].probabilities.shape == (2, 4)


def test_published_weights_have_avas_numbers() -> None:
    ava80 = ActionDetector("slow_r50_4x16_det.pyslowfast_ava22", pretrained=False, optimize=False)
    ava81 = ActionDetector("slow_r50_4x16_det.mmaction2_ava21", pretrained=False, optimize=False)
    assert ava80.labels == ava81.labels
    assert ava80.action_ids == tuple(range(1, 81))
    assert ava80.labels[ava80.action_ids.index(12)] == "stand"


# Boxes from files


def write_json(path: Path) -> Path:
    path.write_text(json.dumps({"1": BOXES.tolist(), "2.5": [[1, 2, 30, 40, 0.9]], "3": []}))
    return path


def write_csv(path: Path) -> Path:
    scale = torch.tensor([128, 96, 128, 96])
    boxes = [",".join(f"{value:.6f}" for value in box) for box in (BOXES / scale).tolist()]
    rows = [f"people,0001,{boxes[0]},12,0", f"people,0001,{boxes[0]},80,0", f"people,0001,{boxes[1]},12,1"]
    rows += [f"somebody_else,0001,{boxes[0]},12,0", f"people,0002,{boxes[1]},11,1"]
    path.write_text("\n".join(rows) + "\n")
    return path


def test_boxes_from_json(model: Any, video: Path, tmp_path: Path) -> None:
    found = ActionDetector(model, never)(video, write_json(tmp_path / "boxes.json"))
    assert [(k.time, len(k)) for k in found] == [(1.0, 2), (2.5, 1), (3.0, 0)]
    torch.testing.assert_close(found[0].boxes, BOXES)
    assert found[1].box_scores.tolist() == pytest.approx([0.9])


def test_boxes_from_a_csv_of_ava(model: Any, video: Path, tmp_path: Path) -> None:
    found = ActionDetector(model, never)(video, write_csv(tmp_path / "boxes.csv"))
    assert [(k.time, len(k)) for k in found] == [(1.0, 2), (2.0, 1)], "a box once, whatever it does"
    torch.testing.assert_close(found[0].boxes, BOXES, atol=1e-3, rtol=0)


def test_a_csv_of_other_videos(model: Any, video: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.mp4"
    other.write_bytes(video.read_bytes())
    with pytest.raises(ValueError, match=r"holds no boxes of 'other', only of people, somebody_else"):
        ActionDetector(model, never)(other, write_csv(tmp_path / "boxes.csv"))


def test_confidences_of_a_csv_count(model: Any, video: Path, tmp_path: Path) -> None:
    rows = [f"people,0001,0.1,0.1,0.{size},0.9,,{score}" for size, score in ((4, 0.95), (5, 0.05), (6, 0.85))]
    (tmp_path / "found.csv").write_text("\n".join([*rows, "people,0002,,,,,,"]) + "\n")
    found = ActionDetector(model, never)(video, tmp_path / "found.csv")
    assert [len(key_frame) for key_frame in found] == [2, 0]
    assert found[0].box_scores.tolist() == pytest.approx([0.95, 0.85])
    everyone = ActionDetector(model, never, person_threshold=0.0)(video, tmp_path / "found.csv")
    assert len(everyone[0]) == 3


def test_some_of_avas_actions_have_avas_numbers(video: Path) -> None:
    names = ("stand", "sit", "walk", "fly like a bird", "run/jog")
    assert ActionDetector(network(), never, labels=names).action_ids == (1, 2, 3, 4, 5)
    detect = ActionDetector(network(num_classes=3), never, labels=("stand", "walk", "answer phone"))
    assert detect.action_ids == (12, 14, 15)


def test_what_a_detector_cannot_mean_is_left_out(model: Any, video: Path) -> None:
    boxes = [[float("nan"), 1, 2, 3], [10, 10, 50, 60], [30, 30, 30, 40]]
    found = ActionDetector(model, lambda frame: boxes)(video, every=2.0)
    assert found[0].boxes.tolist() == [[10, 10, 50, 60]]


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ({"now": BOXES}, "given for seconds, numbers, not for 'now'"),
        ({1: BOXES, "1.0": BOXES}, "given twice for second 1"),
        ({1.0: torch.ones(2, 3)}, r"\(N, 4\), pixels x1, y1, x2, y2, or \(N, 5\).*not \(2, 3\)"),
        ({1.0: [[1, 2, float("nan"), 4]]}, "not finite"),
        ({1.0: [[20, 10, 10, 30]]}, r"x1 < x2 and y1 < y2.*\[20.0, 10.0, 10.0, 30.0\]"),
        ({1.0: [[200, 10, 210, 30]]}, "lie in the frame of 128 x 96"),
        ({99.0: BOXES}, "lies outside the video"),
    ],
)
def test_wrong_boxes(model: Any, video: Path, boxes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ActionDetector(model, never)(video, boxes)


def test_wrong_calls(model: Any, video: Path, tmp_path: Path) -> None:
    detect = ActionDetector(model, never)
    with pytest.raises(TypeError, match="must be numbers"):
        detect(video, {1.0: "everywhere"})
    with pytest.raises(TypeError, match="mapping from seconds"):
        detect(video, 5)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="no such file of boxes"):
        detect(video, "nowhere.csv")
    for content, message in ((b"\xff\xfe", "no text in UTF-8"), (b"short,1,0.5\n", r"line 1: expected video,second")):
        (tmp_path / "boxes.csv").write_bytes(content.replace(b"short", video.stem.encode()))
        with pytest.raises(ValueError, match=message):
            detect(video, tmp_path / "boxes.csv")
    (tmp_path / "boxes.json").write_text("[1, 2")
    with pytest.raises(ValueError, match=r"must be JSON like"):
        detect(video, tmp_path / "boxes.json")
    with pytest.raises(FileNotFoundError, match="no such video"):
        detect("nowhere.mp4", "full")
    (tmp_path / "text.mp4").write_text("text")
    with pytest.raises(VideoDecodeError):
        detect(tmp_path / "text.mp4", "full")
    for wrong in ({"every": 0}, {"scales": ()}, {"scales": (16,)}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            detect(video, "full", **wrong)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: sfz.create_model("slowfast_r50_4x16", width=8), ValueError, "takes no boxes: use VideoClassifier"),
        (lambda: network(num_classes=0), ValueError, "no classifier"),
        (lambda: torch.nn.Linear(1, 1), TypeError, "from create_model"),
    ],
)
def test_networks_that_do_not_detect(make: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        ActionDetector(make() if message != "no classifier" else sfz.create_model("slow_r50_4x16_det", num_classes=0))


def test_wrong_settings(model: Any) -> None:
    with pytest.raises(TypeError, match="person_detector is a function"):
        ActionDetector(model, "yolo")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="person_threshold"):
        ActionDetector(model, person_threshold=2.0)
    with pytest.raises(ValueError, match="5 classes, but 2 labels"):
        ActionDetector(model, labels=("a", "b"))


# torchvision's detector


def test_a_real_detector_with_random_weights(model: Any, video: Path) -> None:
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

    torch.manual_seed(0)
    faster_rcnn = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=2, box_score_thresh=0.0, box_detections_per_img=7
    )
    persons = TorchvisionPersons(model=faster_rcnn)
    found = ActionDetector(model, persons, person_threshold=0.0)(video, every=2.0)
    assert len(found) == 1
    assert 1 <= len(found[0]) <= 7
    assert found[0].probabilities.shape == (len(found[0]), 5)
    boxes = found[0].boxes
    assert bool((boxes[:, 0] < boxes[:, 2]).all() and (boxes[:, 2] <= 128).all() and (boxes[:, 3] <= 96).all())


def test_a_detector_that_cannot_be_downloaded(
    model: Any, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match=r"cannot be downloaded.*pass boxes=, or person_detector="):
        ActionDetector(model)(video)
