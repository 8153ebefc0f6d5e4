"""Non-local blocks (Wang, Girshick, Gupta and He, "Non-local Neural Networks", CVPR 2018)."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.fx
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

Instantiation = Literal["gaussian", "embedded_gaussian", "dot_product", "concatenation"]
INSTANTIATIONS: tuple[str, ...] = get_args(Instantiation)


torch.fx.wrap("rearrange")  # a traced graph calls it: what it does depends on the shape


class NonLocal(nn.Module):
    """x + norm(out(y)), where y_i is the mean of g(x_j) over all positions j, weighted by f(x_i, x_j).

    The pairwise function f is one of that paper's four (its section 3.2), theta and phi being 1 x 1 x 1 convolutions:

    - ``gaussian``: softmax over j of x_i . x_j
    - ``embedded_gaussian``: softmax over j of theta(x_i) . phi(x_j) / sqrt(inner channels); the scale, which that paper
      does not have, is PySlowFast's
    - ``dot_product``: theta(x_i) . phi(x_j) / N, with N positions
    - ``concatenation``: ReLU(w . [theta(x_i), phi(x_j)]) / N

    Shape (B, C, T, H, W) is kept. The batch norm's gamma starts at zero, so a new block is the identity.

    Args:
        channels: C.
        instantiation: the pairwise function.
        pool: (T, H, W) max pooling of x before phi and g: fewer keys, at the same queries. (1, 1, 1) is none.
        pool_first: False pools the outputs of phi and g instead, as MMAction2 does.
        scaled: the embedded Gaussian's scale.
        out_bias: whether the convolution out has a bias.
    """

    def __init__(
        self,
        channels: int,
        instantiation: Instantiation = "embedded_gaussian",
        pool: tuple[int, int, int] = (1, 2, 2),
        *,
        pool_first: bool = True,
        scaled: bool = True,
        out_bias: bool = True,
    ) -> None:
        super().__init__()
        inner = max(channels // 2, 1)
        self.instantiation = instantiation
        self.scale = inner**-0.5 if scaled else 1.0
        self.pool = pool
        self.pool_first = pool_first
        self.g = nn.Conv3d(channels, inner, 1)
        if instantiation != "gaussian":
            self.theta = nn.Conv3d(channels, inner, 1)
            self.phi = nn.Conv3d(channels, inner, 1)
        if instantiation == "concatenation":
            # w . [theta, phi] is a sum of two dot products, so no pair is ever concatenated in memory.
            self.w_theta = nn.Conv3d(inner, 1, 1, bias=False)
            self.w_phi = nn.Conv3d(inner, 1, 1, bias=False)
        self.out = nn.Conv3d(inner, channels, 1, bias=out_bias)
        self.norm = nn.BatchNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.out(self.attend(x)))  # type: ignore[no-any-return]

    def attend(self, x: Tensor) -> Tensor:
        """y: the means of g, (B, inner, T, H, W)."""
        keys = self._pool(x)  # (B, C, T', H', W')
        phi = keys if self.instantiation == "gaussian" else self._project(self.phi, x, keys)
        weights = self._weights(x, rearrange(phi, "b c t h w -> b c (t h w)"))  # (B, N, M): N queries, M keys
        values = rearrange(self._project(self.g, x, keys), "b c t h w -> b c (t h w)")  # (B, inner, M)
        y = torch.matmul(values, rearrange(weights, "b n m -> b m n"))  # (B, inner, N)
        return rearrange(y, "b c (t h w) -> b c t h w", t=x.shape[2], h=x.shape[3], w=x.shape[4])

    def _pool(self, x: Tensor) -> Tensor:
        return x if max(self.pool) == 1 else pool_keys(x, self.pool)

    def _project(self, conv: nn.Module, x: Tensor, keys: Tensor) -> Tensor:
        return conv(keys) if self.pool_first else self._pool(conv(x))

    def _weights(self, x: Tensor, phi: Tensor) -> Tensor:
        if self.instantiation == "gaussian":
            return torch.matmul(_as_rows(x), phi).softmax(dim=-1)
        theta: Tensor = self.theta(x)
        if self.instantiation == "concatenation":
            to_phi = self.w_phi(phi[..., None, None]).flatten(2)  # (B, 1, M)
            sums: Tensor = _as_rows(self.w_theta(theta)) + to_phi  # (B, N, M)
            return sums.relu() / sums.shape[2]
        # Scaled before the product, which would overflow in float16 otherwise.
        scale = 1 / phi.shape[2] if self.instantiation == "dot_product" else self.scale
        pairs = torch.matmul(_as_rows(theta * scale), phi)
        return pairs if self.instantiation == "dot_product" else pairs.softmax(dim=-1)


def _as_rows(x: Tensor) -> Tensor:
    """Each position as a row of channels."""
    return rearrange(x, "b c t h w -> b (t h w) c")


@torch.fx.wrap  # a traced graph calls it: what it does depends on the size
def pool_keys(x: Tensor, pool: tuple[int, int, int]) -> Tensor:
    """Max pooling of (B, C, T, H, W); an axis shorter than its window, as in a small clip, is pooled whole."""
    if torch.compiler.is_exporting():
        # An exported program is for every height and width, and a kernel is fixed: the short axis is lengthened.
        window = (min(pool[0], x.shape[2]), *pool[1:])
        missing: Any = [torch.sym_max(p - size, 0) for p, size in zip(window[1:], x.shape[3:], strict=True)]
        x = F.pad(x, (0, missing[1], 0, missing[0]), value=float("-inf"))
        return F.max_pool3d(x, window, window)
    short = [min(p, size) for p, size in zip(pool, x.shape[2:], strict=True)]
    return F.max_pool3d(x, short, short)
