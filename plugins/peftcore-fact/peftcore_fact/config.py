"""What a recipe can say about FacT."""

from pydantic import Field

from peftcore import Dropout, LinearTargets, MethodConfig, Scale, Targets


class FactConfig(MethodConfig):
    """Configuration of FacT, in tensor-train and in Tucker form."""

    rank: int = Field(
        8, ge=1, description="Rank r of the factors; at most the width that the layers share."
    )
    scale: Scale = Field(
        1.0, description="Factor s of the update; the authors search 0.01 to 100 for a task."
    )
    dropout: Dropout = Field(
        0.0, description="Dropout before the last factor, in training; the release has 0.1."
    )
    targets: LinearTargets = Targets(
        roles=("attention.query", "attention.key", "attention.value", "attention.output", "mlp.*")
    )
