"""How logits become the scores of a video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor


@dataclass(frozen=True)
class ScoreRule:
    """From logits to probabilities, and from the views of a video to the video, as the weights' own project does it.

    Attributes:
        activation: "softmax", or "sigmoid" where a clip may have several labels or the classifier has one output.
        window_average: what is averaged over the window positions of a clip (``config.head_window``): probabilities
            ("scores") or "logits".
        view_average: what is averaged over the views of a video: probabilities ("scores"; PySlowFast, MMAction2) or
            "logits" (GluonCV); or "max", the highest probability (Charades).
    """

    activation: Literal["softmax", "sigmoid"] = "softmax"
    window_average: Literal["scores", "logits"] = "scores"
    view_average: Literal["scores", "logits", "max"] = "scores"

    @classmethod
    def of(cls, network: Any) -> ScoreRule:
        """The rule of a network from ``create_model``, by its configuration and the record of its weights."""
        config = network.config
        activation = getattr(network, "score_function", config.head_activation)  # a FeatureNetwork has no classifier
        return cls(activation, config.head_average, network.pretrained_cfg.get("view_average", "scores"))

    def activate(self, logits: Tensor) -> Tensor:
        """Probabilities of logits (..., num_classes)."""
        return logits.softmax(dim=-1) if self.activation == "softmax" else logits.sigmoid()

    def over_windows(self, logits: Tensor) -> Tensor:
        """Probabilities of clips (B, num_classes) from the logits of their window positions (B, P, num_classes)."""
        if self.window_average == "logits":
            logits = logits.mean(dim=1, keepdim=True)
        return self.activate(logits).mean(dim=1)

    def of_views(self, network: Any, clips: Tensor) -> Tensor:
        """What :meth:`over_views` puts together, (B, num_classes): logits if these are averaged, or probabilities."""
        scores: Tensor = network(clips) if self.view_average == "logits" else network.probabilities(clips)
        return scores

    def over_views(self, scores: Tensor) -> Tensor:
        """Probabilities of a video (num_classes,) from what :meth:`of_views` gave, a row for each of its views."""
        if self.view_average == "max":
            return scores.amax(0)
        mean = scores.mean(0)
        return self.activate(mean) if self.view_average == "logits" else mean
