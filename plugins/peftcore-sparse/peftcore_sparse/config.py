"""What a recipe can say about sparse fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from peftcore import Mark, MethodConfig, Targets

if TYPE_CHECKING:
    from torch import nn

    from peftcore import Site

#: Scores that look at examples; the latter two in a short tuning of the whole model.
FROM_DATA = ("fisher", "gradient", "saliency", "movement", "lottery")
FROM_TUNING = ("movement", "lottery")


class NeedsGradient(Mark):
    """A score that looks at examples acts where the weight is a parameter."""

    def refusal(self, field: str, value: Any, site: Site, given: Any) -> str:
        """Refuse it where the weight is quantised or computed."""
        if value not in FROM_DATA or parameter_of(site) is not None:
            return ""
        return (
            f"{value} needs a gradient of the weight, and {site.here} keeps it quantised or"
            " computes it. Write score: magnitude, or leave it out with exclude."
        )


class InFours(Mark):
    """Two of four inputs are there where inputs come in fours."""

    def refusal(self, field: str, value: Any, site: Site, given: Any) -> str:
        """Refuse the pattern where they do not."""
        inputs = site.layer.weight_shape[1]
        if value != "2:4" or inputs % 4 == 0:
            return ""
        return (
            f"2:4 needs inputs in fours, and {site.here} has {inputs}. Choose other targets, or"
            " leave it out with exclude."
        )


def parameter_of(site: Site) -> nn.Parameter | None:
    """Return the parameter behind a site; None where the weight is quantised or computed."""
    parameter = site.module._parameters.get(site.weight_name)
    return parameter if parameter is not None and parameter.is_floating_point() else None


class SparseConfig(MethodConfig):
    """Configuration of sparse fine-tuning."""

    score: Annotated[
        Literal["magnitude", "fisher", "gradient", "saliency", "movement", "lottery", "random"],
        NeedsGradient(),
    ] = Field(
        "magnitude",
        description="`magnitude` |w|; `fisher` mean of g² over examples (FISH mask); `gradient`"
        " |g|, `saliency` |w g|, g being the mean gradient; `movement` sum of -w g over a short"
        " tuning; `lottery` |w - w₀| after it, with a return to w₀ (LT-SFT); `random`.",
    )
    p: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="Share of the targeted weights, those of the lowest scores, that does not"
        " train; k = N - floor(p N) train. With pattern 2:4 it is 0.5.",
    )
    prune: Literal["freeze", "zero"] = Field(
        "freeze",
        description="What becomes of those: `freeze` keeps them at their pretrained values, `zero`"
        " sets them to 0 for good.",
    )
    scope: Literal["global", "tensor"] = Field(
        "global",
        description="Rank all targeted weights together, or those of each layer apart.",
    )
    pattern: Annotated[Literal["unstructured", "rows", "2:4"], InFours()] = Field(
        "unstructured",
        description="What trains: single weights; whole output rows, ranked by their mean score,"
        " where N and k count rows; or two of each four consecutive inputs.",
    )
    samples: int = Field(
        1024, ge=1, description="Number of examples that the scores from data look at."
    )
    labels: Literal["gold", "sampled"] = Field(
        "gold",
        description="Labels of `fisher`: those of the examples (empirical Fisher), or drawn from"
        " the model (true Fisher).",
    )
    steps: int = Field(
        64,
        ge=1,
        description="Steps of the short tuning of `movement` and `lottery`; they share the"
        " samples.",
    )
    learning_rate: float = Field(5e-5, gt=0, description="Learning rate of that tuning, AdamW's.")
    seed: int = Field(0, ge=0, description="Seed of `random` scores and of sampled labels.")
    targets: Targets = Field(
        Targets.model_validate(["all-linear"]),
        description="Linear layers, convolutions and embeddings; biases are never touched.",
    )

    @model_validator(mode="before")
    @classmethod
    def _half_of_four(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("pattern") == "2:4":
            return {"p": 0.5, **data}
        return data

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.pattern == "2:4" and self.p != 0.5:
            raise ValueError(f"p {self.p} with pattern 2:4, which trains two of four; leave p out")
        if self.labels == "sampled" and self.score != "fisher":
            raise ValueError(f"labels: sampled is for score: fisher, this is {self.score}")
        if self.score in FROM_TUNING and self.samples < self.steps:
            raise ValueError(f"{self.samples} samples do not suffice for {self.steps} steps")
        return self
