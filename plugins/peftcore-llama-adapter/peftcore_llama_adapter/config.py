"""What a recipe can say about LLaMA-Adapter."""

from typing import Annotated, Literal

from pydantic import Field

from peftcore import MethodConfig, Targets, Width, WithinPositions


class LlamaAdapterConfig(MethodConfig):
    """Configuration of LLaMA-Adapter."""

    adapter_len: Annotated[Width, WithinPositions()] = Field(
        10, description="K: number of prompts, at most as many as the model has positions."
    )
    adapter_layers: int | None = Field(
        None,
        ge=1,
        description="Number of layers that get prompts, from the top; by default all but the lowest"
        " two, as the paper's 30 of 32.",
    )
    gate: Literal["tanh", "linear"] = Field(
        "tanh", description="What multiplies the attention to prompts: tanh(g), or g itself."
    )
    targets: Targets = Field(
        Targets.model_validate(["attention"]), description="Self-attention to choose layers of."
    )
