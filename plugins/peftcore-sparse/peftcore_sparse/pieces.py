"""The pieces: values of their own for some weights of a layer."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import Reparam


class SparseWeight(Reparam):
    """The weight with its indexed entries replaced; the others stay as they are, or are zero.

    It holds the entries themselves and not their changes, so that weight decay acts on weights.
    An optimiser has nothing to do with the other entries: it cannot move them.
    """

    index: Tensor

    def __init__(self, index: Tensor, *, zero: bool):
        """Make the piece.

        Args:
            index: [k] int64, ascending places in the weight as [out, in, ...], flattened.
            zero: whether the other entries are zero.
        """
        super().__init__()
        self.zero = zero
        self.register_buffer("index", index)
        # a layer of which nothing is left has nothing to train
        self.values = nn.Parameter(torch.zeros(len(index)), requires_grad=len(index) > 0)

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Take the entries of the base."""
        self.values.copy_(weight().flatten()[self.index])

    def forward(self, weight: Tensor) -> Tensor:
        """Return the new weight, [out, in, ...]."""
        return _replaced(weight, self.values, self.index, self.zero)


class SparseLinear(SparseWeight):
    """The same for a plain linear layer, without keeping the new weight for backward."""

    def precompute(self, weight: Callable[[], Tensor]) -> Tensor:
        """Return the weight as it stands, no copy where it is not quantised."""
        return weight()

    def through(
        self, call: Callable[[Tensor], Tensor], x: Tensor, precomputed: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Return the output with the new weight, [..., out], for x [..., in]."""
        kind = x.device.type
        if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
            x = x.to(torch.get_autocast_dtype(kind))
        rows = x.reshape(-1, x.shape[-1])
        out = _Linear.apply(rows, precomputed, self.values, bias, self.index, self.zero)  # type: ignore[no-untyped-call]
        return out.view(*x.shape[:-1], out.shape[-1])  # type: ignore[no-any-return]


class _Linear(torch.autograd.Function):
    """x W'^T + b, [n, out], for x [n, in].

    Backward makes W' again, so that no copy of each layer's weight is kept.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, values: Tensor, bias: Tensor | None, index: Tensor, zero: bool
    ) -> Tensor:
        new = _replaced(weight, values, index, zero).to(x.dtype)
        return F.linear(x, new, None if bias is None else bias.to(x.dtype))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, values, bias, index, ctx.zero = inputs
        ctx.save_for_backward(x, weight, values, index)
        ctx.bias_dtype = None if bias is None else bias.dtype

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, values, index = ctx.saved_tensors
        needs_x, needs_weight, needs_values, needs_bias, *_ = ctx.needs_input_grad
        of_x = of_weight = of_values = of_bias = None
        if needs_x:
            of_x = g @ _replaced(weight, values, index, ctx.zero).to(g.dtype)
        if needs_weight or needs_values:
            whole = (g.T @ x).flatten()
            of_values = whole[index].to(values.dtype)
            if needs_weight and not ctx.zero:
                of_weight = whole.index_fill(0, index, 0).view(weight.shape).to(weight.dtype)
        if needs_bias:
            of_bias = g.sum(0).to(ctx.bias_dtype)
        return of_x, of_weight, of_values, of_bias, None, None


def _replaced(weight: Tensor, values: Tensor, index: Tensor, zero: bool) -> Tensor:
    flat = weight.flatten()
    if zero:
        flat = torch.zeros_like(flat)
    return flat.index_copy(0, index, values.to(flat.dtype)).view(weight.shape)
