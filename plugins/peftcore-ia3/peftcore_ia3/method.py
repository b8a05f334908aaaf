"""IA3: which vectors are scaled, and by what."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peftcore import Reparam, Site, Targeted
from peftcore_ia3.config import Ia3Config


class _Scale(Reparam):
    """A learned vector l, of ones at the start."""

    def __init__(self, width: int):
        super().__init__()
        self.ia3_l = nn.Parameter(torch.ones(width))

    @staticmethod
    def scaled(call: Callable[[Tensor], Tensor], x: Tensor, scale: Tensor) -> Tensor:
        """Run the layer with a scale, [width] or one for each row."""
        raise NotImplementedError

    def through(
        self, call: Callable[[Tensor], Tensor], x: Tensor, precomputed: Any, bias: Tensor | None
    ) -> Tensor:
        """Return the scaled output, [..., out], of inputs [..., in]."""
        return self.scaled(call, x, self.ia3_l)

    @classmethod
    def batched(
        cls, pieces: Sequence["_Scale"], index: Tensor
    ) -> Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]:
        """Return the layer with a scale for each row; ones where none serves it."""
        scales = [piece.ia3_l for piece in pieces]
        rows = torch.stack([*scales, torch.ones_like(scales[0])])[index]  # -1 is the last

        def run(call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
            return cls.scaled(call, x, rows.view(len(rows), *(1,) * (x.dim() - 2), -1))

        return run


class ScaledOutput(_Scale):
    """y = l ⊙ (W x + b): keys and values (Liu et al. 2022, section 3.3)."""

    def forward(self, weight: Tensor) -> Tensor:
        """Return l ⊙ W by rows, [out, in]."""
        return self.ia3_l[:, None] * weight

    def new_bias(self, bias: Tensor) -> Tensor:
        """Return l ⊙ b, [out]."""
        return self.ia3_l * bias

    @staticmethod
    def scaled(call: Callable[[Tensor], Tensor], x: Tensor, scale: Tensor) -> Tensor:
        """Scale the output, [..., out]."""
        out = call(x)
        return out * scale.to(out.dtype)


class ScaledInput(_Scale):
    """y = W (l ⊙ x) + b: the inner activations of the feed-forward part."""

    def forward(self, weight: Tensor) -> Tensor:
        """Return W ⊙ l by columns, [out, in]."""
        return weight * self.ia3_l

    @staticmethod
    def scaled(call: Callable[[Tensor], Tensor], x: Tensor, scale: Tensor) -> Tensor:
        """Scale the input, [..., in]."""
        return call(x * scale.to(x.dtype))


class Ia3(Targeted):
    """Infused adapter by inhibiting and amplifying inner activations, Liu et al. 2022."""

    def piece(self, site: Site, config: Ia3Config) -> _Scale:
        """Return the scale of a targeted layer."""
        if config.feedforward is not None and site.matches(config.feedforward):
            return ScaledInput(site.layer.in_features)
        return ScaledOutput(site.layer.out_features)
