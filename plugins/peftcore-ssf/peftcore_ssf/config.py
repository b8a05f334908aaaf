"""What a recipe can say about SSF."""

from typing import Literal

from pydantic import Field

from peftcore import MethodConfig, Targets


class SsfConfig(MethodConfig):
    """Configuration of SSF."""

    targets: Targets = Field(
        Targets.model_validate(["*"]),
        description="Layers to scale and shift: linears, convolutions and norms; the head is left"
        " out.",
    )
    init: Literal["released", "identity"] = Field(
        "released",
        description="`released`: scale N(1, 0.02²), shift N(0, 0.02²); `identity`: 1 and 0, so that"
        " the model starts as it was.",
    )
