"""What a recipe can say about the mask."""

import re
from typing import Literal

from pydantic import Field, field_validator

from peftcore import MethodConfig

Space = Literal[
    "auto_peft1",
    "auto_peft2",
    "attention",
    "norm",
    "mlp",
    "attention_norm",
    "attention_mlp",
    "norm_mlp",
    "attention_norm_mlp",
    "block",
    "attention_parameters",
]


class FairtuneConfig(MethodConfig):
    """Configuration of the mask."""

    space: Space = Field(
        "auto_peft1",
        description="What the bits of a block stand for. `auto_peft1`: norms, attention, MLP;"
        " `auto_peft2`: first norm, attention, second norm, MLP; `attention_parameters`: each"
        " parameter of attention; else one bit for all that is named.",
    )
    mask: str | None = Field(
        None,
        description="A bit for each part, block by block, 1 to train it: `101 111 000`; blanks do"
        " not count. All ones if not given.",
    )
    positions: bool | None = Field(
        None,
        description="Train the table of positions as well; as released, with"
        " `attention_parameters` alone.",
    )

    @field_validator("mask")
    @classmethod
    def _bits(cls, value: str | None) -> str | None:
        if value is None:
            return None
        bits = re.sub(r"\s", "", value)
        if not bits or set(bits) - {"0", "1"}:
            raise ValueError("a mask is made of 0 and 1")
        if "1" not in bits:
            raise ValueError("a mask without a 1 trains the head alone: leave the method out")
        return bits
