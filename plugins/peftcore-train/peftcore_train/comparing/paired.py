"""Whether two arms differ: over test rows, and over seeds; on scipy and statsmodels."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

#: Random signs that the permutation test draws, and where they start.
_DRAWS, _SEED = 9999, 0
#: Level of intervals, and what the corrected p values are held against.
CONFIDENCE = 0.95


def interval(values: Sequence[float]) -> dict[str, float | None]:
    """Return the mean with Student's confidence interval, which needs two values."""
    found = np.asarray(values, dtype=float)
    mean = float(found.mean()) if len(found) else None
    if len(found) < 2 or not np.isfinite(found).all():
        return {"mean": mean, "low": None, "high": None}
    if np.ptp(found) == 0:
        return {"mean": mean, "low": mean, "high": mean}
    low, high = stats.t.interval(
        CONFIDENCE, len(found) - 1, loc=found.mean(), scale=stats.sem(found)
    )
    return {"mean": mean, "low": float(low), "high": float(high)}


def over_rows(first: np.ndarray, second: np.ndarray) -> float:
    """Return the p value of the paired test over test rows.

    A label is right or wrong, so where each arm was trained once it is McNemar's exact test: a
    binomial test of the rows on which they differ. Means over seeds, losses and errors have sizes,
    so it is the permutation test of their differences: under the null hypothesis each has either
    sign.

    Args:
        first: [R] numbers of the rows, one arm's.
        second: [R] the other arm's, of the same rows.
    """
    difference = first - second
    moved = difference[~np.isclose(difference, 0, atol=1e-12)]
    if not len(moved):
        return 1.0
    if np.allclose(np.abs(moved), np.abs(moved[0])):
        return float(stats.binomtest(int((moved > 0).sum()), len(moved)).pvalue)
    generator = np.random.default_rng(_SEED)
    # rows without a difference add nothing to any of the sums
    done = stats.monte_carlo_test(
        moved,
        lambda size: moved * (2 * generator.integers(2, size=size, dtype=np.int8) - 1),
        lambda sample, axis: sample.sum(axis=axis),
        vectorized=True,
        n_resamples=_DRAWS,
        batch=max(1, 2_000_000 // len(moved)),
    )
    return float(done.pvalue)


def over_seeds(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return the p value of the paired t test over seeds.

    None for fewer than three seeds, and where all differ by the same: there is no spread to judge
    by.
    """
    difference = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    if len(difference) < 3 or not np.isfinite(difference).all() or np.ptp(difference) == 0:
        return None
    return float(stats.ttest_1samp(difference, 0).pvalue)


def corrected(values: Sequence[float | None]) -> list[float | None]:
    """Return p values corrected by Holm for their number; None stays None."""
    there = [value for value in values if value is not None]
    if not there:
        return list(values)
    found = iter(multipletests(there, method="holm")[1])
    return [None if value is None else float(next(found)) for value in values]


def pairs(
    scores: dict[str, dict[int, float]], rows: dict[str, dict[int, np.ndarray]]
) -> list[dict[str, Any]]:
    """Return the tests of every two arms, corrected for how many there are.

    Args:
        scores: the test metric, by arm and seed.
        rows: [R] numbers of the test rows, by arm and seed; an arm may have none.
    """
    found = []
    for first, second in combinations(scores, 2):
        seeds = sorted(scores[first].keys() & scores[second].keys())
        if not seeds:
            continue
        one, two = ([scores[arm][seed] for seed in seeds] for arm in (first, second))
        both = [
            seed for seed in seeds
            if len(rows[first].get(seed, ())) == len(rows[second].get(seed, ())) > 0
        ]  # fmt: skip
        p_rows = None
        if both:
            p_rows = over_rows(
                *(np.mean([rows[arm][seed] for seed in both], axis=0) for arm in (first, second))
            )
        found.append(
            {
                "arms": [first, second],
                "difference": float(np.mean(one) - np.mean(two)),
                "seeds": seeds,
                "p_rows": p_rows,
                "p_seeds": over_seeds(one, two),
            }
        )
    for name in ("p_rows", "p_seeds"):
        for pair, value in zip(found, corrected([p[name] for p in found]), strict=True):
            pair[f"{name}_corrected"] = value
    return found
