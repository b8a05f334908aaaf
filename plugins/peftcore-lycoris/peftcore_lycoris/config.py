"""What a recipe can say about LoHa and LoKr."""

from pydantic import Field

from peftcore import Dropout, LowRankConfig


class LoHaConfig(LowRankConfig):
    """Configuration of LoHa; the rank is that of each factor."""

    rank_dropout: Dropout = Field(
        0.0, description="Dropout of whole outputs of the update, in training."
    )


class LoKrConfig(LoHaConfig):
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
