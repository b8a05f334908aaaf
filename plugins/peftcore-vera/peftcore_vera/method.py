"""VeRA: the shared random matrices, and the two vectors of each layer."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import (
    Delta,
    LayerInfo,
    Method,
    MethodConfig,
    Site,
    TargetError,
    hookimpl,
    trainable_dtype,
)
from peftcore_vera.config import VeraConfig


class Projections:
    """The frozen random matrices: one A [r, in] and one B [out, r] for all layers of a size.

    Matrices of other sizes begin with the same random numbers, scaled to their own size.
    """

    def __init__(self, rank: int, seed: int):
        self.rank = rank
        self.seed = seed
        self.tensors: dict[str, Tensor] = {}

    def key(self, kind: str, layer: LayerInfo) -> str:
        """Return the name under which the matrix for a layer can be found; make it if need be."""
        size = layer.in_features if kind == "A" else layer.out_features
        dtype = trainable_dtype(layer.dtype)
        key = f"{kind}/{size}/{dtype}/{layer.device}"
        if key not in self.tensors:
            self.tensors[key] = self._make(kind, size, dtype, layer.device)
        return key

    def _make(self, kind: str, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        shape = (self.rank, size) if kind == "A" else (size, self.rank)
        if device.type == "meta":
            return torch.empty(shape, dtype=dtype, device=device)
        # made on the CPU in fp32: the same numbers on every machine
        generator = torch.Generator("cpu").manual_seed(2 * self.seed + (kind == "B"))
        bound = math.sqrt(6 / shape[1])  # He et al. 2015, as in the authors' code
        values = torch.empty(size * self.rank, device="cpu")
        values.uniform_(-bound, bound, generator=generator)
        values = values.view(size, self.rank)
        return (values.T if kind == "A" else values).to(device, dtype).contiguous()


class Scaled(Delta):
    """Update diag(b) B diag(d) A of a linear layer (Kopiczko et al. 2024, eq. 2)."""

    casts_itself = True

    def __init__(self, layer: LayerInfo, shared: Projections, d_initial: float, dropout: float):
        super().__init__()
        dtype, device = trainable_dtype(layer.dtype), layer.device
        self.shared = shared
        self.keys = shared.key("A", layer), shared.key("B", layer)
        self.dropout = dropout
        self.vera_lambda_b = nn.Parameter(
            torch.zeros(layer.out_features, dtype=dtype, device=device)
        )
        self.vera_lambda_d = nn.Parameter(
            torch.full((shared.rank,), d_initial, dtype=dtype, device=device)
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Scaled:
        super()._apply(fn, recurse)
        # what the first piece has moved stays where it is for the others, and stays shared
        for key in self.keys:
            self.shared.tensors[key] = fn(self.shared.tensors[key])
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return the update, [..., out], of activations [..., in]."""
        a, b = (self.shared.tensors[key].to(x.dtype) for key in self.keys)
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        read = F.linear(x, a) * self.vera_lambda_d.to(x.dtype)
        return F.linear(read, b) * self.vera_lambda_b.to(x.dtype)

    def weight_delta(self) -> Tensor:
        """Return diag(b) B diag(d) A, [out, in]."""
        a, b = (self.shared.tensors[key] for key in self.keys)
        return (self.vera_lambda_b[:, None] * b) @ (self.vera_lambda_d[:, None] * a)


class Vera(Method):
    """Vector-based random matrix adaptation, Kopiczko et al. 2024."""

    config: VeraConfig

    def __init__(self, config: MethodConfig):
        super().__init__(config)
        self._shared = Projections(self.config.rank, self.config.projection_seed)

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Scaled | None:
        """Return the update of a targeted linear layer.

        Raises:
            TargetError: the layer is no linear one, or dropout cannot act there.
        """
        config = self.config
        if not site.matches(config.targets):
            return None
        here = site.here
        self.check_linear(site, "VeRA updates linear layers")
        if config.dropout and site.direct:
            raise TargetError(
                f"{self.label}.dropout: dropout {config.dropout} cannot act at {here}: the model"
                " reads the weight there and never calls the layer. Write dropout: 0."
            )
        return Scaled(site.layer, self._shared, config.d_initial, config.dropout)
