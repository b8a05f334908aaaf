"""The splits of a source: files and folders named after them, a column, or parts of one file."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from peftcore import DataError, nearest, resolve_source
from peftcore_train.data.folders import is_of_files
from peftcore_train.data.formats import endings, is_read, read_all, read_rows, reader_of
from peftcore_train.data.rows import Columns, Row, report
from peftcore_train.data.same import normalised
from peftcore_train.data.tables import is_saved
from peftcore_train.progress import going_over
from peftcore_train.schema import SPLITS, DataSection, Split

_ALIASES = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}
#: Column of a split, and of the name by which ``data.labels`` are joined.
_SPLIT, _ID = "split", "id"


def read_split(
    data: DataSection,
    split: Split,
    columns: Columns | None = None,
    problems: list[DataError] | None = None,
) -> list[Row]:
    """Return the rows of one split.

    Args:
        data: the ``data`` section.
        split: which.
        columns: what a task reads; ``data.split`` keeps the label of it in proportion.
        problems: where what is wrong is put, so that all of it is found; else the first is raised.

    Raises:
        DataError: the file is missing, empty, not UTF-8, or a line is not readable.
    """
    found: list[DataError] = []
    rows = _rows(data, split, columns or Columns(), found)
    report(found, problems)
    return drawn(rows, data, split)


def drawn(rows: list[Row], data: DataSection, split: Split) -> list[Row]:
    """Return the rows of a split that ``data.limits`` leaves, of these those that are picked.

    Raises:
        DataError: one that is picked is not there.
    """
    limit = data.limits.get(split)
    if limit is not None and limit < len(rows):
        chosen = random.Random(data.seed).sample(range(len(rows)), limit)
        rows = [rows[i] for i in sorted(chosen)]
    picked = data.picked.get(split)
    if picked is None:
        return rows
    if rows and max(picked) >= len(rows):
        raise DataError(
            f"data.picked.{split}: there is no row {max(picked)}; the split has {len(rows)} rows,"
            " counted from 0."
        )
    return [rows[i] for i in picked] if rows else rows


def _rows(
    data: DataSection, split: Split, columns: Columns, problems: list[DataError]
) -> list[Row]:
    root = Path(resolve_source(data.source, "data") or data.source).expanduser()
    whole = _is_whole(root)
    rows, bad = read_all(root if whole else _place_of(root, data, split))
    if data.labels is not None:
        rows = _labelled(
            rows, root / data.labels if root.is_dir() else root.parent / data.labels, bad
        )
    problems += bad
    if whole:
        return _of_split(rows, data, split, columns, root, problems)
    if data.split is not None:
        problems.append(
            DataError(
                f"data.split divides one file, but {data.source} has files of splits; leave it out."
            )
        )
    return rows


def _is_whole(root: Path) -> bool:
    """Tell whether a source holds all splits in one: a file, or a folder of files of one level."""
    if not root.is_dir():
        return root.is_file()
    named = any((root / alias).is_dir() for aliases in _ALIASES.values() for alias in aliases)
    return is_saved(root) or (not named and not _files(root) and is_of_files(root))


def _files(root: Path) -> list[Path]:
    return [path for path in root.iterdir() if path.is_file() and is_read(path)]


def _place_of(root: Path, data: DataSection, split: Split) -> Path:
    """Return the file or folder of a split."""
    if not root.is_dir():
        beside = [p.name for p in root.parent.glob("*")] if root.parent.is_dir() else []
        raise DataError(
            f"data.source {data.source}: no such file or folder.{nearest(root.name, beside)}"
        )
    if split in data.files:
        return root / data.files[split]
    named = [
        root / f"{alias}{ending}{zipped}"
        for alias in _ALIASES[split]
        for ending in endings()
        for zipped in ("", ".gz")
    ]
    found = [path for path in named if path.is_file()]
    found += [p for a in _ALIASES[split] if (p := root / a).is_dir() and reader_of(p) is not None]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found)
        raise DataError(f"{data.source}: split {split} could be {names}; say which in data.files.")
    has = ", ".join(sorted(p.name for p in root.iterdir())) or "nothing"
    raise DataError(
        f"{data.source} has no {split}.jsonl, {split}.csv, or another file or folder of that name."
        f" It holds: {has}."
    )


def _labelled(rows: Sequence[Row], file: Path, problems: list[DataError]) -> list[Row]:
    """Return rows with the columns that a table has for the id of each."""
    table: dict[str, Row] = {}
    for row in read_rows(file):
        if (name := str(row.column(_ID))) in table:
            problems.append(DataError(f"{row.where}: the id {name!r} stands there twice."))
        table[name] = row
    out = []
    for row in rows:
        name = str(row.column(_ID))
        if name in table:
            out.append(replace(row, values={**table[name].values, **row.values}))
        else:
            hint = nearest(name, table)
            problems.append(DataError(f"{row.where}: {file.name} has no id {name!r}.{hint}"))
    return out


def _of_split(
    rows: Sequence[Row],
    data: DataSection,
    split: Split,
    columns: Columns,
    root: Path,
    problems: list[DataError],
) -> list[Row]:
    has_column = bool(rows) and _SPLIT in rows[0].values
    if data.split is not None and has_column:
        problems.append(
            DataError(f"{root.name} has a column {_SPLIT!r}; leave data.split out, or drop it.")
        )
    if data.split is not None and not has_column:
        return divided(rows, data.split, columns, data.seed)[split]
    if rows and not has_column:
        has = ", ".join(str(key) for key in rows[0].values)
        problems.append(
            DataError(
                f"{rows[0].where}: no column {_SPLIT!r}.{nearest(_SPLIT, rows[0].values)} Its"
                f" columns: {has}. Add one, or divide the file with data.split: {{validation: 0.1,"
                " test: 0.1}."
            )
        )
        return []
    return _named(rows, split, root, problems)


def _named(rows: Sequence[Row], split: Split, root: Path, problems: list[DataError]) -> list[Row]:
    known = {alias for aliases in _ALIASES.values() for alias in aliases}
    out = []
    for row in rows:
        value = row.values.get(_SPLIT)
        if value in _ALIASES[split]:
            out.append(row)
        elif value not in known:
            hint = nearest(str(value), known) or f" Splits: {', '.join(SPLITS)}."
            problems.append(DataError(f"{row.where}: {value!r} is not a split.{hint}"))
    if rows and not out:
        problems.append(DataError(f"{root.name} has no row of the split {split}."))
    return out


def divided(
    rows: Sequence[Row], shares: Mapping[Split, float], columns: Columns, seed: int
) -> dict[Split, list[Row]]:
    """Divide rows at random: each label in proportion, rows that are the same in one split.

    Rows are the same where their inputs are, blanks and case aside. Validation and test get a row
    of each label that has three different ones.
    """
    groups: dict[object, list[int]] = defaultdict(list)
    for index, row in enumerate(going_over(rows, "comparing rows")):
        groups[normalised(row, columns) if columns.inputs else index].append(index)
    strata: dict[str, list[list[int]]] = defaultdict(list)
    for same in groups.values():
        label = rows[same[0]].values.get(columns.label) if columns.label else None
        strata[str(label)].append(same)
    parts: dict[Split, list[int]] = {split: [] for split in SPLITS}
    for label, found in sorted(strata.items()):
        random.Random(f"{seed}-{label}").shuffle(found)
        count = sum(map(len, found))
        for split, share in shares.items():
            wanted = max(round(share * count), 1 if len(found) >= 3 else 0)
            taken = 0
            while len(found) > 1 and taken < wanted:
                same = found.pop()
                parts[split] += same
                taken += len(same)
        parts["train"] += [index for same in found for index in same]
    return {split: [rows[index] for index in sorted(found)] for split, found in parts.items()}
