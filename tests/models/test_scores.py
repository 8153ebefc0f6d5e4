"""From logits to the scores of a video."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import slowfast_zoo as sfz
from slowfast_zoo.models.scores import ScoreRule

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])


@pytest.mark.parametrize(
    ("rule", "want"),
    [
        (ScoreRule(), LOGITS.softmax(-1).mean(0)),
        (ScoreRule("sigmoid"), LOGITS.sigmoid().mean(0)),
        (ScoreRule(window_average="logits"), LOGITS.mean(0).softmax(-1)),
        (ScoreRule("sigmoid", "logits"), LOGITS.mean(0).sigmoid()),
    ],
)
def test_windows_become_a_clip(rule: ScoreRule, want: torch.Tensor) -> None:
    torch.testing.assert_close(rule.over_windows(torch.stack([LOGITS, -LOGITS]))[0], want)


def test_views_become_a_video() -> None:
    scores = LOGITS.softmax(-1)
    torch.testing.assert_close(ScoreRule().over_views(scores), scores.mean(0))
    torch.testing.assert_close(ScoreRule(view_average="max").over_views(scores), scores.amax(0))
    torch.testing.assert_close(ScoreRule(view_average="logits").over_views(LOGITS), LOGITS.mean(0).softmax(-1))
    rule = ScoreRule("sigmoid", view_average="logits")
    torch.testing.assert_close(rule.over_views(LOGITS), LOGITS.mean(0).sigmoid())


@pytest.mark.parametrize(
    ("name", "options", "want"),
    [
        ("slowfast_tiny_4x8.motion", {}, ScoreRule("softmax", "scores", "scores")),
        ("slowfast_tiny_4x8.motion", {"num_classes": 1}, ScoreRule("sigmoid", "scores", "scores")),
        ("slowfast_r50_16x8.pyslowfast_charades", {"width": 8}, ScoreRule("sigmoid", "scores", "max")),
        ("slowfast_r50_8x8.gluoncv_k400", {"width": 8}, ScoreRule("softmax", "scores", "logits")),
        ("slowfast_tiny_4x8.motion", {"features_only": True}, ScoreRule("softmax", "scores", "scores")),
    ],
)
def test_the_rule_of_weights(name: str, options: dict[str, Any], want: ScoreRule) -> None:
    assert ScoreRule.of(sfz.create_model(name, **options)) == want


@pytest.mark.parametrize("average", ["scores", "logits", "max"])
def test_what_is_averaged_over_views(average: Any) -> None:
    model = sfz.create_model("slowfast_tiny_4x8", num_classes=5).eval()
    clips = torch.randn(2, 3, model.config.clip_frames, 32, 32)
    with torch.no_grad():
        want = model(clips) if average == "logits" else model.probabilities(clips)
        torch.testing.assert_close(ScoreRule(view_average=average).of_views(model, clips), want)
