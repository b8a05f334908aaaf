"""Labels: how many there are of each, and which look wrong."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from peftcore_train.data.rows import Row
from peftcore_train.profile.findings import Finding
from peftcore_train.schema import Split

_FEW = 3
#: From so many rows on it is strange that most have a label of their own.
_MANY = 20

Labels = Mapping[Split, Mapping[str, int]]


def counted(rows: Mapping[Split, Sequence[Row]], column: str) -> dict[Split, dict[str, int]]:
    """Return of each split how many rows have each label, the commonest first."""
    return {
        split: dict(
            Counter(str(r.values[column]) for r in found if _given(r, column)).most_common()
        )
        for split, found in rows.items()
    }


def wrong_labels(rows: Mapping[Split, Sequence[Row]], column: str) -> Iterator[Finding]:
    """Yield what is wrong with the labels of a column."""
    first: dict[str, str] = {}
    for found in rows.values():
        for row in found:
            if _given(row, column):
                first.setdefault(str(row.values[column]), row.where)
    labels = counted(rows, column)
    yield from _spelling(labels, first)
    yield from _numbers(labels, first)
    yield from _few(rows, labels, column)


def _given(row: Row, column: str) -> bool:
    value = row.values.get(column)
    return value is not None and bool(str(value).strip())


def _spelling(labels: Labels, first: Mapping[str, str]) -> Iterator[Finding]:
    total = sum((Counter(counts) for counts in labels.values()), Counter[str]())
    alike: dict[str, list[str]] = defaultdict(list)
    for label in sorted(total, key=lambda label: (-total[label], label)):
        alike["".join(label.casefold().split())].append(label)
    for common, *others in alike.values():
        for label in others:
            yield Finding(
                "label-spelling",
                first[label],
                f"label {label!r} ({total[label]:,} rows) differs from {common!r}"
                f" ({total[common]:,} rows) by case or blanks alone; write both alike.",
            )


def _numbers(labels: Labels, first: Mapping[str, str]) -> Iterator[Finding]:
    training = labels.get("train", {})
    decimal = [label for label in training if _decimal(label)]
    if decimal and all(_decimal(label) is not None for label in training):
        yield Finding(
            "label-number",
            first[decimal[0]],
            f"label {decimal[0]!r} is a number with decimals, and {len(decimal):,} labels are. A"
            " task for numbers predicts them; labels are names or whole numbers.",
        )
    elif (rows := sum(training.values())) >= _MANY and 2 * len(training) > rows:
        yield Finding(
            "label-number",
            first[next(iter(training))],
            f"{len(training):,} different labels in {rows:,} rows of training: is it the column of"
            " a label?",
        )


def _decimal(label: str) -> bool | None:
    """Tell whether a number has decimals; None for what is no number."""
    try:
        return not float(label).is_integer()
    except (ValueError, OverflowError):
        return None


def _few(rows: Mapping[Split, Sequence[Row]], labels: Labels, column: str) -> Iterator[Finding]:
    training = labels.get("train", {})
    where: dict[str, str] = {}
    for row in rows.get("train", ()):
        where.setdefault(str(row.values.get(column)), row.where)
    for label, count in training.items():
        if count < _FEW:
            sentence = f"label {label!r} has {count} row{'s' * (count > 1)} of training."
            yield Finding("label-rare", where[label], sentence, error=False)
    for split, counts in labels.items():
        for label in training:
            if counts and label not in counts:
                sentence = f"label {label!r} has no row in {split}, which does not score it."
                yield Finding("label-unscored", where[label], sentence, error=False)
