"""How many answers are right: of all rows, and of each set."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from peftcore_train.metrics import MeanLoss


class AnswersRight(MeanLoss):
    """Share of the rows whose answer is right: ``update(right)``, [B] of 0 and 1."""

    higher_is_better = True

    def update(self, right: Tensor) -> None:  # type: ignore[override]
        """Add the rows of a batch."""
        super().update(right, torch.ones_like(right))


class Unanswered(MeanLoss):
    """Share of the rows in whose text no answer was found: ``update(unanswered)``."""

    def update(self, unanswered: Tensor) -> None:  # type: ignore[override]
        """Add the rows of a batch."""
        super().update(unanswered, torch.ones_like(unanswered))


class MeanOfSets(Metric):
    """Plain mean over the sets that have rows, the average of the papers' tables.

    ``update(right, set)``: [B] of 0 and 1, [B] number of the set; rows of no set, -1, are left out.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    right: Tensor
    rows: Tensor

    def __init__(self, sets: int):
        super().__init__()
        for state in ("right", "rows"):
            self.add_state(state, torch.zeros(sets, dtype=torch.float64), "sum")

    def update(self, right: Tensor, set: Tensor) -> None:
        """Add the rows of a batch."""
        for place in range(len(self.rows)):
            mine = set == place
            self.right[place] += right[mine].double().sum()
            self.rows[place] += mine.sum()

    def compute(self) -> Tensor:
        """Return the mean."""
        return (self.right / self.rows).nanmean()


class RightOfSets(MeanOfSets):
    """Share of right answers of each set; NaN of a set without rows."""

    def __init__(self, names: Sequence[str]):
        super().__init__(len(names))
        self.names = tuple(names)

    def compute(self) -> Tensor:
        """Return the shares."""
        return self.right / self.rows
