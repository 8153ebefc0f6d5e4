"""The convolutions of an optimised network: batch norm folded, run as 2-D convolutions on channels-last memory.

In channels-last memory the axes of a feature map lie as B, T, H, W, C. There a 1 x k x k kernel is a 2-D convolution
with time merged into the batch, and a k x 1 x 1 kernel is one with the plane merged into one axis: views, no copies.
CPUs and GPUs have far better 2-D than 3-D convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from slowfast_zoo.kernels import winograd
from slowfast_zoo.kernels.onednn import Pair, conv2d, has_onednn, pack, uses_onednn
from slowfast_zoo.kernels.views import as_images, as_planes, channels_last, from_images, from_planes
from slowfast_zoo.layers.conv import BATCH_NORMS, ConvNorm

Size = tuple[int, int, int]  # T, H, W

_CHANNELS_AT_A_TIME = 32  # of weights that are computed in float64


class PackedConv(nn.Module):
    """A 2-D convolution with its bias and its ReLU, the base of those that stand for a factorised 3-D one.

    oneDNN multiplies in an order of its own, and to make it at every call would cost part of what is gained. So on a
    CPU the weight is there in that order only, and is no parameter; the state dict has it all the same, as the 5-D
    kernel of the 3-D convolution.

    Args:
        kernel: of the 3-D convolution, (C', C, kT, kH, kW), its batch norm folded in.
        bias: (C',).
        stride: of the two axes.
        padding: of the two axes.
        dilation: of the two axes.
        relu: whether a ReLU follows.
        groups: into which the 2-D convolution's channels are divided.
        shape: of what it will probably be given.
    """

    def __init__(
        self,
        kernel: Tensor,
        bias: Tensor,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        *,
        relu: bool,
        groups: int = 1,
        shape: torch.Size,
    ) -> None:
        super().__init__()
        self.temporal = kernel.shape[2] > 1
        weight = self.weight_of(kernel)
        self.shape = weight.shape
        self.weight: nn.Parameter | None = constant(weight.contiguous(memory_format=torch.channels_last))
        self.bias = constant(bias)
        self._packed: tuple[torch.Size, Tensor] | None = None  # an input's shape, and the weight in the order for it
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.relu = relu
        self._probable = shape
        self._pack()

    def kernel(self) -> Tensor:
        """The kernel of the 3-D convolution, (C', C, kT, kH, kW)."""
        raise NotImplementedError

    def weight_of(self, kernel: Tensor) -> Tensor:
        """The 2-D convolution's weight for such a kernel, (groups C', C, kh, kw)."""
        raise NotImplementedError

    def convolve(self, x: Tensor, bias: Tensor, relu: bool, add_to: Tensor | None = None) -> Tensor:
        """The 2-D convolution of (B, C, H, W), channels last."""
        weight = self._packed_for(x.shape) if uses_onednn(x, add_to) else self.dense_weight()
        return conv2d(x, weight, bias, self.stride, self.padding, self.dilation, relu, add_to, self.groups)

    def dense_weight(self) -> Tensor:
        """The 2-D convolution's weight."""
        packed = self._packed
        return cast(Tensor, self.weight) if packed is None else packed[1].to_dense().view(self.shape)

    def _packed_for(self, shape: torch.Size) -> Tensor:
        packed = self._packed
        if packed is None or packed[0] != shape:  # the order for another shape can be many times as slow
            settings = self.stride, self.padding, self.dilation, self.groups
            self._packed = packed = shape, pack(self.dense_weight(), shape, *settings)
        return packed[1]

    def _pack(self) -> None:
        weight = cast(Tensor, self.weight)
        if weight.device.type == "cpu" and has_onednn(weight.dtype):
            self._packed_for(self._probable)
            self.weight = None

    def _unpack(self) -> None:
        self._probable = self._packed[0] if self._packed else self._probable
        self.weight = constant(self.dense_weight())
        self._packed = None

    # Moving, saving, loading and copying see the weight as if it were a parameter everywhere.

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedConv:
        self._unpack()
        # Of five axes, as are the others that may be asked to lie channels-last.
        self.weight = constant(cast(Tensor, self.weight).unsqueeze(2))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.weight = constant(cast(Tensor, self.weight).squeeze(2))
        self._pack()
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.kernel().detach()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        self._unpack()
        weight = cast(nn.Parameter, self.weight)
        self.weight = constant(self.kernel()) if prefix + "weight" in state_dict else weight
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.weight is not weight:
            self.weight = constant(self.weight_of(self.weight))
        self._pack()

    def __getstate__(self) -> dict[str, Any]:
        parameters = {**self._parameters, "weight": constant(self.dense_weight())}
        shape = self._packed[0] if self._packed else self._probable
        return {**self.__dict__, "_parameters": parameters, "_packed": None, "_probable": shape}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._pack()


class FoldedConv(PackedConv):
    """A factorised 3D convolution, 1 x k x k or k x 1 x 1, with its batch norm and its ReLU.

    (B, C, T, H, W) -> (B, C', T', H', W'), channels last.

    Args:
        conv: the convolution, for its stride, padding and dilation.
        weight: its kernel, folded.
        bias: its bias, folded.
        relu: whether a ReLU follows.
        size: T, H and W of what it will probably be given.
    """

    def __init__(self, conv: nn.Conv3d, weight: Tensor, bias: Tensor, relu: bool, size: Size) -> None:
        temporal = conv.kernel_size[0] > 1
        axes = slice(0, 2) if temporal else slice(1, 3)
        stride, padding, dilation = (
            cast(Pair, tuple(setting[axes])) for setting in (conv.stride, cast(Any, conv.padding), conv.dilation)
        )
        channels, (t, h, w) = weight.shape[1], size
        shape = torch.Size((1, channels, t, h * w) if temporal else (t, channels, h, w))
        super().__init__(weight, bias, stride, padding, dilation, relu=relu, shape=shape)

    def forward(self, x: Tensor, add_to: Tensor | None = None) -> Tensor:
        """With ``add_to``, a channels-last map that may be overwritten, the sum with it (before the ReLU)."""
        x = channels_last(x.to(self.bias.dtype))  # which autocast may have changed
        if self.temporal:  # (B, C, T, H W)
            y = self.convolve(as_planes(x), self.bias, self.relu, None if add_to is None else as_planes(add_to))
            return from_planes(y, x.shape[4])
        y = self.convolve(as_images(x), self.bias, self.relu, None if add_to is None else as_images(add_to))
        return from_images(y, x.shape[2])

    def weight_of(self, kernel: Tensor) -> Tensor:
        return _in_2d(kernel)

    def kernel(self) -> Tensor:
        weight = self.dense_weight()
        return weight.unsqueeze(-1) if self.temporal else weight.unsqueeze(2)


class WinogradConv(PackedConv):
    """A 3 x 1 x 1 or 1 x 3 x 3 convolution of stride 1 with its batch norm and its ReLU, in float32.

    (B, C, T, H, W) -> (B, C', T, H, W), channels last. Where it is no oneDNN convolution (see ``uses_onednn``) it is
    PyTorch's plain one, whose kernel is then computed back from its combinations, as for the state dict: to rounding.

    Args:
        conv: the convolution.
        weight: its kernel, folded.
        bias: its bias, folded.
        relu: whether a ReLU follows.
        size: T, H and W of what it will probably be given.
    """

    def __init__(self, conv: nn.Conv3d, weight: Tensor, bias: Tensor, relu: bool, size: Size) -> None:
        temporal = conv.kernel_size[0] > 1
        channels, (t, h, w) = weight.shape[1], size
        shape: tuple[int, ...] = (t, winograd.PRODUCTS * channels, h, winograd.tiles(w))
        if temporal:
            positions = winograd.parts(h * w, 4 * winograd.PRODUCTS * winograd.tiles(t) * channels)[0].stop
            shape = (1, winograd.PRODUCTS * channels, positions, winograd.tiles(t))
        super().__init__(
            weight,
            bias,
            (1, 1),
            (0 if temporal else 1, 0),
            (1, 1),
            relu=relu,
            groups=winograd.PRODUCTS,
            shape=torch.Size(shape),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = channels_last(x.to(self.bias.dtype))  # which autocast may have changed
        is_fast = x.dtype == torch.float32 and uses_onednn(x) and not torch.is_autocast_enabled("cpu")
        if self.temporal:
            planes = as_planes(x)
            return from_planes(self._in_time(planes) if is_fast else self._plainly(planes), x.shape[4])
        images = as_images(x)
        return from_images(self._in_width(images) if is_fast else self._plainly(images), x.shape[2])

    def _in_time(self, x: Tensor) -> Tensor:
        """(B, C, T, N) -> (B, C', T, N), channels last."""
        combine, collect = winograd.matrices(x.shape[2])
        out = x.new_empty(len(x), *x.shape[2:], len(self.bias))  # (B, T, N, C')
        for clip, result in zip(x.movedim(1, -1), out, strict=True):  # one by one: several would be copied first
            for part in winograd.parts(x.shape[3], 4 * len(combine) * x.shape[1]):
                y = torch.matmul(combine, clip[:, part].transpose(0, 1))  # (n, tiles products, C)
                y = torch.matmul(collect, self._products(y.unsqueeze(0))[0]).transpose(0, 1)  # (T, n, C')
                torch.clamp(y, 0.0 if self.relu else -torch.inf, out=result[:, part])
        return out.movedim(-1, 1)

    def _in_width(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W), channels last."""
        combine, collect = winograd.matrices(x.shape[3])
        y = torch.matmul(collect, self._products(torch.matmul(combine, x.movedim(1, -1))))  # (B, H, W, C')
        return (y.relu_() if self.relu else y).movedim(-1, 1)

    def _products(self, combined: Tensor) -> Tensor:
        """(B, N, tiles products, C) -> (B, N, tiles products, C'), contiguous."""
        x = combined.view(*combined.shape[:2], -1, winograd.PRODUCTS * combined.shape[3]).movedim(-1, 1)
        y = self.convolve(x, winograd.with_bias(self.bias), relu=False).movedim(1, -1)
        return y.reshape(*combined.shape[:3], len(self.bias))

    def _plainly(self, x: Tensor) -> Tensor:
        padding = (1, 0) if self.temporal else (1, 1)
        return conv2d(x, _in_2d(self.kernel()), self.bias, (1, 1), padding, (1, 1), self.relu)

    def weight_of(self, kernel: Tensor) -> Tensor:
        taps = kernel[..., 0].movedim(2, 0) if self.temporal else kernel[:, :, 0].movedim(3, 0)  # (3, C', C, 1 or 3)
        memory = kernel.new_empty(winograd.PRODUCTS, *taps.permute(0, 1, 3, 2).shape[1:])
        combined = memory.permute(0, 1, 3, 2)  # channels last
        for part, source in zip(*(torch.split(x, _CHANNELS_AT_A_TIME, 1) for x in (combined, taps)), strict=True):
            part.copy_(winograd.combined_kernel(source.double()))
        return combined.flatten(0, 1).unsqueeze(-1)

    def kernel(self) -> Tensor:
        weight = self.dense_weight()
        taps = winograd.taps_of(weight.view(winograd.PRODUCTS, -1, *weight.shape[1:3]))  # (3, C', C, 1 or 3)
        return taps.movedim(0, 2)[..., None] if self.temporal else taps.movedim(0, 3)[:, :, None]


class ConvApart(nn.Module):
    """A convolution of the channels of two maps, which need not be copied into one for it: the sum of two.

    Args:
        first: the convolution of the first map, with the bias.
        second: that of the second, with the ReLU.
    """

    def __init__(self, first: PackedConv, second: FoldedConv) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, maps: tuple[Tensor, Tensor]) -> Tensor:
        return self.second(maps[1], self.first(maps[0]))  # type: ignore[no-any-return]


def fold(module: ConvNorm, dtype: torch.dtype, size: Size, *, by_winograd: bool = False) -> PackedConv:
    """The folded convolution that a ConvNorm becomes.

    Args:
        module: the ConvNorm.
        dtype: what to compute in.
        size: T, H and W of its probable input.
        by_winograd: use Winograd's algorithm if that is faster.
    """
    weight, bias = folded_weight(module.conv, module.norm, dtype)
    kind = _kind(module.conv, dtype, size) if by_winograd else FoldedConv
    return kind(module.conv, weight, bias, has_relu(module.act), size)


def fold_apart(
    module: ConvNorm, dtype: torch.dtype, size: Size, channels: int, *, by_winograd: bool = False
) -> ConvApart:
    """The same for an input in two maps, the first of which has that many channels."""
    weight, bias = folded_weight(module.conv, module.norm, dtype)
    first, second = weight[:, :channels], weight[:, channels:]
    kind = _kind(module.conv, dtype, size) if by_winograd else FoldedConv
    return ConvApart(
        kind(module.conv, first, bias, False, size),
        FoldedConv(module.conv, second, torch.zeros_like(bias), has_relu(module.act), size),
    )


def has_relu(act: nn.Module) -> bool:
    """Whether an activation is a ReLU; if it is neither that nor none at all, the network was changed too much."""
    if not isinstance(act, (nn.ReLU, nn.Identity)):
        raise TypeError(f"only ReLUs can become part of convolutions, not {act}")
    return isinstance(act, nn.ReLU)


def folded_weight(conv: nn.Conv3d, norm: nn.Module | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight, channels last, and bias of the convolution that equals ``conv`` and the batch norm behind it.

    They are computed in float64, some channels at a time: large tensors that are freed between those that stay leave
    holes in the heap, and the network's maps would lie beside them.
    """
    weight = conv.weight.detach()
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach()
    folded = torch.empty_like(weight, dtype=dtype, memory_format=torch.channels_last_3d)
    if norm is None or isinstance(norm, nn.Identity):
        return folded.copy_(weight), bias.to(dtype, copy=True)  # the network keeps its own
    if not isinstance(norm, BATCH_NORMS) or norm.running_mean is None or not norm.affine:
        raise TypeError(f"only batch norms with statistics, gamma and beta can be folded into convolutions, not {norm}")
    of_channels = bias, norm.running_mean, cast(Tensor, norm.running_var), norm.weight.detach(), norm.bias.detach()
    shifts = []
    for start in range(0, len(weight), _CHANNELS_AT_A_TIME):
        part = slice(start, start + _CHANNELS_AT_A_TIME)
        b, mean, var, gamma, beta = (x[part].double() for x in of_channels)
        fused, shift = fuse_conv_bn_weights(weight[part].double(), b, mean, var, norm.eps, gamma, beta)
        folded[part] = fused.detach()
        shifts.append(shift.detach())
    return folded, torch.cat(shifts).to(dtype)


def _in_2d(kernel: Tensor) -> Tensor:
    """(C', C, kT, 1, 1) or (C', C, 1, kH, kW) -> (C', C, kT, 1) or (C', C, kH, kW)."""
    return kernel.flatten(3) if kernel.shape[2] > 1 else kernel.squeeze(2)


def _kind(conv: nn.Conv3d, dtype: torch.dtype, size: Size) -> type[FoldedConv] | type[WinogradConv]:
    on_cpu = dtype == torch.float32 and conv.weight.device.type == "cpu" and has_onednn(dtype)
    return WinogradConv if on_cpu and winograd.pays(conv, size) else FoldedConv


def constant(tensor: Tensor) -> nn.Parameter:
    """A parameter that is not learnt."""
    return nn.Parameter(tensor, requires_grad=False)


# Channels-last memory and its views. The channels are moved to where they lie in memory first: otherwise a batch of one
# gets a stride by which PyTorch no longer knows the memory as channels-last.
