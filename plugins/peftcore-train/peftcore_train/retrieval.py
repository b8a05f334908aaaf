"""How well vectors of anchors find their own texts among all of a split."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat

from peftcore_train.tasks.embedding import belongs

#: Anchors whose cosines with all texts are held at once.
_ANCHORS = 1024


class Ranks(Metric):
    """What the rank of each anchor's own text among all texts is worth, over all rows.

    ``update(vectors, known)``: vectors of length 1 of anchor, positive and perhaps negative,
    [B, 2 or 3, D], and digests of the texts, [B, 2 or 3]. Texts that are as right as the own one
    are no candidates.

    Args:
        worth: value of ranks, [N], counted from 1.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    vectors: list[Tensor]
    known: list[Tensor]

    def __init__(self, worth: Callable[[Tensor], Tensor]):
        super().__init__()
        self.worth = worth
        self.add_state("vectors", [], "cat")
        self.add_state("known", [], "cat")

    def update(self, vectors: Tensor, known: Tensor) -> None:
        """Add the rows of a batch."""
        self.vectors.append(vectors)
        self.known.append(known)

    def compute(self) -> Tensor:
        """Return the mean over the anchors."""
        ranks = ranks_of(dim_zero_cat(self.vectors), dim_zero_cat(self.known))
        return self.worth(ranks.double()).double().mean()


def ranks_of(vectors: Tensor, known: Tensor) -> Tensor:
    """Return the rank of each anchor's own text, [N], 1 being the first; see :class:`Ranks`."""
    candidates = vectors[:, 1:].transpose(0, 1).flatten(0, 1)
    found = []
    for start in range(0, len(vectors), _ANCHORS):
        rows = slice(start, start + _ANCHORS)
        cosines = vectors[rows, 0] @ candidates.T
        own = (vectors[rows, 0] * vectors[rows, 1]).sum(-1, keepdim=True)
        others = (cosines > own) & ~belongs(known, rows)
        # a product of matrices rounds otherwise than a sum: the own one is not before itself
        others[torch.arange(len(own)), torch.arange(len(vectors))[rows]] = False
        found.append(others.sum(1) + 1)
    return torch.cat(found)


def retrieval_metrics() -> MetricCollection:
    """Return MRR, NDCG of the first ten, and the share of own texts among the first 1, 5, 10."""
    metrics: dict[str, Metric | MetricCollection] = {
        "mrr": Ranks(torch.reciprocal),
        # of one right text, the ideal is 1
        "ndcg@10": Ranks(lambda ranks: (ranks <= 10) / (ranks + 1).log2()),
    }
    for first in (1, 5, 10):
        metrics[f"recall@{first}"] = Ranks(partial(torch.le, other=first))
    return MetricCollection(metrics, compute_groups=False)
