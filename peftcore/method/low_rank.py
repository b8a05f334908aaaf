"""An update that is a product of two factors, whatever they are made of."""

from collections.abc import Callable, Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from peftcore.method.pieces import Delta


class LowRankDelta(Delta):
    """Added to the output of a linear layer: ``y = base(x) + B A x``, by :meth:`factors` alone.

    It is computed in the dtype of x, and B A is made for merging only. Rows of a batch that have
    such pieces of their own share one pair of batched products.
    """

    casts_itself = True
    #: Share of x that is dropped in training.
    dropout: float = 0.0

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A, [r, in], and B, [out, r], with all that scales them."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return the update, [..., out], of activations [..., in]."""
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        down, up = self.factors()
        return F.linear(F.linear(x, down.to(x.dtype)), up.to(x.dtype))

    def weight_delta(self) -> Tensor:
        """Return B A, [out, in]."""
        down, up = self.factors()
        return up @ down

    @classmethod
    def batched(cls, pieces: Sequence[Self], index: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Return one pair of batched products for rows with pieces of their own.

        None where the ranks differ, dropout is at work, or the bias changes too.
        """
        if cls.changes_bias or any(p.dropout and p.training for p in pieces):
            return None
        all_downs, all_ups = zip(*(p.factors() for p in pieces), strict=True)
        if any(down.shape != all_downs[0].shape for down in all_downs):
            return None
        # rows without a piece take the last of the bank, an update of zero
        downs = torch.stack([*all_downs, all_downs[0]])
        ups = torch.stack([*all_ups, torch.zeros_like(all_ups[0])])
        which = torch.where(index < 0, len(pieces), index)

        def serve(x: Tensor) -> Tensor:
            down = downs.to(x.dtype).index_select(0, which)
            up = ups.to(x.dtype).index_select(0, which)
            x_BLi = x.reshape(len(x), -1, x.shape[-1])
            y_BLo = torch.bmm(torch.bmm(x_BLi, down.mT), up.mT)
            return y_BLo.view(*x.shape[:-1], -1)

        return serve
