"""Networks that detect actions: boxes beside the clip, a row of logits for each."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import slowfast_zoo as sfz
from slowfast_zoo.layers import RoIHead, as_rois

DETECTORS = [name for name in sfz.list_models() if name.endswith("_det")]


@pytest.fixture(scope="module")
def detector() -> Any:
    torch.manual_seed(0)
    return sfz.create_model("slowfast_r50_4x16_det", width=8, num_classes=7).eval()


def test_there_are_detectors() -> None:
    assert "slowfast_r50_8x8_det" in DETECTORS
    assert "slow_r50_4x16_det" in DETECTORS
    for name in DETECTORS:
        assert name.removesuffix("_det") in sfz.list_models()


def test_a_row_for_each_box(detector: Any) -> None:
    clip = torch.randn(3, 3, 32, 64, 96)
    boxes = [torch.tensor([[0.0, 0, 96, 64], [10, 10, 40, 50]]), torch.zeros(0, 4), torch.tensor([[-5.0, 20, 30, 70]])]
    with torch.no_grad():
        logits = detector(clip, boxes)
        assert logits.shape == (3, 7)
        assert torch.isfinite(logits).all()
        # Each box is seen in its own clip, whatever the company.
        torch.testing.assert_close(detector(clip[2:], boxes[2:]), logits[2:], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(detector(clip[:1], [boxes[0][1:]]), logits[1:2], atol=1e-5, rtol=1e-4)
        # The other form: the clip's index first.
        indexed = torch.cat([torch.cat((torch.full((len(b), 1), float(i)), b), 1) for i, b in enumerate(boxes)])
        assert torch.equal(detector(clip, indexed), logits)
        probabilities = detector.probabilities(clip, boxes)
        torch.testing.assert_close(probabilities, logits.sigmoid())
        pair = (clip[:, :, list(detector.config.slow_indices())], clip)
        torch.testing.assert_close(detector(pair, boxes), logits, atol=1e-5, rtol=1e-4)
        features = detector.forward_features(clip)
        assert [tuple(x.shape[-2:]) for x in features] == [(4, 6), (4, 6)]  # res5 keeps res4's resolution
        pooled = detector.forward_head(features, pre_logits=True, boxes=boxes)
        assert pooled.shape == (3, detector.num_features)


def test_no_boxes_at_all(detector: Any) -> None:
    clip = torch.randn(2, 3, 32, 64, 64)
    for boxes in ([torch.zeros(0, 4)] * 2, torch.zeros(0, 5)):
        with torch.no_grad():
            assert detector(clip, boxes).shape == (0, 7)


def test_half_precision(detector: Any) -> None:
    """Boxes keep their precision, and RoIAlign runs where it is there."""
    clip, boxes = torch.randn(1, 3, 32, 64, 512), [torch.tensor([[301.3, 3.7, 452.9, 60.1]])]
    with torch.no_grad():
        want = detector(clip, boxes)
        half = copy.deepcopy(detector).bfloat16()(clip.bfloat16(), boxes)
    assert half.dtype == torch.bfloat16
    assert (half.float() - want).abs().max() < 0.05 * want.abs().max()


def test_training_gives_every_parameter_a_gradient() -> None:
    model = sfz.create_model("slow_r50_4x16_det", width=8, num_classes=7)
    clip = torch.randn(2, 3, 4, 64, 64)
    model(clip, [torch.tensor([[0.0, 0, 64, 64]])] * 2).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_a_full_frame_box_sees_the_whole_map() -> None:
    """One grid cell for the frame, unaligned, is the average that the classifier head would take."""
    torch.manual_seed(0)
    head = RoIHead(6, 3, 0.0, 1 / 16, resolution=1)
    x = torch.randn(2, 6, 4, 5, 5)
    boxes = torch.tensor([[0.0, 0, 0, 80, 80], [1, 0, 0, 80, 80]])
    inner = x.mean(2)
    got = head.pool([x], boxes)
    # RoIAlign samples between positions; on a map that is constant in the plane it gives that constant.
    flat = inner.mean((2, 3), keepdim=True)[:, :, None].expand(-1, -1, 4, 5, 5)
    torch.testing.assert_close(head.pool([flat], boxes), inner.mean((2, 3)))
    assert got.shape == (2, 6)
    highest = RoIHead(6, 3, 0.0, 1 / 16, resolution=1, temporal_pool="max")
    torch.testing.assert_close(highest.pool([flat + torch.arange(4.0)[:, None, None]], boxes), inner.mean((2, 3)) + 3)
    context = RoIHead(6, 3, 0.0, 1 / 16, resolution=5, context=True)
    assert context.in_features == 12
    torch.testing.assert_close(context.pool([x], boxes)[:, 6:], inner.amax((2, 3)))


@pytest.mark.parametrize(
    ("boxes", "error", "message"),
    [
        (None, ValueError, r"needs boxes: model\(clip, boxes\)"),
        ("boxes", TypeError, "not str"),
        ([[[0, 0, 1, 1]], []], TypeError, "boxes of clip 0 are a tensor .N, 4., not list"),
        ([torch.zeros(1, 4)], ValueError, "2 clips, but 1 entries"),
        ([torch.zeros(1, 5), torch.zeros(0, 4)], ValueError, r"not of shape \(1, 5\)"),
        (torch.zeros(1, 4), ValueError, r"not a tensor of shape \(1, 4\)"),
        ([torch.tensor([[0, 0, float("nan"), 1]]), torch.zeros(0, 4)], ValueError, "not finite"),
        ([torch.tensor([[0, 0, float("inf"), 1]]), torch.zeros(0, 4)], ValueError, "not finite"),
        (
            [torch.tensor([[5.0, 0, 5, 9]]), torch.zeros(0, 4)],
            ValueError,
            r"x1 < x2 and y1 < y2.*\[5.0, 0.0, 5.0, 9.0\]",
        ),
        ([torch.tensor([[0.0, 9, 5, 3]]), torch.zeros(0, 4)], ValueError, "x1 < x2"),
        (torch.tensor([[2.0, 0, 0, 5, 9]]), ValueError, "0 to 1"),
        (torch.tensor([[0.5, 0, 0, 5, 9]]), ValueError, "0 to 1"),
    ],
)
def test_wrong_boxes(detector: Any, boxes: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        detector(torch.randn(2, 3, 32, 32, 32), boxes)


def test_networks_that_classify_take_no_boxes() -> None:
    model = sfz.create_model("slow_r50_4x16", width=8)
    with pytest.raises(ValueError, match=r"takes no boxes; those named \*_det do"):
        model(torch.randn(1, 3, 4, 32, 32), [torch.zeros(0, 4)])
    with pytest.raises(ValueError, match="head_window is for classifying"):
        sfz.create_model("slow_r50_4x16_det", head_window=7)
    with pytest.raises(ValueError, match="roi temporal_pool is one of 'avg', 'max'"):
        sfz.create_model("slow_r50_4x16_det", roi={"temporal_pool": "median"})
    with pytest.raises(TypeError, match="roi takes no keyword 'resolutoin'; did you mean 'resolution'"):
        sfz.create_model("slow_r50_4x16_det", roi={"resolutoin": 7})
    with pytest.raises(TypeError, match="roi is a RoIConfig"):
        sfz.create_model("slow_r50_4x16_det", roi=7)
    with pytest.raises(ValueError, match="one resolution"):
        sfz.create_model("slowfast_r50_4x16_det", fast_input="rgb_half")


@settings(deadline=None, max_examples=40, derandomize=True)
@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=4), data=st.data())
def test_any_number_of_boxes(counts: list[int], data: st.DataObject) -> None:
    """Lists of any lengths keep their order, and each box the index of its clip."""
    number = st.floats(-20, 80, width=32)
    boxes = []
    for count in counts:
        corners = [[data.draw(number) for _ in range(2)] for _ in range(count)]
        boxes.append(torch.tensor([[x, y, x + 7, y + 3] for x, y in corners]).reshape(-1, 4))
    rois = as_rois(boxes, torch.zeros(len(counts), 1))
    assert rois.shape == (sum(counts), 5)
    assert rois[:, 0].tolist() == [float(i) for i, count in enumerate(counts) for _ in range(count)]
    assert torch.equal(rois[:, 1:], torch.cat(boxes))
