"""Bottleneck residual blocks and the stages res2 to res5 that they make up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .conv import BATCH_NORMS, ConvNorm


class Bottleneck(nn.Module):
    """The residual block in Table 1's brackets: kt x 1 x 1, 1 x 3 x 3, 1 x 1 x 1, and a shortcut.

    The spatial stride and the dilation are the 3 x 3 convolution's, as in the published models; the temporal axis is
    never strided. (B, in_channels, T, H, W) -> (B, out_channels, T, H / stride, W / stride).

    Args:
        in_channels: channels of the input.
        inner_channels: channels between the convolutions.
        out_channels: channels of the output.
        temporal_kernel: kt of the first convolution.
        stride: spatial stride.
        dilation: spatial dilation.
    """

    def __init__(
        self,
        in_channels: int,
        inner_channels: int,
        out_channels: int,
        temporal_kernel: int,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, inner_channels, (temporal_kernel, 1, 1), relu=True)
        self.conv2 = ConvNorm(inner_channels, inner_channels, (1, 3, 3), (1, stride, stride), dilation, relu=True)
        self.conv3 = ConvNorm(inner_channels, out_channels, (1, 1, 1))
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels or stride != 1:
            self.shortcut = ConvNorm(in_channels, out_channels, (1, 1, 1), (1, stride, stride))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(self.conv2(self.conv1(x)))
        return self.act(self.shortcut(x) + y)  # type: ignore[no-any-return]


class Stage(nn.Module):
    """One of res2 to res5: bottleneck blocks, the first of which strides, with non-local blocks between them.

    Args:
        in_channels: channels of the stage's input, lateral channels included.
        inner_channels: inner channels of each block.
        out_channels: output channels of each block.
        temporal_kernels: kt of each block; its length is the depth.
        stride: spatial stride of the first block.
        dilation: spatial dilation of every block.
        non_local: block index -> the non-local block that follows that block.
    """

    def __init__(
        self,
        in_channels: int,
        inner_channels: int,
        out_channels: int,
        temporal_kernels: Sequence[int],
        stride: int,
        dilation: int = 1,
        non_local: Mapping[int, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Bottleneck(
                in_channels if i == 0 else out_channels,
                inner_channels,
                out_channels,
                kernel,
                stride if i == 0 else 1,
                dilation,
            )
            for i, kernel in enumerate(temporal_kernels)
        )
        self.non_local = nn.ModuleDict({str(i): block for i, block in (non_local or {}).items()})
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = self._run(block, x)
            if str(i) in self.non_local:
                x = self._run(self.non_local[str(i)], x)
        return x

    def _run(self, block: nn.Module, x: Tensor) -> Tensor:
        if not (self.grad_checkpointing and torch.is_grad_enabled()):
            return block(x)  # type: ignore[no-any-return]
        if torch.compiler.is_compiling():  # the compiler takes no context functions
            return checkpoint(block, x, use_reentrant=False)  # type: ignore[no-any-return]

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), _frozen_running_statistics(block)

        return checkpoint(block, x, use_reentrant=False, context_fn=contexts)  # type: ignore[no-any-return]


@contextmanager
def _frozen_running_statistics(block: nn.Module) -> Iterator[None]:
    """Keeps a checkpointed block's recomputation from counting its batch twice in the running statistics.

    With momentum 0 the same kernels run, and save the same tensors, but leave the statistics as they are.
    """
    norms = [m for m in block.modules() if isinstance(m, BATCH_NORMS) and m.training and m.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]  # type: ignore[union-attr]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)  # type: ignore[union-attr]
