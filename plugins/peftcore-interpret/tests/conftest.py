"""A small encoder of residues, tuned to find a motif, for all tests."""

import json
import random
from pathlib import Path

import pytest
import torch

import peftcore

MOTIF = "WCW"
_REST = "ADEFGHIKLMNPQRSTVY"


def sequence(chance: random.Random, *, planted: bool) -> str:
    """Return twelve residues, the motif among them or none of its residues."""
    found = chance.choices(_REST, k=12)
    if planted:
        place = chance.randrange(10)
        found[place : place + 3] = MOTIF
    return "".join(found)


def write_rows(folder: Path) -> None:
    """Write sequences with their labels."""
    folder.mkdir()
    for split, count in (("train", 96), ("validation", 16), ("test", 24)):
        rows = []
        for i in range(count):
            row = sequence(random.Random(f"{split}{i}"), planted=i % 2 == 0)
            rows.append({"text": row, "label": "binds" if i % 2 == 0 else "not"})
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))


def write_bert(folder: Path) -> None:
    """Write a BERT of two layers, whose tokens are residues."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *MOTIF[:2], *_REST]
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(words), intermediate_size=32, initializer_range=0.2, **sizes)
    BertModel(config).save_pretrained(folder)
    (folder.parent / "words.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder.parent / "words.txt"), do_lower_case=False).save_pretrained(folder)


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("base")
    write_bert(root / "bert")
    write_rows(root / "data")
    return root


@pytest.fixture(scope="session")
def recipe(base):
    """Return a function that gives a recipe with some sections changed."""
    return lambda **changes: {
        "name": "motif",
        "backbone": {"source": str(base / "bert")},
        "methods": [{"method": "lora", "rank": 4, "targets": ["all-linear"]}],
        "task": {"type": "sequence-classification"},
        "data": {"source": str(base / "data")},
        "train": {
            "epochs": 6, "batch_size": 8, "learning_rate": 1e-2, "device": "cpu",
            "metric_for_best": "loss",
        },
        "output": str(base / "runs"),
        **changes,
    }  # fmt: skip


@pytest.fixture(scope="session")
def tuned(recipe) -> Path:
    """Return a run directory."""
    run = peftcore.train(recipe(), quiet=True)
    assert run.test["accuracy"] > 0.9, "the toy was not learned"
    return run.folder
