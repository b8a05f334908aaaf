"""The rows of a split of recordings: as elsewhere, by folds of one table, or of a corpus."""

from pathlib import Path
from typing import Any

from peftcore import DataError, resolve_source
from peftcore_speech.corpora import Corpus, rows_of
from peftcore_speech.folds import by_split
from peftcore_train.data import Columns, Row, drawn, read_all, read_split
from peftcore_train.schema import DataSection, Split


def rows_of_split(
    config: Any, data: DataSection, split: Split, columns: Columns, problems: list[DataError]
) -> list[Row]:
    """Return the rows of a split.

    Args:
        config: the ``task`` section.
        data: the ``data`` section.
        split: which.
        columns: what the task reads.
        problems: where what is wrong is put.

    Raises:
        DataError: the data is missing, or cannot be divided so.
    """
    corpus: Corpus | None = config.released
    if corpus is None and config.fold_column is None:
        return read_split(data, split, columns, problems)
    what = "task.corpus" if corpus else "task.fold_column"
    for field in ("split", "files", "labels"):
        if getattr(data, field):
            raise DataError(f"data.{field} does not go with {what}, which divides the data.")
    root = Path(resolve_source(data.source, "data") or data.source).expanduser()
    if corpus is None:
        rows, bad = read_all(root)
        group = config.fold_column
    else:
        rows, bad = rows_of(corpus, root)
        group = corpus.group
    problems += bad
    if not rows:
        return []
    if group:
        folds = config.folds or (corpus.folds if corpus else 5)
        chosen = by_split(rows, group, folds, config.fold)[split]
    else:
        chosen = [row for row in rows if row.values["split"] == split]
    if corpus is not None:
        chosen = _with_labels(chosen, corpus, config)
    if not chosen:
        problems.append(DataError(f"{data.source} has no row of the split {split} with a label."))
    return drawn(chosen, data, split)


def _with_labels(rows: list[Row], corpus: Corpus, config: Any) -> list[Row]:
    """Return the rows whose label is asked for; some labels count as another one."""
    wanted = {str(label) for label in config.labels}
    kept = []
    for row in rows:
        label = row.values["label"]
        if label not in wanted:
            label = (corpus.merged or {}).get(label)
        if label in wanted:
            kept.append(Row({**row.values, "label": label}, row.where, row.folder))
    return kept
