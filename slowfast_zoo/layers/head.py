"""The classifier head: average pooling, concatenation, dropout, fully connected."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal

import torch
import torch.fx
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from slowfast_zoo.errors import MissingDependencyError
from slowfast_zoo.utils.torchvision_guard import require_torchvision

# A traced graph calls them: what they do depends on the shape.
torch.fx.wrap("rearrange")
torch.fx.wrap("reduce")


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
            return reduce(x, "b c t h w -> b 1 c", "mean")
        plane = reduce(x, "b c t h w -> b c h w", "mean")
        return rearrange(window_averages(plane, self.window), "b c h w -> b (h w) c")

    def positions(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits of each window position: (B, P, num_classes)."""
        return self.fc(self.dropout(self.pool(maps)))  # type: ignore[no-any-return]

    def forward(self, maps: Sequence[Tensor], pre_logits: bool = False) -> Tensor:
        """Logits averaged over the positions (B, num_classes), or with ``pre_logits`` what the classifier is given.

        The classifier is linear, so averaging its input is averaging its output.
        """
        pooled = reduce(self.pool(maps), "b p c -> b c", "mean")
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


RoITemporalPool = Literal["avg", "max"]


class RoIHead(nn.Module):
    """Pool time, RoIAlign each box on the map of each pathway, max-pool the grid, concatenate, fully connected.

    A box is that of a key frame; pooling time first is replicating it along time (the paper's 3D RoI). RoIAlign samples
    each bin adaptively (sampling ratio 0), as all published models do.

    Args:
        in_features: channels of all pathways together.
        num_classes: outputs of the classifier; 0 leaves it out.
        drop_rate: dropout probability.
        spatial_scale: positions of the map for each pixel of the clip.
        resolution: side of the grid.
        aligned: RoIAlign's half-pixel shift.
        temporal_pool: "avg" or "max".
        context: concatenate the whole map, average-pooled to the same grid, to each box.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        drop_rate: float,
        spatial_scale: float,
        *,
        resolution: int = 7,
        aligned: bool = False,
        temporal_pool: RoITemporalPool = "avg",
        context: bool = False,
    ) -> None:
        super().__init__()
        with suppress(MissingDependencyError):  # which is told of where boxes are pooled
            require_torchvision()  # now, as it cannot be imported for the first time while torch.jit traces
        self.in_features = 2 * in_features if context else in_features
        self.spatial_scale = spatial_scale
        self.resolution = resolution
        self.aligned = aligned
        self.temporal_pool = temporal_pool
        self.context = context
        self.dropout = nn.Dropout(drop_rate)
        self.fc: nn.Module = nn.Linear(self.in_features, num_classes) if num_classes else nn.Identity()

    def pool(self, maps: Sequence[Tensor], rois: Tensor) -> Tensor:
        """One (B, C_p, T_p, H, W) map a pathway, and boxes as :func:`as_rois` gives them -> (K, in_features)."""
        kind = "mean" if self.temporal_pool == "avg" else "max"
        plane = torch.cat([reduce(x, "b c t h w -> b c h w", kind) for x in maps], dim=1)
        # In float32: RoIAlign lacks bfloat16 on the CPU, and boxes in half precision would be off by pixels.
        grid = align(plane.float(), rois, self.resolution, self.spatial_scale, self.aligned)
        pooled = reduce(grid, "k c y x -> k c", "max").to(plane.dtype)
        if self.context:
            whole = reduce(grid_averages(plane, self.resolution), "b c y x -> b c", "max")
            pooled = torch.cat((pooled, whole[rois[:, 0].long()]), dim=1)
        return pooled

    def forward(self, maps: Sequence[Tensor], rois: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of boxes (K, num_classes), or with ``pre_logits`` what the classifier is given (K, in_features)."""
        pooled = self.pool(maps, rois)
        return pooled if pre_logits else self.fc(self.dropout(pooled))


