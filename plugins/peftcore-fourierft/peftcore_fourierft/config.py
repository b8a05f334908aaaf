"""What a recipe can say about FourierFT."""

from math import prod
from typing import Annotated

from pydantic import Field

from peftcore import AtMost, LinearTargets, MethodConfig, PerRole, Scale, Targets


class FourierFtConfig(MethodConfig):
    """Configuration of FourierFT; `n_frequency` and `scaling` may be given per role."""

    n_frequency: Annotated[
        PerRole[Annotated[int, Field(ge=1)]],
        AtMost(lambda site: prod(site.layer.weight_shape), "whose weight has {most} values"),
    ] = Field(64, description="Number n of learned coefficients; at most the values of the weight.")
    scaling: PerRole[Scale] = Field(150.0, description="Strength (alpha) of the update.")
    random_loc_seed: int = Field(
        777, ge=0, description="Seed of the frequencies; they are made from it, never stored."
    )
    targets: LinearTargets = Targets(roles=("attention.query", "attention.value"))
