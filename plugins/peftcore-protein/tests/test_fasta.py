"""Records of FASTA as rows."""

import pytest

from peftcore import DataError
from peftcore_train.data import read_rows, read_split
from peftcore_train.schema import DataSection

FASTA = ">P1 one protein\nEVQL\nVESG\n;a remark\n\n>P2\nKRLW*\n"


@pytest.mark.parametrize("suffix", ["fasta", "fa", "faa"])
def test_records_are_rows_where_their_header_stands(suffix, tmp_path):
    path = tmp_path / f"p.{suffix}"
    path.write_text(FASTA)
    rows = read_rows(path)
    assert [dict(row.values) for row in rows] == [
        {"id": "P1", "description": "one protein", "sequence": "EVQLVESG"},
        {"id": "P2", "description": "", "sequence": "KRLW*"},
    ]
    assert [row.where for row in rows] == [f"p.{suffix}:1", f"p.{suffix}:6"]


def test_labels_are_joined_by_id(tmp_path):
    (tmp_path / "p.fasta").write_text(FASTA + ">P3\nAAA\n")
    (tmp_path / "labels.tsv").write_text("id\tkind\tsplit\nP2\tb\ttrain\nP1\ta\ttest\n")
    data = DataSection(source=str(tmp_path / "p.fasta"), labels="labels.tsv")
    problems: list[DataError] = []
    (row,) = read_split(data, "train", problems=problems)
    assert (row.column("sequence"), row.column("kind"), row.where) == ("KRLW*", "b", "p.fasta:6")
    assert [str(one) for one in problems] == ["p.fasta:8: labels.tsv has no id 'P3'."]
