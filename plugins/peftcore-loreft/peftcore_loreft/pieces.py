"""The edit of hidden vectors. h is the hidden vector, R or W2 its projection, [r, d]."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import AttachError, Context, Transform
from peftcore_loreft.positions import Positions, prompt_of
from peftcore_loreft.rotation import Rotation


@dataclass(frozen=True)
class Formula:
    """One member of the family.

    Attributes:
        orthonormal: the projection is R with orthonormal rows, else a free W2.
        learned: the source is φ(W h + b), else a constant c.
        subtract: the projection of h is taken from the source, so the edit replaces.
    """

    orthonormal: bool
    learned: bool
    subtract: bool


FORMULAS = {
    "loreft": Formula(orthonormal=True, learned=True, subtract=True),
    "direft": Formula(orthonormal=False, learned=True, subtract=False),
    "direft_orth": Formula(orthonormal=True, learned=True, subtract=False),
    "noreft": Formula(orthonormal=False, learned=True, subtract=True),
    "consreft": Formula(orthonormal=True, learned=False, subtract=True),
    "lobireft": Formula(orthonormal=True, learned=False, subtract=False),
}


class Linear(nn.Linear):
    """A linear layer that has no start until :meth:`start` is called."""

    def reset_parameters(self) -> None:
        """Draw nothing."""

    def start(self) -> None:
        """Draw the start of ``torch.nn.Linear``."""
        super().reset_parameters()


class Edit(Transform):
    """h + Pᵀ(source - P h) at chosen positions (Wu et al. 2024, equations 2 and 3).

    P is R or W2, the source is φ(W h + b) or c, and P h is subtracted or not: see FORMULAS.
    """

    casts_itself = True
    needs = ("mask", "rows-first")

    def __init__(
        self,
        formula: Formula,
        width: int,
        positions: Positions,
        part: str,
        *,
        rank: int,
        act_fn: str = "identity",
        dropout: float = 0.0,
        add_bias: bool = False,
    ):
        super().__init__()
        self.formula, self.width = formula, width
        self.positions, self.part = positions, part
        self.act_fn, self.dropout = act_fn, dropout
        self.learned_source = (
            Linear(width, rank) if formula.learned else nn.Parameter(torch.empty(rank))
        )
        self.projection: Rotation | Linear = (
            Rotation(rank, width) if formula.orthonormal else Linear(width, rank, add_bias)
        )

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Draw the source and the projection, as the authors do."""
        if isinstance(self.learned_source, nn.Parameter):
            self.learned_source.uniform_()
        else:
            self.learned_source.start()
        self.projection.start()

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """Return hidden [B, L, d] with the prompt's chosen positions edited.

        Hidden vectors without a sequence, [B, d], are all edited. Of a prompt of n tokens at most
        the first and the last ⌊n/2⌋ are, so in a prompt of one token none is.
        """
        if context.generated:
            return hidden
        if hidden.shape[-1] != self.width:
            raise AttachError(
                f"hidden vectors here have {hidden.shape[-1]} features in the last dimension, not"
                f" {self.width}; ReFT edits [batch, tokens, features]. Choose other targets."
            )
        if hidden.dim() < 3:
            return hidden + self.change(hidden)
        if not self.positions.parts:
            edited = hidden + self.change(hidden)
            prompt = prompt_of(hidden, context)
            return edited if prompt is None else torch.where(prompt[..., None], edited, hidden)
        tokens, live = self.positions.slots(hidden.flatten(0, -3), context, self.part)
        flat = hidden.flatten(0, -2)
        # unused slots add zero, so the sequence needs no place to sink them
        change = self.change(flat.index_select(0, tokens)) * live
        return flat.index_add(0, tokens, change).view_as(hidden)

    def change(self, h: Tensor) -> Tensor:
        """Return what is added to hidden vectors [..., d]."""
        change = self.update(h).to(h.dtype)
        if self.dropout and self.training:
            # on the whole edited vector, as the authors do
            return F.dropout(h + change, self.dropout) - h
        return change

    def update(self, h: Tensor) -> Tensor:
        """Return Pᵀ(source - P h) for h [..., d]; of a source without h, possibly [d]."""
        source, projection = self.learned_source, self.projection
        weight = projection() if isinstance(projection, Rotation) else projection.weight
        weight = weight.to(h.dtype)
        if isinstance(source, nn.Linear):
            target = F.linear(h, source.weight.to(h.dtype), source.bias.to(h.dtype))
            if self.act_fn != "identity":
                target = getattr(F, self.act_fn)(target)
        else:
            target = source.to(h.dtype)
        if self.formula.subtract:
            bias = getattr(projection, "bias", None)
            target = target - F.linear(h, weight, None if bias is None else bias.to(h.dtype))
        return target @ weight
