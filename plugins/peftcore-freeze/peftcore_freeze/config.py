"""What a recipe can say about partial fine-tuning."""

from typing import Annotated

from pydantic import Field, field_validator

from peftcore import MethodConfig, Targets

Trained = Annotated[
    Targets,
    Field(description="Modules that train, with all that is inside them; the rest is frozen."),
]


class FreezeConfig(MethodConfig):
    """Configuration of layer freezing."""

    targets: Trained = Targets(roles=("block",), layers="last 1")
    also: Targets | None = Field(
        None,
        description="Modules that train besides, where `layers` of the targets would leave them"
        " out: `norm`, `embeddings`.",
    )

    @field_validator("targets", "also")
    @classmethod
    def _without_head(cls, value: Targets | None) -> Targets | None:
        if value is not None and "head" in value.roles:
            raise ValueError("the head trains through modules_to_save, leave it out here")
        return value


class FullConfig(FreezeConfig):
    """Configuration of full fine-tuning."""

    targets: Trained = Targets(roles=("*",))


class NormTuningConfig(FreezeConfig):
    """Configuration of norm tuning."""

    targets: Trained = Targets(roles=("norm",))


class AttentionTuningConfig(FreezeConfig):
    """Configuration of attention tuning."""

    targets: Trained = Targets(roles=("attention.*",))
