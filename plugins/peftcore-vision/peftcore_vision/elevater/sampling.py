"""Few shots and held-out rows, drawn as the benchmark's toolkit draws them. Imports no torch."""

import math
import random
from collections import Counter
from collections.abc import Sequence

from peftcore import DataError

#: Part of the training rows of each class that is held out.
SHARE = 0.2
Classes = Sequence[Sequence[int]]


def few_shots(classes: Classes, number: int, shots: int, seed: int) -> list[int]:
    """Return which rows are drawn, in the order in which they are.

    Rows are shuffled; one is taken where it has a class that lacks some still. Rows of several
    classes may bring a class above its number.

    Args:
        classes: classes of each row.
        number: how many classes there are.
        shots: rows of each class.
        seed: of Python's generator.

    Raises:
        DataError: a class has too few rows.
    """
    order = list(range(len(classes)))
    random.Random(seed).shuffle(order)
    wanted = Counter(dict.fromkeys(range(number), shots))
    chosen = []
    for row in order:
        found = Counter(classes[row])
        if not wanted.keys() & found.keys():
            continue
        wanted -= found  # keeps what is above 0
        chosen.append(row)
        if not wanted:
            return chosen
    first = min(wanted)
    raise DataError(
        f"task.shots {shots}: class {first} has {shots - wanted[first]} rows;"
        f" {len(wanted)} of {number} classes have too few."
    )


def held_out(classes: Classes, number: int, *, several: bool) -> list[int]:
    """Return the rows that are held out for validation: a fifth of each class, rounded up.

    Args:
        classes: classes of each row.
        number: how many classes there are.
        several: rows have any number of classes; then rows are taken, class by class, until each
            has its fifth.
    """
    if several:
        return _several(classes, number)
    rows: dict[int, list[int]] = {}
    for row, found in enumerate(classes):
        rows.setdefault(found[0], []).append(row)
    return sorted(row for of in rows.values() for row in of[: math.ceil(len(of) * SHARE)])


def _several(classes: Classes, number: int) -> list[int]:
    counts = Counter(one for found in classes for one in found)
    wanted = {one: math.ceil(counts[one] * SHARE) for one in range(number)}
    left = dict(enumerate(map(set, classes)))
    chosen = []
    while short := [one for one in range(number) if wanted[one] > 0]:
        row = next(row for row, found in left.items() if short[0] in found)
        chosen.append(row)
        for one in left.pop(row):
            wanted[one] -= 1
    return sorted(chosen)
