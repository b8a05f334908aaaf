"""Messy proteins: what can be read is read and counted, and what cannot is named at once."""

import json
import random

import pytest
import yaml

from peftcore.testing import run_in_process

RESIDUES = "LAGVSERTIDPKQNFYMHWC"


@pytest.fixture
def messy(tmp_path, esm):
    """A FASTA with a table of labels, divided at random."""
    chance = random.Random(0)
    lines, labels = [], ["id\tlabel"]
    for number in range(60):
        sequence = "".join(chance.choices(RESIDUES, k=20))
        lines += [f">P{number} a protein", sequence[:12].lower() + "--", f"{sequence[12:]}U*"]
        labels.append(f"P{number}\t{('binder', 'other')[number % 2]}")
    (tmp_path / "p.fasta").write_text("\n".join(lines) + "\n")
    (tmp_path / "labels.tsv").write_text("\n".join(labels) + "\n")
    recipe = {
        "name": "messy",
        "backbone": {"source": str(esm)},
        "methods": ["lora"],
        "task": {"type": "sequence-classification", "text_column": "sequence"},
        "data": {
            "source": str(tmp_path / "p.fasta"),
            "labels": "labels.tsv",
            "split": {"validation": 0.2, "test": 0.2},
        },
        "train": {"device": "cpu", "max_steps": 1},
        "output": str(tmp_path / "runs"),
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_what_can_be_read_is_read_and_counted(messy):
    done = run_in_process("check", messy, "--json")
    found = json.loads(done.stdout)
    assert found["rows"] == {"train": 36, "validation": 12, "test": 12}
    assert found["labels"]["test"] == {"binder": 6, "other": 6}
    assert found["lengths"]["train"]["max"] == 23 and found["unknown_tokens"]["train"] == 0
    assert found["changed"] == {
        "lower case read as upper": 720,
        "gaps (- .) dropped": 120,
        "stops (*) at the end dropped": 60,
        "U read as X": 60,
    }
    done = run_in_process("train", messy)
    assert done.exit_code == 0 and ": lower case read as upper: 720 times" in done.stderr


def test_everything_that_cannot_be_read_is_named_at_once(messy):
    fasta, labels = messy.parent / "p.fasta", messy.parent / "labels.tsv"
    lines = fasta.read_text().splitlines()
    lines[1], lines[4], lines[7:9] = "EVQ*LL", "E1Q", ["", "-*"]
    fasta.write_text("\n".join([*lines, ">P77", "AAA"]) + "\n")
    labels.write_text(labels.read_text().replace("P9\tother", "P9\tOther "))
    done = run_in_process("check", messy)
    assert done.exit_code == 2
    for sentence in (
        "p.fasta:1: column 'sequence': '*' at residue 4 is no residue. Cut the sequence there.",
        "p.fasta:4: column 'sequence': '1' at residue 2 is no residue.",
        "p.fasta:7: column 'sequence': the sequence is empty.",
        "p.fasta:181: labels.tsv has no id 'P77'.",
        "p.fasta:28: label 'Other ' (1 rows) differs from 'other' (29 rows)",
    ):
        assert f"error: {sentence}" in done.stderr, done.stderr
    assert run_in_process("train", messy, "-q").exit_code == 2
    assert not list((messy.parent / "runs").glob("*"))
