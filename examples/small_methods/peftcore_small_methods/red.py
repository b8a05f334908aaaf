"""RED: scaling and bias of representations."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from peftcore import Context, MethodConfig, Site, Targeted, Targets, Transform
from pydantic import Field
from torch import Tensor, nn


class RedConfig(MethodConfig):
    """Configuration of RED."""

    targets: Targets = Field(
        Targets(roles=("mlp.down",)), description="Layers or modules whose output is edited."
    )


class Edit(Transform):
    """h' = l ⊙ h + b, with l = 1 and b = 0 at the start."""

    def __init__(self, width: int):
        super().__init__()
        self.scaling = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """Return the edited representations, [..., d]."""
        return self.scaling * hidden + self.bias

    @classmethod
    def batched(
        cls, pieces: Sequence[Any], index: Tensor
    ) -> Callable[[Tensor, Context], Tensor] | None:
        """Return one product and one sum for all rows."""
        # -1, the rows without a piece, is the last: the edit that changes nothing
        one, none = torch.ones_like(pieces[0].scaling), torch.zeros_like(pieces[0].bias)
        scaling = torch.stack([*(piece.scaling for piece in pieces), one])[index]
        bias = torch.stack([*(piece.bias for piece in pieces), none])[index]

        def edit(hidden: Tensor, context: Context) -> Tensor:
            shape = (len(index), *(1,) * (hidden.dim() - 2), hidden.shape[-1])
            return scaling.view(shape) * hidden + bias.view(shape)

        return edit


class Red(Targeted):
    """Representation editing, Wu et al. 2024."""

    kinds = ("linear", "norm", "module")

    def piece(self, site: Site, config: Any) -> Edit:
        """Return the edit of what a layer gives."""
        return Edit(site.layer.out_features)
