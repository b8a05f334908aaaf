"""The methods: what width the layers share, and which piece goes where."""

from collections.abc import Sequence
from math import gcd
from typing import Any

from peftcore import Site, Targeted, TargetError, hookimpl
from peftcore_fact.pieces import Factored, Factors, TensorTrain, Tucker


class FactTT(Targeted):
    """Factor-tuning in tensor-train form, Jie & Deng 2023: s V Sigma_m U for each matrix m."""

    tucker = False
    _width = 0
    _matrices = 0

    @hookimpl
    def peftcore_prepare(self, sites: Sequence[Site]) -> None:
        """Find the width d that all targeted layers share, and how many d by d matrices they are.

        Raises:
            TargetError: the layers share no width of at least the rank.
        """
        chosen = [site for site in sites if site.matches(self.config.targets)]
        for site in chosen:
            self.settled(site)
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

    def piece(self, site: Site, config: Any) -> Factored:
        """Return the update of a linear layer."""
        factors = self.shared(
            "factors", lambda: Factors(self._width, config.rank, tucker=self.tucker)
        )
        if self.tucker:
            return Tucker(site.layer, factors, config.scale, config.dropout, self._matrices)
        return TensorTrain(site.layer, factors, config.scale, config.dropout)


class FactTK(FactTT):
    """Factor-tuning in Tucker form, Jie & Deng 2023: Sigma_m is a core, shared too, times P_m."""

    tucker = True
