import ast
import json
from pathlib import Path

import pytest

from peftcore import PeftcoreError
from peftcore_samples import antibodies, peptides, python_code, python_labels, sentiment
from peftcore_samples.splits import Row, write_splits

SPLITS = ("train", "validation", "test")


def read(folder: Path) -> dict[str, list[dict[str, str]]]:
    return {
        split: [json.loads(line) for line in (folder / f"{split}.jsonl").read_bytes().splitlines()]
        for split in SPLITS
    }


def numbers(count: int) -> list[tuple[str, Row]]:
    return [(str(number), {"text": f"é {number}"}) for number in range(count)]


def test_splits_are_70_10_and_20_percent(tmp_path: Path) -> None:
    write_splits(numbers(100), tmp_path)
    found = read(tmp_path)
    assert [len(found[split]) for split in SPLITS] == [70, 10, 20]
    assert sorted(row["text"] for part in found.values() for row in part) == sorted(
        str(row["text"]) for _, row in numbers(100)
    )


def test_splits_are_the_same_everywhere(tmp_path: Path) -> None:
    write_splits(numbers(10), tmp_path)
    assert [row["text"] for row in read(tmp_path)["train"]][:3] == ["é 9", "é 8", "é 4"]


def test_a_group_is_never_divided(tmp_path: Path) -> None:
    rows = [(str(number // 7), row) for number, (_, row) in enumerate(numbers(100))]
    write_splits(rows, tmp_path)
    group = {row["text"]: name for name, row in rows}
    groups = [{group[row["text"]] for row in part} for part in read(tmp_path).values()]
    assert sum(map(len, groups)) == len(set.union(*groups))


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("salt &amp; pepper", "salt & pepper"),
        ("at &amp;#38; t", "at & t"),
        ("''Frailty'' starts", '"Frailty" starts'),
        ('"  this problem vanished ', "this problem vanished"),
        ('hall of fame game."', "hall of fame game."),
        ('the new 46" screen', 'the new 46" screen'),
        ("a  \t b", "a b"),
        ("clichés", "clichés"),
    ],
)
def test_texts_are_cleaned(raw: str, clean: str) -> None:
    assert sentiment.cleaned(raw) == clean


def test_only_clear_sentences_are_kept_and_only_once() -> None:
    table = (
        "1_1\t2.33333333\tGood.\r\n1_2\t-1.5\tBad!\r\n2_1\t1.0\tNot clear.\r\n"
        "3_1\t3\tGOOD!\r\n4\t2\t:)\r\n5\t-2\t:(\r\n"
    )
    assert list(sentiment.labelled(table)) == [
        ("1", {"text": "Good.", "label": "positive", "score": 2.3333}),
        ("1", {"text": "Bad!", "label": "negative", "score": -1.5}),
        ("4", {"text": ":)", "label": "positive", "score": 2.0}),
        ("5", {"text": ":(", "label": "negative", "score": -2.0}),
    ]


def test_a_peptide_with_both_labels_is_left_out() -> None:
    table = "5,1,UniProt,AMP\nGLW, 1\nMKV, 0\nGLW, 1\nAAA, 0\nAAA, 1\n"
    assert list(peptides.labelled(table)) == [
        ("GLW", {"sequence": "GLW", "label": "AMP"}),
        ("MKV", {"sequence": "MKV", "label": "UniProt"}),
    ]


def test_a_gene_without_a_region_or_with_an_unknown_residue_is_left_out() -> None:
    known = {"FR1-IMGT": "QV", "CDR1-IMGT": "G", "FR2-IMGT": "W", "CDR2-IMGT": "IS"}
    table = {
        "IGKV1D-39*01": {**known, "FR3-IMGT": "NC", "V-REGION": "QVGWISNCAR"},
        "IGKV1-39*01": {**known, "FR3-IMGT": "NC", "V-REGION": "QVGWISNCAR"},
        "IGHV1-2*01": {**known, "FR3-IMGT": "NX", "V-REGION": "QVGWISNXAR"},
        "IGHV1-3*01": {**known, "V-REGION": "QVGWISNCAR"},
        "IGHJ1*01": {"J-REGION": "AEYFQHWGQGTLVTVSS"},
    }
    labels = ["FR1", "FR1", "CDR1", "FR2", "CDR2", "CDR2", "FR3", "FR3", "CDR3", "CDR3"]
    assert list(antibodies.labelled(json.dumps(table))) == [
        ("IGKV1-39", {"gene": "IGKV1D-39*01", "sequence": "QVGWISNCAR", "labels": labels})
    ]


LIBRARY = '''
class Queue:
    @property
    def length(self):
        """Return the number of items.

        More of it.
        """

        # Items are kept in a list.
        return len(self.items)

    def wrapped(self):
        """Return what is told in a sentence that does
        not end on its first line."""
        return 1

    def short(self):
        """Constructor."""
        return 1

    def empty(self):
        """There is nothing to see here."""

def same_line(): "Share a line with code."; return 1

def dedented():
    """Return a string at the margin."""
    return """
at the margin"""
'''


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "library"
    for path in ("queue.py", "package/copy.py", "_queue.py", "package/test/test_queue.py"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(LIBRARY.replace("Items", path))
    (folder / "old.py").write_text("print 'of another Python'")
    (folder / "latin.py").write_bytes(
        b"# -*- coding: latin-1 -*-\ndef f():\n    'Return a small \xe9.'\n    return '\xe9'\n"
    )
    return folder


def test_functions_lose_their_docstring_and_nothing_else(library: Path) -> None:
    rows = [row for _, row in python_code.pairs(library)]
    assert rows[:2] == [
        {
            "prompt": 'def dedented():\n    return """\nat the margin"""',
            "completion": "Return a string at the margin.",
        },
        {
            "prompt": "@property\ndef length(self):\n"
            "    # _queue.py are kept in a list.\n    return len(self.items)",
            "completion": "Return the number of items.",
        },
    ]


def test_a_private_twin_is_of_the_same_group(library: Path) -> None:
    groups = [group for group, _ in python_code.pairs(library)]
    assert set(groups) == {"queue", "package", "latin"}


def test_a_copied_function_comes_once(library: Path) -> None:
    rows = [row["completion"] for _, row in python_code.pairs(library)]
    assert rows.count("Return a string at the margin.") == 1


def test_the_encoding_of_a_file_is_respected(library: Path) -> None:
    rows = dict(python_code.pairs(library))
    assert rows["latin"] == {
        "prompt": "def f():\n    return 'é'",
        "completion": "Return a small é.",
    }


def test_a_python_without_sources_is_told(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(PeftcoreError, match="holds no Python sources"):
        python_code.python_code()
    assert not list((cache / "samples").iterdir())


def test_the_functions_of_this_python_are_pairs() -> None:
    found = read(python_code.python_code())
    rows = [row for part in found.values() for row in part]
    assert len(rows) > 3000
    assert len({row["prompt"] for row in rows}) == len(rows)
    assert len(found["train"]) > 3 * len(found["test"])
    for row in found["validation"]:
        assert ast.get_docstring(ast.parse(row["prompt"]).body[0]) is None


def test_scores_are_those_of_every_sentence() -> None:
    table = "1_1\t2.33333333\tGood.\r\n2_1\t0.0\tNot clear.\r\n3_1\t3\tGOOD!\r\n"
    assert list(sentiment.scored(table)) == [
        ("1", {"text": "Good.", "score": 2.3333}),
        ("2", {"text": "Not clear.", "score": 0.0}),
    ]


FUNCTIONS = "\n".join(
    f'def {name}(items, key=None):\n    """{sentence}."""\n    {body}\n'
    for name, sentence, body in (
        ("first", "Return the first item", "return next(iter(items))"),
        ("check", "Raise if there are none", "if not items:\n        raise ValueError(key)"),
        ("walk", "Yield each of the items", "for item in items:\n        yield item.x"),
        ("close", "Close all of the items", "items.close()"),
    )
)


def test_the_parser_labels_names_statements_and_answers(tmp_path: Path) -> None:
    (tmp_path / "tools.py").write_text(FUNCTIONS)
    named = [row for _, row in python_labels.names(tmp_path)]
    marked = [
        [(t, n) for t, n in zip(row["tokens"], row["labels"], strict=True) if n != "O"]
        for row in named
    ]
    parameters = [("items", "B-parameter"), ("key", "B-parameter")]
    assert marked[0] == [*parameters, ("next", "B-call"), ("iter", "B-call")]
    assert marked[3] == parameters
    stated = [row for _, row in python_labels.statements(tmp_path)]
    assert [row["label"] for row in stated] == [
        ["return"],
        ["branch", "raise"],
        ["loop", "yield"],
        [],
    ]
    ((_, asked),) = python_labels.questions(tmp_path)
    assert asked["question"] == "Return the first item."
    ((name,), (start,)) = asked["answers"].values()
    assert name == "first" and asked["context"][start:].startswith("first(items, key=None):")


def test_conversations_are_those_pairs_in_the_same_splits(
    library: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(library))
    pairs, talks = read(python_code.python_code()), read(python_code.python_chat())
    for split, rows in pairs.items():
        for pair, talk in zip(rows, talks[split], strict=True):
            asked, answer = talk["messages"]
            assert pair["prompt"] in asked["content"] and asked["role"] == "user"
            assert answer == {"role": "assistant", "content": pair["completion"]}
