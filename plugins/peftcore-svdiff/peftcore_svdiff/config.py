"""What a recipe can say about SVDiff."""

from pydantic import Field

from peftcore import MethodConfig, Scale, Targets


class SvdiffConfig(MethodConfig):
    """Configuration of SVDiff."""

    scale: Scale = Field(1.0, description="Factor s of the shifts of the singular values.")
    shift_1d: bool = Field(
        False,
        description="Shift the biases of the targeted layers too, and the weights and biases of"
        " every LayerNorm and GroupNorm.",
    )
    learning_rate_1d: float = Field(
        1e-3,
        gt=0,
        description="Factor of the learning rate for those; the paper has 1e-6 beside 1e-3.",
    )
    targets: Targets = Field(
        Targets.model_validate(
            ["attention.query", "attention.key", "attention.value", "attention.output"]
        ),
        description="Linear layers and convolutions whose singular values are shifted.",
    )
