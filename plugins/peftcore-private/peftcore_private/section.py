"""The ``private`` and ``federated`` sections of a recipe. Imports no torch."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from peftcore import Strict

SECTION, FEDERATED = "private", "federated"


class PrivateSection(Strict):
    """How private the training rows shall be."""

    epsilon: tuple[float, ...] = Field(
        (8.0,),
        min_length=1,
        description="Budgets; each is a run of its own, whose noise is as small as the budget"
        " allows.",
    )
    noise_multiplier: float | None = Field(
        None,
        gt=0,
        le=1e4,
        description="Standard deviation of the noise, in units of `clip`, in place of `epsilon`.",
    )
    delta: float | None = Field(
        None, gt=0, lt=1, description="Delta of the guarantee; 1 / (10 * training rows)."
    )
    clip: float = Field(
        1.0, gt=0, le=1e6, description="Greatest norm of the gradient of one row; more is cut."
    )
    accountant: Literal["rdp", "prv", "gdp"] = Field(
        "rdp",
        description="Accountant of opacus: Renyi, numerical (tighter, slower), or Gaussian (an"
        " approximation).",
    )
    gradients: Literal["auto", "batches", "rows"] = Field(
        "auto",
        description="How gradients of single rows are made: a batch at a time, a row at a time, or"
        " `auto`: batches where the first one gives what single rows give, else rows.",
    )
    rows_at_once: int = Field(
        32, ge=1, le=65_536, description="Rows of a forward pass; a step may draw more."
    )
    baseline: bool = Field(
        False, description="Train once without privacy as well, as `peftcore train` does."
    )
    noise_seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="Seed of the noise and of which rows a step draws, for experiments; whoever"
        " knows it can take the noise away. Drawn by the system and never written if not given.",
    )

    @field_validator("epsilon", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, int | float) else value

    @field_validator("epsilon")
    @classmethod
    def _positive_and_once(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(one <= 0 for one in value):
            raise ValueError("a budget is above 0")
        if len({f"{one:g}" for one in value}) < len(value):
            raise ValueError("name each budget once")
        return value

    @model_validator(mode="after")
    def _budget_or_noise(self) -> "PrivateSection":
        if self.noise_multiplier is not None and "epsilon" in self.model_fields_set:
            raise ValueError("give epsilon or noise_multiplier, not both")
        return self

    @property
    def budgets(self) -> tuple[float | None, ...]:
        """The budget of each run; None where the noise is given."""
        return self.epsilon if self.noise_multiplier is None else (None,)


class FederatedSection(Strict):
    """Who trains, and what is sent."""

    clients: int = Field(
        2, ge=2, le=10_000, description="Clients that the training rows are dealt to at random."
    )
    column: str | None = Field(
        None,
        min_length=1,
        description="Column of the training rows that says whose a row is, such as `hospital`, in"
        " place of `clients`.",
    )
    rounds: int = Field(3, ge=1, le=100_000, description="Rounds of training and averaging.")
    local_epochs: int = Field(
        1, ge=1, le=10_000, description="Passes of a client over its rows in a round."
    )
    fraction: float = Field(1.0, gt=0, le=1, description="Share of the clients in each round.")
    freeze_A: bool = Field(
        False,
        description="Train B of LoRA alone, with the same A everywhere: the mean of the products is"
        " then the product of the means (FFA-LoRA), and half is sent.",
    )
    secure_aggregation: bool = Field(
        False,
        description="Clients hide what they send behind masks that cancel out in the sum (SecAgg+);"
        " the server learns the sum alone. Takes three clients at least.",
    )
