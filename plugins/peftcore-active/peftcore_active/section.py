"""The sections ``active`` and ``curriculum`` of a recipe. Imports no torch."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from peftcore import Strict

ACTIVE, CURRICULUM = "active", "curriculum"
Strategy = Literal["entropy", "margin", "bald", "k_centre"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
#: What every strategy is held against.
RANDOM = "random"
Order = Literal["easy", "hard", "random"]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class ActiveSection(Strict):
    """How a pool is labelled."""

    strategies: tuple[Strategy, ...] = Field(
        STRATEGIES,
        min_length=1,
        description="What chooses rows: `entropy` and `margin` of the predicted labels, `bald`"
        " (what dropout disagrees about), `k_centre` (the row farthest from all that are labelled)."
        " A random choice always runs beside them.",
    )
    start: int = Field(50, ge=2, description="Rows that are labelled at first, drawn at random.")
    add: int = Field(50, ge=1, description="Rows that are labelled in each round.")
    rounds: int = Field(5, ge=1, le=1000, description="Rounds after the first training.")
    seeds: tuple[Seed, ...] = Field(
        (0, 1, 2), min_length=1, description="Seeds of what is drawn at first, and of training."
    )
    passes: int = Field(
        8, ge=2, le=1000, description="Forward passes with dropout from which `bald` is computed."
    )
    metric: str | None = Field(
        None,
        description="Test metric that is told; the one that chooses the best epoch if not given.",
    )

    @model_validator(mode="after")
    def _each_once(self) -> "ActiveSection":
        for name in ("strategies", "seeds"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name} names one twice")
        return self

    @property
    def budget(self) -> int:
        """Labels at the end."""
        return self.start + self.rounds * self.add


class CurriculumSection(Strict):
    """In which order rows come."""

    by: Literal["loss", "length"] = Field(
        "loss",
        description="What makes a row hard: its `loss` under a model that was trained on all rows"
        " in any order, or its `length` in tokens.",
    )
    orders: tuple[Order, ...] = Field(
        ("easy", "hard", "random"),
        min_length=1,
        description="Which rows come first; `random` has the same stages and no order.",
    )
    stages: tuple[float, ...] = Field(
        (0.34, 0.67, 1.0),
        min_length=2,
        description="Share of the rows that each stage trains on: the pace. All stages have equally"
        " many steps, together as many as training without a curriculum.",
    )
    seeds: tuple[Seed, ...] = Field((0, 1, 2), min_length=1, description="Seeds of training.")
    metric: str | None = Field(
        None,
        description="Test metric that is told; the one that chooses the best epoch if not given.",
    )

    @model_validator(mode="after")
    def _shares_rise(self) -> "CurriculumSection":
        if list(self.stages) != sorted(set(self.stages)) or self.stages[0] <= 0:
            raise ValueError("stages are shares above 0 that rise")
        if self.stages[-1] != 1:
            raise ValueError("the last of the stages is 1, all rows")
        for name in ("orders", "seeds"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name} names one twice")
        return self
