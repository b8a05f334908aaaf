"""The methods: which piece goes where, and what cannot be done."""

from typing import Any

from peftcore import Method, Reparam, Site, TargetError, hookimpl
from peftcore_oft.config import BoftConfig, HraConfig, OftConfig
from peftcore_oft.pieces import Butterfly, Reflected, Rotated


class _Turning(Method):
    """What the three methods have in common: linear layers, and sizes that fit."""

    config: Any

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Reparam | None:
        """Return the piece of a targeted linear layer.

        Raises:
            TargetError: the layer is no linear one, or the sizes do not fit it.
        """
        if not site.matches(self.config.targets):
            return None
        self.check_linear(site, f"{self.name} turns the inputs of linear layers")
        return self._piece(site)

    def _piece(self, site: Site) -> Reparam:
        raise NotImplementedError

    def _block(self, site: Site, most: int, factors: int = 1) -> int:
        """Return the block size for a site; the given one is checked."""
        width = site.layer.in_features
        block: int | None = site.setting(self.config.block_size)
        sizes = [b for b in range(2, width + 1) if width % (b * 2 ** (factors - 1)) == 0]
        if factors > 1:
            sizes = [b for b in sizes if b % 2 == 0]
        if not sizes:
            raise TargetError(
                f"{self.label}.butterfly_factors: no block size goes with {factors} factors at"
                f" {site.here}, whose input has width {width}. Write fewer factors."
            )
        if block is None:
            return max((b for b in sizes if b <= most), default=sizes[0])
        if block not in sizes:
            near = min(sizes, key=lambda b: (abs(b - block), b))
            many = f" with {factors} factors" if factors > 1 else ""
            raise TargetError(
                f"{self.label}.block_size: blocks of {block} do not fit {site.here}{many},"
                f" whose input has width {width}. The nearest size that does is {near}; for this"
                f' role alone block_size: {{"{site.role}": {near}, "default": {block}}}.'
            )
        return block


class Oft(_Turning):
    """Orthogonal fine-tuning, Qiu et al. 2023, and constrained OFT."""

    config: OftConfig

    def _piece(self, site: Site) -> Reparam:
        config = self.config
        terms = config.num_cayley_neumann_terms if config.use_cayley_neumann else None
        eps = config.eps if config.coft else None
        return Rotated(site.layer, self._block(site, 32), config.block_share, eps, terms)


class Boft(_Turning):
    """Orthogonal butterfly, Liu et al. 2024."""

    config: BoftConfig

    def _piece(self, site: Site) -> Reparam:
        factors = self.config.butterfly_factors
        return Butterfly(site.layer, self._block(site, 4, factors), factors)


class Hra(_Turning):
    """Householder reflection adaptation, Yuan et al. 2024, without its penalty."""

    config: HraConfig

    def _piece(self, site: Site) -> Reparam:
        rank, most = site.setting(self.config.rank), site.layer.in_features
        if rank > most:
            raise TargetError(
                f"{self.label}.rank: {rank} reflections are more than the width {most} of the input"
                f" of {site.here}. Write rank: {most - most % 2} or less, or leave it out with"
                " exclude."
            )
        return Reflected(site.layer, rank)
