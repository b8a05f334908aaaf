"""The profile of a recipe's data: its numbers, and what is wrong with it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from peftcore_train.data.rows import Columns, Row
from peftcore_train.profile.findings import Finding, raise_all, settled, shown
from peftcore_train.profile.labels import counted, wrong_labels
from peftcore_train.profile.lengths import Lengths
from peftcore_train.profile.repeated import Repeated, repeated
from peftcore_train.schema import DataSection, Split

Rows = Mapping[Split, Sequence[Row]]


@dataclass
class Profile:
    """What data holds.

    Attributes:
        source: ``data.source``.
        rows: how many rows each split has.
        labels: how many rows of each split have each label; empty without labels.
        repeated: rows that are the same.
        lengths: tokens; of no split until rows were encoded.
        findings: what is wrong, once each.
    """

    source: str
    rows: dict[Split, int]
    labels: dict[Split, dict[str, int]]
    repeated: Repeated
    lengths: Lengths = field(default_factory=Lengths)
    findings: list[Finding] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        """What may not be trained with."""
        return [found for found in self.findings if found.error]

    @property
    def warnings(self) -> list[Finding]:
        """What may."""
        return [found for found in self.findings if not found.error]

    def raise_any(self) -> None:
        """Raise DataError with all errors, a line each, if there are any."""
        raise_all(self.errors)

    def measured(self, lengths: Lengths, found: Sequence[Finding], data: DataSection) -> None:
        """Take what encoding the rows has shown."""
        self.lengths = lengths
        self.findings = settled([*self.findings, *found, *lengths.findings], data.accept)

    def plain(self) -> dict[str, Any]:
        """Return what JSON can hold; of findings as many as are shown."""
        return {
            "source": self.source,
            "rows": self.rows,
            "labels": self.labels,
            "length_unit": self.lengths.unit,
            "limit": self.lengths.limit,
            "lengths": self.lengths.spans,
            "unknown_tokens": self.lengths.unknown,
            "changed": self.lengths.changed,
            "duplicates": self.repeated.within,
            "leaks": self.repeated.between,
            "errors": shown(self.errors),
            "warnings": shown(self.warnings),
        }


def profiled(data: DataSection, rows: Rows, columns: Columns, found: Sequence[Finding]) -> Profile:
    """Look at rows as they were read.

    Args:
        data: the ``data`` section.
        rows: of each split, as far as they could be read.
        columns: what the task reads of them.
        found: what readers and the task found.
    """
    same = repeated(rows, columns) if columns.inputs else Repeated()
    label = columns.label
    findings = [*found, *same.findings]
    if label is not None:
        findings += wrong_labels(rows, label)
    told = {one.where for one in found}
    findings += (one for one in _empty(rows, columns) if one.where not in told)
    return Profile(
        source=data.source,
        rows={split: len(ours) for split, ours in rows.items()},
        labels=counted(rows, label) if label is not None else {},
        repeated=same,
        findings=settled(findings, data.accept),
    )


def _empty(rows: Rows, columns: Columns) -> Iterator[Finding]:
    names = [n for n in (*columns.inputs, *columns.answers) if n not in columns.optional]
    for found in rows.values():
        for row in found:
            for name in names:
                value = row.values.get(name)
                if name in row.values and (value is None or not str(value).strip()):
                    error = name == columns.label
                    yield Finding("empty", row.where, f"column {name!r} is empty.", error=error)
