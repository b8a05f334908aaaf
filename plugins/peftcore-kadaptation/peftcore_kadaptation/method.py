"""The methods: which piece goes where, and what the pieces share."""

from functools import partial
from typing import Any

import torch
from torch import nn

from peftcore import Site, Targeted
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
        """Return the adapter after a layer."""
        rule = self.shared("rule", partial(Rule, config))
        return CompacterAdapter(site.layer.out_features, rule, config)
