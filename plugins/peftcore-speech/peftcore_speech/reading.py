"""The rows of a split of recordings: as elsewhere, by folds of one table, or of a corpus."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftcore import DataError, resolve_source
from peftcore_speech.corpora import Corpus, rows_of
from peftcore_speech.folds import by_split
from peftcore_train.data import Columns, Row, drawn, read_all, read_split
from peftcore_train.schema import SPLITS, DataSection, Split


class Recordings:
    """Reads splits; what is divided by a fold or a corpus is read once.

    Args:
        config: the ``task`` section.
    """

    def __init__(self, config: Any):
        self.config = config
        self.corpus: Corpus | None = config.released
        self._root = Path()
        self._parts: Mapping[Split, list[Row]] = {}
        self._bad: list[DataError] = []

    def split(
        self, data: DataSection, split: Split, columns: Columns, problems: list[DataError]
    ) -> list[Row]:
        """Return the rows of a split.

        Args:
            data: the ``data`` section.
            split: which.
            columns: what the task reads.
            problems: where what is wrong is put.

        Raises:
            DataError: the data is missing, or cannot be divided so.
        """
        if self.corpus is None and self.config.fold_column is None:
            return read_split(data, split, columns, problems)
        what = "task.corpus" if self.corpus else "task.fold_column"
        for field in ("split", "files", "labels"):
            if getattr(data, field):
                raise DataError(f"data.{field} does not go with {what}, which divides the data.")
        root = Path(resolve_source(data.source, "data") or data.source).expanduser()
        if root != self._root:
            self._parts, self._bad = self._divided(root)
            self._root = root
        problems += self._bad
        rows = self._parts[split]
        if not rows and not self._bad:
            problems.append(
                DataError(f"{data.source} has no row of the split {split} with a label.")
            )
        return drawn(rows, data, split)

    def _divided(self, root: Path) -> tuple[Mapping[Split, list[Row]], list[DataError]]:
        config, corpus = self.config, self.corpus
        rows, bad = read_all(root) if corpus is None else rows_of(corpus, root)
        group = corpus.group if corpus else config.fold_column
        if not rows:
            parts: dict[Split, list[Row]] = {split: [] for split in SPLITS}
        elif group:
            folds = config.folds or (corpus.folds if corpus else 5)
            parts = by_split(rows, group, folds, config.fold)
        else:
            parts = {s: [row for row in rows if row.values["split"] == s] for s in SPLITS}
        if corpus is not None:
            parts = {split: self._labelled(found) for split, found in parts.items()}
        return parts, bad

    def _labelled(self, rows: list[Row]) -> list[Row]:
        """Return the rows whose label is asked for; some labels count as another one."""
        assert self.corpus is not None
        wanted = {str(label) for label in self.config.labels}
        kept = []
        for row in rows:
            label = row.values["label"]
            if label in wanted:
                kept.append(row)
            elif (label := (self.corpus.merged or {}).get(label)) in wanted:
                kept.append(Row({**row.values, "label": label}, row.where, row.folder))
        return kept
