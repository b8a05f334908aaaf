"""The method: which piece goes where, and how fast it learns."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from peftcore import Piece, Site, Targeted, bare_class, hookimpl
from peftcore_svdiff.pieces import ShiftedBias, ShiftedNorm, Spectral, SpectralLinear

_NORMS = (nn.LayerNorm, nn.GroupNorm)


class Svdiff(Targeted):
    """Spectral shifts, Han et al. 2023: W' = U diag(ReLU(sigma + s delta)) V^T, delta trained."""

    kinds = ("linear", "conv")
    plain = ("linear",)

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Piece | Mapping[str, Piece] | None:
        """Return the shifts of a targeted layer, or of a norm where 1-D tensors are shifted too.

        Raises:
            TargetError: a target is neither a linear layer nor a convolution.
        """
        if self.config.shift_1d and _shiftable(site):
            return ShiftedNorm(site)
        return super().peftcore_rewrite_module(site)

    def piece(self, site: Site, config: Any) -> Piece | Mapping[str, Piece]:
        """Return the shifts of a layer, and those of its bias where they are asked for."""
        shift = config.shift_1d and site.layer.bias
        if site.kind == "linear":
            return SpectralLinear(site, config.scale, shift=shift)
        spectral = Spectral(site, config.scale)
        return {"spectral": spectral, "bias": ShiftedBias(site)} if shift else spectral

    @hookimpl
    def peftcore_learning_rates(self, piece: Piece) -> Mapping[str, float]:
        """Return the factor of the learning rate of what shifts 1-D tensors."""
        factor = self.config.learning_rate_1d
        return {name: factor for name, _ in piece.named_parameters() if name != "delta"}


def _shiftable(site: Site) -> bool:
    cls: Any = bare_class(site.module)
    if site.role == "unused" or site.direct:
        return False
    plain = any(issubclass(cls, norm) and cls.forward is norm.forward for norm in _NORMS)
    return plain and site.layer.bias and len(site.layer.weight_shape) == 1
