"""The splits of PubMedQA that its authors' script draws (Jin et al. 2019), by the ids alone."""

import math
import random
from collections.abc import Mapping, Sequence
from itertools import pairwise

LABELS = ("yes", "no", "maybe")
FOLDS = 10


def labelled_folds(labels: Mapping[str, str]) -> tuple[list[set[str]], set[str]]:
    """Return the ten parts of cross-validation, and the test set.

    Args:
        labels: of all items of PQA-L, in the order of the file.
    """
    chance = random.Random(0)
    training, test = _parts(labels, list(labels), 2, chance)
    folds = _parts(labels, training, FOLDS, chance)
    return [set(fold) for fold in folds], set(test)


def artificial_training(names: Sequence[str], count: int = 200_000) -> set[str]:
    """Return the items of PQA-A that train; the others validate."""
    drawn = list(names)
    random.Random(0).shuffle(drawn)
    return set(drawn[:count])


def _parts(
    labels: Mapping[str, str], names: Sequence[str], count: int, chance: random.Random
) -> list[list[str]]:
    """Return parts of the same size with each label in proportion."""
    shares: list[list[list[str]]] = []
    for label in LABELS:
        found = [name for name in names if labels[name] == label]
        chance.shuffle(found)
        size = math.ceil(len(found) / count)
        ends = [*(i * size for i in range(count)), len(found)]
        shares.append([found[a:b] for a, b in pairwise(ends)])
    parts = [[name for share in shares for name in share[i]] for i in range(count)]
    if len(parts[-1]) != len(parts[0]):
        # sizes were rounded up, so that the last part lacks what each of the others gives it
        for part in filter(None, parts[:-1]):
            given = chance.choice(part)
            part.remove(given)
            parts[-1].append(given)
    return parts
