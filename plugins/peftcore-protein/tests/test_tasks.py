"""The two protein tasks, from a table to a trained adapter."""

import json
import random
from pathlib import Path

import pytest
import torch
import yaml

from peftcore import DataError, Loaded, backbone_named
from peftcore.testing import run_in_process
from peftcore_protein.tasks import (
    PPIConfig,
    ProteinPPI,
    ProteinSymmetry,
    SymmetryConfig,
    class_names,
)
from peftcore_train.data import Row

RESIDUES = "LAGVSERTIDPKQNFYMHWC"


@pytest.fixture(scope="module")
def loaded(esm) -> Loaded:
    return backbone_named("esm").load(str(esm))


def table(path: Path, header: list[str], rows: list[list[str]]) -> Path:
    path.write_text("\n".join("\t".join(row) for row in [header, *rows]) + "\n")
    return path


def sequence(chance: random.Random) -> str:
    return "".join(chance.choices(RESIDUES, k=chance.randint(5, 15)))


@pytest.fixture
def ppi(tmp_path) -> Path:
    chance = random.Random(0)
    rows = [
        [split, sequence(chance), sequence(chance), "P1", "P2", str(i % 2)]
        for split, count in (("train", 16), ("valid", 6), ("test", 6))
        for i in range(count)
    ]
    return table(tmp_path / "ppi.tsv", ["split", "s0", "s1", "p0", "p1", "label"], rows)


@pytest.fixture
def symmetry(tmp_path) -> Path:
    chance = random.Random(0)
    rows = [
        [split, sequence(chance), chance.choice(["C1", "C2", "C2 D3", "H", "C7 C8"])]
        for split, count in (("train", 16), ("validation", 6), ("test", 6))
        for _ in range(count)
    ]
    return table(tmp_path / "symmetry.tsv", ["split", "sequence", "label"], rows)


def train(tmp_path: Path, esm: Path, data: Path, **task) -> dict:
    recipe = {
        "name": "protein",
        "backbone": {"source": str(esm)},
        "methods": [{"method": "lora", "rank": 2, "targets": ["attention.key", "attention.value"]}],
        "task": task,
        "data": {"source": str(data)},
        "train": {"epochs": 2, "batch_size": 4, "learning_rate": 0.01, "device": "cpu"},
        "output": str(tmp_path / "runs"),
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    done = run_in_process("train", path, "--json", "-q")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize("options", [{}, {"train_pooler": True}, {"released_padding": True}])
def test_interactions_are_trained_and_the_random_pooler_is_stored(options, tmp_path, esm, ppi):
    found = train(tmp_path, esm, ppi, type="protein-ppi", **options)
    # the pooler is random in the fresh encoder, so without it in the adapter these would differ
    assert found["reloaded_equal"] is True
    assert found["metric"] == "aupr"
    assert found["rows"] == {"train": 16, "validation": 6, "test": 6}
    head = 16 * 128 + 128 + 128 + 1
    pooler = 16 * 16 + 16
    assert found["parameters"]["head"] == head + (pooler if options.get("train_pooler") else 0)
    assert found["parameters"]["trainable"] == 2 * 2 * (2 * 2 * 16)


def test_symmetries_are_trained_with_macro_and_class_metrics(tmp_path, esm, symmetry):
    found = train(tmp_path, esm, symmetry, type="protein-symmetry")
    assert found["reloaded_equal"] is True
    assert {"aupr", "mcc", "specificity", "class_f1.17", "class_aupr.0"} <= set(found["test"])
    (run,) = (tmp_path / "runs").iterdir()
    line = '{"sequence": "EVQLVESG"}\n'
    done = run_in_process("predict", run, "--input", "-", "--probabilities", input=line)
    assert done.exit_code == 0, done.output
    assert set(json.loads(done.stdout)["probabilities"]) == set(class_names())
    merged = run_in_process("merge", run, tmp_path / "merged")
    assert merged.exit_code == 2
    assert "the task protein-symmetry puts its own SymmetryModel around the ne" in merged.stderr
    assert not (tmp_path / "merged").exists()


def test_padding_is_masked_by_its_id_in_both_modes(loaded):
    rows = [
        Row({"s0": "LAG", "s1": "LAGVS", "label": "1"}, "x:1"),
        Row({"s0": "L", "s1": "LA", "label": "0"}, "x:2"),
    ]
    for released, pad in ((False, 1), (True, 0)):
        task = ProteinPPI(PPIConfig(released_padding=released))
        model = task.build(loaded)
        batch = task.collate([task.encode(row, loaded) for row in rows])
        assert batch["input_ids"].shape == (2, 2, 7)
        assert batch["input_ids"][1, 0].tolist() == [0, 4, 2, pad, pad, pad, pad]
        alone = task.collate([task.encode(rows[1], loaded)])
        both = model(batch["input_ids"]).logits[1]
        torch.testing.assert_close(model(alone["input_ids"]).logits[0], both)


def test_sequences_are_cut_or_refused(loaded):
    row = Row({"sequence": "LAGVSERT", "label": "C2"}, "x.tsv:7")
    task = ProteinSymmetry(SymmetryConfig(max_length=5))
    assert task.encode(row, loaded)["ids"] == [[0, 4, 5, 6, 2]]
    task = ProteinSymmetry(SymmetryConfig(max_length=5, truncation=False))
    with pytest.raises(DataError, match=r"x.tsv:7: column 'sequence' has 10 tokens, but only 5"):
        task.encode(row, loaded)
    with pytest.raises(DataError, match=r"x.tsv:7: column 'sequence': '1' at residue 3"):
        task.encode(Row({"sequence": "LA1", "label": "C2"}, "x.tsv:7"), loaded)


def test_bad_labels_are_named_by_line():
    task = ProteinPPI(PPIConfig())
    good = Row({"s0": "L", "s1": "A", "label": "1"}, "x.tsv:2")
    with pytest.raises(DataError, match=r"x.tsv:3: label '2' is neither 0 nor 1"):
        task.check([good, Row({"s0": "L", "s1": "A", "label": "2"}, "x.tsv:3")])
    with pytest.raises(DataError, match="every row has the label 1"):
        task.learn([good, good])


def test_labels_of_one_class_add_up_only_as_released(loaded):
    row = Row({"sequence": "LAG", "label": "C7 C8"}, "x:1")
    plain = ProteinSymmetry(SymmetryConfig()).encode(row, loaded)["target"]
    released = ProteinSymmetry(SymmetryConfig(released_labels=True)).encode(row, loaded)["target"]
    assert (plain[6], released[6], plain.sum()) == (1, 2, 1)


def test_classes_have_names():
    assert class_names()[6:8] == ["C7-C9", "C10-C17"]
    assert class_names()[-1] == "other"
