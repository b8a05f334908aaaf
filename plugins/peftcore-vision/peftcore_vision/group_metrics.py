"""Scores of the groups of an attribute: the worst, and how far they are apart."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc
from torchmetrics.utilities import dim_zero_cat

from peftcore_vision.groups import OVER_GROUPS


def accuracy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the share of rows whose likeliest label is right; logits [N, C], target [N]."""
    return (logits.argmax(-1) == target).double().mean()


def auroc(logits: Tensor, target: Tensor) -> Tensor:
    """Return the area under the ROC curve; of several labels the mean over those that occur.

    Not a number where only one label occurs.
    """
    probabilities = logits.double().softmax(-1)
    columns = range(1, 2) if logits.shape[-1] == 2 else range(logits.shape[-1])
    scores = [
        binary_auroc(probabilities[:, i], (target == i).long())
        for i in columns
        if 0 < int((target == i).sum()) < len(target)
    ]
    return torch.stack(scores).double().mean() if scores else torch.tensor(math.nan).double()


def loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy."""
    return F.cross_entropy(logits.double(), target)


_SCORES = {"accuracy": accuracy, "auroc": auroc, "loss": loss}


class OverGroups(Metric):
    """The worst of the groups' scores, or how far they are apart, of each attribute.

    ``update(preds, target, groups)``: logits [B, C], labels [B], groups [B, attributes]. Groups
    whose score is not a number (one label alone has no AUROC) have no part.

    Args:
        score: ``accuracy``, ``auroc`` or ``loss``.
        taken: ``min``, ``max``, or ``gap`` between the two.
        names: of the attributes.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    preds: list[Tensor]
    target: list[Tensor]
    groups: list[Tensor]

    def __init__(self, score: str, taken: str, names: Sequence[str]):
        super().__init__()
        self.score, self.taken, self.names = score, taken, names
        for name in ("preds", "target", "groups"):
            self.add_state(name, [], "cat")

    def update(self, preds: Tensor, target: Tensor, groups: Tensor) -> None:
        """Add the rows of a batch."""
        self.preds.append(preds)
        self.target.append(target)
        self.groups.append(groups)

    def compute(self) -> Tensor:
        """Return one value for each attribute."""
        preds, target = dim_zero_cat(self.preds), dim_zero_cat(self.target)
        columns = dim_zero_cat(self.groups).unbind(1)
        return torch.stack([self._taken(by_group(self.score, preds, target, c)) for c in columns])

    def _taken(self, scores: Mapping[int, Tensor]) -> Tensor:
        values = torch.stack(list(scores.values()))
        values = values[~values.isnan()]
        if not len(values):
            return torch.tensor(math.nan, dtype=torch.float64)
        low, high = values.min(), values.max()
        return {"min": low, "max": high, "gap": high - low}[self.taken]


class LowOverGroups(OverGroups):
    """A loss of the worst group, or how far groups are apart."""

    higher_is_better = False


def by_group(score: str, preds: Tensor, target: Tensor, groups: Tensor) -> dict[int, Tensor]:
    """Return a score of the rows of each group that occurs; groups [N]."""
    function = _SCORES[score]
    return {
        int(one): function(preds[groups == one], target[groups == one]) for one in groups.unique()
    }


def group_metrics(attributes: Sequence[str]) -> dict[str, Metric]:
    """Return the scores over groups, each with a value for every attribute."""
    return {
        name: (OverGroups if better else LowOverGroups)(score, taken, attributes)
        for name, (score, taken, better) in OVER_GROUPS.items()
    }
