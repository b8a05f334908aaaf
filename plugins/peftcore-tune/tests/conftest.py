"""A recipe on a small BERT."""

import json
import random
from pathlib import Path

import pytest
import torch
import yaml
from transformers import BertConfig, BertModel, BertTokenizerFast

WORDS = ["fine", "great", "dull", "awful", "the", "film", "was", "a", "story"]


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("base")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (root / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(words), intermediate_size=16, **sizes)
    BertModel(config).save_pretrained(root / "bert")
    BertTokenizerFast(str(root / "vocab.txt")).save_pretrained(root / "bert")
    (root / "data").mkdir()
    for split in ("train", "validation", "test"):
        rows = [sentence(random.Random(f"{split}{i}")) for i in range(16)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (root / "data" / f"{split}.jsonl").write_text(text)
    return root


def sentence(chance: random.Random) -> dict:
    good = chance.random() < 0.5
    words = [*chance.choices(WORDS[4:], k=4), chance.choice(WORDS[:2] if good else WORDS[2:4])]
    return {"text": " ".join(words), "label": "good" if good else "bad"}


@pytest.fixture
def recipe(tmp_path, base):
    """Return a function that writes a recipe with some sections changed, and gives its path."""

    def write(train=None, **changes) -> Path:
        content = {
            "name": "toy",
            "backbone": {"source": str(base / "bert")},
            "methods": [{"method": "lora", "rank": 4}],
            "task": {"type": "sequence-classification"},
            "data": {"source": str(base / "data")},
            "train": {"epochs": 1, "device": "cpu", **(train or {})},
            "output": str(tmp_path / "runs"),
            **changes,
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write
