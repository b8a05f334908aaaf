"""The methods: which update goes to a layer."""

from peftcore import Site, Targeted
from peftcore_lycoris.config import LoHaConfig, LoKrConfig
from peftcore_lycoris.pieces import Hadamard, Kronecker


class LoHa(Targeted):
    """Low-rank Hadamard product, Hyeon-Woo et al. 2022."""

    def piece(self, site: Site, config: LoHaConfig) -> Hadamard:
        """Return the update of a targeted layer."""
        return Hadamard(site.layer, config)


class LoKr(Targeted):
    """Low-rank Kronecker product, Yeh et al. 2024."""

    def piece(self, site: Site, config: LoKrConfig) -> Kronecker:
        """Return the update of a targeted layer."""
        return Kronecker(site.layer, config)
