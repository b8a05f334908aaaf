"""Configuration of methods, and the marks by which its fields say where a value can act."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import gcd, sqrt
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field

from peftcore.model.targets import PerRole, Targets, per_role_fields, setting_for, with_role
from peftcore.schema import Strict

if TYPE_CHECKING:
    from peftcore.model.sites import Site


class MethodConfig(Strict):
    """Base of the configuration of every method."""

    def at(self, site: Site) -> Self:
        """Return the configuration with every per-role field settled for one site.

        Raises:
            ConfigError: a per-role field has no value for it.
        """
        per_role = per_role_fields(self)
        if not per_role:
            return self
        return self.model_copy(
            update={n: setting_for(v, site.role, site.path) for n, v in per_role.items()}
        )


class Mark(ABC):
    """What a field says of the sites at which its value can act; put it into ``Annotated``."""

    @abstractmethod
    def refusal(self, field: str, value: Any, site: Site, given: Any) -> str:
        """Return why a value cannot act at a site and what to write, or an empty string.

        Args:
            field: name of the field.
            value: its value, settled for the site.
            site: a site that is targeted.
            given: the field as it was given, per role perhaps, for a remedy that keeps the rest:
                :func:`with_role`.
        """


@dataclass(frozen=True)
class AtMost(Mark):
    """The value is at most a size of the layer.

    Attributes:
        size: the size.
        what: what the size is, for the sentence; ``{most}`` stands for it.
        per_role: the field may be given per role, so that the sentence can say so.
    """

    size: Callable[[Site], int]
    what: str = "which has room for {most}"
    per_role: bool = True

    def refusal(self, field: str, value: Any, site: Site, given: Any) -> str:
        """Refuse a larger value."""
        most = self.size(site)
        if value is None or value <= most:
            return ""
        otherwise = (
            f"for this role alone {field}: {with_role(given, site.role, most)}"
            if self.per_role
            else "leave it out with exclude"
        )
        return (
            f"{field} {value} is above the size of {site.here}, {self.what.format(most=most)}."
            f" Write {field}: {most} or less, or {otherwise}."
        )


@dataclass(frozen=True)
class Divides(Mark):
    """The value divides sizes of the layer; None always does.

    Attributes:
        sizes: the sizes.
    """

    sizes: Callable[[Site], tuple[int, ...]]

    def refusal(self, field: str, value: Any, site: Site, given: Any) -> str:
        """Refuse a value that leaves a rest."""
        if value is None:
            return ""
        for size in self.sizes(site):
            if size % value:
                near = gcd(value, *self.sizes(site))
                return (
                    f"{value} does not divide {size}, a size of {site.here}. Write {field}: {near}."
                )
        return ""


@dataclass(frozen=True)
class NeedsCall(Mark):
    """A value other than ``off`` acts in the layer's call, so that it needs one.

    Attributes:
        off: the value that needs none.
    """

    off: Any = 0

    def refusal(self, field: str, value: Any, site: Site, given: Any) -> str:
        """Refuse a value at a site whose weight the model reads without calling the layer."""
        if not site.direct or value == self.off or value is None:
            return ""
        off = json.dumps(self.off)
        return (
            f"{field} {value} cannot act at {site.here}: the model reads the weight there and never"
            f" calls the layer. Write {field}: {off}, or leave it out with exclude."
        )


@dataclass(frozen=True)
class WithinPositions(Mark):
    """The value is at most the number of positions that the model's configuration tells."""

    def refusal(self, field: str, value: Any, site: Site, given: Any) -> str:
        """Refuse a larger value; where the configuration tells nothing there is no limit."""
        config = getattr(site.module, "config", None)
        most = getattr(config, "max_position_embeddings", None)
        if most is None or value <= most:
            return ""
        return f"{value} is more than the {most} positions of the model. Write {most} or less."


def smaller_side(site: Site) -> int:
    """Return the largest rank that a weight, [out, in, ...], can have; of experts, each one's."""
    inside = 1
    if site.kind != "experts":
        for size in site.layer.weight_shape[2:]:
            inside *= size
    return min(site.layer.out_features, site.layer.in_features * inside)


def both_sides(site: Site) -> tuple[int, int]:
    """Return the widths of a layer's input and output."""
    return site.layer.in_features, site.layer.out_features


_RANK_OF_A_WEIGHT = "whose weight has rank {most} at most"
#: A rank that the weight can have.
Rank = Annotated[PerRole[Annotated[int, Field(ge=1)]], AtMost(smaller_side, _RANK_OF_A_WEIGHT)]
#: The same, where all layers have the same.
OneRank = Annotated[int, Field(ge=1), AtMost(smaller_side, _RANK_OF_A_WEIGHT, per_role=False)]
#: The share of values that are dropped in training; of what, a field may describe otherwise.
Dropout = Annotated[
    PerRole[Annotated[float, Field(ge=0, lt=1)]],
    NeedsCall(),
    Field(description="Dropout on the input of the update, in training."),
]
#: Targets of what acts on linear layers alone.
LinearTargets = Annotated[Targets, Field(description="Linear layers to update.")]


#: A factor of an update. With a larger one numbers leave what single precision can hold, and a part
#: that is zero at the start makes NaN of what is infinite.
Scale = Annotated[float, Field(gt=0, le=1e6)]


#: A width, or a number of tokens, of what a method adds. A larger one is a mistake, which could
#: fill the memory before anything says so.
Width = Annotated[int, Field(ge=1, le=65_536)]


class LowRankConfig(MethodConfig):
    """What low-rank updates have in common; each field may be given per role."""

    rank: Rank = Field(
        8, description="Rank r of the update; at most the smaller side of the layer."
    )
    alpha: PerRole[Scale | None] = Field(
        None,
        description="The update is scaled by alpha / rank. Not given: alpha = rank, a scale of 1.",
    )
    dropout: Dropout = 0.0
    targets: Targets = Field(
        Targets.model_validate(["attention.query", "attention.value"]),
        description="Layers to update.",
    )

    def scale(self, *, root: bool = False) -> float:
        """Return alpha / rank of a settled configuration; alpha / sqrt(rank) with ``root``."""
        assert not isinstance(self.rank, dict) and not isinstance(self.alpha, dict)
        alpha = self.rank if self.alpha is None else self.alpha
        return alpha / (sqrt(self.rank) if root else self.rank)
