"""The methods: which piece goes where, and what the pieces share."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from peftcore import ParameterInfo, Site, Targeted, TargetError, hookimpl
from peftcore_kadaptation.pieces import CompacterAdapter, Kronecker, KroneckerWithBias, Rule, Slow


class Kadaptation(Targeted):
    """Kronecker adaptation, He et al. 2023; slow weights per role, one bias per block."""

    def piece(self, site: Site, config: Any) -> Kronecker:
        """Return the update of a linear layer."""
        layer = site.layer
        slow = self.shared(site.role, partial(Slow, config.phm_dim))
        if not config.bias:
            return Kronecker(layer, slow, config)
        # the layers of a block that are equally wide have one bias
        beta = self.shared(
            (site.block, layer.out_features),
            lambda: nn.Parameter(torch.zeros(layer.out_features)),
        )
        return KroneckerWithBias(layer, slow, config, beta)


class Compacter(Targeted):
    """Compacter, Karimi Mahabadi et al. 2021: one rule shared by the adapters of all layers."""

    kinds = ("linear", "embedding", "norm", "module")
    needs_width = True

    def piece(self, site: Site, config: Any) -> CompacterAdapter:
        """Return the adapter after a layer.

        Raises:
            TargetError: a 32nd of the layer's width is no inner width.
        """
        width, n = site.layer.out_features, config.phm_dim
        inner = config.bottleneck or width // 32
        if not inner or inner % n:
            raise TargetError(
                f"{self.label}.bottleneck: a 32nd of the {width} features of {site.here} is no"
                f" multiple of phm_dim {n}. Write bottleneck: {n}, or another multiple of it."
            )
        return CompacterAdapter(width, inner, self.shared("rule", partial(Rule, config)), config)

    @hookimpl
    def peftcore_select_parameters(self, parameters: Sequence[ParameterInfo]) -> list[str]:
        """Return the norms that train along, as in the authors' code."""
        norms = self.config.targets.model_copy(update={"roles": ("norm",), "exclude": ()})
        return [p.name for p in parameters if self.config.train_norms and p.matches(norms)]
