"""What a recipe can say about prefix tuning."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from peftcore import MethodConfig, Targets, Width, WithinPositions


class PrefixConfig(MethodConfig):
    """Configuration of prefix tuning."""

    num_virtual_tokens: Annotated[Width, WithinPositions()] = Field(
        30,
        description="T: length of the prefix; at most the number of the model's positions.",
    )
    prefix_projection: bool = Field(
        False,
        description="Make the prefix by a two-layer network with tanh from a table of T vectors.",
    )
    encoder_hidden_size: Width | None = Field(
        None,
        description="h: inner width of that network; the model's width by default.",
    )
    targets: Targets = Field(
        Targets.model_validate(["attention"]),
        description="Self-attention that gets a prefix; all of it by default.",
    )

    @model_validator(mode="after")
    def _has_a_network(self) -> Self:
        if self.encoder_hidden_size is not None and not self.prefix_projection:
            raise ValueError(
                "encoder_hidden_size is of the network that prefix_projection: true brings"
            )
        return self
