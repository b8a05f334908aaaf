"""Exact match and F1 of answers, as SQuAD counts them, by torchmetrics."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.functional.text import squad

from peftcore_train.metrics import MeanCorrect, MeanLoss


class MeanExact(MeanCorrect):
    """Mean of exact matches: ``update(exact)``, [B]."""

    def update(self, exact: Tensor) -> None:  # type: ignore[override]
        """Add the rows of a batch."""
        super().update(exact, torch.ones_like(exact))


class MeanOverlap(MeanCorrect):
    """Mean of the answers' F1: ``update(overlap)``, [B]."""

    def update(self, overlap: Tensor) -> None:  # type: ignore[override]
        """Add the rows of a batch."""
        super().update(overlap, torch.ones_like(overlap))


def answer_metrics() -> MetricCollection:
    """Return loss of a window, exact match and F1 of an answer, between 0 and 1."""
    return MetricCollection(
        {"loss": MeanLoss(), "exact_match": MeanExact(), "f1": MeanOverlap()},
        compute_groups=False,
    )


def exact_and_f1(found: Sequence[str], known: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
    """Return exact match and F1 of each answer with the nearest of the known ones, [B] each.

    Args:
        found: answers, empty for none.
        known: right answers of each row, ``[""]`` where there is none.
    """
    scores = [
        squad(
            [{"prediction_text": text, "id": "0"}],
            [{"answers": {"text": list(right), "answer_start": [0] * len(right)}, "id": "0"}],
        )
        for text, right in zip(found, known, strict=True)
    ]
    exact, f1 = (torch.stack([one[key] for one in scores]) for key in ("exact_match", "f1"))
    return exact / 100, f1 / 100
