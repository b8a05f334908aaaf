"""The ``meta`` and ``compose`` sections of a recipe. Imports no torch."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from peftcore import Strict
from peftcore_train.recipes import NAME

META, COMPOSE = "meta", "compose"
Start = Literal["scratch", "joint", "reptile"]


def _named(value: dict[str, Any]) -> dict[str, Any]:
    if len(value) < 2:
        raise ValueError("name at least two")
    for name in value:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r}: use letters, digits, - and _ only")
    return value


class MetaSection(Strict):
    """How a start is learned, and how it is tried."""

    tasks: dict[str, dict[str, Any]] = Field(
        description="Tasks to learn from: name to changes of the recipe, as for `--set`, such as"
        " `{data.source: samples/tweet-sentiment}`. All must have the labels of the recipe's own.",
    )
    starts: tuple[Start, ...] = Field(
        ("scratch", "joint", "reptile"),
        min_length=1,
        description="Starts that are tried: as the method begins, trained on all tasks together,"
        " or learned by Reptile.",
    )
    iterations: int = Field(100, ge=1, le=1_000_000, description="Outer steps of Reptile.")
    tasks_per_step: int = Field(
        1, ge=1, le=1000, description="Tasks that an outer step trains on; their ends are averaged."
    )
    inner_steps: int = Field(5, ge=1, le=10_000, description="Optimiser steps on one task.")
    inner_rows: int = Field(
        32, ge=1, le=1_000_000, description="Rows that are drawn of a task for its inner steps."
    )
    inner_batch_size: int = Field(16, ge=1, le=65_536, description="Rows of an inner step.")
    step_size: float = Field(
        1.0, gt=0, le=1, description="How far an outer step goes towards the ends; falls to 0."
    )
    shots: int = Field(16, ge=1, description="Training rows of the recipe's own task in a trial.")
    draws: int = Field(
        3, ge=1, le=1000, description="Trials of each start, with rows of their own."
    )

    _names = field_validator("tasks")(_named)


class ComposeSection(Strict):
    """What is added up, and with which weights."""

    adapters: dict[str, str] = Field(
        description="Name to run directory or adapter; all of the same methods on the same base.",
    )
    weights: dict[str, float] | None = Field(
        None,
        description="Weight of each adapter. If not given they are fitted to the training rows"
        " without gradients, as in LoraHub.",
    )
    add: Literal["tensors", "updates"] = Field(
        "tensors",
        description="`tensors`: each tensor by itself, as LoraHub does: (sum w A)(sum w B) for"
        " LoRA. `updates`: what LoRA adds to a weight, exactly: sum w B A, of the summed rank.",
    )
    shots: int | None = Field(
        None, ge=1, description="Training rows that weights are fitted to; all if not given."
    )
    steps: int = Field(40, ge=2, le=1_000_000, description="Weights that are tried.")
    bound: float = Field(1.5, gt=0, le=100, description="Greatest weight, of either sign.")
    l1: float = Field(
        0.05, ge=0, le=100, description="Penalty on the mean absolute weight, added to the loss."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of what is tried.")

    _names = field_validator("adapters")(_named)

    @model_validator(mode="after")
    def _a_weight_each(self) -> "ComposeSection":
        if self.weights is not None and self.weights.keys() != self.adapters.keys():
            odd = sorted(self.weights.keys() ^ self.adapters.keys())
            raise ValueError(f"weights: give one for each adapter; {odd[0]} is in one list only")
        return self
