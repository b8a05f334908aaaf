"""The method: which piece goes where."""

from typing import Any

from peftcore import Piece, Site, Targeted, hookimpl
from peftcore_lora.from_weight import LowRankConvFromWeight, LowRankFromWeight
from peftcore_lora.pieces import LowRank, LowRankConv, LowRankEmbedding, LowRankExperts


class Lora(Targeted):
    """Low-rank adaptation, Hu et al. 2022: y = base(x) + s B A dropout(x), s = alpha / r."""

    kinds = ("linear", "embedding", "conv", "experts")
    plain = ("embedding", "conv")

    def piece(self, site: Site, config: Any) -> Piece:
        """Return the low-rank update of a layer."""
        layer, module = site.layer, site.module
        rank, scale, dropout = config.rank, config.scale(root=config.use_rslora), config.dropout
        if site.kind == "embedding":
            return LowRankEmbedding(layer, rank, scale, module.padding_idx)
        if site.kind == "experts":
            return LowRankExperts(layer, rank, scale)
        if site.kind == "linear":
            if config.init == "default":
                return LowRank(layer, rank, scale, dropout)
            return LowRankFromWeight(layer, rank, scale, dropout, init=config.init)
        if config.init == "default":
            return LowRankConv(layer, rank, scale, dropout, module)
        return LowRankConvFromWeight(layer, rank, scale, dropout, module, init=config.init)

    @hookimpl
    def peftcore_learning_rates(self) -> dict[str, float]:
        """Return LoRA+'s ratio of B's learning rate to A's (Hayou et al. 2024)."""
        return {"lora_B": self.config.loraplus_lr_ratio}
