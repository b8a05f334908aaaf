"""Rows that are damaged."""

import json
from pathlib import Path
from typing import Any

import pytest

from peftcore_train.schema import SPLITS, Split
from peftcore_train.testing.on_rows import OnRows
from peftcore_train.testing.program import refused

#: What no column of a row can hold, the first not even one that may be empty.
_DAMAGE: tuple[Any, ...] = (None, "", [])


class Damaged(OnRows):
    """What is said of data that cannot be used."""

    @pytest.fixture
    def writable(self, tmp_path: Path, source: Path) -> Path:
        """Return a recipe whose data may be damaged."""
        return self.recipe(tmp_path, source)

    @pytest.mark.parametrize("split", SPLITS)
    def test_a_row_without_a_column_is_named(self, split: Split, writable: Path) -> None:
        for column in self.rows[split][0]:
            rows = [dict(row) for row in self.rows[split]]
            del rows[1][column]
            self.write(writable.parent / "data", split, rows)
            assert f"{split}.jsonl:2: no column {column!r}." in refused("check", writable)

    @pytest.mark.parametrize("split", SPLITS)
    def test_a_value_that_no_column_can_hold_is_named(self, split: Split, writable: Path) -> None:
        for column in self.rows[split][0]:
            for value in _DAMAGE[:1] if column in self.empty else _DAMAGE:
                rows = [dict(row) for row in self.rows[split]]
                rows[1][column] = value
                self.write(writable.parent / "data", split, rows)
                sentence = refused("train", writable, "--dry-run")
                assert sentence.startswith(f"{split}.jsonl:2: "), f"{column}={value!r}: {sentence}"

    @pytest.mark.parametrize("split", SPLITS)
    def test_a_file_without_rows_or_none_at_all_is_named(
        self, split: Split, writable: Path
    ) -> None:
        self.write(writable.parent / "data", split, [])
        assert f"{split}.jsonl is empty." in refused("check", writable)
        (writable.parent / "data" / f"{split}.jsonl").unlink()
        assert f"has no {split}.jsonl" in refused("check", writable)

    def test_a_row_to_predict_is_checked_too(self, trained: Path) -> None:
        if not self.predicts:
            pytest.skip("the task predicts nothing")
        row = self.unanswered(self.rows["test"][0])
        for column in row:
            for damaged in (
                {name: value for name, value in row.items() if name != column},
                {**row, column: None},
            ):
                line = json.dumps(row) + "\n" + json.dumps(damaged) + "\n"
                sentence = refused("predict", trained, "--input", "-", input=line)
                assert sentence.startswith("stdin:2: ") and column in sentence
