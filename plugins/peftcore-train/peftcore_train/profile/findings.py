"""What can be wrong with data, and when it is an error and when a warning."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from peftcore import DataError
from peftcore_train.schema import Acceptable

#: Findings of a kind that are shown; the rest is counted.
SHOWN = 20
#: From this share of a split's rows on, and from this many, a finding spoils what is scored.
SHARE, ROWS = 0.05, 10


@dataclass(frozen=True)
class Kind:
    """One kind of findings.

    Attributes:
        title: what they are.
        rule: when they are an error.
    """

    title: str
    rule: str


_OFTEN = f"from {SHARE:.0%} of a split on, and at least {ROWS} rows; else a warning"
KINDS: Mapping[str, Kind] = {
    "unreadable": Kind("files and lines that cannot be read", "always"),
    "column": Kind("columns that a whole split lacks", "always"),
    "row": Kind("rows that do not fit the task or the model", "always"),
    "label-spelling": Kind("labels that differ by case or blanks alone", "always"),
    "label-number": Kind("labels that are no classes: decimals, or one for each row", "always"),
    "leak": Kind("rows of a split that stand in an earlier one too", _OFTEN),
    "conflict": Kind("rows that are the same and have different labels", _OFTEN),
    "unknown-token": Kind(
        "tokens that the model does not know",
        "from half of a split's tokens on, a warning from 1 %",
    ),
    "empty": Kind("cells with nothing in them", "where it is the label, else a warning"),
    "duplicate": Kind("rows that stand in one split twice", "never"),
    "label-rare": Kind("labels with fewer than 3 rows of training", "never"),
    "label-unscored": Kind("labels of training that another split lacks", "never"),
    "cut": Kind("rows that are cut to what the model takes", "never"),
    "changed": Kind("what was changed in texts before they are read", "never"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: one of :data:`KINDS`.
        where: file and line; empty where the sentence says it.
        what: the sentence.
        error: it may not be trained with; else it is a warning.
    """

    kind: str
    where: str
    what: str
    error: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


def of_error(kind: str, error: DataError) -> Finding:
    """Return an error that a reader or a task raised as a finding."""
    where, _, what = str(error).partition(": ")
    return Finding(kind, where, what) if what else Finding(kind, "", where)


def settled(findings: Iterable[Finding], accepted: Sequence[Acceptable]) -> list[Finding]:
    """Return findings once each, in the order of their kinds; what is accepted is a warning."""
    order = {kind: place for place, kind in enumerate(KINDS)}
    once = {str(found): found for found in findings}
    out = [
        Finding(f.kind, f.where, f.what, error=f.error and f.kind not in accepted)
        for f in once.values()
    ]
    return sorted(out, key=lambda found: order[found.kind])


def raise_all(findings: Sequence[Finding]) -> None:
    """Raise an error with a line for each finding, as many as are shown, if there are any.

    Args:
        findings: one that several arms share counts once.

    Raises:
        DataError: there are findings.
    """
    if findings:
        raise DataError("\n".join(shown(list(dict.fromkeys(findings)))))


def shown(findings: Sequence[Finding]) -> list[str]:
    """Return a line for each finding, and after the first of a kind how many more there are."""
    lines = []
    for kind in KINDS:
        ours = [str(found) for found in findings if found.kind == kind]
        lines += ours[:SHOWN]
        if len(ours) > SHOWN:
            lines.append(f"... and {len(ours) - SHOWN:,} more {KINDS[kind].title}.")
    return lines
