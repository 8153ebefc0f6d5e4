"""The classifier head: average pooling, concatenation, dropout, fully connected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn


class ClassifierHead(nn.Module):
    """Global average pool of each pathway, concatenate, fully connected (Table 1), dropout before the last.

    With ``window`` the average is over every window x window region of the res5 map at stride 1, which is how the
    PySlowFast and PyTorchVideo heads see a map larger than the one they were trained on. Then there is one prediction a
    position, and :meth:`positions` gives them. A map smaller than the window is averaged whole.

    Args:
        in_features: channels of all pathways together.
        num_classes: outputs of the classifier; 0 leaves it out.
        drop_rate: dropout probability.
        window: side of the averaged region, in positions of the map; None is the whole map.
    """

    def __init__(self, in_features: int, num_classes: int, drop_rate: float, window: int | None) -> None:
        super().__init__()
        self.in_features = in_features
        self.window = window
        self.dropout = nn.Dropout(drop_rate)
        self.fc: nn.Module = nn.Linear(in_features, num_classes) if num_classes else nn.Identity()

    def pool(self, maps: Sequence[Tensor]) -> Tensor:
        """One (B, C_p, T_p, H, W) map a pathway -> (B, P, sum of C_p), with P window positions."""
        return torch.cat([self._pool_one(x) for x in maps], dim=-1)

    def _pool_one(self, x: Tensor) -> Tensor:
        if self.window is None:
            return x.mean(dim=(2, 3, 4)).unsqueeze(1)
        return window_averages(x.mean(dim=2), self.window).flatten(2).transpose(1, 2)

    def positions(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits of each window position: (B, P, num_classes)."""
        return self.fc(self.dropout(self.pool(maps)))  # type: ignore[no-any-return]

    def forward(self, maps: Sequence[Tensor], pre_logits: bool = False) -> Tensor:
        """Logits averaged over the positions (B, num_classes), or with ``pre_logits`` what the classifier is given.

        The classifier is linear, so averaging its input is averaging its output.
        """
        pooled = self.pool(maps).mean(dim=1)  # (B, in_features)
        return pooled if pre_logits else self.fc(self.dropout(pooled))


@torch.fx.wrap  # a traced graph calls it: what it does depends on the size
def window_averages(plane: Tensor, window: int) -> Tensor:
    """(B, C, H, W) -> the average of each window, along an axis shorter than the window that of the whole axis."""
    size: Any = plane.shape
    height, width = size[-2:]
    if not (torch.compiler.is_exporting() or torch.jit.is_tracing()):  # type: ignore[no-untyped-call,attr-defined]
        return F.avg_pool2d(plane, (min(window, height), min(window, width)), stride=1)
    # A program or a traced graph is for every size, and a kernel is fixed. So a small map gets zeros up to the window's
    # size, and what they took from the average is given back. (The ONNX exporter leaves out divisor_override.)
    missing_height, missing_width = _beyond_zero(window - height), _beyond_zero(window - width)
    plane = F.pad(plane, (0, missing_width, 0, missing_height))
    filled = window * window / ((window - missing_height) * (window - missing_width))
    return F.avg_pool2d(plane, window, stride=1).mul(filled)


def _beyond_zero(count: Any) -> Any:
    """max(count, 0) of a number that a tracer watches: torch.jit's is a tensor, torch.export's is symbolic."""
    return count.clamp(min=0) if isinstance(count, Tensor) else torch.sym_max(count, 0)
