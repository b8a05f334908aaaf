"""How much noise a budget asks for, and what a run has spent; opacus does the accounts."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from opacus.accountants import create_accountant
from opacus.accountants.utils import get_noise_multiplier

from peftcore import ConfigError
from peftcore_private.section import SECTION, PrivateSection


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back that an order at the end of opacus' list gives a bound that could be tighter."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Optimal order is the", UserWarning)
        yield


@dataclass(frozen=True)
class Budget:
    """The guarantee of one run.

    Attributes:
        noise_multiplier: standard deviation of the noise, in units of ``clip``.
        clip: greatest norm of the gradient of a row.
        sample_rate: probability with which a step draws a row.
        delta: delta of the guarantee.
        accountant: accountant of opacus.
    """

    noise_multiplier: float
    clip: float
    sample_rate: float
    delta: float
    accountant: str

    def epsilon(self, steps: int) -> float:
        """Return what so many steps spend."""
        run = (self.noise_multiplier, self.sample_rate, steps)
        return _spent(run, self.delta, self.accountant) if steps else 0.0


def budget_of(
    section: PrivateSection, epsilon: float | None, *, rows: int, batch_size: int, steps: int
) -> Budget:
    """Return the guarantee of a run with the least noise that keeps it within a budget.

    Args:
        section: the ``private`` section.
        epsilon: the budget; None where the section gives the noise.
        rows: training rows.
        batch_size: rows that a step draws on average.
        steps: steps of the whole run.

    Raises:
        ConfigError: no noise keeps within the budget, or a step would draw every row.
    """
    if batch_size > rows:
        raise ConfigError(
            f"train.batch_size {batch_size} is more than the {rows} training rows; a step of"
            " private training draws each row with probability batch_size / rows. Lower it."
        )
    delta = section.delta or 1 / (10 * rows)
    if delta >= 1 / rows:
        raise ConfigError(
            f"{SECTION}.delta {delta:g} is no guarantee for {rows:,} training rows: one of them"
            f" may be published outright. Choose one below {1 / rows:.2g}."
        )
    rate, noise = batch_size / rows, section.noise_multiplier
    if epsilon is not None:
        try:
            noise = _least_noise(epsilon, delta, rate, steps, section.accountant)
        except (ValueError, OverflowError) as error:
            raise ConfigError(
                f"{SECTION}.epsilon {epsilon:g}: no noise keeps {steps:,} steps within it"
                f" ({error}). Raise it, train for fewer steps, or with a smaller batch."
            ) from error
    assert noise is not None  # the section gives one of the two
    return Budget(noise, section.clip, rate, delta, section.accountant)


# the accounts take seconds, and several places ask for the same ones


@lru_cache
def _spent(run: tuple[float, float, int], delta: float, accountant: str) -> float:
    made: Any = create_accountant(mechanism=accountant)
    made.history = [run]
    with _quiet():
        return float(made.get_epsilon(delta=delta))


@lru_cache
def _least_noise(epsilon: float, delta: float, rate: float, steps: int, accountant: str) -> float:
    with _quiet():
        return get_noise_multiplier(
            target_epsilon=epsilon,
            target_delta=delta,
            sample_rate=rate,
            steps=steps,
            accountant=accountant,
            epsilon_tolerance=epsilon / 100,
        )