@torch.fx.wrap
def align(plane: Tensor, rois: Tensor, resolution: int, scale: float, aligned: bool) -> Tensor:
    """RoIAlign: (B, C, H, W), (K, 5) -> (K, C, resolution, resolution)."""
    require_torchvision()
    from torchvision.ops import roi_align

    return roi_align(plane, rois, resolution, scale, 0, aligned)  # type: ignore[no-any-return]


@torch.fx.wrap
def grid_averages(plane: Tensor, resolution: int) -> Tensor:
    """Adaptive average pooling: (B, C, H, W) -> (B, C, resolution, resolution)."""
    if not torch.compiler.is_exporting():
        return F.adaptive_avg_pool2d(plane, resolution)
    # ONNX has no adaptive pooling. Its cells are the same on all channels and separable: one matrix for each axis.
    rows, columns = (_cells(size, resolution, plane) for size in plane.shape[-2:])
    return rows @ plane @ columns.T


def _cells(size: int, count: int, like: Tensor) -> Tensor:
    """The matrix (count, size) whose row i averages the positions of cell i, rounded outward to whole ones."""
    borders = torch.arange(count + 1, device=like.device) * size
    first, end = borders[:-1] // count, (borders[1:] + count - 1) // count
    position = torch.arange(size, device=like.device)
    inside = ((position >= first[:, None]) & (position < end[:, None])).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)


def as_rois(boxes: Any, clip: Tensor) -> Tensor:
    """Boxes as RoIAlign takes them: (K, 5) in float32, the clip's index in the batch before x1, y1, x2, y2.

    Args:
        boxes: one (N_i, 4) tensor a clip, N_i from 0, of pixels x1, y1, x2, y2; or already (K, 5).
        clip: (B, C, T, H, W); gives batch size and device.

    Raises:
        TypeError: not tensors.
        ValueError: another number of tensors than clips, another shape, values that are not finite, or a box without
            area. A box may reach out of the frame, where there is nothing to see (zeros).
    """
    batch = clip.shape[0]
    if isinstance(boxes, Tensor):
        rois = boxes.to(clip.device, torch.float32)
        if rois.ndim != 2 or rois.shape[1] != 5:
            raise ValueError(
                "boxes are a list with one (N, 4) tensor of pixels x1, y1, x2, y2 for each clip, or one (K, 5) tensor "
                f"with the clip's index before them, not a tensor of shape {tuple(boxes.shape)}"
            )
    elif isinstance(boxes, (list, tuple)):
        if len(boxes) != batch:
            raise ValueError(f"boxes are a list with one tensor for each clip: {batch} clips, but {len(boxes)} entries")
        rows = [torch.zeros((0, 5), device=clip.device)]
        for i, given in enumerate(boxes):
            if not isinstance(given, Tensor):
                raise TypeError(f"the boxes of clip {i} are a tensor (N, 4), not {type(given).__name__}")
            if given.ndim != 2 or given.shape[1] != 4:
                raise ValueError(f"the boxes of clip {i} are a tensor (N, 4), not of shape {tuple(given.shape)}")
            rows.append(F.pad(given.to(clip.device, torch.float32), (1, 0), value=i))
        rois = torch.cat(rows)
    else:
        raise TypeError(f"boxes are a list with one (N, 4) tensor for each clip, not {type(boxes).__name__}")
    if torch.compiler.is_compiling() or rois.device.type == "meta":
        return rois
    if not bool(torch.isfinite(rois).all()):
        raise ValueError("boxes hold values that are not finite")
    flat = (rois[:, 3] <= rois[:, 1]) | (rois[:, 4] <= rois[:, 2])
    if bool(flat.any()):
        raise ValueError(
            "boxes are x1, y1, x2, y2 in pixels with x1 < x2 and y1 < y2; the first that is not: "
            f"{rois[flat][0, 1:].tolist()}"
        )
    index = rois[:, 0]
    if bool(((index < 0) | (index >= batch) | (index != index.round())).any()):
        raise ValueError(f"the first column of boxes (K, 5) is the clip's index, 0 to {batch - 1}")
    return rois
