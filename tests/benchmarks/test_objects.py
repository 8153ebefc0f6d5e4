"""The generator of moving objects: what its frames show agrees with labels and boxes; and the detector made from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from benchmarks.objects.evaluate import table, write_table
from benchmarks.synthetic.motion import CameraPath
from benchmarks.synthetic.objects import (
    OBJECT_ACTIONS,
    OBJECT_CLASSES,
    ObjectsScene,
    _meeting,
    _picture,
    _pose,
    _Thing,
    generate_object_video,
    generate_objects_scene,
)
from slowfast_zoo.inference.detect.detector import ActionDetector
from slowfast_zoo.inference.evaluation.metrics import average_precision
from slowfast_zoo.video import load_labels
from slowfast_zoo.video.encode import write_video
from slowfast_zoo.weights import find_weights, records

ROOT = Path(__file__).resolve().parents[2]
RECORD = json.loads((ROOT / "benchmarks" / "results" / "objects.json").read_text(encoding="utf-8"))
T = (np.arange(33) - 16) / 30  # the second around the middle
SCENES = 12


@pytest.fixture(scope="module")
def scenes() -> list[ObjectsScene]:
    """Scenes that neither training nor the measurement of the record used."""
    return [generate_objects_scene(30_000_000 + seed) for seed in range(SCENES)]


# -- frames ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", OBJECT_CLASSES)
def test_every_class_renders(label: str) -> None:
    frames, fps = generate_object_video(label, 11, seconds=0.4, fps=10, size=(48, 64))
    assert frames.shape == (4, 48, 64, 3) and frames.dtype == np.uint8 and fps == 10
    again, _ = generate_object_video(label, 11, seconds=0.4, fps=10, size=(48, 64))
    other, _ = generate_object_video(label, 12, seconds=0.4, fps=10, size=(48, 64))
    np.testing.assert_array_equal(frames, again)
    assert not np.array_equal(frames, other)


def test_drawn_settings_vary() -> None:
    drawn = [generate_object_video("still", seed) for seed in range(4)]
    assert len({fps for _, fps in drawn}) > 1
    assert len({frames.shape[1:3] for frames, _ in drawn}) > 1
    assert all(1.1 <= len(frames) / fps <= 1.6 for frames, fps in drawn)
    assert all(112 <= min(frames.shape[1:3]) <= 160 for frames, _ in drawn)


def test_scenes_are_repeatable() -> None:
    first, again = (generate_objects_scene(4, seconds=0.5, fps=10, size=(64, 80)) for _ in range(2))
    for name in ("frames", "boxes", "labels", "visible"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))


def test_scenes_hold_what_they_promise(scenes: list[ObjectsScene]) -> None:
    for scene in scenes:
        frames, height, width, _ = scene.frames.shape
        objects = len(scene.labels)
        assert scene.frames.dtype == np.uint8 and 2 <= objects <= 5
        assert scene.boxes.shape == (frames, objects, 4) and scene.boxes.dtype == np.float32
        assert scene.labels.dtype == np.int64 and scene.labels.min() >= 0 and scene.labels.max() < len(OBJECT_ACTIONS)
        assert scene.visible.shape == (frames, objects) and scene.visible.dtype == np.bool_
        seen, hidden = scene.boxes[scene.visible], scene.boxes[~scene.visible]
        assert (hidden == 0).all()
        assert (seen >= 0).all() and (seen <= [width, height, width, height]).all()
        assert (seen[:, 2:] > seen[:, :2]).all()
        middle = np.abs(np.arange(frames) - (frames - 1) / 2) / scene.fps <= 0.4
        assert scene.visible[middle].all()
        for boxes in torch.from_numpy(scene.boxes[middle]):
            assert float(box_iou(boxes, boxes).fill_diagonal_(0).max()) <= 0.1
    assert len({label for scene in scenes for label in scene.labels}) > 6


@pytest.mark.parametrize("label", ["move_left", "approach", "spin_clockwise", "bounce"])
def test_boxes_are_tight(label: str) -> None:
    """Against a black background, a box ends where its object does, in every frame."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        picture = _picture(rng, 60)
        picture[:3] = picture[3:]  # white
        still = CameraPath(*np.zeros((4, len(T))))
        thing = _Thing(picture, _pose(label, T, 0.2, rng), still, (96, 128))
        frames = torch.zeros(len(T), 3, 96, 128)
        thing.draw(frames)
        for frame, box in zip(frames[:, 0].numpy(), thing.boxes, strict=True):
            rows, columns = np.nonzero(frame > 0.4)
            drawn = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(np.clip(box, 0, [128, 96, 128, 96]), drawn, atol=1.6)


