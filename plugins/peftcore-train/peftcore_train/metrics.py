"""Metrics of the tasks, on torchmetrics; sums are kept in double precision."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    BinaryAUROC,
    BinaryAveragePrecision,
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassMatthewsCorrCoef,
    MultilabelExactMatch,
    MultilabelF1Score,
)
from torchmetrics.functional.classification import binary_auroc, binary_average_precision
from torchmetrics.functional.regression import (
    mean_absolute_error,
    mean_squared_error,
    pearson_corrcoef,
    r2_score,
    spearman_corrcoef,
)
from torchmetrics.utilities import dim_zero_cat


class MeanLoss(Metric):
    """Sum of the rows' losses over the sum of what they count.

    ``update(loss, count)``: [B] summed loss of each row, [B] number of its terms.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), "sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), "sum")

    def update(self, loss: Tensor, count: Tensor) -> None:
        """Add the rows of a batch."""
        self.total += loss.double().sum()
        self.count += count.double().sum()

    def compute(self) -> Tensor:
        """Return the mean."""
        return self.total / self.count


class Perplexity(MeanLoss):
    """Exponential of the mean loss of a token."""

    def compute(self) -> Tensor:
        """Return the perplexity."""
        return super().compute().exp()


class MeanCorrect(MeanLoss):
    """Share of the tokens that were predicted right: ``update(correct, count)``."""

    higher_is_better = True

    def update(self, correct: Tensor, count: Tensor) -> None:
        """Add the rows of a batch."""
        super().update(correct, count)


class EntityPrecision(Metric):
    """Share of the predicted entities that are right: ``update(right, predicted, given)``, [B].

    An entity is right where its type and both of its ends are.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    right: Tensor
    predicted: Tensor
    given: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("right", "predicted", "given"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), "sum")

    def update(self, right: Tensor, predicted: Tensor, given: Tensor) -> None:
        """Add the rows of a batch."""
        self.right += right.sum()
        self.predicted += predicted.sum()
        self.given += given.sum()

    def compute(self) -> Tensor:
        """Return the share; 0 where there is nothing to be a share of."""
        return self.right / self.whole().clamp(min=1)

    def whole(self) -> Tensor:
        """Return what the right ones are a share of."""
        return self.predicted


class EntityRecall(EntityPrecision):
    """Share of the given entities that were found."""

    def whole(self) -> Tensor:
        """Return what the right ones are a share of."""
        return self.given


class EntityF1(EntityPrecision):
    """Harmonic mean of precision and recall, over all types of entities together."""

    def whole(self) -> Tensor:
        """Return what the right ones are a share of."""
        return (self.predicted + self.given) / 2


class PositiveAUROC(BinaryAUROC):
    """AUROC of the second label's probability: ``update(positive, target)``."""

    def update(self, positive: Tensor, target: Tensor) -> None:
        """Add the rows of a batch."""
        super().update(positive, target)

    def compute(self) -> Tensor:  # type: ignore[override]
        """Return the value; not a number where only one label was seen."""
        return super().compute() if _has_both(self.target) else torch.tensor(math.nan)


class PositiveAveragePrecision(BinaryAveragePrecision):
    """Average precision (area under precision and recall) of the second label."""

    def update(self, positive: Tensor, target: Tensor) -> None:
        """Add the rows of a batch."""
        super().update(positive, target)

    def compute(self) -> Tensor:  # type: ignore[override]
        """Return the value; not a number where only one label was seen."""
        return super().compute() if _has_both(self.target) else torch.tensor(math.nan)


def _has_both(target: Any) -> bool:
    return len(dim_zero_cat(target).unique()) == 2


