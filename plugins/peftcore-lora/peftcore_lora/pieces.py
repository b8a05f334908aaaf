"""The low-rank updates. Symbols are the paper's: A reads the input, B writes the output."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import Delta, LayerInfo, LowRankDelta

#: stride, padding, dilation, transposed, output padding, groups: what ``torch.convolution`` takes.
Geometry = tuple[Any, Any, Any, bool, tuple[int, ...], int]
Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d


class Factored(Delta):
    """Update s B A x; what a linear layer and a convolution have in common.

    A starts at random and B at zero.
    """

    casts_itself = True
    #: Groups of a convolution; each has its own update.
    groups = 1

    def __init__(self, down: Tensor, up: Tensor, scale: float, dropout: float):
        super().__init__()
        self.scale = scale
        self.dropout = dropout
        self.lora_A = nn.Parameter(down)
        self.lora_B = nn.Parameter(up)

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Draw A as nn.Linear draws its weight; nn.init would take five times as long."""
        gain, inputs = math.sqrt(2 / (1 + 5)), math.prod(self.lora_A.shape[1:])
        bound = math.sqrt(3) * (gain / math.sqrt(inputs))
        self.lora_A.uniform_(-bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Return the update of x."""
        dropout = self.dropout if self.training else 0
        return self.product(x, self.lora_A, self.lora_B, dropout)

    def product(self, x: Tensor, down: Tensor, up: Tensor, dropout: float = 0) -> Tensor:
        """Return s times what two factors make of x, in the dtype of x."""
        raise NotImplementedError

    def pair(self) -> tuple[Tensor, Tensor]:
        """Return two factors whose product is the update without its scale."""
        return self.lora_A, self.lora_B

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return two factors whose product is the update; the scale is in the second."""
        down, up = self.pair()
        return down, up * self.scale


class LowRank(Factored, LowRankDelta):
    """Update of a linear layer: s B A x, with A [r, in] and B [out, r] (Hu et al. 2022, eq. 3)."""

    def __init__(self, layer: LayerInfo, rank: int, scale: float, dropout: float):
        down, up = torch.empty(rank, layer.in_features), torch.zeros(layer.out_features, rank)
        super().__init__(down, up, scale, dropout)

    def product(self, x: Tensor, down: Tensor, up: Tensor, dropout: float = 0) -> Tensor:
        """Return s times the product of two linear maps of x, [..., out]."""
        if down.dtype != x.dtype:  # asking is cheaper than a cast that does nothing
            down, up = down.to(x.dtype), up.to(x.dtype)
        read = _dropped(x, down, dropout, None) if dropout else F.linear(x, down)
        # scaled where the tensor is smallest
        return F.linear(read if self.scale == 1 else read * self.scale, up)


class LowRankEmbedding(Delta):
    """Update of an embedding table: s B A[:, token], with A [r, rows] and B [width, r].

    A starts at zero and B at random, as in the authors' loralib: a token that training never
    shows keeps its vector.
    """

    casts_itself = True

    def __init__(self, layer: LayerInfo, rank: int, scale: float, padding_idx: int | None):
        super().__init__()
        self.scale = scale
        self.padding_idx = padding_idx
        self.lora_A = nn.Parameter(torch.zeros(rank, layer.in_features))
        self.lora_B = nn.Parameter(torch.empty(layer.out_features, rank))

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Draw B."""
        nn.init.normal_(self.lora_B)

    def forward(self, x: Tensor) -> Tensor:
        """Return the update, [..., width], of token numbers [...]."""
        found = F.embedding(x, self.lora_A.T, self.padding_idx)
        return F.linear(found * self.scale, self.lora_B)

    def weight_delta(self) -> Tensor:
        """Return s (B A) transposed, [rows, width]."""
        return self.lora_A.T @ (self.lora_B * self.scale).T


class LowRankExperts(Delta):
    """Update of all experts: s B A of each, with A [experts, r, in], B [experts, out, r].

    r is at most the smaller side of one expert. There are experts * r * (in + out) numbers, as in
    PEFT's ``target_parameters``, whose factors are these laid side by side. The experts are in one
    parameter, which the model reads, so the update is added to the weights: a forward makes one
    tensor of their size for each projection.
    """

    def __init__(self, layer: LayerInfo, rank: int, scale: float):
        super().__init__()
        self.scale = scale
        count, out, in_ = layer.weight_shape
        self.lora_A = nn.Parameter(torch.empty(count, rank, in_))
        self.lora_B = nn.Parameter(torch.zeros(count, out, rank))

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Draw A of each expert as a linear layer draws its weight."""
        bound = 1 / math.sqrt(self.lora_A.shape[-1])
        self.lora_A.uniform_(-bound, bound)

    def weight_delta(self) -> Tensor:
        """Return s B A of each expert, [experts, out, in]."""
        return torch.bmm(self.lora_B * self.scale, self.lora_A)


class LowRankConv(Factored):
    """Update of a convolution: A is one of the same geometry to r channels, B one of kernel 1.

    Of g groups, each has its own update of rank r / g, so that it remains a change of the weight.
    """

    def __init__(self, layer: LayerInfo, rank: int, scale: float, dropout: float, conv: Conv):
        dims = len(layer.weight_shape) - 2
        zeros, ones, groups = (0,) * dims, (1,) * dims, conv.groups
        down = torch.empty(rank, *layer.weight_shape[1:])
        up = torch.zeros(layer.out_features, rank // groups, *ones)
        super().__init__(down, up, scale, dropout)
        self.groups = groups
        self.weight_shape = layer.weight_shape
        self.padding: list[int] | None = None
        self.padding_mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        padding = conv.padding
        if isinstance(padding, str) or conv.padding_mode != "zeros":
            self.padding = list(conv._reversed_padding_repeated_twice)
            padding = zeros
        self.geometry: Geometry = (conv.stride, padding, conv.dilation, False, zeros, groups)
        self.pointwise: Geometry = (ones, zeros, ones, False, zeros, groups)

    def product(self, x: Tensor, down: Tensor, up: Tensor, dropout: float = 0) -> Tensor:
        """Return s times the product of two convolutions of x, [B, out, ...]."""
        if self.padding is not None:
            x = F.pad(x, self.padding, self.padding_mode)
        down, up = down.to(x.dtype), up.to(x.dtype)
        if dropout:
            read = _dropped(x, down, dropout, self.geometry)
        else:
            read = torch.convolution(x, down, None, *self.geometry)
        return torch.convolution(read * self.scale, up, None, *self.pointwise)

    def weight_delta(self) -> Tensor:
        """Return s B A of each group, [out, in / groups, ...]."""
        groups = self.groups
        down, up = (each.reshape(groups, len(each) // groups, -1) for each in self.factors())
        return torch.bmm(up, down).reshape(self.weight_shape)


def _dropped(x: Tensor, weight: Tensor, dropout: float, geometry: Geometry | None) -> Tensor:
    keep = 1 - dropout
    if x.device.type == "cpu":  # where bernoulli_ takes twice as long
        mask = torch.rand_like(x, dtype=torch.float32) < keep
    else:
        mask = torch.empty_like(x, dtype=torch.bool).bernoulli_(keep)
    read: Tensor = _Masked.apply(x, mask, weight, geometry)
    return read / keep


class _Masked(torch.autograd.Function):
    """A projection of x * mask that keeps x itself and the mask, one byte a value, for backward.

    Autograd would keep the product: a second copy of the input for each layer that reads it.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, mask: Tensor, weight: Tensor, geometry: Geometry | None) -> Tensor:
        if geometry is None:
            return F.linear(x * mask, weight)
        return torch.convolution(x * mask, weight, None, *geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.geometry = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, None]:
        x, mask, weight = ctx.saved_tensors
        # under autocast the projection ran in the dtype of its gradient
        mask, to = mask.to(grad.dtype), weight.to(grad.dtype)
        kept = x.to(grad.dtype) * mask
        if ctx.geometry is None:
            by_x = grad @ to
            by_weight = grad.reshape(-1, len(to)).T @ kept.reshape(-1, kept.shape[-1])
        else:
            by_x, by_weight, _ = torch.ops.aten.convolution_backward(
                grad, kept, to, None, *ctx.geometry, [True, True, False]
            )
        return (by_x * mask).to(x.dtype), None, by_weight.to(weight.dtype), None
