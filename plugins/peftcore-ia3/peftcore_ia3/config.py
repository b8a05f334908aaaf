"""What a recipe can say about IA3."""

from pydantic import Field

from peftcore import MethodConfig, Targets


class Ia3Config(MethodConfig):
    """Configuration of IA3."""

    targets: Targets = Field(
        Targets.model_validate(["attention.key", "attention.value", "mlp.down"]),
        description="Linear layers whose output is scaled, or input where feedforward says so.",
    )
    feedforward: Targets | None = Field(
        Targets.model_validate(["mlp.down"]),
        description="Those of the targets whose input is scaled: the inner activations.",
    )
