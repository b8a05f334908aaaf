"""What a strategy says of the rows of a pool. The greater a value, the sooner a row is labelled."""

import torch
from torch import Tensor


def entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy of the predicted labels of each row in nats, [N]; of [..., N, C]."""
    return torch.special.entr(probabilities).sum(-1)


def margin(probabilities: Tensor) -> Tensor:
    """Return how little the likeliest label leads over the second, [N]; of [N, C]."""
    first, second = probabilities.topk(2).values.unbind(-1)
    return second - first


def bald(passes: Tensor) -> Tensor:
    """Return what passes with dropout disagree about, in nats, [N]; of [T, N, C].

    The entropy of their mean less the mean of their entropies: Houlsby et al. 2011,
    https://arxiv.org/abs/1112.5745; with dropout Gal et al. 2017, https://arxiv.org/abs/1703.02910.
    """
    return entropy(passes.mean(0)) - entropy(passes).mean(0)


def best(values: Tensor, count: int) -> list[int]:
    """Return the places of the greatest values, the first of equal ones first."""
    return torch.sort(values, descending=True, stable=True).indices[:count].tolist()


def k_centre(pool: Tensor, labelled: Tensor, count: int) -> tuple[list[int], list[float]]:
    """Return the places of rows that cover a pool best, one after another, and how far each was.

    Greedy: always the row that is farthest from all that are labelled or chosen. Sener and
    Savarese 2018, https://arxiv.org/abs/1708.00489.

    Args:
        pool: [N, H] embeddings.
        labelled: [M, H] embeddings.
        count: how many to choose.
    """
    nearest = torch.cdist(pool, labelled).min(1).values
    chosen: list[int] = []
    far: list[float] = []
    for _ in range(count):
        place = int(nearest.argmax())
        chosen.append(place)
        far.append(float(nearest[place]))
        nearest = torch.minimum(nearest, torch.cdist(pool, pool[place : place + 1])[:, 0])
        nearest[place] = -1  # a row that equals a chosen one is still another row
    return chosen, far
