"""What a recipe can say about bottleneck adapters; one class for each published setting."""

from typing import Annotated, Any, Literal

from pydantic import Field

from peftcore import Mark, MethodConfig, PerRole, Scale, Site, Targets, Width, with_role


class ReadsFeatures(Mark):
    """A placement other than ``after`` reads what enters the layer, which must be features."""

    def refusal(self, field: str, value: str, site: Site, given: Any) -> str:
        """Refuse to read token numbers."""
        if value == "after" or site.kind != "embedding":
            return ""
        return (
            f"{site.here} takes token numbers, so an adapter cannot read its input."
            f" Write {field}: {with_role(given, site.role, 'after')}."
        )


Bottleneck = Annotated[
    PerRole[Width],
    Field(description="Inner width of the adapter. May be given per role."),
]
ActFn = Annotated[
    Literal["relu", "gelu", "silu", "tanh"], Field(description="Activation at the inner width.")
]
Factor = Annotated[Scale, Field(description="Factor s of what the adapter adds.")]
LearnScale = Annotated[bool, Field(description="Train s; it starts at `scale`.")]
Bias = Annotated[bool, Field(description="Whether both projections have a bias, zero at first.")]
Init = Annotated[
    Literal["bert", "houlsby", "mam"],
    Field(
        description="Start of the weights: `bert` N(0, 0.02²); `houlsby` N(0, 0.01²) truncated at"
        " two deviations; `mam` down Kaiming-uniform, up zero, so that the model starts as it was."
    ),
]
Dropout = Annotated[float, Field(ge=0, lt=1, description="Dropout in the adapter, in training.")]
DropoutAt = Annotated[
    Literal["input", "inner"],
    Field(
        description="Where dropout acts: on the adapter's `input`, or on the `inner` activation."
    ),
]
LayerNorm = Annotated[
    bool, Field(description="Normalise what the adapter reads, by a LayerNorm of its own.")
]
Placement = Annotated[
    PerRole[Literal["before", "after", "parallel"]],
    ReadsFeatures(),
    Field(
        description="`before`: f(x + A(x)); `after`: z + A(z), z = f(x); `parallel`: f(x) + A(x)."
        " May be given per role."
    ),
]
Where = Annotated[Targets, Field(description="Layers or modules f that get an adapter.")]
Ends = Annotated[
    Targets,
    Field(
        description="Two linear layers of each block, or a norm and one: the adapter reads what"
        " enters the first and adds to what leaves the second."
    ),
]


class _Shape(MethodConfig):
    """The bottleneck itself."""

    bottleneck: Bottleneck = 256
    act_fn: ActFn = "tanh"
    scale: Factor = 1.0
    learn_scale: LearnScale = False
    bias: Bias = False
    init: Init = "bert"
    dropout: Dropout = 0.0
    dropout_at: DropoutAt = "input"
    layer_norm: LayerNorm = False


class AdapterConfig(_Shape):
    """Series adapter, as LLM-Adapters has it: after the last linear of the feed-forward part."""

    placement: Placement = "after"
    targets: Where = Targets.model_validate(["mlp.down"])


class ParallelAdapterConfig(_Shape):
    """Parallel adapter, as LLM-Adapters has it: beside single linears."""

    placement: Placement = "parallel"
    targets: Where = Targets.model_validate(["mlp.up", "mlp.down"])


class HoulsbyConfig(_Shape):
    """Houlsby's: after attention and after the feed-forward part, before each residual sum."""

    bottleneck: Bottleneck = 64
    act_fn: ActFn = "gelu"
    bias: Bias = True
    init: Init = "houlsby"
    placement: Placement = "after"
    targets: Where = Targets.model_validate(["attention.output", "mlp.down"])
    train_norms: bool = Field(
        True, description="Train the norms too, those of the chosen `layers` of `targets`."
    )


class PfeifferConfig(_Shape):
    """Pfeiffer's: one adapter a block, after the feed-forward part."""

    bottleneck: Bottleneck = 48
    act_fn: ActFn = "relu"
    bias: Bias = True
    placement: Placement = "after"
    targets: Where = Targets.model_validate(["mlp.down"])


class HeParallelConfig(_Shape):
    """The scaled parallel adapter of He et al., beside the whole feed-forward part.

    Its code takes the model's own dropout, 0.1 in all of its runs, after the activation.
    """

    bottleneck: Bottleneck = 512
    act_fn: ActFn = "relu"
    scale: Factor = 4.0
    bias: Bias = True
    init: Init = "mam"
    dropout: Dropout = 0.1
    dropout_at: DropoutAt = "inner"
    targets: Ends = Targets.model_validate(["mlp.up", "mlp.down"])


class AdaptformerConfig(HeParallelConfig):
    """AdaptFormer: the same place, narrower and weaker.

    The paper's adapter reads what the norm returns, its code what enters the norm: name the norm as
    the first of the targets for that.
    """

    bottleneck: Bottleneck = 64
    scale: Factor = 0.1


class SerAdapterConfig(HeParallelConfig):
    """PEFT-SER's: as wide as it is there, and as weak.

    Its code reads the hidden states before the norm of the feed-forward part. No role tells that
    norm from the others of a block, so name it as the first of the targets for that: of WavLM,
    wav2vec 2.0 and HuBERT ``path:**.layers.*.layer_norm``, of Whisper
    ``path:**.layers.*.final_layer_norm``; then ``mlp.down``.
    """

    bottleneck: Bottleneck = 128
    scale: Factor = 0.1
    released: bool = Field(
        False,
        description="Compute what the authors' code does: the adapter adds what it reads as well, a"
        " second residual, so that the model does not start as it was. It needs the norm before the"
        " feed-forward part as the first of the targets.",
    )
