"""Groups of the people that images show: what the columns of a row say of them."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

from peftcore import DataError, nearest
from peftcore_train.data import Row

Cuts = tuple[float, ...]
#: Between the names of two groups that are crossed.
CROSS = " x "


class Groups:
    """What each row says of its sensitive attributes.

    Args:
        columns: column of an attribute to the numbers at which it is cut; none, and each value is
            a group.
        crossed: the groups of all attributes together are one more attribute.
        given: values of attributes without cuts, as a run has learned them.
    """

    def __init__(
        self,
        columns: Mapping[str, Cuts],
        *,
        crossed: bool,
        given: Mapping[str, Sequence[str]],
    ):
        self.columns = dict(columns)
        self.crossed = crossed and len(columns) > 1
        self.values: dict[str, list[str]] = {name: list(found) for name, found in given.items()}
        self.values |= {name: _spans(cuts) for name, cuts in columns.items() if cuts}

    @property
    def names(self) -> list[str]:
        """Names of the attributes, that of the crossed ones last."""
        names = list(self.columns)
        return [*names, CROSS.join(names)] if self.crossed else names

    def learn(self, rows: Iterable[Row]) -> None:
        """Take the values of attributes that are not cut from rows."""
        rows = list(rows)
        for name in self.columns:
            if name not in self.values:
                self.values[name] = sorted({self._text(row, name) for row in rows})

    def of(self, row: Row) -> list[int]:
        """Return the index of the row's group, of each attribute.

        Raises:
            DataError: a column is missing, empty, or holds what no training row does.
        """
        found = [self._index(row, name) for name in self.columns]
        if self.crossed:
            place = 0
            for name, index in zip(self.columns, found, strict=True):
                place = place * len(self.values[name]) + index
            found.append(place)
        return found

    def _index(self, row: Row, name: str) -> int:
        cuts = self.columns[name]
        text = self._text(row, name)
        if cuts:
            try:
                value = float(text)
            except ValueError:
                value = math.nan
            if math.isnan(value):
                raise DataError(f"{row.where}: column {name!r} holds {text!r}, which is no number.")
            return sum(value >= cut for cut in cuts)
        values = self.values[name]
        if text not in values:
            raise DataError(
                f"{row.where}: column {name!r} holds {text!r}, which no training row does."
                f"{nearest(text, values)} They hold: {', '.join(values)}."
            )
        return values.index(text)

    @staticmethod
    def _text(row: Row, name: str) -> str:
        value = row.column(name)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise DataError(f"{row.where}: column {name!r} holds {value!r}; a text or a number.")
        text = str(value).strip()
        if not text:
            raise DataError(
                f"{row.where}: column {name!r} is empty; give the group, or leave the row out."
            )
        return text


def _spans(cuts: Cuts) -> list[str]:
    marks = [f"{cut:g}" for cut in cuts]
    between = [f"{a} to {b}" for a, b in itertools.pairwise(marks)]
    return [f"below {marks[0]}", *between, f"from {marks[-1]}"]


#: Scores over groups, by what they are made of and what is taken; greater is better, or not.
OVER_GROUPS: dict[str, tuple[str, str, bool]] = {
    "accuracy_min": ("accuracy", "min", True),
    "accuracy_gap": ("accuracy", "gap", False),
    "auroc_min": ("auroc", "min", True),
    "auroc_gap": ("auroc", "gap", False),
    "loss_max": ("loss", "max", False),
}
