"""Tokens of encoded rows: how long they are, and how many the model knows."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from peftcore_train.data.rows import Row
from peftcore_train.profile.findings import Finding
from peftcore_train.schema import Split

#: Shares of unknown tokens from which they are told, and may not be trained with.
_TOLD, _HALF = 0.01, 0.5


@dataclass
class Lengths:
    """Tokens of each split.

    Attributes:
        unit: what is counted.
        limit: most tokens of a row; None for no limit.
        spans: of each split the shortest, median, 95 % and longest row.
        unknown: of each split the share of unknown tokens.
        changed: what was changed in texts, and how often.
        findings: what is wrong.
    """

    unit: str = "tokens"
    limit: int | None = None
    spans: dict[str, dict[str, int]] = field(default_factory=dict)
    unknown: dict[str, float] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


@dataclass
class Measure:
    """Takes the features of rows one by one, and keeps numbers only.

    Attributes:
        unknown_id: token of what the tokenizer does not know; None where it has none.
        limit: most tokens of a row; None for no limit.
        unit: what is counted.
    """

    unknown_id: int | None
    limit: int | None
    unit: str = "tokens"
    _tokens: Counter[Split] = field(default_factory=Counter)
    _lengths: dict[Split, list[int]] = field(default_factory=dict)
    _unknown: dict[Split, list[tuple[Row, int]]] = field(default_factory=dict)
    _changed: Counter[str] = field(default_factory=Counter)
    _first: dict[str, str] = field(default_factory=dict)
    _cut: list[Row] = field(default_factory=list)

    def add(self, split: Split, row: Row, features: Mapping[str, Any]) -> None:
        """Take the features of one row."""
        if not features.get("length"):
            return
        self._lengths.setdefault(split, []).append(int(features["length"]))
        self._tokens[split] += features.get("tokens", features["length"])
        if count := self._unknown_in(features):
            self._unknown.setdefault(split, []).append((row, count))
        for name, times in features.get("changed", {}).items():
            self._changed[name] += times
            self._first.setdefault(name, row.where)
        if features.get("cut"):
            self._cut.append(row)

    def _unknown_in(self, features: Mapping[str, Any]) -> int:
        if "unknown" in features:
            return int(features["unknown"])
        ids = features.get("input_ids", ())
        return 0 if self.unknown_id is None else sum(1 for i in ids if i == self.unknown_id)

    def result(self) -> Lengths:
        """Return the numbers, and what they say."""
        out = Lengths(self.unit, self.limit, changed=dict(self._changed.most_common()))
        for split, lengths in self._lengths.items():
            out.spans[split] = span(lengths)
            rows = self._unknown.get(split, [])
            out.unknown[split] = sum(count for _, count in rows) / self._tokens[split]
            out.findings += _unknown(split, rows, out.unknown[split])
        for row in self._cut:
            sentence = f"is cut to {self.limit} tokens, as task.truncation says."
            out.findings.append(Finding("cut", row.where, sentence, error=False))
        for name, times in out.changed.items():
            sentence = f"{name}: {times:,} times in all, here first."
            out.findings.append(Finding("changed", self._first[name], sentence, error=False))
        return out


def span(lengths: Sequence[int]) -> dict[str, int]:
    """Return the least, median, 95 % and greatest of some lengths."""
    ordered = sorted(lengths)

    def at(share: float) -> int:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return {"min": ordered[0], "median": at(0.5), "95 %": at(0.95), "max": ordered[-1]}


def _unknown(split: Split, rows: Sequence[tuple[Row, int]], share: float) -> Iterator[Finding]:
    if share < _TOLD:
        return
    error = share >= _HALF
    row, most = max(rows, key=lambda one: one[1])
    sentence = (
        f"{share:.0%} of the tokens of {split} are unknown to the model, in {len(rows):,} rows;"
        f" here {most}. Is it the tokenizer of this data?"
    )
    yield Finding("unknown-token", row.where, sentence, error=error)
