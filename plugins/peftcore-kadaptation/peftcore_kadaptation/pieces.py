"""Kronecker-factored pieces. Symbols are the papers'.

What several sites share is a submodule at the first of them only, so that it is counted, stored
and moved once; the others refer to it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import Context, Delta, LayerInfo, Transform, trainable_dtype

_ACT = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh}


class Slow(nn.Module):
    """The slow weights A_i = a_i a'_i^T, i = 1..n, [n, n] each; shared by all layers of a role."""

    def __init__(self, layer: LayerInfo, n: int):
        super().__init__()
        self.a = nn.Parameter(_empty(layer, n, n).uniform_(-0.01, 0.01))
        self.a_prime = nn.Parameter(_empty(layer, n, n).uniform_(-0.01, 0.01))


class Bias(nn.Module):
    """The bias beta, [out], shared by the layers of a block."""

    def __init__(self, layer: LayerInfo):
        super().__init__()
        self.beta = nn.Parameter(_empty(layer, layer.out_features).zero_())


class Rule(nn.Module):
    """Compacter's factors A_i, [n, n, n], shared by all adapters."""

    def __init__(self, layer: LayerInfo, n: int, *, train: bool):
        super().__init__()
        self.A = nn.Parameter(_empty(layer, n, n, n).uniform_(-1, 1), requires_grad=train)


class Kronecker(Delta):
    """x s Delta M with Delta M = sum_i A_i (x) u_i v_i^T (He et al. 2023, eq. 5).

    Both factors have rank 1, so the sum is one product of rank n:
    Delta M = sum_i (a_i (x) u_i) (a'_i (x) v_i)^T.
    """

    def __init__(
        self, layer: LayerInfo, slow: Slow, *, owns: bool, n: int, scale: float, dropout: float,
        released: bool,
    ):  # fmt: skip
        super().__init__()
        self.scale = scale
        self.dropout = dropout
        self.referred: tuple[nn.Module, ...] = (slow,)
        if owns:
            self.slow = slow
        self.u = nn.Parameter(_empty(layer, n, layer.in_features // n).zero_())
        self.v = nn.Parameter(_empty(layer, n, layer.out_features // n).zero_())
        if not released:
            _glorot(self.u)

    def forward(self, x: Tensor) -> Tensor:
        """Return the update, [..., out], of activations [..., in]."""
        if self.dropout and self.training:
            return F.linear(x, F.dropout(self.weight_delta(), self.dropout))
        down, up = self._factors()
        return F.linear(F.linear(x, down), up.T)

    def weight_delta(self) -> Tensor:
        """Return s Delta M^T, [out, in]."""
        down, up = self._factors()
        return up.T @ down

    def _factors(self) -> tuple[Tensor, Tensor]:
        """Return a_i (x) u_i, [n, in], and s a'_i (x) v_i, [n, out]."""
        slow: Any = self.referred[0]
        a, a_prime = slow.a.to(self.u.device), slow.a_prime.to(self.u.device)
        down = (a.unsqueeze(2) * self.u.unsqueeze(1)).flatten(1)
        up = (a_prime.unsqueeze(2) * (self.scale * self.v).unsqueeze(1)).flatten(1)
        return down, up


class KroneckerWithBias(Kronecker):
    """The same with the bias of its block: x s Delta M + beta."""

    def refer_to(self, bias: Bias, *, owns: bool) -> None:
        """Use a bias, and hold it where it belongs."""
        self.referred = (*self.referred, bias)
        if owns:
            self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """Return the update, [..., out], of activations [..., in]."""
        out = super().forward(x)
        return out + self.bias_delta().to(out.dtype)

    def bias_delta(self) -> Tensor:
        """Return beta, [out]."""
        bias: Any = self.referred[1]
        return bias.beta.to(self.u.device)  # type: ignore[no-any-return]


class Phm(nn.Module):
    """x W + b with W = sum_i A_i (x) u_i v_i^T (Karimi Mahabadi et al. 2021, eq. 6)."""

    def __init__(self, layer: LayerInfo, width_in: int, width_out: int, n: int, *, zero: bool):
        super().__init__()
        self.u = nn.Parameter(_glorot(_empty(layer, n, width_in // n)))
        self.v = nn.Parameter(_glorot(_empty(layer, n, width_out // n)))
        self.b = nn.Parameter(_empty(layer, width_out).zero_())
        if zero:
            nn.init.zeros_(self.v)

    def forward(self, x: Tensor, A: Tensor) -> Tensor:
        """Return [..., out] for activations [..., in] and factors [n, n, n]."""
        read = x.unflatten(-1, (len(A), -1)) @ self.u.T
        mixed = torch.einsum("...pi,ipq->...qi", read, A)
        return (mixed @ self.v).flatten(-2) + self.b


class CompacterAdapter(Transform):
    """z + up(act(down(norm(z)))), with PHM layers for down and up; up starts at zero."""

    def __init__(
        self, layer: LayerInfo, rule: Rule, *, owns: bool, bottleneck: int, n: int, act_fn: str,
        layer_norm: bool,
    ):  # fmt: skip
        super().__init__()
        width = layer.out_features
        self.referred = (rule,)
        if owns:
            self.rule = rule
        made: Any = {"dtype": trainable_dtype(layer.dtype), "device": layer.device}
        self.norm = nn.LayerNorm(width, **made) if layer_norm else nn.Identity()
        self.down = Phm(layer, width, bottleneck, n, zero=False)
        self.act = _ACT[act_fn]
        self.up = Phm(layer, bottleneck, width, n, zero=True)

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """Return the hidden states, [..., d], with what the adapter adds."""
        A = self.referred[0].A.to(hidden.device)
        inner = self.act(self.down(self.norm(hidden), A))
        return hidden + self.up(inner, A)  # type: ignore[no-any-return]


def _empty(layer: LayerInfo, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=trainable_dtype(layer.dtype), device=layer.device)


@torch.no_grad()
def _glorot(rows: Tensor) -> Tensor:
    """Fill n vectors, [n, m], each as a matrix of m by 1."""
    limit = (6 / (rows.shape[1] + 1)) ** 0.5
    return rows.uniform_(-limit, limit)
