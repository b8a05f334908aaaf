"""What a recipe can say about KAdaptation and Compacter."""

from math import sqrt
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from peftcore import (
    Divides,
    Dropout,
    LinearTargets,
    MethodConfig,
    Scale,
    Site,
    Targets,
    Width,
    both_sides,
)

Gain = Annotated[
    Scale,
    Field(
        description="Gain of Glorot's uniform start of the fast weights; √2 in the authors' code.",
    ),
]


def _output(site: Site) -> tuple[int]:
    return (site.layer.out_features,)


class KadaptationConfig(MethodConfig):
    """Configuration of KAdaptation."""

    phm_dim: Annotated[int, Divides(both_sides)] = Field(
        32,
        ge=1,
        description="n: number of Kronecker products and size of the shared factors; divides the"
        " widths of the targeted layers.",
    )
    scale: Scale = Field(160.0, description="Factor s of the update; the release has 160.")
    dropout: Dropout = Field(
        0.0, description="Dropout on the update matrix itself, in training; the release has 0.5."
    )
    bias: bool = Field(
        True, description="Train a bias too, one for all targeted layers of a block of one width."
    )
    init: Literal["paper", "released"] = Field(
        "paper",
        description="`paper`: u Glorot-uniform, v zero; `released`: both zero as in the authors'"
        " code, where nothing but the bias then ever trains.",
    )
    gain: Gain = sqrt(2)
    targets: LinearTargets = Targets(roles=("attention.query", "attention.value"))

    @model_validator(mode="after")
    def _trains_something(self) -> Self:
        if self.init == "released" and not self.bias:
            raise ValueError("with init: released only the bias trains; write bias: true")
        return self


class CompacterConfig(MethodConfig):
    """Configuration of Compacter."""

    bottleneck: Width | None = Field(
        None,
        description="Inner width of the adapter; n divides it. Not given: a 32nd of the width.",
    )
    phm_dim: Annotated[int, Divides(_output)] = Field(
        4, ge=1, description="n: number of Kronecker products, and size of the shared factors."
    )
    act_fn: Literal["relu", "gelu", "gelu_new", "silu", "tanh"] = Field(
        "gelu_new",
        description="Activation at the inner width; `gelu_new` is gelu by its tanh approximation.",
    )
    layer_norm: bool = Field(
        False, description="Normalise the adapter's input by a LayerNorm of its own."
    )
    init: Literal["released", "identity"] = Field(
        "released",
        description="`released`: all fast weights Glorot-uniform; `identity`: v of the"
        " up-projection zero, so that the model starts as it was.",
    )
    gain: Gain = sqrt(2)
    phm_c_init: Literal["normal", "uniform"] = Field(
        "normal", description="Start of the shared factors: `normal`, or `uniform` from -1 to 1."
    )
    phm_init_range: Scale = Field(
        0.01, description="Deviation of the normal start of the shared factors."
    )
    train_rule: bool = Field(True, description="Train the shared factors.")
    train_norms: bool = Field(
        True,
        description="Train the norms of the model too, those of the chosen `layers` of `targets`.",
    )
    targets: Targets = Field(
        Targets.model_validate(["attention.output", "mlp.down"]),
        description="Layers after which an adapter is put.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.bottleneck is not None and self.bottleneck % self.phm_dim:
            raise ValueError(
                f"bottleneck {self.bottleneck} is no multiple of phm_dim {self.phm_dim}"
            )
        return self
