"""What a recipe can say about Point-PEFT."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from peftcore import MethodConfig, Scale, Width

Part = Annotated[float, Field(ge=0, lt=1)]


class PointPeftConfig(MethodConfig):
    """Configuration of Point-PEFT; the defaults are the release's."""

    num_virtual_tokens: Width = Field(10, description="T: prompts of a block, at least 3.")
    prompt_blocks: int = Field(
        6, ge=1, le=10_000, description="The first so many blocks have prompts."
    )
    bottleneck: Width = Field(16, description="Inner width of the adapters of each block.")
    bank: str | None = Field(
        None,
        description="File of a memory bank, which `peftcore point-bank` makes; without one prompts"
        " are learned alone.",
    )
    bank_bottleneck: Width = Field(
        8, description="Inner width of the adapters between the bank and the prompts."
    )
    attention_width: Width = Field(
        18, description="Width of the attention that all blocks share, a multiple of its heads."
    )
    attention_heads: int = Field(6, ge=1, le=1024, description="Heads of that attention.")
    inner_scale: Scale = Field(0.7, description="Factor of the adapter on the feed-forward part.")
    centre_scale: Scale = Field(0.3, description="Factor of a centre beside its neighbourhood.")
    propagation_scale: Scale = Field(
        0.3, description="Factor of what neighbourhoods give back to tokens."
    )
    dropout: Part = Field(
        0.1, description="Dropout on prompts and inside of adapters, in training."
    )
    released: bool = Field(
        False,
        description="Compute as the released code does: prompts and neighbourhoods are numbered"
        " differently there, so that a row reads tokens of others; parameters that it never reads"
        " are there too.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.num_virtual_tokens < 3:
            raise ValueError("num_virtual_tokens: at least 3, of which the bank fills all but 2")
        if self.attention_width % self.attention_heads:
            raise ValueError("attention_width is no multiple of attention_heads")
        return self
