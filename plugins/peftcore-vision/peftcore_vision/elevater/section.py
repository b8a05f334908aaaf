"""The ``elevater`` section of a recipe. Imports no torch."""

from pydantic import Field, field_validator

from peftcore import Strict, nearest
from peftcore_vision.elevater.benchmark import RATES
from peftcore_vision.elevater.catalogue import DATA_SETS

SECTION = "elevater"


class ElevaterSection(Strict):
    """What the benchmark runs, and how."""

    datasets: tuple[str, ...] = Field(
        tuple(DATA_SETS), min_length=1, description="Data sets by name; all 20 if not given."
    )
    seeds: tuple[int, ...] = Field(
        (0, 1, 2), min_length=1, description="Seeds of the draw of few shots, and of training."
    )
    learning_rates: tuple[float, ...] = Field(
        RATES, min_length=1, description="Rates of the sweep; one skips no strength of L2."
    )
    weight_decay: float | None = Field(
        None, ge=0, description="Strength of L2; of 97 between 1e-6 and 1e6 the best if not given."
    )
    sweep_epochs: int = Field(10, ge=1, description="Epochs of a run of the sweep.")
    final_epochs: int = Field(
        50, ge=1, description="Epochs of the last run, on held-out rows as well."
    )

    @field_validator("datasets")
    @classmethod
    def _are_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in DATA_SETS:
                raise ValueError(
                    f"{name!r} is not a data set of ELEVATER.{nearest(name, DATA_SETS)}"
                )
        return value
