"""Spoilt data: ``check`` names every fault at once, and none of it can be trained with."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from peftcore.testing import run_in_process
from peftcore_train.profile import KINDS

SPLITS = ("train", "validation", "test")
WORDS = ["the", "film", "was", "a", "story", "of", "two", "people", "and", "it"]


def texts(rows: int, seed: int) -> list[dict[str, Any]]:
    """Return texts of words that the small BERT knows, all different."""
    chance = random.Random(seed)
    found = {" ".join(chance.choices(WORDS, k=8)) for _ in range(2 * rows)}
    return [{"text": t, "label": "ab"[i % 2]} for i, t in enumerate(sorted(found)[:rows])]


def table(rows: list[dict[str, Any]]) -> str:
    lines = [",".join(rows[0]), *(",".join(str(v) for v in row.values()) for row in rows)]
    return "\n".join(lines) + "\n"


def whole(folder: Path, **changed: str | bytes) -> None:
    """Write good splits, some of them changed."""
    for seed, split in enumerate(SPLITS):
        content = changed.get(split, table(texts(40 if split == "train" else 20, seed)))
        raw = content if isinstance(content, bytes) else content.encode()
        (folder / f"{split}.csv").write_bytes(raw)


def leaking(folder: Path) -> None:
    rows = texts(40, 0)
    copied = [{**row, "text": row["text"].upper() + " "} for row in rows[:12]]
    again = [{**row, "label": "b"} for row in rows[:2]]
    whole(folder, train=table([*rows, *again]), test=table([*texts(20, 2), *copied]))


def spelled(folder: Path) -> None:
    rows = texts(40, 0)
    rows[3]["label"], rows[5]["label"], rows[7]["label"] = "A", "b ", ""
    whole(folder, train=table(rows))


def wrong_columns(folder: Path) -> None:
    rows = [{"sentence": row["text"], "label": row["label"]} for row in texts(20, 1)]
    whole(folder, validation=table(rows), test="text,label\na,b,c\nthe film\nit was,a\n")


def empty(folder: Path) -> None:
    whole(folder, train="", test="text,label\n")


def decimals(folder: Path) -> None:
    chance = random.Random(0)
    rows = [{**row, "label": round(chance.random(), 2)} for row in texts(40, 0)]
    whole(folder, **{split: table(rows) for split in SPLITS})


def encodings(folder: Path) -> None:
    latin = table(texts(40, 0)).replace("the", "thé").encode("latin-1")
    whole(folder, train=latin, test=table(texts(20, 2)).encode("utf-16"))


def nothing_to_say(folder: Path) -> None:
    rows = [{"prompt": row["text"], "completion": "it was a film"} for row in texts(20, 0)]
    for split in SPLITS:
        spoilt = [dict(row) for row in rows]
        spoilt[1]["completion"], spoilt[4]["completion"] = "", None
        del spoilt[6]["completion"]
        lines = [json.dumps(row) + "\n" for row in spoilt]
        (folder / f"{split}.jsonl").write_text("".join([*lines, "{half\n"]))


def unknown_words(folder: Path) -> None:
    rows = [{**row, "text": "mais c est une autre langue"} for row in texts(20, 0)]
    whole(folder, train=table([*texts(4, 0), *rows]))


#: Data, what else the recipe says, and what is said of it: errors, and warnings.
SPOILT: dict[str, tuple[Callable[[Path], None], dict[str, Any], list[str], list[str]]] = {
    "leaking": (leaking, {}, [
        "test.csv:22: stands in train too, as train.csv:2, case and blanks aside; leave it out",
        "test.csv:33: stands in train too",
    ], [
        "train.csv:42: the same as train.csv:2.",
        "train.csv:42: label 'b', but 'a' for the same input at train.csv:2",
    ]),
    "labels": (spelled, {}, [
        "train.csv:5: label 'A' (1 rows) differs from 'a'",
        "train.csv:7: label 'b ' (1 rows) differs from 'b'",
        "train.csv:9: label '' is neither a text nor an integer",
    ], [
        "train.csv:5: label 'A' has 1 row of training", "train.csv:5: label 'A' has no row in test",
    ]),
    "columns": (wrong_columns, {}, [
        "validation.csv:2: no column 'text'. Its columns: sentence, label.",
        "test.csv:2: 3 columns, but the header has 2",
        "test.csv:3: 1 columns, but the header has 2",
    ], []),
    "empty": (empty, {}, ["train.csv is empty.", "test.csv is empty."], []),
    "decimals": (decimals, {}, ["is a number with decimals"], []),
    "encodings": (encodings, {}, [
        "train.csv:3: not UTF-8 (byte", "test.csv:1: not UTF-8, but perhaps UTF-16. Save it as",
    ], []),
    "completions": (nothing_to_say, {"task": {"type": "causal-lm"}}, [
        f"{split}.jsonl:{what}" for split in SPLITS for what in (
            "2: column 'completion' is empty.", "5: column 'completion' holds None",
            "7: no column 'completion'", "21: not readable as JSON",
        )
    ], []),
    "words": (unknown_words, {}, ["of the tokens of train are unknown to the model"], [
        "the same as train.csv:",
    ]),
}  # fmt: skip


@pytest.fixture
def spoilt(tmp_path: Path, bert: Path, llama: Path) -> Callable[..., Path]:
    """Return a function that writes a recipe beside spoilt data."""

    def write(make: Callable[[Path], None], **changes: Any) -> Path:
        data = tmp_path / "data"
        data.mkdir()
        make(data)
        recipe = {
            "name": "spoilt",
            "backbone": {"source": str(llama if "task" in changes else bert)},
            "methods": ["lora"],
            "task": {"type": "sequence-classification"},
            "data": {"source": str(data)},
            "train": {"device": "cpu"},
            "output": str(tmp_path / "runs"),
            **changes,
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return path

    return write


@pytest.mark.parametrize("name", SPOILT)
def test_every_fault_is_named_at_once_and_nothing_is_trained(name, spoilt, tmp_path):
    make, changes, errors, warnings = SPOILT[name]
    recipe = spoilt(make, **changes)
    done = run_in_process("check", recipe)
    assert done.exit_code == 2 and done.stdout == ""
    lines = done.stderr.splitlines()
    for level, wanted in (("error: ", errors), ("warning: ", warnings)):
        ours = "\n".join(line for line in lines if line.startswith(level))
        missing = [one for one in wanted if one not in ours]
        assert not missing, f"{missing} not in\n{done.stderr}"
    told = ("error: ", "warning: ", "checking ")  # how long it took, where that was long
    assert all(line.startswith(told) for line in lines)
    assert run_in_process("train", recipe, "-q").exit_code == 2
    assert not list((tmp_path / "runs").glob("*"))


def test_what_is_accepted_is_a_warning(spoilt):
    recipe = spoilt(leaking)
    done = run_in_process("check", recipe, "--set", "data.accept=[leak]")
    assert done.exit_code == 0, done.stderr
    assert "warning: test.csv:22: stands in train too" in done.stderr


def test_of_each_kind_twenty_are_shown_and_the_rest_is_counted(spoilt):
    def empty_texts(folder: Path) -> None:
        whole(folder, train=table([{**row, "text": ""} for row in texts(40, 0)]))

    lines = run_in_process("check", spoilt(empty_texts)).stderr.splitlines()
    rows = [line for line in lines if "column 'text' is empty" in line]
    assert len(rows) == 20
    assert "error: ... and 20 more rows that do not fit the task or the model." in lines


def test_a_profile_has_every_number_as_json_and_as_a_page(spoilt, tmp_path):
    def with_markup(folder: Path) -> None:
        rows = texts(40, 0)
        for row in rows[:4]:
            row["label"] = "<b>&"
        whole(folder, train=table(rows))

    recipe, page = spoilt(with_markup), tmp_path / "profile.html"
    done = run_in_process("check", recipe, "--json", "--profile", page)
    found = json.loads(done.stdout)
    assert found["ok"] is True and found["errors"] == []
    assert found["rows"] == {"train": 40, "validation": 20, "test": 20}
    assert found["labels"]["train"] == {"b": 18, "a": 18, "<b>&": 4}
    assert found["lengths"]["train"] == {"min": 10, "median": 10, "95 %": 10, "max": 10}
    assert (found["limit"], found["unknown_tokens"]["test"]) == (24, 0.0)
    assert found["leaks"]["test in train"] == {"exact": 0, "normalised": 0}
    text = page.read_text()
    assert "&lt;b&gt;&amp;" in text and "<b>&" not in text
    assert "http" not in text and "<script" not in text and text.count("<table>") == 4
    refused = run_in_process("check", recipe, "--profile", tmp_path / "none" / "x.html")
    assert refused.exit_code == 2 and "name a file in a folder that exists" in refused.stderr


def test_a_run_keeps_the_profile_of_its_data(spoilt, tmp_path):
    recipe = spoilt(whole)
    done = run_in_process("train", recipe, "--set", "train.max_steps=1")
    assert done.exit_code == 0, done.output
    (run,) = (tmp_path / "runs").iterdir()
    kept = json.loads((run / "data-profile.json").read_text())
    assert kept["rows"]["train"] == 40 and kept["lengths"]["train"]["max"] == 10


def test_every_kind_of_findings_is_documented_with_its_rule():
    page = Path(__file__).parents[3] / "docs" / "how-to" / "own-data.md"
    text = page.read_text("utf-8")
    for name, kind in KINDS.items():
        assert f"| `{name}` | {kind.title} | {kind.rule} |" in text
