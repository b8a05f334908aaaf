"""What a recipe can say about DiffFit."""

from pydantic import Field

from peftcore import MethodConfig, Targets


class DiffFitConfig(MethodConfig):
    """Configuration of DiffFit."""

    targets: Targets = Field(
        Targets.model_validate(["attention.output", "mlp.down"]),
        description="Last layers of the branches whose output is scaled: linears, convolutions.",
    )
    per_feature: bool = Field(
        False, description="One scale for each feature of a branch instead of one for all."
    )
    biases: bool = Field(True, description="Train the biases of all layers but the head.")
    norms: bool = Field(True, description="Train the weights and biases of all norms.")
    also: Targets | None = Field(
        None, description="Layers that train whole besides: the embedding of classes."
    )
