"""What a recipe can say about DoRA."""

from typing import Annotated

from pydantic import Field

from peftcore import MethodConfig, PerRole, Targets


class DoraConfig(MethodConfig):
    """Configuration of DoRA; `rank`, `alpha` and `dropout` may be given per role."""

    rank: PerRole[Annotated[int, Field(ge=1)]] = Field(
        8, description="Rank r of the update; at most the smaller side of the layer."
    )
    alpha: PerRole[Annotated[float, Field(gt=0)] | None] = Field(
        None,
        description="The update is scaled by alpha / rank. Not given: alpha = rank, a scale of 1.",
    )
    dropout: PerRole[Annotated[float, Field(ge=0, lt=1)]] = Field(
        0.0, description="Dropout on the input of what is added to the base's output, in training."
    )
    targets: Targets = Field(
        Targets.model_validate(["attention.query", "attention.value"]),
        description="Linear layers whose magnitude and direction are tuned.",
    )
    magnitude_only: Targets | None = Field(
        None, description="Further linear layers whose magnitude alone is tuned."
    )
