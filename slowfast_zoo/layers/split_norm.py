"""Batch norm over a few clips at a time, as networks have it that were trained on many GPUs with few clips each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SplitBatchNorm3d(nn.BatchNorm3d):
    """Batch norm whose statistics in training are those of ``clips`` clips each; (B, C, T, H, W) of any B.

    The paper normalises in training over 8 clips each, those of one GPU. Each group of clips is normalised by itself,
    with the same weight and bias, and the running statistics move once a batch, towards the mean of the groups'. So one
    process with a batch of 16 computes what two compute with 8 each. (timm's SplitBatchNorm2d is for images, and has
    weights of its own for each group, and the running statistics of the first.)

    The state dict is that of :class:`torch.nn.BatchNorm3d`, and evaluation is the same.

    Attributes:
        clips: clips in a group; what is left of a batch is a smaller one.
    """

    clips = 8

    @classmethod
    def convert(cls, module: nn.Module, clips: int = 8) -> nn.Module:
        """The module with each BatchNorm3d in it replaced, whose parameters and buffers it goes on with.

        Args:
            module: changed in place, unless it is such a batch norm itself.
            clips: clips in a group.

        Raises:
            ValueError: ``clips`` is not at least 1.
        """
        if clips < 1:
            raise ValueError(f"a group has at least 1 clip, not {clips}")
        if type(module) is nn.BatchNorm3d:
            norm = cls(module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats)
            norm.weight, norm.bias = module.weight, module.bias
            for name, buffer in module.named_buffers():
                setattr(norm, name, buffer)
            norm.train(module.training)
            norm.clips = clips
            return norm
        for name, child in module.named_children():
            setattr(module, name, cls.convert(child, clips))
        return module

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or len(x) <= self.clips or self.running_mean is None or self.momentum is None:
            return super().forward(x)
        groups = torch.split(x, self.clips)
        means, variances = (statistic.new_zeros(len(groups), self.num_features) for statistic in self._statistics())
        normalised = [
            # A momentum of 1 writes down the group's own statistics.
            F.batch_norm(group, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
            for group, mean, variance in zip(groups, means, variances, strict=True)
        ]
        with torch.no_grad():
            shares = means.new_tensor([len(group) / len(x) for group in groups])
            for running, found in zip(self._statistics(), (means, variances), strict=True):
                running.lerp_(shares @ found, self.momentum)
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        return torch.cat(normalised)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        return self.running_mean, self.running_var  # type: ignore[return-value]