def test_change_lies_inside_the_boxes(scenes: list[ObjectsScene]) -> None:
    """From frame to frame more changes inside the boxes of what moves than elsewhere."""
    still = OBJECT_ACTIONS.index("still")
    for scene in scenes:
        middle = len(scene.frames) // 2
        step = max(1, round(scene.fps / 8))
        before, after = (scene.frames[i].astype(float).mean(axis=2) for i in (middle - step, middle + step))
        change = np.abs(after - before)
        within = np.zeros(change.shape, bool)
        for index in np.flatnonzero(scene.labels != still):
            for frame in (middle - step, middle + step):
                x1, y1, x2, y2 = scene.boxes[frame, index].round().astype(int)
                within[y1:y2, x1:x2] = True
        if within.any():
            assert change[within].mean() > 1.5 * change[~within].mean()


# -- labels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", OBJECT_ACTIONS)
def test_objects_do_what_their_labels_say(label: str) -> None:
    for seed in range(25):
        pose = _pose(label, T, 0.2, np.random.default_rng(seed))
        right, down, growth, turn = (
            np.polyfit(T, values, 1)[0] for values in (pose.x, pose.y, -pose.log_scale, np.degrees(pose.angle))
        )
        speed = {"left": -right, "right": right, "up": -down, "down": down}
        kind, _, way = label.partition("_")
        if kind == "move":
            across = down if way in ("left", "right") else right
            assert 0.13 < speed[way] < 0.65 and abs(across) <= 0.15 * speed[way]
        else:
            assert np.hypot(right, down if kind != "bounce" else 0) < 0.03
        if kind == "bounce":
            lowest = (np.diff(np.sign(np.diff(pose.y))) < 0).sum()  # y points down
            assert 1 <= lowest <= 3 and 0.07 < np.ptp(pose.y) < 0.28
        if kind in ("approach", "recede"):
            assert 0.35 < (growth if kind == "approach" else -growth) < 1.1
        else:
            assert growth == pytest.approx(0, abs=1e-9)
        if kind == "spin":
            assert 60 < (turn if way == "clockwise" else -turn) < 260
        else:
            assert turn == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("label", ["meet", "part"])
def test_two_objects_meet_or_part(label: str) -> None:
    for seed in range(25):
        one, other = _meeting(label, T, 0.15, np.random.default_rng(seed))
        distance = np.hypot(one.x - other.x, one.y - other.y)
        change = np.diff(distance) * 30
        assert (change <= 1e-9).all() if label == "meet" else (change >= -1e-9).all()
        assert 0.2 < np.abs(change).max() < 0.6
        assert min(distance[0], distance[-1]) == pytest.approx(0.21, abs=0.16)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown object action 'jump'.*move_left, move_right.*part"):
        generate_object_video("jump", 0)
    with pytest.raises(ValueError, match="seed must be 0 or more, not -1"):
        generate_object_video("still", -1)
    with pytest.raises(ValueError, match="seed must be 0 or more, not -1"):
        generate_objects_scene(-1)
    with pytest.raises(ValueError, match=r"even numbers .* not \(33, 40\)"):
        generate_objects_scene(0, size=(33, 40))
    with pytest.raises(ValueError, match="two frames or more"):
        generate_objects_scene(0, fps=0)


# -- the bundled detector ----------------------------------------------------------------------------------------------


def test_label_file_names_the_actions_in_order() -> None:
    assert load_labels("objects") == OBJECT_ACTIONS


def test_the_bundled_detector_knows_the_actions(scenes: list[ObjectsScene], tmp_path: Path) -> None:
    detect = ActionDetector("slowfast_tiny_4x8_det.objects", optimize=False)
    assert detect.labels == OBJECT_ACTIONS
    scores, classes = [], []
    for scene in scenes:
        write_video(tmp_path / "scene.mp4", scene.frames, scene.fps)
        middle = len(scene.frames) // 2
        [key_frame] = detect(tmp_path / "scene.mp4", {(middle + 0.5) / scene.fps: scene.boxes[middle]})
        scores.append(key_frame.probabilities)
        classes += scene.labels.tolist()
    precisions = average_precision(torch.cat(scores).numpy(), np.eye(len(OBJECT_ACTIONS), dtype=bool)[classes])
    assert np.nanmean(precisions) >= 0.8


def test_the_bundled_detector_is_small() -> None:
    assert find_weights(records()["slowfast_tiny_4x8_det.objects"]).stat().st_size < 4 * 2**20


def test_the_page_agrees_with_the_record(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "objects.md").read_text(encoding="utf-8")
    page = tmp_path / "objects.md"
    page.write_text(text, encoding="utf-8")
    write_table(table(RECORD), page)
    assert page.read_text(encoding="utf-8") == text


def test_the_manifest_agrees_with_the_record() -> None:
    [metric] = records()["slowfast_tiny_4x8_det.objects"].metrics
    assert metric["value"] == round(RECORD["frame_map"], 1) >= 80
    assert metric["interval_95"] == [round(end, 1) for end in RECORD["interval_95"]]
