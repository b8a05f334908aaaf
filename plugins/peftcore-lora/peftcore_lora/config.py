"""What a recipe can say about LoRA."""

from typing import Annotated

from pydantic import Field

from peftcore import Dropout, LowRankConfig, PerRole, Rank, Targets
from peftcore_lora.marks import FitsGroups, KeepsTable, NotAt


class LoraConfig(LowRankConfig):
    """Configuration of LoRA; `rank`, `alpha`, `dropout` and `init` may be given per role."""

    rank: Annotated[Rank, FitsGroups()] = Field(
        8,
        description="Rank r of the update, of each expert's at experts; at most the smaller side of"
        " the layer.",
    )
    dropout: Annotated[Dropout, NotAt("embedding", 0, "the input there is a token number")] = 0.0
    use_rslora: bool = Field(
        False, description="Scale by alpha / sqrt(rank) instead (rank-stabilised LoRA)."
    )
    init: Annotated[
        PerRole[Annotated[str, Field(pattern=r"^(default|pissa(_niter_\d+)?|olora)$")]],
        NotAt("embedding", "default", "an embedding has no other start than the default"),
        NotAt("experts", "default", "experts have no other start than the default"),
    ] = Field(
        "default",
        description="Start of A and B. `default`: random and zero; `pissa`: the largest singular"
        " values of the weight, `pissa_niter_4`: those found by a fast, randomised search;"
        " `olora`: the first rows and columns of its QR decomposition.",
    )
    loraplus_lr_ratio: float = Field(
        1.0,
        gt=0,
        description="Learning rate of B over that of A (LoRA+; its authors take about 16).",
    )
    targets: Annotated[Targets, KeepsTable()] = Field(
        Targets.model_validate(["attention.query", "attention.value"]),
        description="Linear, embedding and convolution layers to update, and experts.",
    )
