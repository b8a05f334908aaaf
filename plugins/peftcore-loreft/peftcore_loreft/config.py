"""Configuration of the ReFT family, and the grammar of positions."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from peftcore import AtMost, MethodConfig, PerRole, Site, Targets


def parse_positions(text: str) -> tuple[int, int] | None:
    """Return how many first and last prompt tokens are edited; None for all of them.

    Raises:
        ValueError: the text is not of the grammar.

    Example:
        >>> parse_positions("f7+l7"), parse_positions("l5"), parse_positions("all")
        ((7, 7), (0, 5), None)
    """
    if text == "all":
        return None
    found = re.fullmatch(r"f([1-9]\d*)(?:\+l([1-9]\d*))?|l([1-9]\d*)", text)
    if found is None:
        raise ValueError(f"positions {text!r} is not readable; write f7+l7, f1, l5 or all")
    return int(found[1] or 0), int(found[2] or found[3] or 0)


def _width(site: Site) -> int:
    return site.layer.out_features


class ReftConfig(MethodConfig):
    """What every method of the family has."""

    rank: Annotated[
        PerRole[Annotated[int, Field(ge=1)]], AtMost(_width, "whose output has {most} features")
    ] = Field(8, description="Rank r of the edit: the number of dimensions of its subspace.")
    targets: Targets = Field(
        Targets(roles=("block",)), description="Sites whose output is edited, and their layers."
    )
    positions: str = Field(
        "f7+l7",
        description="Edited tokens of the prompt: `f7+l7` (first and last 7), `f1`, `l5`, `all`.",
    )
    share_weights: bool = Field(
        True,
        description="One edit serves first and last positions (tied); false gives each its own.",
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Dropout on the whole edited vector, as in the paper's code."
    )

    @field_validator("positions")
    @classmethod
    def _readable(cls, value: str) -> str:
        parse_positions(value)
        return value


class SourceConfig(ReftConfig):
    """The methods whose edit depends on the hidden vector: φ(W h + b)."""

    act_fn: Literal["identity", "relu", "gelu", "silu", "tanh", "sigmoid"] = Field(
        "identity", description="Activation φ of the learned source."
    )


class NoreftConfig(SourceConfig):
    """NoReFT's configuration."""

    add_bias: bool = Field(
        False, description="Give the projection a bias b2, used in the subtraction only."
    )
