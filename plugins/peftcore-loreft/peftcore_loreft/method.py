"""The method: which edits go where, and what of them is stored."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from peftcore import MethodConfig, Site, Targeted, hookimpl
from peftcore_loreft.pieces import FORMULAS, Edit
from peftcore_loreft.positions import Positions
from peftcore_loreft.rotation import Rotation


class Reft(Targeted):
    """One method of the ReFT family, Wu et al. 2024; its name chooses the formula.

    Which tokens are padding is read from the call's mask. Without one, padding is seen where the
    number of the padding token is that of no other, and refused; else it counts as real tokens.
    """

    kinds = ("linear", "embedding", "norm", "module")
    needs_width = True

    def __init__(self, config: MethodConfig):
        super().__init__(config)
        self._positions = Positions(self.config.positions)

    @property
    def reads_prompt(self) -> bool:
        """Whether positions count from the ends of a prompt."""
        return bool(self._positions.parts)

    def piece(self, site: Site, config: Any) -> Edit | dict[str, Edit]:
        """Return the edit of a site; untied, one each for prefix and suffix."""
        parts = self._positions.parts
        tied = config.share_weights or len(parts) < 2
        own = config.model_dump(include={"rank", "act_fn", "dropout", "add_bias"})
        made = {
            part: Edit(FORMULAS[self.name], site.layer.out_features, self._positions, part, **own)
            for part in (("both",) if tied else parts)
        }
        return made["both"] if tied else made

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
