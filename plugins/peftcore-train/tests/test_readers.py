"""Every format of data, and the splits of a source."""

import gzip
import json
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from peftcore import DataError, FormatSpec, installed
from peftcore_train.data import Columns, Found, Row, read_all, read_rows, read_split
from peftcore_train.schema import SPLITS, DataSection

BY_TEXT = Columns(("text",), ("label",), "label")


def values(path: Path) -> list[dict]:
    return [dict(row.values) for row in read_rows(path)]


def split_of(source: Path, **section) -> dict[str, list[dict]]:
    data = DataSection(source=str(source), **section)
    return {s: [dict(r.values) for r in read_split(data, s, BY_TEXT)] for s in SPLITS}


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_lines_of_text_are_rows(suffix, tmp_path):
    path = tmp_path / f"notes.txt{suffix}"
    raw = b"one line\n\n  \ntwo\r\n"
    path.write_bytes(gzip.compress(raw) if suffix else raw)
    assert values(path) == [{"text": "one line"}, {"text": "two"}]
    assert read_rows(path)[1].where == f"notes.txt{suffix}:4"


def test_objects_of_an_array_are_rows_where_they_begin(tmp_path):
    """However long: of a file no more than a piece is held."""
    rows = [{"text": "a [{" * 9000, "n": i, "more": [{"x": None}]} for i in range(12)]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows, indent=1))
    assert values(path) == rows
    assert [row.where for row in read_rows(path)[:2]] == ["rows.json:2", "rows.json:11"]
    path.write_text("[1, 23]")
    assert [str(one) for one in read_all(path)[1]] == [
        "rows.json:1: a row is a JSON object, not int.",
    ] * 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{}", "x.json:1: a list of rows is needed: [{...}, ...]."),
        ('[\n{"a": 1}\n{"b": 2}]', "x.json:3: not readable as JSON: '{' stands where ','"),
        ('[{"a": 1},\n{"b": ]', "x.json:2: not readable as JSON: expecting value."),
        ('[{"a": 1}', "x.json:1: not readable as JSON: the file ends where ',' was expected."),
        ('[{"a": "\xff"}]', "x.json: not UTF-8, from line 1 on: "),
        ("[]", "x.json is empty."),
    ],
)
def test_an_array_that_is_damaged_is_one_sentence(text, sentence, tmp_path):
    (tmp_path / "x.json").write_bytes(text.encode("latin-1"))
    (problem,) = read_all(tmp_path / "x.json")[1]
    assert str(problem).startswith(sentence)


