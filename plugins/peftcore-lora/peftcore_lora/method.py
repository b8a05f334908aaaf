"""The method: which piece goes where, and what cannot be done."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from peftcore import Method, MethodConfig, Site, TargetError, bare_class, hookimpl
from peftcore_lora.config import LoraConfig
from peftcore_lora.from_weight import LowRankConvFromWeight, LowRankFromWeight, start_from
from peftcore_lora.pieces import LowRank, LowRankConv, LowRankEmbedding

#: Layers whose own call the piece repeats with A, so that nothing else may happen in it.
_PLAIN: dict[str, Any] = {
    "embedding": nn.Embedding,
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv3d": nn.Conv3d,
}


class Lora(Method):
    """Low-rank adaptation, Hu et al. 2022: y = base(x) + s B A dropout(x), s = alpha / r."""

    config: LoraConfig

    def __init__(self, config: MethodConfig):
        super().__init__(config)
        self._loading = False

    @hookimpl
    def peftcore_prepare(self, tensors: Mapping[str, Tensor] | None) -> None:
        """Note whether a checkpoint is loaded, which brings the start of A and B with it."""
        self._loading = tensors is not None

    @hookimpl
    def peftcore_rewrite_module(
        self, site: Site
    ) -> LowRank | LowRankEmbedding | LowRankConv | None:
        """Return the low-rank update of a targeted layer.

        Raises:
            TargetError: LoRA has no exact update for this layer, or not with these settings.
        """
        if not site.matches(self.config.targets):
            return None
        rank = site.setting(self.config.rank)
        dropout = site.setting(self.config.dropout)
        alpha = site.setting(self.config.alpha) or rank
        scale = alpha / (math.sqrt(rank) if self.config.use_rslora else rank)
        self._check_layer(site)
        self._check_dropout(site, dropout)
        module: Any = site.module
        kind, init = site.layer.kind, self.config.init
        groups = module.groups if kind.startswith("conv") else 1
        self._check_rank(site, rank, groups)
        if kind == "embedding":
            self._check_random_start(site)
            return LowRankEmbedding(site.layer, rank, scale, module.padding_idx)
        if init == "default":
            if kind == "linear":
                return LowRank(site.layer, rank, scale, dropout)
            return LowRankConv(site.layer, rank, scale, dropout, module)
        known = self._loading or site.layer.device.type == "meta"
        start = None if known else start_from(site, init, rank, scale, groups)
        if kind == "linear":
            return LowRankFromWeight(start, site.layer, rank, scale, dropout)
        return LowRankConvFromWeight(start, site.layer, rank, scale, dropout, module)

    @hookimpl
    def peftcore_learning_rates(self) -> dict[str, float]:
        """Return LoRA+'s ratio of B's learning rate to A's (Hayou et al. 2024)."""
        return {"lora_B": self.config.loraplus_lr_ratio}

    def _check_layer(self, site: Site) -> None:
        kind = site.layer.kind
        if kind != "linear" and kind not in _PLAIN:
            raise TargetError(
                f"{self.label}.targets: {site.here} is of kind {kind};"
                " LoRA updates linear, embedding and convolution layers. Name the layers inside"
                " it, or leave it out with exclude."
            )
        cls: Any = bare_class(site.module)
        if kind in _PLAIN and cls.forward is not _PLAIN[kind].forward:
            raise TargetError(
                f"{self.label}.targets: {site.name} ({site.role}) is a {cls.__name__}, which does"
                f" more than a plain {_PLAIN[kind].__name__}, so a low-rank update of its weight"
                " cannot be computed beside it. Leave it out with exclude."
            )

    def _check_dropout(self, site: Site, dropout: float) -> None:
        if not dropout or not (site.direct or site.layer.kind == "embedding"):
            return
        why = (
            "the model reads the weight there and never calls the layer"
            if site.direct
            else "the input there is a token number"
        )
        raise TargetError(
            f"{self.label}.dropout: dropout {dropout} cannot act at {site.name} ({site.role}):"
            f" {why}. Write dropout: 0, or for this role alone"
            f' dropout: {{"{site.role}": 0, "default": {dropout}}}.'
        )

    def _check_random_start(self, site: Site) -> None:
        if self.config.init != "default":
            raise TargetError(
                f"{self.label}.init: {self.config.init} starts linear layers and convolutions from"
                f" their weight; {site.name} ({site.role}) is an embedding. Write init: default, or"
                " leave it out with exclude."
            )

    def _check_rank(self, site: Site, rank: int, groups: int) -> None:
        layer = site.layer
        inside = math.prod(layer.weight_shape[2:])  # of a kernel; 1 for other layers
        most = min(layer.out_features, layer.in_features * inside)
        if rank > most:
            raise TargetError(
                f"{self.label}.rank: rank {rank} is above the size of {site.name} ({site.role}),"
                f" whose weight has rank {most} at most. Write rank: {most} or less,"
                f' or for this role alone rank: {{"{site.role}": {most}, "default": {rank}}}.'
            )
        if rank % groups:
            raise TargetError(
                f"{self.label}.rank: {site.name} ({site.role}) is a convolution of {groups} groups;"
                f" rank {rank} must be a multiple of {groups}."
            )
