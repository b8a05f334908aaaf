"""One low-rank update of a table of tokens that is also the output layer."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from peftcore import Delta, MethodConfig, PerRole, Rank, Site, Targeted, Targets, hookimpl
from pydantic import Field
from torch import Tensor, nn


class TiedLoraConfig(MethodConfig):
    """Configuration of the update."""

    rank: Rank = Field(8, description="Rank r of the update.")
    alpha: PerRole[Annotated[float, Field(gt=0)] | None] = Field(
        None, description="The update is scaled by alpha / rank. Not given: a scale of 1."
    )
    targets: Targets = Field(
        Targets(roles=("embeddings",)),
        description="Tables to update; the layers that are tied to them follow.",
    )


class Factors(nn.Module):
    """The factors of one table's update s B A; all pieces of the table hold them."""

    def __init__(self, rows: int, width: int, config: Any):
        super().__init__()
        self.scale = 1.0 if config.alpha is None else config.alpha / config.rank
        self.lora_A = nn.Parameter(torch.randn(config.rank, width))
        self.lora_B = nn.Parameter(torch.zeros(rows, config.rank))


class Tied(Delta):
    """E' = E + s B A (Hu et al. 2022, eq. 3), wherever the table E, [tokens, d], is used."""

    def __init__(self, factors: Factors):
        super().__init__()
        self.factors = factors

    def weight_delta(self) -> Tensor:
        """Return the change of the table, [tokens, d]."""
        return self.factors.scale * self.factors.lora_B @ self.factors.lora_A


class Lookup(Tied):
    """The update where tokens go in."""

    def forward(self, x: Tensor) -> Tensor:
        """Return what is added to the vectors of tokens x, [..., d]."""
        rows = F.embedding(x, self.factors.lora_B)
        return self.factors.scale * rows @ self.factors.lora_A


class Scores(Tied):
    """The update where tokens come out."""

    def forward(self, x: Tensor) -> Tensor:
        """Return what is added to the scores of all tokens, [..., tokens], for x of [..., d]."""
        inner = F.linear(x, self.factors.lora_A)
        return F.linear(inner, self.factors.lora_B) * self.factors.scale


class TiedLora(Targeted):
    """Low-rank adaptation of tied embeddings; where nothing is tied, of the table alone."""

    kinds = plain = ("embedding",)

    @hookimpl
    def peftcore_prepare(self, sites: Sequence[Site]) -> None:
        """Note the tables, of which other layers may come first in model order."""
        self._tables = {id(_weight(s)): s for s in sites if s.matches(self.config.targets)}

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Tied | None:
        """Return the update at a table, or at a linear layer that is tied to one."""
        table = self._tables.get(id(_weight(site)))
        if table is None:
            return None
        config = self.settled(table)

        def make() -> Factors:
            return Factors(table.layer.in_features, table.layer.out_features, config)

        factors = self.shared(table.path, make)
        return (Lookup if site.kind == "embedding" else Scores)(factors)


def _weight(site: Site) -> nn.Parameter | None:
    return dict(site.module.named_parameters(recurse=False)).get(site.weight_name)
