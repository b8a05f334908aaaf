"""The ``fairtune`` section of a recipe. Imports no torch."""

from typing import Literal

from pydantic import Field, model_validator

from peftcore import Strict

#: Objectives, with the metric of the task that each is, and whether greater is better.
OBJECTIVES: dict[str, tuple[str, bool]] = {
    "min_auc": ("auroc_min", True),
    "min_acc": ("accuracy_min", True),
    "auc_diff": ("auroc_gap", False),
    "acc_diff": ("accuracy_gap", False),
    "max_loss": ("loss_max", False),
    "overall_auc": ("auroc", True),
    "overall_acc": ("accuracy", True),
}
SECTION = "fairtune"


class FairtuneSection(Strict):
    """How to search for a mask."""

    objective: Literal[
        "min_auc", "min_acc", "auc_diff", "acc_diff", "max_loss", "overall_auc", "overall_acc"
    ] = Field(
        "min_auc",
        description="What a mask is judged by, on validation: the worst group's AUROC or accuracy,"
        " the gap between best and worst, the worst group's loss, or a score of all rows.",
    )
    attribute: str | None = Field(
        None,
        description="Attribute of `task.groups` whose groups count, or two crossed as `sex x age`;"
        " not needed where there is one.",
    )
    trials: int = Field(20, ge=1, le=100_000, description="Masks that are tried.")
    learning_rate: tuple[float, float] = Field(
        (1e-5, 1e-3), description="Least and greatest rate; drawn with each mask, by its logarithm."
    )
    sampler: Literal["tpe", "random"] = Field("tpe", description="Sampler of optuna.")
    pruner: Literal["successive_halving", "median", "hyperband", "none"] = Field(
        "successive_halving", description="Pruner of optuna, asked after every epoch."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of what is tried.")
    retrain_seeds: tuple[int, ...] = Field(
        (0, 1, 2),
        min_length=1,
        description="Seeds of the second stage, which trains with the best mask and tests it.",
    )
    retrain_epochs: int | None = Field(
        None, ge=1, description="Epochs of the second stage; those of the search if not given."
    )

    @model_validator(mode="after")
    def _rates_rise(self) -> "FairtuneSection":
        low, high = self.learning_rate
        if not 0 < low <= high:
            raise ValueError("learning_rate is the least and the greatest rate, above 0")
        return self

    @property
    def overall(self) -> bool:
        """Whether no attribute has a say."""
        return self.objective.startswith("overall")
