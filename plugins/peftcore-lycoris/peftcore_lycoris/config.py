"""What a recipe can say about LoHa and LoKr."""

from typing import Annotated

from pydantic import Field

from peftcore import MethodConfig, PerRole, Targets


class LycorisConfig(MethodConfig):
    """What both methods have; `rank` and `alpha` may be given per role."""

    rank: PerRole[Annotated[int, Field(ge=1)]] = Field(
        8, description="Rank r of the factors; at most the smaller side of the layer."
    )
    alpha: PerRole[Annotated[float, Field(gt=0)] | None] = Field(
        None,
        description="The update is scaled by alpha / rank. Not given: alpha = rank, a scale of 1.",
    )
    rank_dropout: float = Field(
        0.0, ge=0, lt=1, description="Dropout of whole outputs of the update, in training."
    )
    targets: Targets = Field(
        Targets.model_validate(["attention.query", "attention.value"]),
        description="Linear layers to update.",
    )


class LoHaConfig(LycorisConfig):
    """Configuration of LoHa."""


class LoKrConfig(LycorisConfig):
    """Configuration of LoKr."""

    decompose_factor: int | None = Field(
        None,
        ge=1,
        description="Largest size of the first factor; not given: as near to the square root as"
        " possible.",
    )
    decompose_both: bool = Field(
        False, description="Give the first factor a low rank too, where that saves values."
    )