class ByColumn(Metric):
    """A score of each column of predictions, over all rows: ``update(values, target)``, [B, C].

    The value is the mean of the columns, or one value each. Where the target does not vary, or
    the prediction does not, what asks how they go together is not a number, and no part of a mean.

    Args:
        function: score of predictions and targets of one column, [N] each.
        varied: the score asks for a target that varies; ``both`` for predictions that do as well.
        names: of the columns, where each shall have its own value.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    values: list[Tensor]
    target: list[Tensor]

    def __init__(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        *,
        varied: str = "",
        names: Sequence[str] | None = None,
    ):
        super().__init__()
        self.function, self.varied, self.names = function, varied, names
        self.add_state("values", [], "cat")
        self.add_state("target", [], "cat")

    def update(self, values: Tensor, target: Tensor) -> None:
        """Add the rows of a batch."""
        self.values.append(values.double())
        self.target.append(target.double())

    def compute(self) -> Tensor:
        """Return the mean of the columns, or one value each."""
        values, target = dim_zero_cat(self.values), dim_zero_cat(self.target)
        columns = zip(values.unbind(1), target.unbind(1), strict=True)
        scores = torch.stack([self._score(v, t) for v, t in columns])
        return scores if self.names is not None else scores.nanmean()

    def _score(self, values: Tensor, target: Tensor) -> Tensor:
        flat = self.varied and not _varies(target)
        if flat or (self.varied == "both" and not _varies(values)):
            return torch.tensor(math.nan, dtype=torch.float64)
        return self.function(values, target).double()


class ErrorByColumn(ByColumn):
    """An error of each column."""

    higher_is_better = False


def _varies(values: Tensor) -> bool:
    return bool((values != values[0]).any())


def several_label_metrics(labels: int) -> MetricCollection:
    """Return loss, F1 micro and macro, subset accuracy, and mAP and AUROC of the labels' mean.

    A label that all rows have, or none, has no part in the last two.
    """
    metrics: dict[str, Metric | MetricCollection] = {
        "loss": MeanLoss(),
        "f1": MultilabelF1Score(labels, average="micro"),
        "f1_macro": MultilabelF1Score(labels, average="macro"),
        "subset_accuracy": MultilabelExactMatch(labels),
        "average_precision": ByColumn(_ranked(binary_average_precision), varied="target"),
        "auroc": ByColumn(_ranked(binary_auroc), varied="target"),
    }
    return MetricCollection(metrics, compute_groups=False)


def _ranked(function: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda preds, target: function(preds, target.long())


def similarity_metrics() -> MetricCollection:
    """Return Spearman's and Pearson's correlation of cosines and scores."""
    metrics: dict[str, Metric | MetricCollection] = {
        "spearman": ByColumn(spearman_corrcoef, varied="both"),
        "pearson": ByColumn(pearson_corrcoef, varied="both"),
    }
    return MetricCollection(metrics, compute_groups=False)


def regression_metrics(columns: Sequence[str]) -> MetricCollection:
    """Return loss, Pearson, Spearman, R2, MAE and RMSE; of several targets each one's as well."""
    kinds: dict[str, Callable[..., ByColumn]] = {
        "pearson": partial(ByColumn, pearson_corrcoef, varied="both"),
        "spearman": partial(ByColumn, spearman_corrcoef, varied="both"),
        "r2": partial(ByColumn, r2_score, varied="target"),
        "mae": partial(ErrorByColumn, mean_absolute_error),
        "rmse": partial(ErrorByColumn, partial(mean_squared_error, squared=False)),
    }
    metrics: dict[str, Metric | MetricCollection] = {"loss": MeanLoss()}
    metrics |= {name: make() for name, make in kinds.items()}
    if len(columns) > 1:
        metrics |= {f"{name}_of": make(names=columns) for name, make in kinds.items()}
    return MetricCollection(metrics, compute_groups=False)


def classification_metrics(labels: int) -> MetricCollection:
    """Return loss, accuracy, macro F1 and MCC; for two labels also AUROC and average precision."""
    metrics: dict[str, Metric | MetricCollection] = {
        "loss": MeanLoss(),
        "accuracy": MulticlassAccuracy(labels, average="micro"),
        "f1": MulticlassF1Score(labels, average="macro"),
        "mcc": MulticlassMatthewsCorrCoef(labels),
    }
    if labels == 2:
        metrics["auroc"] = PositiveAUROC()
        metrics["average_precision"] = PositiveAveragePrecision()
    return MetricCollection(metrics, compute_groups=False)


def token_metrics() -> MetricCollection:
    """Return loss and perplexity of a token, and the share predicted right."""
    return MetricCollection(
        {"loss": MeanLoss(), "perplexity": Perplexity(), "accuracy": MeanCorrect()},
        compute_groups=False,
    )


def label_metrics(labels: int) -> MetricCollection:
    """Return loss, accuracy, macro F1 and MCC of tokens; -100 is no label."""
    ignored: dict[str, Any] = {"ignore_index": -100, "validate_args": False}
    metrics: dict[str, Metric | MetricCollection] = {
        "loss": MeanLoss(),
        "accuracy": MulticlassAccuracy(labels, average="micro", **ignored),
        "f1": MulticlassF1Score(labels, average="macro", **ignored),
        "mcc": MulticlassMatthewsCorrCoef(labels, **ignored),
    }
    return MetricCollection(metrics, compute_groups=False)


def entity_metrics() -> MetricCollection:
    """Return loss and accuracy of tokens, and F1, precision and recall of whole entities."""
    metrics: dict[str, Metric | MetricCollection] = {
        "loss": MeanLoss(),
        "accuracy": MeanCorrect(),
        "f1": EntityF1(),
        "precision": EntityPrecision(),
        "recall": EntityRecall(),
    }
    return MetricCollection(metrics, compute_groups=False)


class MeanMargin(MeanLoss):
    """By how much the better of two answers is preferred: ``update(margin, count)``."""

    higher_is_better = True

    def update(self, margin: Tensor, count: Tensor) -> None:
        """Add the rows of a batch."""
        super().update(margin, count)


def preference_metrics() -> MetricCollection:
    """Return loss, the share of pairs that are told right, and by how much."""
    return MetricCollection(
        {"loss": MeanLoss(), "accuracy": MeanCorrect(), "margin": MeanMargin()},
        compute_groups=False,
    )


def computed(metrics: MetricCollection) -> dict[str, float]:
    """Return the values of metrics as plain numbers, in their order.

    A metric with several values, such as one for each class, becomes ``name.0``, ``name.1``, ...,
    or is named by its own ``names``.
    """
    out: dict[str, float] = {}
    for name, metric in metrics.items(keep_base=True):
        value, names = metric.compute().double(), getattr(metric, "names", None)
        if value.ndim == 0 and names is None:
            out[name] = float(value)
        else:
            value = value.reshape(-1)  # torchmetrics makes a scalar of one value
            parts = names or range(len(value))
            out |= {f"{name}.{i}": float(v) for i, v in zip(parts, value, strict=True)}
    return out
