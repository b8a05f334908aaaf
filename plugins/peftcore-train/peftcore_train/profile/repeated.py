"""Rows that are the same: within a split, in two splits, with other labels."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from peftcore_train.data.rows import Columns, Row
from peftcore_train.data.same import Key, exact, normalised
from peftcore_train.profile.findings import ROWS, SHARE, Finding
from peftcore_train.progress import going_over
from peftcore_train.schema import Split

Counts = dict[str, int]


@dataclass
class Repeated:
    """How often rows are the same, and which.

    Attributes:
        within: of each split how many rows stand there again, exactly and normalised.
        between: the same of rows that stand in an earlier split, as ``test in train``.
        findings: the rows.
    """

    within: dict[str, Counts] = field(default_factory=dict)
    between: dict[str, Counts] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class _Seen:
    """A row, with what it is compared by."""

    row: Row
    split: Split
    exact: Key
    key: Key

    def like(self, other: "_Seen") -> str:
        """Say how far two rows are the same."""
        return "" if self.exact == other.exact else ", case and blanks aside"


def repeated(rows: Mapping[Split, Sequence[Row]], columns: Columns) -> Repeated:
    """Compare the inputs of all rows; rows without any are left out."""
    groups: dict[Key, list[_Seen]] = defaultdict(list)
    for split, found in rows.items():
        for row in going_over(found, f"comparing {split}"):
            seen = _Seen(row, split, exact(row, columns), normalised(row, columns))
            if any(seen.key):
                groups[seen.key].append(seen)
    several = [group for group in groups.values() if len(group) > 1]
    sizes = {split: len(found) for split, found in rows.items()}
    out = Repeated()
    _within(several, sizes, out)
    _between(several, sizes, out)
    if columns.label is not None:
        out.findings += _conflicts(several, sizes, columns.label)
    return out


def often(count: int, rows: int) -> bool:
    """Tell whether so many of a split's rows are an error and no warning."""
    return count >= max(ROWS, SHARE * rows)


def _within(groups: Sequence[Sequence[_Seen]], sizes: Mapping[Split, int], out: Repeated) -> None:
    for split in sizes:
        counts = out.within[split] = {"exact": 0, "normalised": 0}
        for group in groups:
            ours = [seen for seen in group if seen.split == split]
            texts = {seen.exact for seen in ours}
            counts["exact"] += len(ours) - len(texts)
            counts["normalised"] += max(len(ours) - 1, 0)
            for seen in ours[1:]:
                sentence = f"the same as {ours[0].row.where}{seen.like(ours[0])}."
                out.findings.append(Finding("duplicate", seen.row.where, sentence, error=False))


def _between(groups: Sequence[Sequence[_Seen]], sizes: Mapping[Split, int], out: Repeated) -> None:
    splits = list(sizes)
    for place, later in enumerate(splits):
        told: set[str] = set()
        for earlier in splits[:place]:
            counts = {"exact": 0, "normalised": 0}
            found = []
            for group in groups:
                there = [seen for seen in group if seen.split == earlier]
                texts = {seen.exact for seen in there}
                for seen in group:
                    if there and seen.split == later:
                        counts["exact"] += seen.exact in texts
                        counts["normalised"] += 1
                        found.append((seen, there[0]))
            out.between[f"{later} in {earlier}"] = counts
            error = often(len(found), sizes[later])
            for seen, other in found:
                if seen.row.where in told:
                    continue
                told.add(seen.row.where)
                sentence = (
                    f"stands in {earlier} too, as {other.row.where}{seen.like(other)}; leave it out"
                    " of one, or divide anew with data.split."
                )
                out.findings.append(Finding("leak", seen.row.where, sentence, error=error))


def _conflicts(
    groups: Sequence[Sequence[_Seen]], sizes: Mapping[Split, int], column: str
) -> Iterator[Finding]:
    found = []
    for group in groups:
        first = str(group[0].row.values.get(column))
        for seen in group[1:]:
            label = str(seen.row.values.get(column))
            if label != first:
                sentence = f"label {label!r}, but {first!r} for the same input at"
                found.append((seen, f"{sentence} {group[0].row.where}{seen.like(group[0])}."))
    for split, size in sizes.items():
        ours = [(seen, sentence) for seen, sentence in found if seen.split == split]
        error = often(len(ours), size)
        for seen, sentence in ours:
            yield Finding("conflict", seen.row.where, sentence, error=error)
