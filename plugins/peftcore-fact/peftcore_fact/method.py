"""The methods: what width the layers share, and which piece goes where."""

from collections.abc import Sequence
from math import gcd
from typing import Any, ClassVar

from peftcore import Site, Targeted, TargetError, hookimpl
from peftcore_fact.pieces import Factored, Factors, TensorTrain, Tucker


class FactTT(Targeted):
    """Factor-tuning in tensor-train form, Jie & Deng 2023: s V Sigma_m U for each matrix m."""

    update: ClassVar[type[Factored]] = TensorTrain

    @hookimpl
    def peftcore_prepare(self, sites: Sequence[Site]) -> None:
        """Find the width d that all targeted layers share, and how many d by d matrices they are.

        Raises:
            TargetError: the layers share no width of at least the rank.
        """
        chosen = self.chosen(sites)
        for site in chosen:
            self.settled(site)
        layers = [site.layer for site in chosen]
        sizes = {n for layer in layers for n in (layer.in_features, layer.out_features)}
        self._width = gcd(*sizes)
        if self.config.rank > self._width:
            raise TargetError(
                f"{self.label}.rank: rank {self.config.rank} is above {self._width}, the width that"
                f" the targeted layers share (theirs are {', '.join(map(str, sorted(sizes)))})."
                f" Write rank: {self._width} or less, or leave layers out with exclude."
            )
        areas = (layer.in_features * layer.out_features for layer in layers)
        self._matrices = sum(areas) // self._width**2

    def piece(self, site: Site, config: Any) -> Factored:
        """Return the update of a linear layer."""
        size, tucker = (self._width, config.rank, self._matrices), self.update is Tucker
        factors = self.shared("factors", lambda: Factors(*size, tucker=tucker))
        return self.update(site.layer, factors, config)


class FactTK(FactTT):
    """Factor-tuning in Tucker form, Jie & Deng 2023: Sigma_m is a core, shared too, times P_m."""

    update = Tucker
