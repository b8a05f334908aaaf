"""What the benchmark computes: the sweep of L2, its score, and performance efficiency."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

#: Learning rates of the sweep, and strengths of L2: 97, even in their logarithm.
RATES = tuple(10.0**i for i in range(-6, 0))
STRENGTHS = tuple(10 ** (-6 + 12 * i / 96) for i in range(97))
_COARSE, _STEPS = 16, (8, 4, 2, 1)


class Best(NamedTuple):
    """The best of what was tried."""

    value: float
    score: float


def best_strength(score: Callable[[float], float]) -> Best:
    """Return the best L2 strength: seven coarse ones, then ever smaller steps around the best.

    Args:
        score: validation score of a strength; each is asked for once.
    """
    known: dict[int, float] = {}

    def of(index: int) -> float:
        if index not in known:
            known[index] = score(STRENGTHS[index])
        return known[index]

    coarse = range(0, len(STRENGTHS), _COARSE)
    peak = max(coarse, key=of)  # the first of equal ones
    for step in _STEPS:
        around = (max(peak - step, 0), min(peak + step, len(STRENGTHS) - 1))
        for index in around:
            if of(index) > known[peak]:
                peak = index
    return Best(STRENGTHS[peak], known[peak])


def best_rate(score: Callable[[float, float], float], rates: Iterable[float]) -> tuple[float, Best]:
    """Return the best learning rate with its best L2 strength; the first of equal ones."""
    found = {rate: best_strength(lambda strength, r=rate: score(r, strength)) for rate in rates}  # type: ignore[misc]
    rate = max(found, key=lambda one: found[one].score)
    return rate, found[rate]


def benchmark_score(scores: Mapping[str, float]) -> float:
    """Return the plain mean over data sets."""
    return math.fsum(scores.values()) / len(scores)


def performance_efficiency(score: float, parameters: float) -> float:
    """Return score x exp(-log10(k / 10^8 + 1)).

    The formula is from memory of the paper (Li et al. 2022), not from its code.

    Args:
        score: in [0, 1].
        parameters: trained ones, the head among them.
    """
    return score * math.exp(-math.log10(parameters / 1e8 + 1))
