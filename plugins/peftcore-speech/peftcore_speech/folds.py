"""Folds that leave whole groups out, sessions or speakers, and groups that stand in two splits."""

from collections.abc import Iterable, Sequence

from peftcore import DataError
from peftcore_train.data import Row
from peftcore_train.schema import Split

#: Of the groups that are left for training a fifth, rounded up, is held back for validation.
_HELD = 5


def leave_out(groups: Iterable[str], folds: int, fold: int) -> dict[str, Split]:
    """Return the split of each group.

    The sorted groups are cut into ``folds`` runs, as scikit-learn's ``KFold`` does; run ``fold`` is
    the test. The last of the others are validation, as in PEFT-SER: one session of four or five,
    15 speakers of 73.

    Args:
        groups: the groups, sorted as numbers where all of them are.
        folds: how many folds, from 2 on.
        fold: which, from 1.

    Raises:
        DataError: there are fewer groups than folds, or none would be left to train on.
    """
    order = _in_order(groups)
    if len(order) < max(folds, 3):
        raise DataError(
            f"{len(order)} groups ({', '.join(order)}) make no {folds} folds of training,"
            " validation and test. Lower task.folds, or name another task.fold_column."
        )
    size, more = divmod(len(order), folds)
    begin = (fold - 1) * size + min(fold - 1, more)
    end = begin + size + (fold <= more)
    rest = [*order[:begin], *order[end:]]
    held = -(-len(rest) // _HELD)
    splits: dict[str, Split] = dict.fromkeys(order[begin:end], "test")
    splits.update(dict.fromkeys(rest[:-held], "train"))
    splits.update(dict.fromkeys(rest[-held:], "validation"))
    return splits


class Apart:
    """Keeps groups apart that shall stand in one split alone."""

    def __init__(self, column: str):
        self.column = column
        self._first: dict[str, Split] = {}

    def check(self, rows: Sequence[Row], split: Split) -> list[DataError]:
        """Return an error for each group of a split that stands in one that was checked before."""
        found: dict[str, DataError] = {}
        for row in rows:
            try:
                name = name_of(row, self.column)
            except DataError:
                continue  # the task's check says it
            before = self._first.setdefault(name, split)
            if before != split and name not in found:
                found[name] = DataError(
                    f"{row.where}: the {self.column} {name!r} stands in {before} too, so that"
                    f" {split} measures who was heard before. Keep each {self.column} in one split,"
                    f" or let task.fold_column: {self.column} do so."
                )
        return list(found.values())


def name_of(row: Row, column: str) -> str:
    """Return the group that a column names, a text or a whole number.

    Raises:
        DataError: it names none.
    """
    value = row.column(column)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise DataError(f"{row.where}: column {column!r} holds {value!r}, which is no name.")
    return str(value).strip()


def by_split(rows: Sequence[Row], column: str, folds: int, fold: int) -> dict[Split, list[Row]]:
    """Return the rows of each split of a fold.

    Raises:
        DataError: a row has no group, or there are too few groups.
    """
    names = [name_of(row, column) for row in rows]
    splits = leave_out(set(names), folds, fold)
    out: dict[Split, list[Row]] = {"train": [], "validation": [], "test": []}
    for name, row in zip(names, rows, strict=True):
        out[splits[name]].append(row)
    return out


def _in_order(groups: Iterable[str]) -> list[str]:
    found = list(groups)
    return sorted(found, key=int) if all(name.isdecimal() for name in found) else sorted(found)
