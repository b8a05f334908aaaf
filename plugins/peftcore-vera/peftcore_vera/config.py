"""What a recipe can say about VeRA."""

from pydantic import Field

from peftcore import Dropout, MethodConfig, Targets


class VeraConfig(MethodConfig):
    """Configuration of VeRA."""

    rank: int = Field(
        256, ge=1, description="Rank r; above LoRA's, and above the layer's size if you like."
    )
    d_initial: float = Field(0.1, gt=0, description="What the vector d starts with.")
    dropout: Dropout = 0.0
    projection_seed: int = Field(
        0, ge=0, description="Seed of the random matrices; they are made from it, never stored."
    )
    targets: Targets = Field(
        Targets.model_validate(["attention.query", "attention.value"]),
        description="Linear layers to update.",
    )