def test_parquet_and_saved_datasets_are_read_with_names_of_classes(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {"text": ["a", "b", "c"], "label": [0, 1, 0]}
    features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    one = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    one.to_parquet(tmp_path / "rows.parquet")
    assert values(tmp_path / "rows.parquet")[1] == {"text": "b", "label": 1}
    datasets.DatasetDict(dict.fromkeys(SPLITS, one)).save_to_disk(str(tmp_path / "saved"))
    found = split_of(tmp_path / "saved")
    assert found["test"][1] == {"text": "b", "label": "yes"}
    damaged = next((tmp_path / "saved" / "test").glob("*.arrow"))
    damaged.write_bytes(b"no arrow")
    with pytest.raises(DataError, match="test: not readable"):
        split_of(tmp_path / "saved")


def test_a_library_that_is_missing_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    (tmp_path / "rows.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"needs parquet: pip install 'peftcore-train\[parquet\]'"):
        read_rows(tmp_path / "rows.parquet")


@pytest.fixture
def drawings(monkeypatch):
    """Have formats of a plugin: a drawing is a row, and an album holds a row a line."""
    monkeypatch.setitem(sys.modules, "drawings", SimpleNamespace(album=album))
    specs = (
        FormatSpec(".draw", "A drawing.", column="drawing"),
        FormatSpec(".album", "Drawings.", reader="drawings:album"),
    )
    with installed().with_plugin(*specs):
        yield


def album(path: Path) -> Found:
    """Read a line for each drawing."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        where = f"{path.name}:{number}"
        yield Row({"drawing": line}, where) if line else DataError(f"{where}: no drawing.")


def test_folders_of_labels_are_rows_of_files(tmp_path, drawings):
    for split in ("train", "val", "test"):
        for label in ("cat", "dog"):
            folder = tmp_path / split / label
            folder.mkdir(parents=True)
            (folder / "1.DRAW").write_bytes(split.encode())
            (folder / ".DS_Store").touch()
    found = split_of(tmp_path)
    assert found["validation"] == [
        {"drawing": "cat/1.DRAW", "label": "cat"}, {"drawing": "dog/1.DRAW", "label": "dog"},
    ]  # fmt: skip
    (row, _) = read_rows(tmp_path / "val")
    assert row.where == "val/cat/1.DRAW" and row.path("drawing").read_bytes() == b"val"
    (tmp_path / "val" / "cat" / "Thumbs.db").touch()
    _, (problem,) = read_all(tmp_path / "val")
    assert "val/cat/Thumbs.db: it ends in .db, and no file of such a format is a row" in str(
        problem
    )


def test_a_plugin_brings_a_format_and_one_that_nothing_reads_is_named(tmp_path, drawings):
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.album").write_text(f"{split}\n\n")
    rows, (problem,) = read_all(tmp_path / "test.album")
    assert rows[0].column("drawing") == "test" and str(problem) == "test.album:2: no drawing."
    with pytest.raises(DataError, match=r"^train\.album:2: no drawing"):
        split_of(tmp_path)
    for name, sentence in (
        ("1.draw", r"1\.draw: a file that ends in \.draw is a row by itself; name its folder"),
        ("rows.albun", r"unknown format '\.albun'\. Did you mean \.album\?"),
        ("rows", r"rows: its name ends in none of .*\.jsonl"),
    ):
        (tmp_path / name).touch()
        with pytest.raises(DataError, match=sentence):
            read_rows(tmp_path / name)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.db").touch()
    with pytest.raises(DataError, match=r"without files that are rows: unknown format '\.db'"):
        read_rows(tmp_path / "folder")


def test_every_line_that_is_none_is_told_at_once(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"text,label\na,1\nb\n\xe9,1\nc,2,3\nd,2\n")
    rows, problems = read_all(path)
    assert [row.column("text") for row in rows] == ["a", "�", "d"]
    assert [str(one).partition(": ")[0] for one in problems] == [
        "rows.csv:4", "rows.csv:3", "rows.csv:5",
    ]  # fmt: skip
    path.write_text("text,label\na,1\n", "utf-16")
    assert "perhaps UTF-16" in str(read_all(path)[1][0])


def test_one_file_is_divided_by_label_and_rows_that_are_the_same_stay_together(tmp_path):
    path = tmp_path / "all.jsonl"
    rows = [{"text": f"row {i // 2}", "label": "ab"[i % 10 == 9]} for i in range(400)]
    rows = [{**r, "text": r["text"].upper() if i % 2 else f" {r['text']}"}
            for i, r in enumerate(rows)]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shares = {"validation": 0.1, "test": 0.2}
    found = split_of(path, split=shares)
    assert found == split_of(path, split=shares) != split_of(path, split=shares, seed=1)
    assert [len(part) for part in found.values()] == [280, 40, 80]
    texts = [{" ".join(r["text"].lower().split()) for r in part} for part in found.values()]
    assert len(set.union(*texts)) == sum(map(len, texts)) == 200
    rare = [Counter(r["label"] for r in part)["b"] for part in found.values()]
    assert min(rare) > 0 and sum(rare) == 40


def test_a_division_that_cannot_be_is_refused(tmp_path):
    path = tmp_path / "all.csv"
    path.write_text("text,label\na,b\n")
    with pytest.raises(DataError, match=r"no column 'split'.* or divide the file with data.split"):
        split_of(path)
    path.write_text("text,split\na,train\nb,test\nc,validation\n")
    with pytest.raises(DataError, match=r"has a column 'split'; leave data.split out"):
        split_of(path, split={"validation": 0.1, "test": 0.1})
    for shares in ({"test": 0.1}, {"validation": 0.5, "test": 0.5}, {"validation": 0, "test": 0.1}):
        with pytest.raises(ValueError, match="split: "):
            DataSection(source="x", split=shares)


def test_a_path_that_leads_nowhere_is_named_with_the_nearest_file(tmp_path):
    (tmp_path / "cat.png").touch()
    (tmp_path / "rows.csv").write_text("image\ncatt.png\n.\n")
    missing, folder = read_rows(tmp_path / "rows.csv")
    with pytest.raises(DataError, match=r"rows.csv:2: .*no such file. Did you mean cat.png\?$"):
        missing.path("image")
    with pytest.raises(DataError, match=r"rows.csv:3: .*a folder.$"):
        folder.path("image")


def test_rows_are_picked_by_their_numbers_among_those_that_limits_leave(tmp_path):
    for split in SPLITS:
        rows = [json.dumps({"text": f"{split} {i}", "label": "ab"[i % 2]}) for i in range(6)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows))
    whole = split_of(tmp_path, limits={"train": 4})
    found = split_of(tmp_path, limits={"train": 4}, picked={"train": (2, 0)})
    assert found["train"] == [whole["train"][2], whole["train"][0]]
    assert found["test"] == whole["test"]
    with pytest.raises(DataError, match=r"picked.train: there is no row 4; the split has 4 rows"):
        split_of(tmp_path, limits={"train": 4}, picked={"train": (4,)})
    for wrong in ((), (1, 1), (-1,)):
        with pytest.raises(ValueError, match="give numbers of rows from 0, each once"):
            DataSection(source="x", picked={"train": wrong})
