"""One piece at one site."""

from __future__ import annotations

from dataclasses import dataclass

from peftcore.method.pieces import Piece
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

    @property
    def name(self) -> str:
        """Prefix of the piece's tensors in a checkpoint."""
        return ".".join(part for part in (self.site.name, self.label, self.key) if part)

    def child(self, adapter: str) -> str:
        """Return the name of the piece in the container of its module."""
        shared = self.site.features or self.site.part
        role = f"[{self.site.role.replace('.', '-')}]" if shared else ""
        key = f"/{self.key}" if self.key else ""
        return f"{adapter}/{self.label}{role}{key}"
