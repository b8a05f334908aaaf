"""What a recipe can say about VeRA."""

from pydantic import Field

from peftcore import Dropout, LinearTargets, MethodConfig, Scale, Targets, Width


class VeraConfig(MethodConfig):
    """Configuration of VeRA."""

    rank: Width = Field(
        256, description="Rank r; above LoRA's, and above the layer's size if you like."
    )
    d_initial: Scale = Field(0.1, description="What the vector d starts with.")
    dropout: Dropout = 0.0
    projection_seed: int = Field(
        0,
        ge=0,
        description="Seed that the random matrices are drawn from; what is stored is the seed.",
    )
    targets: LinearTargets = Targets(roles=("attention.query", "attention.value"))
