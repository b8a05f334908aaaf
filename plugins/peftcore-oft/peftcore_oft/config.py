"""What a recipe can say about OFT, BOFT and HRA."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from peftcore import AtMost, Mark, MethodConfig, PerRole, Site, Targets


class TwoFeatures(Mark):
    """The layer reads two features at least: one alone cannot be turned."""

    def refusal(self, field: str, value: Any, site: Site, given: Any) -> str:
        """Refuse a layer that reads one feature."""
        if site.layer.in_features > 1:
            return ""
        return f"{site.here} reads one feature, which cannot be turned. Leave it out with exclude."


def _most_factors(site: Site) -> int:
    """Return how often 2 divides the input's width: block b and m factors need b 2^(m-1)."""
    width = site.layer.in_features
    return max(1, (width & -width).bit_length() - 1)


def _pairs_of_features(site: Site) -> int:
    return site.layer.in_features // 2 * 2


class TurningConfig(MethodConfig):
    """What the three methods have in common."""

    targets: Annotated[Targets, TwoFeatures()] = Field(
        Targets.model_validate(["attention.query", "attention.value"]),
        description="Linear layers whose input is turned.",
    )


class OftConfig(TurningConfig):
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
        5, ge=4, le=64, description="With use_cayley_neumann: number of terms of the series."
    )


class BoftConfig(TurningConfig):
    """Configuration of BOFT; each field may be given per role."""

    block_size: PerRole[Annotated[int, Field(ge=2)] | None] = Field(
        None,
        description="Width b of a block, a divisor of the layer's input. Not given: the largest"
        " divisor up to 4.",
    )
    butterfly_factors: Annotated[
        PerRole[Annotated[int, Field(ge=1)]],
        AtMost(_most_factors, "whose input goes with {most} factors at most"),
    ] = Field(1, description="Number m of factors; b 2^(m-1) divides the layer's input.")


class HraConfig(TurningConfig):
    """Configuration of HRA; `rank` may be given per role."""

    rank: Annotated[
        PerRole[Annotated[int, Field(ge=2)]],
        AtMost(_pairs_of_features, "whose input has room for {most} reflections"),
    ] = Field(8, description="Number r of reflections, even: in equal pairs they are the identity.")

    @field_validator("rank")
    @classmethod
    def _even(cls, value: int | dict[str, int]) -> int | dict[str, int]:
        for rank in value.values() if isinstance(value, dict) else [value]:
            if rank % 2:
                raise ValueError(f"rank {rank} is odd; only an even number starts as the base")
        return value
