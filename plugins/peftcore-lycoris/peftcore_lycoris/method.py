"""The methods: which piece goes where, and what cannot be done."""

from typing import Any

from peftcore import Method, Site, TargetError, hookimpl
from peftcore_lycoris.config import LoHaConfig, LoKrConfig
from peftcore_lycoris.pieces import Hadamard, Kronecker


class _Lycoris(Method):
    """What both methods have in common: rank, strength, and linear layers."""

    config: Any

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Hadamard | Kronecker | None:
        """Return the update of a targeted linear layer.

        Raises:
            TargetError: the layer is no linear one, or does not go with these settings.
        """
        if not site.matches(self.config.targets):
            return None
        rank = site.setting(self.config.rank)
        self._check(site, rank)
        return self._piece(site, rank, (site.setting(self.config.alpha) or rank) / rank)

    def _piece(self, site: Site, rank: int, scale: float) -> Hadamard | Kronecker:
        raise NotImplementedError

    def _check(self, site: Site, rank: int) -> None:
        layer, here = site.layer, site.here
        self.check_linear(site, f"{self.name} updates linear layers")
        most = min(layer.in_features, layer.out_features)
        if rank > most:
            raise TargetError(
                f"{self.label}.rank: rank {rank} is above the size of {here}, whose weight has rank"
                f" {most} at most. Write rank: {most} or less, or for this role alone"
                f' rank: {{"{site.role}": {most}, "default": {rank}}}.'
            )
        if self.config.rank_dropout and site.direct:
            raise TargetError(
                f"{self.label}.rank_dropout: outputs cannot be dropped at {here}: the model reads"
                " the weight there and never calls the layer. Write rank_dropout: 0."
            )


class LoHa(_Lycoris):
    """Low-rank Hadamard product, Hyeon-Woo et al. 2022."""

    config: LoHaConfig

    def _piece(self, site: Site, rank: int, scale: float) -> Hadamard:
        return Hadamard(site.layer, rank, scale, self.config.rank_dropout)


class LoKr(_Lycoris):
    """Low-rank Kronecker product, Yeh et al. 2024."""

    config: LoKrConfig

    def _piece(self, site: Site, rank: int, scale: float) -> Kronecker:
        config = self.config
        return Kronecker(
            site.layer, rank, scale, config.rank_dropout, config.decompose_factor,
            config.decompose_both,
        )  # fmt: skip
