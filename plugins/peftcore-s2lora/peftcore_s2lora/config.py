"""What a recipe can say about S2-LoRA."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from peftcore import LinearTargets, MethodConfig, OneRank, Scale, Targets


class S2LoraConfig(MethodConfig):
    """Configuration of S2-LoRA."""

    rank: OneRank = Field(
        32, description="Rank r of the shared pair; at most the smallest side of a layer."
    )
    sparsity: Literal["l1", "topk", "proximal", "none"] = Field(
        "l1",
        description="What keeps the coefficients sparse: `l1`, a penalty on their magnitudes;"
        " `topk`, a budget over all layers; `proximal`, a soft threshold after each step.",
    )
    beta: float = Field(1e-3, ge=0, description="`l1`: weight of the sum of all magnitudes.")
    budget: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="`topk`: coefficients that are not 0 in the end, over all layers; a cosine"
        " leads there from all of them.",
    )
    threshold: Annotated[float, Field(gt=0)] | None = Field(
        None, description="`proximal`: how much nearer to 0 each step takes every coefficient."
    )
    gamma: float = Field(
        0.0, ge=0, description="Weight of the squared distance of P and Q from orthogonality."
    )
    scale: Scale = Field(1.0, description="Factor of the update.")
    # one pattern that takes in cross-attention, so that models without it need no other
    targets: LinearTargets = Targets(roles=("*attention.{query,key,value,output}",))

    @model_validator(mode="after")
    def _needed(self) -> Self:
        for name, kind in (("budget", "topk"), ("threshold", "proximal")):
            given, asked = getattr(self, name) is not None, self.sparsity == kind
            if asked and not given:
                raise ValueError(f"sparsity: {kind} needs a {name}. Write one, above 0")
            if given and not asked:
                raise ValueError(
                    f"{name} is for sparsity: {kind}, and sparsity is {self.sparsity}."
                    f" Leave {name} out, or write sparsity: {kind}"
                )
        return self
