"""What a recipe can say about OFT, BOFT and HRA."""

from typing import Annotated

from pydantic import Field, field_validator

from peftcore import MethodConfig, PerRole, Targets

_TARGETS = Targets.model_validate(["attention.query", "attention.value"])
_LAYERS = "Linear layers whose input is turned."


class OftConfig(MethodConfig):
    """Configuration of OFT; `block_size` may be given per role."""

    block_size: PerRole[Annotated[int, Field(ge=2)] | None] = Field(
        None,
        description="Width b of a block, a divisor of the layer's input. Not given: the largest"
        " divisor up to 32.",
    )
    block_share: bool = Field(False, description="One rotation for all blocks of a layer.")
    coft: bool = Field(
        False, description="Keep each rotation near the identity (constrained OFT): see eps."
    )
    eps: float = Field(
        6e-5, gt=0, description="With coft: largest norm of all skew matrices of a layer."
    )
    use_cayley_neumann: bool = Field(
        False,
        description="Series in place of the inverse: faster, orthogonal only near the identity.",
    )
    num_cayley_neumann_terms: int = Field(
        5, ge=4, description="With use_cayley_neumann: number of terms of the series."
    )
    targets: Targets = Field(_TARGETS, description=_LAYERS)


class BoftConfig(MethodConfig):
    """Configuration of BOFT; `block_size` may be given per role."""

    block_size: PerRole[Annotated[int, Field(ge=2)] | None] = Field(
        None,
        description="Width b of a block, a divisor of the layer's input. Not given: the largest"
        " divisor up to 4.",
    )
    butterfly_factors: int = Field(
        1, ge=1, description="Number m of factors; b 2^(m-1) divides the layer's input."
    )
    targets: Targets = Field(_TARGETS, description=_LAYERS)


class HraConfig(MethodConfig):
    """Configuration of HRA; `rank` may be given per role."""

    rank: PerRole[Annotated[int, Field(ge=2)]] = Field(
        8, description="Number r of reflections, even: in equal pairs they are the identity."
    )
    targets: Targets = Field(_TARGETS, description=_LAYERS)

    @field_validator("rank")
    @classmethod
    def _even(cls, value: int | dict[str, int]) -> int | dict[str, int]:
        for rank in value.values() if isinstance(value, dict) else [value]:
            if rank % 2:
                raise ValueError(f"rank {rank} is odd; only an even number starts as the base")
        return value
