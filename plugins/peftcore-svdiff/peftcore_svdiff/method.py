"""The method: which piece goes where, and how fast it learns."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from peftcore import Method, Piece, Site, TargetError, bare_class, hookimpl
from peftcore_svdiff.config import SvdiffConfig
from peftcore_svdiff.pieces import ShiftedBias, ShiftedNorm, Spectral, SpectralLinear

_NORMS = (nn.LayerNorm, nn.GroupNorm)


class Svdiff(Method):
    """Spectral shifts, Han et al. 2023: W' = U diag(ReLU(sigma + s delta)) V^T, delta trained."""

    config: SvdiffConfig

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Piece | Mapping[str, Piece] | None:
        """Return the shifts of a targeted layer, or of a norm where 1-D tensors are shifted too.

        Raises:
            TargetError: a target is neither a linear layer nor a convolution.
        """
        config, kind = self.config, site.layer.kind
        if config.shift_1d and _shiftable(site):
            return ShiftedNorm(site)
        if not site.matches(config.targets):
            return None
        shift = config.shift_1d and site.layer.bias
        if kind == "linear":
            return SpectralLinear(site, config.scale, shift=shift)
        if kind.startswith("conv"):
            spectral = Spectral(site, config.scale)
            return {"spectral": spectral, "bias": ShiftedBias(site)} if shift else spectral
        raise TargetError(
            f"{self.label}.targets: {site.here} is of kind {kind};"
            " SVDiff shifts the singular values of linear layers and convolutions. Name those"
            " inside it, or leave it out with exclude."
        )

    @hookimpl
    def peftcore_learning_rates(self, site: Site, piece: Piece) -> Mapping[str, float]:
        """Return the factor of the learning rate of what shifts 1-D tensors."""
        factor = self.config.learning_rate_1d
        return {name: factor for name, _ in piece.named_parameters() if name != "delta"}


def _shiftable(site: Site) -> bool:
    cls: Any = bare_class(site.module)
    if site.role == "unused" or site.direct:
        return False
    plain = any(issubclass(cls, norm) and cls.forward is norm.forward for norm in _NORMS)
    return plain and site.layer.bias and len(site.layer.weight_shape) == 1
