"""The methods: what width the layers share, and which piece goes where."""

from collections.abc import Sequence
from math import gcd

from peftcore import Method, MethodConfig, Site, TargetError, hookimpl
from peftcore_fact.config import FactConfig
from peftcore_fact.pieces import Factored, Factors, TensorTrain, Tucker


class FactTT(Method):
    """Factor-tuning in tensor-train form, Jie & Deng 2023: s V Sigma_m U for each matrix m."""

    config: FactConfig
    tucker = False

    def __init__(self, config: MethodConfig):
        super().__init__(config)
        self._width = 0
        self._matrices = 0
        self._factors: Factors | None = None

    @hookimpl
    def peftcore_prepare(self, sites: Sequence[Site]) -> None:
        """Find the width d that all targeted layers share, and how many d by d matrices they are.

        Raises:
            TargetError: one is no linear layer, the layers share no width of at least the rank,
                or dropout is asked for where the layer is never called.
        """
        chosen = [site for site in sites if site.matches(self.config.targets)]
        for site in chosen:
            self._check(site)
        sizes = {n for s in chosen for n in (s.layer.in_features, s.layer.out_features)}
        self._width = gcd(*sizes)
        if self.config.rank > self._width:
            raise TargetError(
                f"{self.label}.rank: rank {self.config.rank} is above {self._width}, the width that"
                f" the targeted layers share (theirs are {', '.join(map(str, sorted(sizes)))})."
                f" Write rank: {self._width} or less, or leave layers out with exclude."
            )
        areas = (s.layer.in_features * s.layer.out_features for s in chosen)
        self._matrices = sum(area // self._width**2 for area in areas)

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Factored | None:
        """Return the update of a targeted linear layer."""
        if not site.matches(self.config.targets):
            return None
        config, layer = self.config, site.layer
        owns = self._factors is None
        if self._factors is None:
            self._factors = Factors(layer, self._width, config.rank, tucker=self.tucker)
        options = {"owns": owns, "scale": config.scale, "dropout": config.dropout}
        if self.tucker:
            return Tucker(layer, self._factors, matrices=self._matrices, **options)
        return TensorTrain(layer, self._factors, **options)

    def _check(self, site: Site) -> None:
        where = site.here
        self.check_linear(site, "FacT updates linear layers")
        if site.direct and self.config.dropout:
            raise TargetError(
                f"{self.label}.dropout: dropout {self.config.dropout} cannot act at {where}: the"
                " model reads the weight there and never calls the layer. Write dropout: 0."
            )


class FactTK(FactTT):
    """Factor-tuning in Tucker form, Jie & Deng 2023: Sigma_m is a core, shared too, times P_m."""

    tucker = True
