"""The methods: how the input of a layer is turned, in blocks of a width that fits."""

from peftcore import Method, Site, Targeted, TargetError, with_role
from peftcore_oft.config import BoftConfig, HraConfig, OftConfig
from peftcore_oft.pieces import Butterfly, Reflected, Rotated


class Oft(Targeted):
    """Orthogonal fine-tuning, Qiu et al. 2023, and constrained OFT."""

    def piece(self, site: Site, config: OftConfig) -> Rotated:
        """Return the rotation of a targeted layer's input."""
        block = _block(self, config.block_size, site, 32)
        eps = config.eps if config.coft else None
        terms = config.num_cayley_neumann_terms if config.use_cayley_neumann else None
        return Rotated(site.layer, block, config.block_share, eps, terms)


class Boft(Targeted):
    """Orthogonal butterfly, Liu et al. 2024."""

    def piece(self, site: Site, config: BoftConfig) -> Butterfly:
        """Return the rotation of a targeted layer's input."""
        factors = config.butterfly_factors
        block = _block(self, config.block_size, site, 4, factors)
        return Butterfly(site.layer, block, factors)


class Hra(Targeted):
    """Householder reflection adaptation, Yuan et al. 2024, without its penalty."""

    def piece(self, site: Site, config: HraConfig) -> Reflected:
        """Return the reflections of a targeted layer's input."""
        return Reflected(site.layer, config.rank)


def _block(method: Method, block: int | None, site: Site, most: int, factors: int = 1) -> int:
    """Return the block size for a site: the given one, or the largest that fits up to ``most``.

    Raises:
        TargetError: the given one does not fit.
    """
    width, step = site.layer.in_features, 1 if factors == 1 else 2
    sizes = [b for b in range(2, width + 1, step) if width % (b * 2 ** (factors - 1)) == 0]
    if block is None:
        return max((b for b in sizes if b <= most), default=sizes[0])
    if block not in sizes:
        near = min(sizes, key=lambda b: (abs(b - block), b))
        many = f" with {factors} factors" if factors > 1 else ""
        raise TargetError(
            f"{method.label}.block_size: blocks of {block} do not fit {site.here}{many}, whose"
            f" input has width {width}. The nearest size that does is {near}; for this role alone"
            f" block_size: {with_role(method.config.block_size, site.role, near)}."
        )
    return block
