"""What a recipe can say about TSA."""

from typing import Literal, Self

from pydantic import Field, model_validator

from peftcore import MethodConfig, Targets


class TsaConfig(MethodConfig):
    """Configuration of TSA."""

    form: Literal["matrix", "vector"] = Field(
        "matrix",
        description="`matrix`: a convolution of kernel 1; `vector`: one factor a channel, a matrix"
        " where the numbers of channels differ.",
    )
    init: Literal["released", "identity"] = Field(
        "released",
        description="`released`: 1e-4 times the identity; `identity`: zero, so that the model"
        " starts as it was.",
    )
    pre_classifier: bool = Field(
        False, description="Transform the input of the head by a d x d matrix that starts as I."
    )
    stem: bool = Field(
        False,
        description="Adapt convolutions outside of the residual blocks too; the release leaves them"
        " alone. Of a model whose blocks are not known all are adapted.",
    )
    targets: Targets | None = Field(
        Targets.model_validate(["conv"]),
        description="Convolutions to adapt; those whose kernel is not 3 are left alone.",
    )

    @model_validator(mode="after")
    def _trains_something(self) -> Self:
        if self.targets is None and not self.pre_classifier:
            raise ValueError("without targets nothing trains; write pre_classifier: true")
        return self
