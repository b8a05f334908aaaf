"""Kronecker-factored pieces. Symbols are the papers'."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import Context, LayerInfo, LowRankDelta, Transform

_ACT = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "tanh": torch.tanh,
}


class Slow(nn.Module):
    """The slow weights A_i = a_i a'_i^T, i = 1..n, [n, n] each; shared by all layers of a role."""

    def __init__(self, n: int):
        super().__init__()
        self.a = nn.Parameter(torch.empty(n, n).uniform_(-0.01, 0.01))
        self.a_prime = nn.Parameter(torch.empty(n, n).uniform_(-0.01, 0.01))


class Rule(nn.Module):
    """Compacter's factors A_i, [n, n, n], shared by all adapters."""

    def __init__(self, config: Any):
        super().__init__()
        self.A = nn.Parameter(torch.empty((config.phm_dim,) * 3), requires_grad=config.train_rule)
        if config.phm_c_init == "normal":
            nn.init.normal_(self.A, std=config.phm_init_range)
        else:
            nn.init.uniform_(self.A, -1, 1)


class Kronecker(LowRankDelta):
    """x s Delta M with Delta M = sum_i A_i (x) u_i v_i^T (He et al. 2023, eq. 5).

    Both factors have rank 1, so the sum is one product of rank n:
    Delta M = sum_i (a_i (x) u_i) (a'_i (x) v_i)^T.
    """

    def __init__(self, layer: LayerInfo, slow: Slow, config: Any):
        super().__init__()
        self.slow = slow
        self.scale, self.dropout = config.scale, config.dropout
        self.gain = config.gain if config.init == "paper" else 0.0
        self.u = nn.Parameter(torch.zeros(config.phm_dim, layer.in_features // config.phm_dim))
        self.v = nn.Parameter(torch.zeros(config.phm_dim, layer.out_features // config.phm_dim))

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Set u to its start, so that v gets a gradient."""
        _glorot(self.u, self.gain)

    def forward(self, x: Tensor) -> Tensor:
        """Return the update, [..., out], of activations [..., in]."""
        if self.dropout and self.training:
            return F.linear(x, F.dropout(self.weight_delta(), self.dropout).to(x.dtype))
        return super().forward(x)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return a_i (x) u_i, [n, in], and s a'_i (x) v_i, [out, n]."""
        # of a model on several devices the other layers may be elsewhere
        a, a_prime = self.slow.a.to(self.u.device), self.slow.a_prime.to(self.u.device)
        down = (a.unsqueeze(2) * self.u.unsqueeze(1)).flatten(1)
        up = (a_prime.unsqueeze(2) * (self.scale * self.v).unsqueeze(1)).flatten(1)
        return down, up.T


class KroneckerWithBias(Kronecker):
    """The same with the bias beta, [out], of its block: x s Delta M + beta."""

    def __init__(self, layer: LayerInfo, slow: Slow, config: Any, beta: nn.Parameter):
        super().__init__(layer, slow, config)
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        """Return the update, [..., out], of activations [..., in]."""
        out = super().forward(x)
        return out + self.bias_delta().to(out.dtype)

    def bias_delta(self) -> Tensor:
        """Return beta, [out]."""
        return self.beta.to(self.u.device)


class Phm(nn.Module):
    """x W + b with W = sum_i A_i (x) u_i v_i^T (Karimi Mahabadi et al. 2021, eq. 6)."""

    def __init__(self, width_in: int, width_out: int, n: int):
        super().__init__()
        self.u = nn.Parameter(torch.empty(n, width_in // n))
        self.v = nn.Parameter(torch.zeros(n, width_out // n))
        self.b = nn.Parameter(torch.zeros(width_out))

    def forward(self, x: Tensor, A: Tensor) -> Tensor:
        """Return [..., out] for activations [..., in] and factors [n, n, n]."""
        read = x.unflatten(-1, (len(A), -1)) @ self.u.T
        mixed = torch.einsum("...pi,ipq->...qi", read, A)
        return (mixed @ self.v).flatten(-2) + self.b


class CompacterAdapter(Transform):
    """z + up(act(down(z))), with PHM layers for down and up; z normalised first or not."""

    def __init__(self, width: int, bottleneck: int, rule: Rule, config: Any):
        super().__init__()
        self.rule = rule
        self.norm = nn.LayerNorm(width) if config.layer_norm else nn.Identity()
        self.down = Phm(width, bottleneck, config.phm_dim)
        self.act = _ACT[config.act_fn]
        self.up = Phm(bottleneck, width, config.phm_dim)
        self.gain, self.identity = config.gain, config.init == "identity"

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Set the fast weights to their start."""
        for fast in (self.down.u, self.down.v, self.up.u):
            _glorot(fast, self.gain)
        _glorot(self.up.v, 0.0 if self.identity else self.gain)

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """Return the hidden states, [..., d], with what the adapter adds."""
        A = self.rule.A.to(hidden.device)
        inner = self.act(self.down(self.norm(hidden), A))
        return hidden + self.up(inner, A)  # type: ignore[no-any-return]


def _glorot(rows: Tensor, gain: float) -> None:
    """Fill n vectors, [n, m], each as a matrix of m by 1."""
    limit = gain * (6 / (rows.shape[1] + 1)) ** 0.5
    rows.uniform_(-limit, limit)
