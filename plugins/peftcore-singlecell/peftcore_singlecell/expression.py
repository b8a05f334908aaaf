"""From the expression of a cell to tokens, as scBERT bins it."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from peftcore import DataError
from peftcore_singlecell.cells import Expression
from peftcore_singlecell.genes import Alignment

#: What the values of a matrix are.
Values = Literal["counts", "log2", "log", "scaled"]


def tokens_of(
    cell: Expression,
    alignment: Alignment,
    *,
    genes: int,
    bins: int,
    values: Values,
    target_sum: float,
    min_genes: int,
    where: str,
) -> NDArray[np.int64]:
    """Return the tokens of a cell, [genes + 1]; the last place holds a 0.

    Counts are divided by their sum over the genes of the backbone, times ``target_sum``, and become
    log2(1 + x); what is above ``bins`` is ``bins``; the whole part is the token. Logarithms to the
    base e are made such to the base 2. Of scaled values, standard deviations above the mean of a
    gene, what is below 0 is 0.

    Raises:
        DataError: a value is not finite, or is negative where none can be, or the cell expresses
            fewer genes of the backbone than ``min_genes``.
    """
    places = alignment.places[cell.columns]
    known = places >= 0
    places, found = places[known], cell.values[known]
    if not np.isfinite(found).all():
        raise DataError(f"{where}: an expression is {found[~np.isfinite(found)][0]}, no number.")
    if values == "scaled":
        found = np.maximum(found, 0)
    elif len(found) and found.min() < 0:
        raise DataError(
            f"{where}: an expression is {found.min():g}, which no {values} can be. Of values that"
            " were scaled to a mean of 0 say task.values: scaled, or take another task.layer."
        )
    expressed = int((found > 0).sum())
    if expressed < min_genes:
        raise DataError(
            f"{where}: {expressed} genes of the backbone are expressed, fewer than task.min_genes:"
            f" {min_genes}. Leave such cells out (peftcore cells --min-genes), or lower it."
        )
    if values == "counts":
        _check_counts(found, where)
        total = found.sum()
        found = np.log2(1 + found * (target_sum / total)) if total else found
    elif values == "log":
        found = found / np.log(2)
    tokens = np.zeros(genes + 1, dtype=np.int64)
    tokens[places] = np.minimum(found, bins).astype(np.int64)
    return tokens


def _check_counts(found: NDArray[np.float64], where: str) -> None:
    if (found != np.floor(found)).any():
        value = found[found != np.floor(found)][0]
        raise DataError(
            f"{where}: an expression is {value:g}, which is no count. Say what the values are:"
            " task.values: log2 (as scBERT's preprocessing writes them), log or scaled."
        )
