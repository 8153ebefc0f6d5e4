"""The layers of an optimised network: batch norm folded, kernels run as 2-D convolutions on channels-last memory.

In channels-last memory the axes of a feature map lie as B, T, H, W, C. There a 1 x k x k kernel is a 2-D convolution
with time merged into the batch, and a k x 1 x 1 kernel is one with the plane merged into one axis: views, no copies.
CPUs and GPUs have far better 2-D than 3-D convolutions.

On a CPU, oneDNN's convolution adds bias and residual and applies the ReLU while it writes its result. Elsewhere, where
gradients flow, and in a compiler, the same layers call PyTorch's plain convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .conv import ConvNorm, as_images, as_planes, channels_last, from_images, from_planes, runs_on_cpu, unflatten
from .non_local import NonLocal
from .residual import Bottleneck
from .stem import Stem

Pair = tuple[int, int]
Size = tuple[int, int, int]  # T, H, W

# Output channels that fill the vector registers, or the matrix tiles, of a CPU.
_LANES = {torch.float32: 16, torch.bfloat16: 32, torch.float16: 32}
_MOST_FRAMES_TOGETHER = 4  # beyond, zeros in the kernel cost more than full registers bring


class FoldedConv(nn.Module):
    """A factorised 3D convolution, 1 x k x k or k x 1 x 1, with its batch norm and its ReLU.

    (B, C, T, H, W) -> (B, C', T', H', W'), channels last.

    The weight keeps its 5-D shape, but not always its memory: oneDNN multiplies in an order of its own, and to make it
    at every call would cost part of what is gained. So on a CPU the weight is there in that order only, and is no
    parameter; the state dict has it all the same.

    Args:
        conv: the convolution, for its stride, padding and dilation.
        weight: its weight, folded.
        bias: its bias, folded.
        relu: whether a ReLU follows.
        size: T, H and W of what it will probably be given.
    """

    def __init__(self, conv: nn.Conv3d, weight: Tensor, bias: Tensor, relu: bool, size: Size) -> None:
        super().__init__()
        self.shape = weight.shape
        self.weight: nn.Parameter | None = _constant(weight.contiguous(memory_format=torch.channels_last_3d))
        self.bias = _constant(bias)
        self._packed: tuple[torch.Size, Tensor] | None = None  # an input's shape, and the weight in the order for it
        self.relu = relu
        self.temporal = conv.kernel_size[0] > 1
        axes = slice(0, 2) if self.temporal else slice(1, 3)
        self.stride, self.padding, self.dilation = (
            cast(Pair, tuple(setting[axes])) for setting in (conv.stride, cast(Any, conv.padding), conv.dilation)
        )
        channels, (t, h, w) = weight.shape[1], size
        self._pack(torch.Size((1, channels, t, h * w) if self.temporal else (t, channels, h, w)))

    def forward(self, x: Tensor, add_to: Tensor | None = None) -> Tensor:
        """With ``add_to``, a channels-last map that may be overwritten, the sum with it (before the ReLU)."""
        x = channels_last(x.to(self.bias.dtype))  # which autocast may have changed
        if self.temporal:  # (B, C, T, H W)
            y = self._conv2d(as_planes(x), None if add_to is None else as_planes(add_to))
            return from_planes(y, x.shape[4])
        y = self._conv2d(as_images(x), None if add_to is None else as_images(add_to))
        return from_images(y, x.shape[2])

    def _conv2d(self, x: Tensor, add_to: Tensor | None) -> Tensor:
        weight = self._packed_for(x.shape) if uses_onednn(x, add_to) else self._as_2d(self.dense_weight())
        return conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.relu, add_to)

    def _as_2d(self, weight: Tensor) -> Tensor:
        return weight.flatten(3) if self.temporal else weight.squeeze(2)

    def dense_weight(self) -> Tensor:
        """The weight (C', C, kT, kH, kW)."""
        packed = self._packed
        return cast(Tensor, self.weight) if packed is None else packed[1].to_dense().view(self.shape)

    def _packed_for(self, shape: torch.Size) -> Tensor:
        packed = self._packed
        if packed is None or packed[0] != shape:  # the order for another shape can be many times as slow
            reorder = cast(Any, torch._C._nn.mkldnn_reorder_conv2d_weight)
            weight = self._as_2d(self.dense_weight()).to_mkldnn()
            self._packed = packed = shape, reorder(weight, self.padding, self.stride, self.dilation, 1, shape)
        return packed[1]

    def _pack(self, shape: torch.Size) -> None:
        weight = cast(Tensor, self.weight)
        if weight.device.type == "cpu" and has_onednn(weight.dtype):
            self._packed_for(shape)
            self.weight = None

    def _unpack(self) -> torch.Size:
        shape = self._packed[0] if self._packed else torch.Size((8, self.shape[1], 16, 16))
        self.weight = _constant(self.dense_weight())
        self._packed = None
        return shape

    # Moving, saving, loading and copying see the weight as if it were a parameter everywhere.

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FoldedConv:
        shape = self._unpack()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._pack(shape)
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.dense_weight().detach()

    def _load_from_state_dict(self, *args: Any) -> None:
        shape = self._unpack()
        super()._load_from_state_dict(*args)
        self._pack(shape)

    def __getstate__(self) -> dict[str, Any]:
        parameters = {**self._parameters, "weight": _constant(self.dense_weight())}
        return {**self.__dict__, "_parameters": parameters, "_packed": self._packed and (self._packed[0], None)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_packed": None})  # type: ignore[no-untyped-call]
        if state["_packed"]:
            self._pack(state["_packed"][0])


class ConvApart(nn.Module):
    """A convolution of the channels of two maps, which need not be copied into one for it: the sum of two.

    Args:
        first: the convolution of the first map, with the bias.
        second: that of the second, with the ReLU.
    """

    def __init__(self, first: FoldedConv, second: FoldedConv) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, maps: tuple[Tensor, Tensor]) -> Tensor:
        return self.second(maps[1], self.first(maps[0]))  # type: ignore[no-any-return]


class FoldedStem(nn.Module):
    """conv1 with its batch norm and ReLU, then pool1: (B, C, T, H, W) -> (B, C', T', H', W'), channels last.

    The frames that conv1 sees at once become the channels of one image, so that it is a 2-D convolution. Where it has
    few outputs, as in the Fast pathway, those of some neighbouring frames are computed together, with zeros in the
    kernel where one of them does not look. Each image is pooled as soon as it is there, while it is in the cache: the
    output of conv1, the largest tensor of the network, never exists as a whole.

    Args:
        stem: the stem.
        dtype: what to compute in.
    """

    def __init__(self, stem: Stem, dtype: torch.dtype) -> None:
        super().__init__()
        conv: Any = stem.conv1.conv
        pool: Any = stem.pool1
        weight, bias = folded_weight(conv, stem.conv1.norm)
        if not has_relu(stem.conv1.act):
            raise TypeError("the stem has lost its ReLU")
        self.weight, self.bias = _constant(weight.to(dtype)), _constant(bias.to(dtype))
        self.in_3d = (conv.stride, conv.padding), (pool.kernel_size, pool.stride, pool.padding)
        self.stride, self.padding = conv.stride[1:], conv.padding[1:]
        self.frame_padding = conv.padding[0]
        self.frame_stride = conv.stride[0] * pool.stride[0]  # pool1 takes every so manieth frame of conv1
        self.pool = (pool.kernel_size[1:], pool.stride[1:], pool.padding[1:])
        out, _, kt = weight.shape[:3]
        self.together = 1 if kt == 1 else max(1, min(_LANES[dtype] // out, _MOST_FRAMES_TOGETHER))

    def forward(self, x: Tensor) -> Tensor:
        b, channels, t, _, _ = x.shape
        if not (b and runs_on_cpu(x)):  # where many small calls are dear, and compilers would unroll the loops
            conv, pool = self.in_3d
            return F.max_pool3d(F.conv3d(x.to(self.weight.dtype), self.weight, self.bias, *conv).relu(), *pool)
        out, _, kt = self.weight.shape[:3]
        frames = (t + 2 * self.frame_padding - kt) // self.frame_stride + 1  # of the output
        span = kt + (self.together - 1) * self.frame_stride  # frames that a call sees
        weight, bias = self._for_frames_together(span), self.bias.repeat(self.together)
        result: Tensor | None = None  # (B, T', H', W', C')
        for i, clip in enumerate(x.transpose(1, 2)):  # (T, C, H, W)
            for j in range(0, frames, self.together):
                start = j * self.frame_stride - self.frame_padding
                seen = clip[max(start, 0) : start + span].to(weight.dtype)
                before = max(-start, 0)
                if len(seen) < span:
                    seen = F.pad(seen, (0, 0) * 3 + (before, span - before - len(seen)))
                seen = seen.reshape(1, span * channels, *seen.shape[2:])
                y = self._pool(conv2d(seen, weight, bias, self.stride, self.padding, (1, 1), True))
                y = unflatten(y[0], 0, (self.together, out)).permute(0, 2, 3, 1)  # (together, H', W', C')
                if result is None:
                    result = y.new_empty((b, frames, *y.shape[1:]))
                result[i, j : j + self.together] = y[: frames - j]
        return cast(Tensor, result).permute(0, 4, 1, 2, 3)

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

    def _for_frames_together(self, span: int) -> Tensor:
        """The kernel of the 2-D convolution: (together C', span C, 7, 7)."""
        out, channels, kt, kh, kw = self.weight.shape
        kernel = self.weight.new_zeros(self.together, out, span, channels, kh, kw)
        for i in range(self.together):
            start = i * self.frame_stride
            kernel[i, :, start : start + kt] = self.weight.transpose(1, 2)
        kernel = kernel.view(self.together * out, span * channels, kh, kw)
        return kernel.contiguous(memory_format=torch.channels_last)


class FoldedBottleneck(nn.Module):
    """A residual block of folded convolutions; the last one adds the shortcut and applies the ReLU.

    Args:
        block: the block.
        dtype: what to compute in.
        before: T, H and W of what it will probably be given.
        after: those of what it then gives.
        keeps_input: whether the block's input is still needed afterwards; otherwise it may be overwritten.
        apart: channels of the first of the two maps that the block is given instead of one; None where it is one.
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
    ) -> None:
        super().__init__()

        def of_input(conv: ConvNorm) -> nn.Module:
            return fold(conv, dtype, before) if apart is None else fold_apart(conv, dtype, before, apart)

        self.conv1 = of_input(block.conv1)
        self.conv2 = fold(block.conv2, dtype, before)
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
                weight, bias = folded_weight(conv, block.norm if name == "out" else None)
                self.add_module(name, FoldedConv(conv, weight.to(dtype), bias.to(dtype), False, size))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.attend(x), x)  # type: ignore[no-any-return]


class FoldedTemporalPool(nn.Module):
    """The maximum of each two frames, as max pooling with kernel and stride (2, 1, 1). (B, C, T, H, W) -> T // 2."""

    def forward(self, x: Tensor) -> Tensor:
        even = x.shape[2] // 2 * 2
        return torch.maximum(x[:, :, 0:even:2], x[:, :, 1:even:2])


def fold(module: ConvNorm, dtype: torch.dtype, size: Size) -> FoldedConv:
    """The folded convolution that a ConvNorm becomes; ``size`` is that of its probable input."""
    weight, bias = folded_weight(module.conv, module.norm)
    return FoldedConv(module.conv, weight.to(dtype), bias.to(dtype), has_relu(module.act), size)


def fold_apart(module: ConvNorm, dtype: torch.dtype, size: Size, channels: int) -> ConvApart:
    """The same for an input in two maps, the first of which has that many channels."""
    weight, bias = folded_weight(module.conv, module.norm)
    first, second, zeros = weight[:, :channels].to(dtype), weight[:, channels:].to(dtype), torch.zeros_like(bias)
    return ConvApart(
        FoldedConv(module.conv, first, bias.to(dtype), False, size),
        FoldedConv(module.conv, second, zeros.to(dtype), has_relu(module.act), size),
    )


def has_relu(act: nn.Module) -> bool:
    """Whether an activation is a ReLU; if it is neither that nor none at all, the network was changed too much."""
    if not isinstance(act, (nn.ReLU, nn.Identity)):
        raise TypeError(f"only ReLUs can become part of convolutions, not {act}")
    return isinstance(act, nn.ReLU)


def folded_weight(conv: nn.Conv3d, norm: nn.Module | None) -> tuple[Tensor, Tensor]:
    """Weight and bias, in float64, of the convolution that equals ``conv`` and the batch norm behind it."""
    weight = conv.weight.detach().double()
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach().double()
    if norm is None or isinstance(norm, nn.Identity):
        return weight, bias
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None or not norm.affine:
        raise TypeError(f"only batch norms with statistics, gamma and beta can be folded into convolutions, not {norm}")
    mean, var = norm.running_mean.double(), cast(Tensor, norm.running_var).double()
    scale, shift = norm.weight.detach().double(), norm.bias.detach().double()
    return fuse_conv_bn_weights(weight, bias, mean, var, norm.eps, scale, shift)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    relu: bool,
    add_to: Tensor | None = None,
) -> Tensor:
    """A 2-D convolution with what follows it. ``add_to`` is added, and may be overwritten."""
    if not uses_onednn(x, add_to):
        y = F.conv2d(x, weight, bias, stride, padding, dilation)
        y = y if add_to is None else add_to + y
        return y.relu() if relu else y
    return _onednn_conv2d(x, weight, bias, stride, padding, dilation, relu, add_to)


def uses_onednn(x: Tensor, add_to: Tensor | None = None) -> bool:
    """Whether this convolution is oneDNN's fused one, of which autograd, tracers and compilers know nothing."""
    wanted = torch.is_grad_enabled() and (x.requires_grad or (add_to is not None and add_to.requires_grad))
    if wanted or forward_ad._current_level >= 0 or not runs_on_cpu(x):
        return False
    # Of one channel the two orders of memory look alike, and the wrong one is taken.
    return x.shape[0] > 0 and x.shape[1] > 1 and has_onednn(x.dtype)


def _onednn_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    relu: bool,
    add_to: Tensor | None,
) -> Tensor:
    settings = weight, bias, padding, stride, dilation, 1
    if add_to is None:
        y = torch.ops.mkldnn._convolution_pointwise(x, *settings, "relu" if relu else "none", [], "")
    else:
        relu_after = "relu" if relu else None
        y = torch.ops.mkldnn._convolution_pointwise_.binary(add_to, x, *settings, "add", 1.0, relu_after, [], "")
    return cast(Tensor, y)


@cache
def has_onednn(dtype: torch.dtype) -> bool:
    """Whether this machine's PyTorch has oneDNN's fused convolutions for the dtype; found out by trying."""
    x = torch.ones(1, 16, 4, 4, dtype=dtype, device="cpu").contiguous(memory_format=torch.channels_last)
    weight = torch.full((16, 16, 1, 1), 0.5, dtype=dtype, device="cpu")
    bias = torch.ones(16, dtype=dtype, device="cpu")
    try:
        packed = cast(Any, torch._C._nn.mkldnn_reorder_conv2d_weight)(weight.to_mkldnn())
        y = _onednn_conv2d(x, packed, bias, (1, 1), (0, 0), (1, 1), True, torch.full_like(x, -4))
    except (AttributeError, RuntimeError):  # another build of PyTorch, or a CPU without the type
        return False
    return bool((y == 5).all())


def _constant(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
