"""The ``tune`` section of a recipe, and the ranges that it names. Imports no torch."""

import json
import re
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from peftcore import ConfigError, Strict

SECTION = "tune"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"\s*({_NUMBER})\s*\.\.\s*({_NUMBER})\s*(:log)?\s*")


class TuneSection(Strict):
    """What to search for, and for how long."""

    parameters: dict[str, str | list[Any] | None] = Field(
        {},
        description="Keys as for `--set`, each with a range `4..64` or `1e-4..1e-2:log`, a list to"
        " choose from, or null for what the schema of the field allows. Default: the fields of all"
        " methods and `train.learning_rate`.",
    )
    trials: int = Field(20, ge=1, le=100_000, description="Trials of the whole search.")
    minutes: float | None = Field(
        None, gt=0, description="Minutes after which no further trial begins."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of what is tried.")
    storage: str | None = Field(
        None,
        min_length=1,
        description="Address of a database that workers on several machines share, as SQLAlchemy"
        " writes it; `study.db` in the directory by default.",
    )


@dataclass(frozen=True)
class Range:
    """Numbers from which one is chosen.

    Attributes:
        low: the least.
        high: the greatest.
        log: choose between logarithms.
        whole: integers alone.
        guessed: the user named no bounds.
    """

    low: float
    high: float
    log: bool
    whole: bool
    guessed: bool = False

    @property
    def shown(self) -> str:
        """The range as it is written."""
        return f"{self.low:g}..{self.high:g}{':log' * self.log}"

    @property
    def ends(self) -> list[Any]:
        """The values that are checked before anything is trained."""
        return [self.low, self.high]


@dataclass(frozen=True)
class Choice:
    """Values from which one is chosen."""

    values: tuple[Any, ...]

    @property
    def shown(self) -> str:
        """The values as they are written."""
        return json.dumps(list(self.values))

    @property
    def ends(self) -> list[Any]:
        """The values that are checked before anything is trained."""
        return list(self.values)


def parsed(key: str, value: Any) -> Range | Choice:
    """Return what a range or a list says.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(value, list):
        if not value:
            raise ConfigError(f"tune.parameters: {key} has no values to choose from.")
        return Choice(tuple(value))
    match = _RANGE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ConfigError(
            f"tune.parameters: {key}: {value!r} is no range; write 4..64, 1e-4..1e-2:log or a list."
        )
    whole = all(re.fullmatch(r"[-+]?\d+", text) for text in match.group(1, 2))
    low, high = (int(text) if whole else float(text) for text in match.group(1, 2))
    log = bool(match[3])
    if not low < high or (log and low <= 0):
        what = "a logarithm needs numbers above 0" if low < high else "the first is not the least"
        raise ConfigError(f"tune.parameters: {key}: {value}: {what}.")
    return Range(low, high, log, whole)
