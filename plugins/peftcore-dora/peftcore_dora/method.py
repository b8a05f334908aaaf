"""The method: which piece goes where, and what cannot be done."""

from peftcore import Method, Site, TargetError, hookimpl
from peftcore_dora.config import DoraConfig
from peftcore_dora.pieces import Decomposed


class Dora(Method):
    """Weight-decomposed adaptation, Liu et al. 2024: W' = m (W + s B A) / ||W + s B A||."""

    config: DoraConfig

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Decomposed | None:
        """Return the piece of a targeted linear layer.

        Raises:
            TargetError: the layer is no linear one, or does not go with these settings.
        """
        config = self.config
        only = config.magnitude_only is not None and site.matches(config.magnitude_only)
        if site.matches(config.targets):
            if only:
                raise TargetError(
                    f"{self.label}: {site.name} ({site.role}) is in targets and in magnitude_only;"
                    " leave it out of one of them."
                )
        elif not only:
            return None
        rank = 0 if only else site.setting(config.rank)
        scale = 1.0 if only else (site.setting(config.alpha) or rank) / rank
        dropout = site.setting(config.dropout)
        self._check(site, rank, dropout)
        return Decomposed(site, rank, scale, dropout)

    def _check(self, site: Site, rank: int, dropout: float) -> None:
        layer, here = site.layer, site.here
        self.check_linear(site, "DoRA tunes linear layers")
        most = min(layer.in_features, layer.out_features)
        if rank > most:
            raise TargetError(
                f"{self.label}.rank: rank {rank} is above the size of {here}, whose weight has rank"
                f" {most} at most. Write rank: {most} or less, or for this role alone"
                f' rank: {{"{site.role}": {most}, "default": {rank}}}.'
            )
        if dropout and site.direct:
            raise TargetError(
                f"{self.label}.dropout: dropout {dropout} cannot act at {here}: the model reads the"
                " weight there and never calls the layer. Write dropout: 0, or for this role alone"
                f' dropout: {{"{site.role}": 0, "default": {dropout}}}.'
            )
