"""What a recipe can say about AdaLoRA."""

from typing import Self

from pydantic import Field, model_validator

from peftcore import Dropout, LinearTargets, MethodConfig, OneRank, Scale, Targets


class AdaLoraConfig(MethodConfig):
    """Configuration of AdaLoRA; the names are those of Hugging Face PEFT."""

    init_r: OneRank = Field(
        12, description="Rank of every update at first; at most the smaller side of a layer."
    )
    target_r: int = Field(
        8, ge=1, description="Mean rank of the updates in the end; at most init_r."
    )
    tinit: int = Field(0, ge=0, description="Steps at the start in which all ranks are kept.")
    tfinal: int = Field(0, ge=0, description="Steps at the end in which the ranks stay fixed.")
    deltaT: int = Field(1, ge=1, description="Steps from one allocation of the ranks to the next.")
    beta1: float = Field(0.85, gt=0, lt=1, description="Smoothing of the sensitivity.")
    beta2: float = Field(0.85, gt=0, lt=1, description="Smoothing of its uncertainty.")
    orth_reg_weight: float = Field(
        0.5, ge=0, description="Weight of the orthogonality penalty in the loss."
    )
    alpha: Scale | None = Field(
        None, description="The update is scaled by alpha / init_r. Not given: a scale of 1."
    )
    dropout: Dropout = 0.0
    targets: LinearTargets = Targets(roles=("attention.query", "attention.value"))

    @model_validator(mode="after")
    def _shrinks(self) -> Self:
        if self.target_r > self.init_r:
            raise ValueError(
                f"target_r {self.target_r} is above init_r {self.init_r}: the budget only shrinks."
                f" Write target_r: {self.init_r} or less, or a larger init_r"
            )
        return self
