"""One piece at one site."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from peftcore.method.pieces import Piece
from peftcore.model.offloading import take_back
from peftcore.model.sites import Site


@dataclass
class Placed:
    """One piece at one site, as an adapter put it there.

    Attributes:
        site: where it is.
        label: label of the method that made it.
        key: name among the pieces that the method put at this site, or an empty string.
        piece: the piece.
    """

    site: Site
    label: str
    key: str
    piece: Piece
    #: The piece's parameters by name, which an optimiser may hold, and where the first of them is:
    #: to look there is what tells in each call whether they are away.
    _own: dict[str, nn.Parameter | None] = field(default_factory=dict, init=False, repr=False)
    first: tuple[dict[str, Any], str] | None = field(default=None, init=False, repr=False)

    @property
    def name(self) -> str:
        """Prefix of the piece's tensors in a checkpoint."""
        return ".".join(part for part in (self.site.name, self.label, self.key) if part)

    def remember(self) -> None:
        """Remember the piece's parameters, in case that something puts others in their place."""
        piece = self.piece
        self._own = dict(piece.named_parameters() if piece._modules else piece._parameters)
        for module in piece.modules() if piece._modules else (piece,):
            if module._parameters:
                self.first = module._parameters, next(iter(module._parameters))
                break

    @property
    def away(self) -> bool:
        """Whether the piece's tensors have been taken away, as by offloading the whole model."""
        if self.first is None:
            return False
        there, leaf = self.first
        tensor = there.get(leaf)
        return tensor is not None and tensor.is_meta

    def come_home(self) -> None:
        """Take back what was offloaded since the piece was put into its model."""
        for prefix, module in self.piece.named_modules():
            for leaf, tensor in take_back(module).items():
                own = self._own.get(f"{prefix}.{leaf}" if prefix else leaf)
                if own is not None and own.shape == tensor.shape:
                    own.data = tensor.data
                    module._parameters[leaf] = own

    def child(self, adapter: str) -> str:
        """Return the name of the piece in the container of its module; fit for a file's name."""
        shared = self.site.features or self.site.part
        role = f"[{self.site.role.replace('.', '-')}]" if shared else ""
        key = f"~{self.key}" if self.key else ""
        return f"{adapter}~{self.label}{role}{key}"


def come_home(placed: Iterable[Placed]) -> None:
    """Take back the tensors of those pieces whose tensors are away."""
    for item in placed:
        if item.away:
            item.come_home()
