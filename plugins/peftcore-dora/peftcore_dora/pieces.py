"""The decomposed weight; magnitude m and V = W + s B A as in the paper, gain g = m / ||V||."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import AttachError, LayerInfo, Reparam, trainable_dtype

#: Rows of a low-precision weight that are cast at once, so that no second whole weight is made.
_ROWS = 1024


class Decomposed(Reparam):
    """W' = g V by rows, with the norm held constant in backward (Liu et al. 2024, eq. 5 and 11).

    Without an update (rank 0) V is W and the magnitude alone is trained. ``shared`` says that the
    model keeps the layer's output for backward and that nothing writes over it, and how an error
    names field and place if something does: then it is kept here too, and else V x, which nobody
    else has.
    """

    def __init__(self, layer: LayerInfo, rank: int, scale: float, dropout: float, shared: str):
        super().__init__()
        self.scale = scale
        self.dropout = dropout
        self.shared = shared
        self.magnitude = nn.Parameter(torch.empty(layer.out_features))
        self.lora_A: nn.Parameter | None = None
        self.lora_B: nn.Parameter | None = None
        if rank:
            self.lora_A = nn.Parameter(torch.empty(rank, layer.in_features))
            self.lora_B = nn.Parameter(torch.zeros(layer.out_features, rank))

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Draw A, and take the magnitudes of the weight."""
        if self.lora_A is not None:
            nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.magnitude.copy_(_norms(weight()))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the new weight, [out, in]."""
        if self.lora_A is not None and self.lora_B is not None:
            weight = weight + (self.lora_B * self.scale) @ self.lora_A
        norm = _norms(weight.detach())
        return (self.magnitude / _above_zero(norm))[:, None] * weight

    def precompute(self, weight: Callable[[], Tensor]) -> Tensor:
        """Return the gain, [out], without making V."""
        with torch.no_grad(), torch.autocast(self.magnitude.device.type, enabled=False):
            norm = self._norm(weight())
        return self.magnitude / norm

    def _norm(self, weight: Tensor) -> Tensor:
        """Return ||V|| by rows: ||W||² + 2s (W Aᵀ) ∘ B + s² (B A Aᵀ) ∘ B, summed over the rank."""
        norm = _norms(weight)
        if self.lora_A is None or self.lora_B is None:
            return _above_zero(norm)
        down, up = self.lora_A.to(norm.dtype), self.lora_B.to(norm.dtype) * self.scale
        cross = torch.cat([part.to(down.dtype) @ down.T for part in weight.split(_ROWS)])
        square = norm.square() + ((2 * cross + up @ (down @ down.T)) * up).sum(1)
        return _above_zero(square.clamp_min(0).sqrt())

    def through(
        self, call: Callable[[Tensor], Tensor], x: Tensor, precomputed: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Return g (W x + s B A x) + b, [..., out], for x [..., in].

        With dropout D it is W x + b + (g - 1) W D(x) + g s B A D(x), as in the authors' code.
        """
        if not (self.dropout and self.training):
            return self._scaled(self._with_update(call(x), x), precomputed, bias)
        mask = drawn(x, self.dropout)
        again = call(x * mask / (1 - self.dropout))
        kept = again if bias is None else again - bias
        return call(x) + self._change(kept, x, mask, precomputed)

    def _change(self, kept: Tensor, x: Tensor, mask: Tensor, gain: Tensor) -> Tensor:
        """Return (g - 1) W D(x) + g s B A D(x) for W D(x), [..., out]."""
        gain = gain.to(kept.dtype)
        if self.lora_A is None or self.lora_B is None:
            return (gain - 1) * kept
        down, up = self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
        scale = self.scale / (1 - self.dropout)
        change: Tensor = _Change.apply(kept, x, mask, down, up, gain, scale)[0]
        return change

    def _with_update(self, out: Tensor, x: Tensor) -> Tensor:
        if self.lora_A is None or self.lora_B is None:
            return out
        read = F.linear(x, self.lora_A.to(x.dtype))
        return out + F.linear(
            read if self.scale == 1 else read * self.scale, self.lora_B.to(x.dtype)
        )

    def _scaled(self, v: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
        """Return b + g (v - b), of which v is the part before the gain, bias included."""
        if v.dtype != gain.dtype:
            gain = gain.to(v.dtype)
        if bias is not None and bias.dtype != v.dtype:
            bias = bias.to(v.dtype)
        if self.shared and torch.is_grad_enabled():
            scaled: Tensor = _Scaled.apply(v, gain, bias, self.shared)  # type: ignore[no-untyped-call]
            return scaled
        return v * gain if bias is None else torch.lerp(bias, v, gain)


def _norms(weight: Tensor) -> Tensor:
    """Return the norms of the rows, [out], at least in fp32."""
    norms: Tensor = torch.linalg.vector_norm(weight, dim=1, dtype=trainable_dtype(weight.dtype))
    return norms


def _above_zero(norm: Tensor) -> Tensor:
    """Return norms by which can be divided; a row of zeros, whose magnitude is 0, stays zero."""
    return norm.clamp_min(torch.finfo(norm.dtype).tiny)


def drawn(x: Tensor, dropout: float) -> Tensor:
    """Return [..., in] bool, True at the features that stay; one byte a value is kept."""
    if x.device.type == "cpu":  # where bernoulli_ takes twice as long
        return torch.rand_like(x, dtype=torch.float32) < 1 - dropout
    return torch.empty_like(x, dtype=torch.bool).bernoulli_(1 - dropout)


class _Change(torch.autograd.Function):
    """(g - 1) k + g s B A (x * mask) of k = W D(x), that keeps x itself, the mask and V.

    Autograd would keep a second copy of the input, and both k and V.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        kept: Tensor, x: Tensor, mask: Tensor, down: Tensor, up: Tensor, gain: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        v = kept + F.linear(F.linear(x * mask, down) * scale, up)
        return v * gain - kept, v

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, x, mask, down, up, gain, ctx.scale = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(x, mask, down, up, gain, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, mask, down, up, gain, v = ctx.saved_tensors
        leading = tuple(range(grad.dim() - 1))
        by_v = grad * gain
        by_gain = (grad * v).sum(leading)
        kept_x = x.to(grad.dtype) * mask
        read = F.linear(kept_x, down.to(grad.dtype)) * ctx.scale
        by_up = by_v.flatten(0, -2).T @ read.flatten(0, -2)
        by_read = (by_v @ up.to(grad.dtype)) * ctx.scale
        by_down = by_read.flatten(0, -2).T @ kept_x.flatten(0, -2)
        by_x = (by_read @ down.to(grad.dtype)) * mask
        return by_v - grad, by_x.to(x.dtype), None, by_down, by_up, by_gain, None


class _Scaled(torch.autograd.Function):
    """b + g (v - b), that keeps its output for backward, which the model keeps anyway.

    Autograd would keep v: one more tensor the size of the output for each layer.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor, gain: Tensor, bias: Tensor | None, where: str) -> Tensor:
        return v * gain if bias is None else torch.lerp(bias, v, gain)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, gain, bias, ctx.where = inputs
        ctx.save_for_backward(output, gain, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        try:
            out, gain, bias = ctx.saved_tensors
        except RuntimeError as error:
            if "inplace" not in str(error):
                raise
            raise AttachError(
                f"{ctx.where} returns what the model then writes over, and it is kept for backward."
                " Write inplace: true, with which one more output of each layer is kept."
            ) from error
        leading = tuple(range(grad.dim() - 1))
        product = (out if bias is None else out - bias) * grad
        by_gain = product.sum(leading) / torch.where(gain == 0, torch.inf, gain)
        by_bias = None
        if bias is not None and ctx.needs_input_grad[2]:
            by_bias = ((1 - gain) * grad).sum(leading)
        return grad * gain, by_gain, by_bias, None
