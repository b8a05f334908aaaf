"""Regression: one or several numbers for a text, a pair of texts, or a sequence of residues."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from peftcore import ConfigError, DataError, Loaded
from peftcore_train.data import Columns, Row
from peftcore_train.task import Batch
from peftcore_train.tasks.whole_text import WholeText, WholeTextConfig

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

#: Metrics in the units of the targets, with whether greater is better.
_METRICS = {"pearson": True, "spearman": True, "r2": True, "mae": False, "rmse": False}


class RegressionConfig(WholeTextConfig):
    """The ``task`` section of regression."""

    target_columns: tuple[str, ...] = Field(
        ("target",), min_length=1, description="Columns of the numbers to predict."
    )
    loss: Literal["mse", "huber"] = Field(
        "mse", description="`mse`, or `huber`, which outliers pull less."
    )
    huber_delta: float = Field(
        1.0,
        gt=0,
        description="Error from which on `huber` grows linearly, in standard deviations.",
    )
    means: tuple[float, ...] | None = Field(
        None, description="Mean of each target; that of the training rows."
    )
    deviations: tuple[float, ...] | None = Field(
        None, description="Standard deviation of each target; that of the training rows."
    )

    @model_validator(mode="after")
    def _one_of_each(self) -> "RegressionConfig":
        count = len(self.target_columns)
        if len(set(self.target_columns)) < count:
            raise ValueError("target_columns names a column twice")
        for name in ("means", "deviations"):
            given = getattr(self, name)
            if given is not None and len(given) != count:
                raise ValueError(f"{name} has {len(given)} numbers for {count} target_columns")
        if self.deviations is not None and min(self.deviations) <= 0:
            raise ValueError("deviations holds one that is not above 0")
        if (self.means is None) != (self.deviations is None):
            raise ValueError("means and deviations go together")
        return self


class Regression(WholeText):
    """Squared or Huber error of standardised targets; scores are in the targets' own units."""

    default_metric = "r2"
    metric_names: Mapping[str, bool] = {"loss": False, **_METRICS}

    def __init__(self, config: RegressionConfig):
        super().__init__(config)
        self.means = list(config.means or ())
        self.deviations = list(config.deviations or ())
        if len(config.target_columns) > 1:
            each = {
                f"{name}_of.{column}": greater
                for name, greater in _METRICS.items()
                for column in config.target_columns
            }
            self.metric_names = {**Regression.metric_names, **each}

    @property
    def needs_rows(self) -> bool:
        """Whether the head depends on the rows; it has one output for each column."""
        return False

    def columns(self) -> Columns:
        """Return the columns of the texts, and those of the targets."""
        return Columns(self.texts, self.config.target_columns)

    def learn(self, rows: Sequence[Row]) -> None:
        """Take mean and standard deviation of each target from the training rows."""
        if self.means:
            return
        for column in self.config.target_columns:
            values = [number(row, column) for row in rows]
            mean = math.fsum(values) / len(values)
            deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))
            # rounding leaves equal numbers a trace of spread
            if deviation <= 1e-12 * max(map(abs, values)):
                file = rows[0].where.rpartition(":")[0]
                raise DataError(
                    f"{file}: column {column!r} holds {values[0]:g} in every row; there is nothing"
                    " to learn. Leave it out of task.target_columns, or give rows that differ."
                )
            self.means.append(mean)
            self.deviations.append(deviation)

    def learned(self) -> dict[str, Any]:
        """Return what the targets were standardised with."""
        return {"means": list(self.means), "deviations": list(self.deviations)}

    def model_config(self) -> dict[str, Any]:
        """Return the names of the targets, and that they are numbers."""
        names = self.config.target_columns
        return {
            "id2label": dict(enumerate(names)),
            "label2id": {name: i for i, name in enumerate(names)},
            "problem_type": "regression",
        }

    def fold(self, model: nn.Module) -> None:
        """Let the last layer of the head answer in the targets' units.

        Raises:
            ConfigError: it has no bias, which the means could be added to.
        """
        count = len(self.means)
        linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
        last = next((m for m in reversed(linears) if m.out_features == count), None)
        if last is None or last.bias is None:
            raise ConfigError(
                f"the head of a {type(model).__name__} has no bias that the means of the targets"
                " could be added to, so that a merged model would answer in other units. Keep the"
                " adapter, and predict with peftcore predict."
            )
        with torch.no_grad():
            scale = last.weight.new_tensor(self.deviations)
            last.weight.mul_(scale[:, None])
            last.bias.mul_(scale).add_(last.bias.new_tensor(self.means))

    def load_options(self) -> dict[str, Any]:
        """Return the number of targets."""
        return {"num_labels": len(self.config.target_columns)}

    def answer(self, row: Row) -> list[float]:
        """Return the standardised targets of a row."""
        values = [number(row, column) for column in self.config.target_columns]
        scales = zip(values, self.means, self.deviations, strict=True)
        return [(value - mean) / deviation for value, mean, deviation in scales]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean error of rows and targets."""
        return self._errors(self.logits(model, batch), batch["target"]).mean()

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return predictions and targets in the targets' units, and the error of each row."""
        logits, target = self.logits(model, batch), batch["target"]
        return {
            "values": self._in_units(logits),
            "target": self._in_units(target),
            "loss": self._errors(logits, target).mean(1),
            "count": torch.ones_like(target[:, 0]),
        }

    def metrics(self) -> "MetricCollection":
        """Return the metrics, of several targets the mean and each one's own."""
        # seconds of imports, which nothing but scoring needs
        from peftcore_train.metrics import regression_metrics

        return regression_metrics(self.config.target_columns)

    def predict(self, model: nn.Module, batch: Batch, loaded: Loaded) -> list[dict[str, Any]]:
        """Return each target by the name of its column."""
        names = self.config.target_columns
        values = self._in_units(self.logits(model, batch)).tolist()
        return [dict(zip(names, row, strict=True)) for row in values]

    def _errors(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.config.loss == "huber":
            return F.huber_loss(logits, target, reduction="none", delta=self.config.huber_delta)
        return F.mse_loss(logits, target, reduction="none")

    def _in_units(self, standardised: Tensor) -> Tensor:
        """Undo the standardisation, in double precision where the device has it."""
        wide = standardised if standardised.device.type == "mps" else standardised.double()
        return wide * wide.new_tensor(self.deviations) + wide.new_tensor(self.means)


def number(row: Row, column: str) -> float:
    """Return the number in a column; a table holds it as text.

    Raises:
        DataError: it is no finite number.
    """
    value = row.column(column)
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        found = float(value)
    except (ValueError, OverflowError):
        raise DataError(
            f"{row.where}: column {column!r} holds {value!r}, which is no number. Write one with a"
            " decimal point, or leave the row out."
        ) from None
    if not math.isfinite(found):
        raise DataError(
            f"{row.where}: column {column!r} holds {value!r}; a target is a finite number. Leave"
            " the row out."
        )
    return found
