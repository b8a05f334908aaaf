"""Self-consistency over templates: each has a vote, and ties go to the likelier answer."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Vote(NamedTuple):
    """What templates say together.

    Attributes:
        winner: [B] the answer.
        counts: [B, C] votes of each answer.
        probabilities: [B, C] their mean over the templates.
    """

    winner: Tensor
    counts: Tensor
    probabilities: Tensor


def vote(logits: Tensor, chance: Tensor | None = None, temperature: float = 1.0) -> Vote:
    """Return the answer that most templates give; of a tie the likeliest by summed probability.

    Args:
        logits: [B, P, C] of P templates.
        chance: [B, P, n] numbers in [0, 1): each draws one more vote.
        temperature: divides the logits of draws.
    """
    shares = logits.double().softmax(-1)
    classes = shares.shape[-1]
    counts = F.one_hot(shares.argmax(-1), classes).sum(1)
    if chance is not None:
        ends = (logits.double() / temperature).softmax(-1).cumsum(-1)
        # the last end may be a little below 1
        chosen = torch.searchsorted(ends, chance.double(), right=True).clamp(max=classes - 1)
        counts = counts + F.one_hot(chosen, classes).sum((1, 2))
    sums = shares.sum(1)
    # sums of P probabilities are at most P, so that they decide nothing but ties
    winner = (counts + sums / (shares.shape[1] + 1)).argmax(-1)
    return Vote(winner, counts, sums / shares.shape[1])
