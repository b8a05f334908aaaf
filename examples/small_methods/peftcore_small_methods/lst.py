"""Ladder side-tuning: a small network beside the frozen one, which reads what its blocks give."""

from collections.abc import Mapping
from typing import Annotated

import torch
from peftcore import (
    Context, Divides, MethodConfig, Piece, Site, TargetError, Targeted, Transform, both_sides,
    hookimpl,
)  # fmt: skip
from pydantic import Field
from torch import Tensor, nn

#: T of the gates, as in the paper.
TEMPERATURE = 0.1


class LstConfig(MethodConfig):
    """Configuration of ladder side-tuning."""

    reduction: Annotated[int, Field(ge=1), Divides(both_sides)] = Field(
        8, description="Width of the backbone over that of the side network."
    )
    heads: int = Field(1, ge=1, description="Heads of attention in the side network.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout in the side network.")


class Rung(Transform):
    """Keeps what enters a block, for the side network, and leaves it as it is."""

    where = "input"
    casts_itself = True

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """Return the hidden states, [B, L, d], as they came."""
        context.keep(self, hidden.detach())
        return hidden


class Side(Transform):
    """The side network, whose output takes the place of the last block's (section 3.2).

    g_0 = D_0 f_0, then g_i = block_i(μ_i g_{i-1} + (1 - μ_i) D_i f_i) with μ_i = σ(α_i / T) and f_i
    what block i of the backbone gives. The result is U norm(g_N).
    """

    def __init__(self, rungs: tuple[Rung, ...], width: int, config: LstConfig):
        super().__init__()
        # its own attention goes over whole rows
        self.needs = ("one-sequence", "mask", "rows-first")
        self.rungs = rungs  # in a tuple, so that they are no parts of this piece
        narrow, count = width // config.reduction, len(rungs)
        self.enter = nn.Linear(width, narrow)
        self.downs = nn.ModuleList(nn.Linear(width, narrow) for _ in range(count))
        self.alphas = nn.Parameter(torch.zeros(count))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                narrow, config.heads, 4 * narrow, config.dropout, "gelu", batch_first=True,
                norm_first=True,
            )
            for _ in range(count)
        )  # fmt: skip
        self.norm = nn.LayerNorm(narrow)
        self.up = nn.Linear(narrow, width)

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """Return the side network's output, [B, L, d]; no gradient goes into the backbone."""
        first, *others = (context.kept(rung)[-1] for rung in self.rungs)
        padding = None if context.mask is None else ~context.mask
        side = self.enter(first)
        gates = torch.sigmoid(self.alphas / TEMPERATURE)
        states = (*others, hidden.detach())
        for mu, down, block, state in zip(gates, self.downs, self.blocks, states, strict=True):
            side = block(mu * side + (1 - mu) * down(state), src_key_padding_mask=padding)
        return self.up(self.norm(side))  # type: ignore[no-any-return]


class Lst(Targeted):
    """Ladder side-tuning, Sung et al. 2022.

    What other methods put into the backbone would get no gradient, so it goes with none.
    """

    kinds = ("module",)
    composes = False

    def __init__(self, config: MethodConfig):
        super().__init__(config)
        self._rungs: list[Rung] = []
        self._width = 0

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Mapping[str, Piece] | None:
        """Return the rung at a block, and at the last one the side network.

        Raises:
            TargetError: the blocks are not all alike, or the sizes do not fit.
        """
        if site.role != "block":
            return None
        config, width = self.settled(site), site.layer.out_features
        if self._rungs and width != self._width:
            raise TargetError(
                f"{self.label}: {site.here} has width {width}, the block before it {self._width};"
                " a side network stands beside blocks of one width. Choose another method."
            )
        if width // config.reduction % config.heads:
            raise TargetError(
                f"{self.label}.heads: {config.heads} does not divide"
                f" {width // config.reduction}, the width of the side network. Write heads: 1."
            )
        self._width = width
        self._rungs.append(Rung())
        pieces: dict[str, Piece] = {"rung": self._rungs[-1]}
        if site.block == site.blocks - 1:
            pieces["side"] = Side(tuple(self._rungs), width, config)
        return pieces
