"""CodeReviewer's and Tufano's files in miniatures of their layout, and the tags of a diff."""

import json
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from peftcore import DataError
from peftcore_code.diffs import lines_of, plain, tagged
from peftcore_code.exercises import exercise
from peftcore_code.layouts import codereviewer, tufano
from peftcore_code.task import CodeReview, CodeReviewConfig
from peftcore_train.data import Row
from peftcore_train.schema import DataSection

DIFF = """diff --git a/x.py b/x.py
--- a/x.py
+++ b/x.py
@@ -10,5 +10,5 @@ class Reader:
     def read(self):

-        return open(self.path).read()
+        with open(self.path) as file:
+\t\treturn file.read()
@@ -40,2 +40,1 @@
-# old
\\ No newline at end of file
 }"""


def test_a_diff_is_tagged_as_codereviewer_does() -> None:
    lines = lines_of(DIFF, "x:1")
    assert tagged(lines) == (
        "<keep>def read(self):<del>return open(self.path).read()"
        "<add>with open(self.path) as file:<add>return file.read()<del># old<keep>}"
    )
    assert plain(lines)[1:4] == [
        "-        return open(self.path).read()",
        "+        with open(self.path) as file:",
        "+\t\treturn file.read()",
    ]


@pytest.mark.parametrize(
    ("diff", "sentence"),
    [
        ("Binary files a/x and b/x differ", "x:1: the diff has no hunk: no line begins with @@."),
        ("+a\n-b", "x:1: the diff has no hunk"),
        ("@@ -1 +0,0 @@\n\n", "x:1: the hunk of the diff has no line"),
    ],
)
def test_a_diff_without_hunks_is_refused(diff: str, sentence: str) -> None:
    with pytest.raises(DataError) as caught:
        lines_of(diff, "x:1")
    assert str(caught.value).startswith(sentence)


def write(path: Path, rows: Iterable[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def release(tmp_path: Path, change: Callable[..., dict]) -> Path:
    """Return a folder laid out as CodeReviewer's archive on Zenodo."""
    for split in ("valid", "test"):
        write(tmp_path / f"Diff_Quality_Estimation/cls-{split}.jsonl", [change()])
    for i in (0, 2, 10):
        name = f"Diff_Quality_Estimation/cls-train-chunk-{i}.jsonl"
        write(tmp_path / name, [{**change(), "id": i}])
    for split in ("train", "valid", "test"):
        write(tmp_path / f"Comment_Generation/msg-{split}.jsonl", [change(), change()])
        write(tmp_path / f"Code_Refinement/ref-{split}.jsonl", [change("if a :\n-  b")])
    return tmp_path


def rows_of(source: Path, **config: str) -> list[Row]:
    task = CodeReview(CodeReviewConfig(**config))
    rows = task.read(DataSection(source=str(source)), "train")
    task.check(rows)
    return rows


def test_the_three_parts_of_codereviewer_are_read(release: Path) -> None:
    rows = rows_of(release, layout="codereviewer", action="necessity")
    assert [row.values["id"] for row in rows] == [0, 2, 10], "chunks are read in order"
    assert [row.where for row in rows][2] == "cls-train-chunk-10.jsonl:1"
    assert set(rows[0].values) == {"id", "patch", "y"}, "the whole old file is not kept"
    assert len(rows_of(release, layout="codereviewer", action="comment")) == 2
    assert rows_of(release / "Comment_Generation", layout="codereviewer"), "or its folder"
    (row,) = rows_of(release, layout="codereviewer", action="refinement")
    config = CodeReviewConfig(layout="codereviewer", action="refinement")
    asked = exercise(row, config.reading, labelled=True)
    assert asked.given(9) == "Comment: name it better\nx\nif a :\n  b"
    assert asked.answer == "x\na = c"
    tags = CodeReviewConfig(layout="codereviewer", action="refinement", diff="tags")
    asked = exercise(row, tags.reading, labelled=True)
    assert asked.given(9) == "Comment: name it better\n<add>x<add>if a :<add>b"
    assert asked.answer == "<add>x<add>a = c"


def test_tufanos_pairs_are_read(tmp_path: Path) -> None:
    asked = "<code> int f() { <START> return 1; <END> } </code>"
    said = "<technical_language> why 1? </technical_language>"
    lines = ["source\ttarget", f"{asked}{said}\tint f() {{ return 2; }}", f"{asked}\tint g();"]
    (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n")
    first, second = rows_of(tmp_path, layout="tufano", action="refinement")
    code = "int f() { <START> return 1; <END> }"
    assert first.values == {"old": code, "comment": "why 1?", "new": "int f() { return 2; }"}
    assert second.values == {"old": code, "new": "int g();"}, "code to code has no comment"
    assert first.where == "train.tsv:2"
    (tmp_path / "train.tsv").write_text(f"{asked}\twhy 1?\n")
    (row,) = rows_of(tmp_path, layout="tufano", action="comment")
    assert row.values == {"code": code, "msg": "why 1?"}


def test_what_is_damaged_is_named_with_its_line(release: Path, tmp_path: Path) -> None:
    path = release / "Comment_Generation" / "msg-train.jsonl"
    with path.open("ab") as file:
        file.write(b'{"patch": "@@\n[1]\n"\xff"\n')
    found = [str(one) for one in codereviewer(release, "comment", "train")][2:]
    assert found[0].startswith("msg-train.jsonl:3: not readable as JSON: unterminated")
    assert found[1] == "msg-train.jsonl:4: a row is a JSON object, not list."
    assert found[2] == "msg-train.jsonl:5: not UTF-8."
    (tmp_path / "val.tsv").write_text("a\tb\tc\n")
    (one,) = tufano(tmp_path, "comment", "validation")
    assert str(one) == "val.tsv:1: 3 columns, but a row is a source, a tab and a target."
    with pytest.raises(DataError, match=r"has no Code_Refinement/ref-train\.jsonl. It holds"):
        next(codereviewer(tmp_path / "Comment_Generation", "refinement", "train"))
    data = DataSection(source=str(release), split={"validation": 0.1, "test": 0.1})
    with pytest.raises(DataError, match=r"data\.split does not go with task\.layout"):
        CodeReview(CodeReviewConfig(layout="codereviewer")).read(data, "train")
    with pytest.raises(DataError, match="Did you mean Comment_Generation"):
        next(codereviewer(tmp_path / "Coment_Generation", "comment", "train"))


def test_long_files_are_read_in_little_memory(tmp_path: Path, change: Callable[..., dict]) -> None:
    path = tmp_path / "msg-train.jsonl"
    write(path, ({**change(), "oldf": "x = 1\n" * 4000} for _ in range(600)))
    assert path.stat().st_size > 14e6
    tracemalloc.start()
    count = sum(isinstance(row, Row) for row in codereviewer(tmp_path, "comment", "train"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 600 and peak < 1e6
