"""Metrics of images that the tasks of peftcore-train do not have."""

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc

from peftcore_train.metrics import ByColumn

#: Recalls at which VOC 2007 reads precision.
_POINTS = 11


class MeanPerClass(Metric):
    """Mean over classes of the share of their rows that are right (balanced accuracy).

    ``update(preds, target)``: logits [B, C], labels [B]. Classes without rows have no part.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    right: Tensor
    count: Tensor

    def __init__(self, labels: int):
        super().__init__()
        self.add_state("right", torch.zeros(labels, dtype=torch.float64), "sum")
        self.add_state("count", torch.zeros(labels, dtype=torch.float64), "sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add the rows of a batch."""
        labels = len(self.count)
        self.count += torch.bincount(target, minlength=labels)
        self.right += torch.bincount(target[preds.argmax(-1) == target], minlength=labels)

    def compute(self) -> Tensor:
        """Return the mean."""
        there = self.count > 0
        return (self.right[there] / self.count[there]).mean()


class MacroAUROC(ByColumn):
    """Mean over labels of the AUROC of each against the others: ``update(preds, target)``."""

    def __init__(self) -> None:
        super().__init__(
            lambda values, target: binary_auroc(values, target.long()), varied="target"
        )

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add the rows of a batch; logits [B, C], labels [B]."""
        labels = preds.shape[-1]
        super().update(preds.double().softmax(-1), F.one_hot(target, labels))


def eleven_points(values: Tensor, target: Tensor, *, anchored: bool = False) -> Tensor:
    """Return the average precision of VOC 2007: the mean of precision at recalls 0, .1, ... 1.

    The precision at a recall is the best at that recall or a greater one. Rows of equal scores
    enter together, so that their order does not count.

    Args:
        values: [N] scores.
        target: [N] 1 or 0; some are 1.
        anchored: precision at recall 0 is 1, as curves of scikit-learn end, and so the released
            scores of ELEVATER; else it is the best that is reached.
    """
    order = values.argsort(descending=True, stable=True)
    values, right = values[order].double(), target[order].double()
    last = torch.cat([values[1:] != values[:-1], torch.ones(1, dtype=torch.bool)])
    found = right.cumsum(0)[last]
    seen = torch.arange(1, len(values) + 1, dtype=torch.float64)[last]
    # counts are compared and no quotients, which would have to be equal to the last digit
    needed = [math.ceil(i * int(right.sum()) / (_POINTS - 1)) for i in range(_POINTS)]
    precision = torch.stack([(found / seen)[found >= count].max() for count in needed])
    if anchored:
        precision[0] = 1
    return precision.mean()


def mean_eleven_points(*, anchored: bool = False) -> ByColumn:
    """Return the mean of :func:`eleven_points` over labels; those without rows have no part."""
    return ByColumn(partial(eleven_points, anchored=anchored), varied="target")
