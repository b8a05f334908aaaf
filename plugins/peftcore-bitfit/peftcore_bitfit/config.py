"""What a recipe can say about BitFit."""

from pydantic import Field

from peftcore import MethodConfig, Targets


class BitFitConfig(MethodConfig):
    """Configuration of BitFit."""

    targets: Targets = Field(
        Targets.model_validate(["*"]),
        description="Biases to train, by the role of their layer; the head's are left out.",
    )
    add_missing: bool = Field(
        False, description="Give targeted linear layers without a bias one that starts at zero."
    )
