"""The method: which edits go where, and what of them is stored."""

from collections.abc import Mapping

from torch import Tensor

from peftcore import Method, MethodConfig, Site, TargetError, hookimpl
from peftcore_loreft.pieces import FORMULAS, Edit
from peftcore_loreft.positions import Positions
from peftcore_loreft.rotation import Rotation


class Reft(Method):
    """One method of the ReFT family, Wu et al. 2024; its name chooses the formula."""

    def __init__(self, config: MethodConfig):
        super().__init__(config)
        self._positions = Positions(self.config.positions)

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Edit | dict[str, Edit] | None:
        """Return the edit of a targeted site; untied, one each for prefix and suffix.

        Raises:
            TargetError: the site's output are no vectors, or are smaller than the rank.
        """
        config = self.config
        if not site.matches(config.targets):
            return None
        rank = site.setting(config.rank)
        self._check(site, rank)
        own = config.model_dump(include={"act_fn", "dropout", "add_bias"})
        parts = self._positions.parts
        made = {
            part: Edit(FORMULAS[self.name], site.layer, rank, self._positions, part, **own)
            for part in (("both",) if config.share_weights or len(parts) < 2 else parts)
        }
        return made.get("both", made)

    def _check(self, site: Site, rank: int) -> None:
        if site.layer.kind.startswith("conv"):
            raise TargetError(
                f"{self.label}.targets: {site.name} ({site.role}) is a convolution; ReFT edits"
                " vectors [batch, tokens, features]. Choose block, or leave it out with exclude."
            )
        if rank > site.layer.out_features:
            raise TargetError(
                f"{self.label}.rank: rank {rank} is above the width {site.layer.out_features} of"
                f" {site.name} ({site.role}). Write a lower rank, or leave it out with exclude."
            )

    @hookimpl
    def peftcore_save_state(self, site: Site, piece: Edit) -> Mapping[str, Tensor] | None:
        """Return the tensors with R itself in place of the free matrix behind it."""
        if not isinstance(piece.projection, Rotation):
            return None
        state = piece.state_dict()
        del state["projection.free"]
        return {**state, "rotation": piece.projection().detach()}

    @hookimpl
    def peftcore_load_state(
        self, site: Site, piece: Edit, tensors: Mapping[str, Tensor]
    ) -> bool | None:
        """Put R back, and the other tensors as they are."""
        if not isinstance(piece.projection, Rotation):
            return None
        piece.load_state_dict(tensors, strict=False)
        piece.projection.put(tensors["rotation"])
        return True
