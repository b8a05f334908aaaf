"""How well texts find their videos and videos their texts; ties are counted as half.

The rank of the right answer is 1, and one more for each better candidate, and a half for each that
is as good: the mean over all orders of what is equal. A network whose vectors are all the same gets
what chance gets, where counting ``better`` alone would call it perfect.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat

#: Similarities that differ by less are equal: products of equal vectors round otherwise here and
#: there.
TIE = 1e-9
#: Texts that are compared with all videos at once.
_TEXTS = 64


def similarity(frames: Tensor, seen: Tensor, words: Tensor, read: Tensor) -> Tensor:
    """Return how alike texts and videos are, [A, B].

    Half the mean over the words of the best frame of each, and half the mean over the frames of the
    best word of each; of one frame and one word it is their cosine.

    Args:
        frames: [B, T, D] of length 1.
        seen: [B, T] which of them are there.
        words: [A, L, D] of length 1.
        read: [A, L] which of them are there.
    """
    if frames.shape[1] == words.shape[1] == 1:
        return words[:, 0] @ frames[:, 0].T
    found = []
    for part, there in zip(words.split(_TEXTS), read.split(_TEXTS), strict=True):
        pairs = torch.einsum("ald,btd->ablt", part, frames)
        lowest = torch.finfo(pairs.dtype).min
        best_frame = pairs.masked_fill(~seen[None, :, None], lowest).amax(3)
        best_word = pairs.masked_fill(~there[:, None, :, None], lowest).amax(2)
        by_word = (best_frame * there[:, None]).sum(2) / there.sum(1)[:, None]
        by_frame = (best_word * seen[None]).sum(2) / seen.sum(1)
        found.append((by_word + by_frame) / 2)
    return torch.cat(found)


def text_ranks(scores: Tensor, own: Tensor) -> Tensor:
    """Return the rank of each text's video among all videos, [A].

    Args:
        scores: [A, B].
        own: [A] number of the video of each text.
    """
    right = scores.gather(1, own[:, None])
    other = torch.ones_like(scores, dtype=torch.bool).scatter(1, own[:, None], False)
    return _ranks(scores, right, other)


def video_ranks(scores: Tensor, own: Tensor) -> Tensor:
    """Return the rank of the best of each video's texts among all texts of others, [B]."""
    mine = own[None] == torch.arange(scores.shape[1], device=own.device)[:, None]
    right = scores.T.masked_fill(~mine, -torch.inf).amax(1, keepdim=True)
    return _ranks(scores.T, right, ~mine)


def _ranks(scores: Tensor, right: Tensor, other: Tensor) -> Tensor:
    better = ((scores > right + TIE) & other).sum(1)
    equal = (((scores - right).abs() <= TIE) & other).sum(1)
    return 1 + better + equal / 2


class Ranked:
    """The ranks of one direction, found once for all metrics that ask for them.

    Args:
        ranks: :func:`text_ranks` or :func:`video_ranks`.
    """

    def __init__(self, ranks: Callable[[Tensor, Tensor], Tensor]):
        self.ranks = ranks
        self._of: list[Tensor] = []
        self._found = torch.empty(0)

    def of(self, metric: "Retrieval") -> Tensor:
        """Return the ranks of what a metric was given; metrics are given the same tensors."""
        if len(self._of) != len(metric.known) or any(
            kept is not given for kept, given in zip(self._of, metric.known, strict=True)
        ):
            self._of, self._found = [*metric.known], self._compute(metric)
        return self._found

    def _compute(self, metric: "Retrieval") -> Tensor:
        frames, seen, words, read, known = (
            dim_zero_cat(getattr(metric, name)) for name in Retrieval.STATES
        )
        kinds, own = known.unique(return_inverse=True)
        first = torch.stack([(own == i).nonzero()[0, 0] for i in range(len(kinds))])
        scores = similarity(frames[first].double(), seen[first], words.double(), read)
        return self.ranks(scores, own).double()


class Retrieval(Metric):
    """What the ranks of one direction are worth, over all rows of a split.

    ``update(frames, seen, words, read, known)``: as for :func:`similarity`, a row being a text with
    its video, and ``known``, [B], which equal videos share.

    Args:
        ranked: the ranks.
        worth: value of all ranks, which count from 1.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    STATES = ("frames", "seen", "words", "read", "known")
    known: list[Tensor]

    def __init__(self, ranked: Ranked, worth: Callable[[Tensor], Tensor]):
        super().__init__()
        self.ranked = ranked
        self.worth = worth
        for name in self.STATES:
            self.add_state(name, [], "cat")

    def update(
        self, frames: Tensor, seen: Tensor, words: Tensor, read: Tensor, known: Tensor
    ) -> None:
        """Add the rows of a batch."""
        for name, value in zip(self.STATES, (frames, seen, words, read, known), strict=True):
            getattr(self, name).append(value)

    def compute(self) -> Tensor:
        """Return what the ranks are worth."""
        return self.worth(self.ranked.of(self))


class Rank(Retrieval):
    """The ranks themselves, of which less is better."""

    higher_is_better = False


def retrieval_metrics() -> MetricCollection:
    """Return recall at 1, 5 and 10, and median and mean rank, in both directions."""
    metrics: dict[str, Metric | MetricCollection] = {}
    for direction, ranks in (("text_to_video", text_ranks), ("video_to_text", video_ranks)):
        ranked = Ranked(ranks)
        for most in (1, 5, 10):
            share = partial(_share, most)
            metrics[f"{direction}_recall@{most}"] = Retrieval(ranked, share)
        metrics[f"{direction}_median_rank"] = Rank(ranked, _middle)
        metrics[f"{direction}_mean_rank"] = Rank(ranked, torch.mean)
    return MetricCollection(metrics, compute_groups=False)


def _share(most: int, ranks: Tensor) -> Tensor:
    return (ranks <= most).double().mean()


def _middle(ranks: Tensor) -> Tensor:
    return ranks.quantile(0.5)
