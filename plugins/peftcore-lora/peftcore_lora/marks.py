"""What the settings of LoRA ask of a layer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peftcore import Mark, with_role

if TYPE_CHECKING:
    from peftcore import Site


@dataclass(frozen=True)
class NotAt(Mark):
    """A value other than ``off`` cannot act at layers of a kind.

    Attributes:
        kind: the kind.
        off: the value that can.
        why: the reason, for the sentence.
    """

    kind: str
    off: Any
    why: str

    def refusal(self, field: str, value: Any, site: Site, given: Any) -> str:
        """Refuse the value at a layer of that kind."""
        if site.kind != self.kind or value == self.off:
            return ""
        for_this = with_role(given, site.role, self.off)
        return (
            f"{field} {value} cannot act at {site.here}: {self.why}. Write {field}:"
            f" {json.dumps(self.off)}, or for this role alone {field}: {for_this}."
        )


class FitsGroups(Mark):
    """The value is a multiple of the groups of a convolution, each of which has its own update."""

    def refusal(self, field: str, value: Any, site: Site, given: Any) -> str:
        """Refuse a value that leaves a rest."""
        groups = site.module.groups if site.kind.startswith("conv") else 1
        if value % groups == 0:
            return ""
        near = value + -value % groups
        for_this = with_role(given, site.role, near)
        return (
            f"{field} {value} must be a multiple of {groups}, the groups of {site.here}. Write"
            f" {field}: {near}, or for this role alone {field}: {for_this}."
        )


class KeepsTable(Mark):
    """The layer's call leaves its weight as it is."""

    def refusal(self, field: str, value: Any, site: Site, given: Any) -> str:
        """Refuse an embedding that shrinks the vectors that it looks up, in place."""
        most = site.module.max_norm if site.kind == "embedding" else None
        if most is None:
            return ""
        return (
            f"{site.here} shrinks vectors to length {most} (max_norm) when it looks them up, a"
            " merged update with them, but not one beside it. Leave it out with exclude, or set its"
            " max_norm to None."
        )
