"""The layers of an optimised network, made of folded convolutions.

On a CPU, oneDNN's convolution adds bias and residual and applies the ReLU while it writes its result. Elsewhere, where
gradients flow, and in a compiler, the same layers call PyTorch's plain convolution.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slowfast_zoo.kernels.onednn import conv2d, pack, runs_on_cpu, uses_onednn
from slowfast_zoo.kernels.views import unflatten
from slowfast_zoo.layers.conv import ConvNorm
from slowfast_zoo.layers.non_local import NonLocal
from slowfast_zoo.layers.residual import Bottleneck
from slowfast_zoo.layers.stem import Stem

from .convs import FoldedConv, Size, constant, fold, fold_apart, folded_weight, has_relu

# Output channels that fill the vector registers, or the matrix tiles, of a CPU.
_LANES = {torch.float32: 16, torch.bfloat16: 32, torch.float16: 32}
_MOST_FRAMES_TOGETHER = 4  # beyond, zeros in the kernel cost more than full registers bring


class FoldedStem(nn.Module):
    """conv1 with its batch norm and ReLU, then pool1: (B, C, T, H, W) -> (B, C', T', H', W'), channels last.

    The frames that conv1 sees at once become the channels of one image, so that it is a 2-D convolution. Where it has
    few outputs, as in the Fast pathway, those of some neighbouring frames are computed together, with zeros in the
    kernel where one of them does not look; in float32 as a sum over images of as many frames, each of which is brought
    into channels-last memory once. The output is pooled as soon as it is there, while it is in the cache: that of
    conv1, the largest tensor of the network, never exists as a whole.

    Args:
        stem: the stem.
        dtype: what to compute in.
    """

    converts_input = True

    def __init__(self, stem: Stem, dtype: torch.dtype) -> None:
        super().__init__()
        conv: Any = stem.conv1.conv
        pool: Any = stem.pool1
        weight, bias = folded_weight(conv, stem.conv1.norm, dtype)
        if not has_relu(stem.conv1.act):
            raise TypeError("the stem has lost its ReLU")
        self.weight, self.bias = constant(weight), constant(bias)
        self.in_3d = (conv.stride, conv.padding), (pool.kernel_size, pool.stride, pool.padding)
        self.stride, self.padding = conv.stride[1:], conv.padding[1:]
        self.frame_padding = conv.padding[0]
        self.frame_stride = conv.stride[0] * pool.stride[0]  # pool1 takes every n-th frame of conv1
        self.pool = (pool.kernel_size[1:], pool.stride[1:], pool.padding[1:])
        out, _, kt = weight.shape[:3]
        self.together = 1 if kt == 1 else max(1, min(_LANES[dtype] // out, _MOST_FRAMES_TOGETHER))
        # Where the images lie that a call sees, from the first frame that it computes on, and of how many frames each.
        seen = kt + (self.together - 1) * self.frame_stride
        self.offsets, self.size = range(-self.frame_padding, 1 - self.frame_padding), seen
        if self.together > 1 and dtype == torch.float32:
            self.size = self.together * self.frame_stride
            first, last = -self.frame_padding, seen - 1 - self.frame_padding
            self.offsets = range(first // self.size * self.size, last + 1, self.size)

    def forward(self, x: Tensor) -> Tensor:
        b, _, t, _, _ = x.shape
        if not (b and runs_on_cpu(x)):  # where many small calls are dear, and compilers would unroll the loops
            conv, pool = self.in_3d
            return F.max_pool3d(F.conv3d(x.to(self.weight.dtype), self.weight, self.bias, *conv).relu(), *pool)
        out, kt = self.weight.shape[0], self.weight.shape[2]
        frames = (t + 2 * self.frame_padding - kt) // self.frame_stride + 1  # of the output
        kernels, no_bias = self._kernels(x), torch.zeros_like(self.bias).repeat(self.together)
        result: Tensor | None = None  # (B, T', H', W', C')
        for i, clip in enumerate(x.transpose(1, 2)):  # (T, C, H, W)
            images: dict[int, Tensor] = {}  # by their first frame
            for j in range(0, frames, self.together):
                at = j * self.frame_stride
                starts = [at + offset for offset in self.offsets if -self.size < at + offset < t]
                images = {k: images[k] if k in images else self._image(clip, k) for k in starts}
                y: Tensor | None = None
                for start, image in images.items():
                    bias = self.bias.repeat(self.together) if y is None else no_bias
                    settings = self.stride, self.padding, (1, 1), start == starts[-1]
                    y = conv2d(image, kernels[start - at], bias, *settings, y)
                y = self._pool(cast(Tensor, y))
                y = unflatten(y[0], 0, (self.together, out)).permute(0, 2, 3, 1)  # (together, H', W', C')
                if result is None:
                    result = y.new_empty((b, frames, *y.shape[1:]))
                result[i, j : j + self.together] = y[: frames - j]
        return cast(Tensor, result).permute(0, 4, 1, 2, 3)

    def _image(self, clip: Tensor, start: int) -> Tensor:
        """Frames of (T, C, H, W) as channels, with zeros outside of it: (1, size C, H, W)."""
        seen = clip[max(start, 0) : start + self.size].to(self.weight.dtype)
        before = max(-start, 0)
        if len(seen) < self.size:
            seen = F.pad(seen, (0, 0) * 3 + (before, self.size - before - len(seen)))
        image = seen.reshape(1, -1, *seen.shape[2:])
        # For low precision, oneDNN does it.
        return image.contiguous(memory_format=torch.channels_last) if image.dtype == torch.float32 else image

    def _kernels(self, x: Tensor) -> dict[int, Tensor]:
        """The kernel of the 2-D convolution for each offset: (together C', size C, 7, 7)."""
        out, channels, kt, kh, kw = self.weight.shape
        kernel = self.weight.new_zeros(self.together, out, len(self.offsets) * self.size, channels, kh, kw)
        for i in range(self.together):
            start = i * self.frame_stride - self.frame_padding - self.offsets[0]
            kernel[i, :, start : start + kt] = self.weight.transpose(1, 2)
        image = kernel.new_empty(1, self.size * channels, *x.shape[3:])
        packs = image.dtype == torch.float32 and uses_onednn(image, x)
        kernels = {}
        for offset, part in zip(self.offsets, torch.split(kernel, self.size, dim=2), strict=True):
            weight = part.flatten(2, 3).flatten(0, 1).contiguous(memory_format=torch.channels_last)
            kernels[offset] = pack(weight, image.shape, self.stride, self.padding) if packs else weight
        return kernels

    def _pool(self, x: Tensor) -> Tensor:
        """pool1 of images (1, C, H, W) that are not negative, channels last."""
        if self.pool != ((3, 3), (2, 2), (1, 1)) or x.shape[2] % 2 or x.shape[3] % 2 or not uses_onednn(x):
            return F.max_pool2d(x, *self.pool)
        # Faster than the pooling there is, which notes where each maximum lies. Floating-point numbers that are not
        # negative are in the order of their bits, and integers are compared faster than numbers in low precision.
        y = x.permute(0, 2, 3, 1)
        y = y if x.dtype == torch.float32 else y.view(torch.int16)
        for axis in (1, 2):
            size = y.shape[axis] // 2
            even, odd = unflatten(y, axis, (size, 2)).unbind(axis + 1)
            y = torch.maximum(even, odd)
            after = y.narrow(axis, 1, size - 1)
            torch.maximum(after, odd.narrow(axis, 0, size - 1), out=after)
        return y.view(x.dtype).permute(0, 3, 1, 2)


class FoldedBottleneck(nn.Module):
    """A residual block of folded convolutions; the last one adds the shortcut and applies the ReLU.

    Args:
        block: the block.
        dtype: what to compute in.
        before: T, H and W of what it will probably be given.
        after: those of what it then gives.
        keeps_input: whether the block's input is still needed afterwards; otherwise it may be overwritten.
        apart: channels of the first of the two maps that the block is given instead of one; None where it is one.
        winograd: use Winograd's algorithm where it is faster.
    """

    def __init__(
        self,
        block: Bottleneck,
        dtype: torch.dtype,
        before: Size,
        after: Size,
        *,
        keeps_input: bool,
        apart: int | None = None,
        winograd: bool = False,
    ) -> None:
        super().__init__()

        def of_input(conv: ConvNorm) -> nn.Module:
            if apart is None:
                return fold(conv, dtype, before, by_winograd=winograd)
            return fold_apart(conv, dtype, before, apart, by_winograd=winograd)

        self.conv1 = of_input(block.conv1)
        self.conv2 = fold(block.conv2, dtype, before, by_winograd=winograd)
        self.conv3 = fold(block.conv3, dtype, after)
        self.conv3.relu = has_relu(block.act)
        self.shortcut = of_input(block.shortcut) if isinstance(block.shortcut, ConvNorm) else None
        self.keeps_input = keeps_input

    def forward(self, x: Any) -> Tensor:
        y = self.conv2(self.conv1(x))
        if self.shortcut is not None:
            return self.conv3(y, self.shortcut(x))  # type: ignore[no-any-return]
        return self.conv3(y, x.clone() if self.keeps_input else x)  # type: ignore[no-any-return]


class FoldedNonLocal(NonLocal):
    """A non-local block with its batch norm folded into the last convolution; its input is overwritten.

    Args:
        block: the block.
        dtype: what to compute in.
        size: T, H and W of what it will probably be given.
    """

    def __init__(self, block: NonLocal, dtype: torch.dtype, size: Size) -> None:
        nn.Module.__init__(self)
        self.instantiation, self.scale = block.instantiation, block.scale
        self.pool, self.pool_first = block.pool, block.pool_first
        for name, conv in block.named_children():
            if isinstance(conv, nn.Conv3d):
                weight, bias = folded_weight(conv, block.norm if name == "out" else None, dtype)
                self.add_module(name, FoldedConv(conv, weight, bias, False, size))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.attend(x), x)  # type: ignore[no-any-return]


class FoldedTemporalPool(nn.Module):
    """The maximum of each two frames, as max pooling with kernel and stride (2, 1, 1). (B, C, T, H, W) -> T // 2."""

    def forward(self, x: Tensor) -> Tensor:
        even = x.shape[2] // 2 * 2
        return torch.maximum(x[:, :, 0:even:2], x[:, :, 1:even:2])


def concatenate_rows(features: Tensor, added: Tensor) -> Tensor:
    """The channels of both maps (B, C, T, H, W): in channels-last memory, rows of channels are copied much faster."""
    return torch.cat((features.movedim(1, -1), added.movedim(1, -1)), dim=-1).movedim(-1, 1)


def keep_apart(features: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps as they are, for a block that takes the pair and spares the copy."""
    return features, added
