"""The method: which piece goes where, and what cannot be done."""

from typing import Any

from torch import nn

from peftcore import Site, Targeted, TargetError, hookimpl
from peftcore_dora.pieces import Decomposed

#: Ends of roles whose output attention or an activation keeps for backward, as it is.
_READ = ("query", "key", "value", "qkv", "gate", "up")


class Dora(Targeted):
    """Weight-decomposed adaptation, Liu et al. 2024: W' = m (W + s B A) / ||W + s B A||."""

    @hookimpl
    def peftcore_prepare(self, model: nn.Module) -> None:
        """Note whether the model writes over what its layers return."""
        writing = any(getattr(module, "inplace", False) for module in model.modules())
        self._overwrites = self.config.inplace or writing

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Decomposed | None:
        """Return the piece of a layer that is targeted, or whose magnitude alone is.

        Raises:
            TargetError: the layer is no linear one, is in both, or does not fit the settings.
        """
        chosen = [
            field
            for field in ("targets", "magnitude_only")
            if (targets := getattr(self.config, field)) is not None and site.matches(targets)
        ]
        if len(chosen) > 1:
            raise TargetError(
                f"{self.label}: {site.here} is in {' and in '.join(chosen)}; leave it out of one of"
                " them."
            )
        return self.piece(site, self.settled(site, chosen[0])) if chosen else None

    def piece(self, site: Site, config: Any) -> Decomposed:
        """Return the piece of a linear layer."""
        scale = config.scale() if config.rank else 1.0
        shares = site.role.rpartition(".")[2] in _READ and not self._overwrites
        shared = f"{self.label}.inplace: {site.here}" if shares else ""
        return Decomposed(site.layer, config.rank, scale, config.dropout, shared)
