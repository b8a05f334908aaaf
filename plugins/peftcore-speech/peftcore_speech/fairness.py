"""How differently a classifier treats groups of speakers: the scores of TrustSER, lower is fairer.

Feng et al. 2023, https://arxiv.org/abs/2305.11229. Of the first two the formulas are those of
holisticai, whose ``max`` over pairs of groups TrustSER takes.
"""

from itertools import combinations

import torch
from torch import Tensor
from torchmetrics import Metric


class _ByGroup(Metric):
    """Counts of each group: ``update(predicted, target, group)``, [B] numbers each."""

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    counts: Tensor

    def __init__(self, groups: int, labels: int):
        super().__init__()
        #: [group, target, predicted]
        self.add_state("counts", torch.zeros(groups, labels, labels, dtype=torch.float64), "sum")

    def update(self, predicted: Tensor, target: Tensor, group: Tensor) -> None:
        """Add the rows of a batch."""
        one = torch.ones_like(predicted, dtype=torch.float64)
        self.counts.index_put_((group, target, predicted), one, accumulate=True)

    def compute(self) -> Tensor:
        """Return the greatest difference of two groups that have rows; NaN of fewer than two."""
        there = [counts for counts in self.counts if counts.sum() > 0]
        found = [self.difference(a, b) for a, b in combinations(there, 2)]
        if not found:
            return self.counts.new_tensor(torch.nan)
        return torch.stack(found).max()

    def difference(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the difference of two groups, by their counts [target, predicted]."""
        raise NotImplementedError


class StatisticalParity(_ByGroup):
    """Half of the sum over classes c of |P(c predicted | g) - P(c predicted | g')|."""

    def difference(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the difference of two groups."""
        return (a.sum(0) / a.sum() - b.sum(0) / b.sum()).abs().sum() / 2


class EqualityOfOpportunity(_ByGroup):
    """Sum over c, ĉ of |P(ĉ predicted | c, g) - P(ĉ predicted | c, g')|, over twice the classes.

    Classes are those that were given or predicted. A group without a row of a class predicts all
    of them alike there, as in holisticai.
    """

    def compute(self) -> Tensor:
        """Return the greatest difference of two groups that have rows."""
        whole = self.counts.sum(0)
        self._seen = (whole.sum(0) + whole.sum(1)) > 0
        return super().compute()

    def difference(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the difference of two groups."""
        rates = [self._rates(counts[self._seen][:, self._seen]) for counts in (a, b)]
        return (rates[0] - rates[1]).abs().sum() / (2 * len(rates[0]))

    @staticmethod
    def _rates(counts: Tensor) -> Tensor:
        even = torch.full_like(counts, 1 / len(counts))
        rows = counts.sum(1, keepdim=True)
        return torch.where(rows > 0, counts / rows.clamp(min=1), even)


class DemographicParity(_ByGroup):
    """TrustSER's own: max over classes c of |P(c given and predicted | g) - the same of g'|."""

    def difference(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the difference of two groups."""
        return (a.diagonal() / a.sum() - b.diagonal() / b.sum()).abs().max()


def fairness_metrics(groups: int, labels: int) -> dict[str, Metric]:
    """Return fresh metrics by name."""
    return {
        "statistical_parity": StatisticalParity(groups, labels),
        "equality_of_opportunity": EqualityOfOpportunity(groups, labels),
        "demographic_parity": DemographicParity(groups, labels),
    }
