"""A recipe that compares, on a small BERT."""

import json
import random
from pathlib import Path

import pytest
import torch
import yaml
from transformers import BertConfig, BertModel, BertTokenizerFast

WORDS = ["fine", "great", "dull", "awful", "the", "film", "was", "a", "story"]


@pytest.fixture
def recipe(tmp_path) -> Path:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(words), intermediate_size=16, **sizes)
    BertModel(config).save_pretrained(tmp_path / "bert")
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "bert")
    (tmp_path / "data").mkdir()
    for split in ("train", "validation", "test"):
        rows = [sentence(random.Random(f"{split}{i}")) for i in range(12)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "data" / f"{split}.jsonl").write_text(text)
    content = {
        "name": "spread",
        "seeds": [0, 1],
        "backbone": {"source": str(tmp_path / "bert")},
        # the schedule of the last one has no room in 2 steps
        "compare": {
            "bitfit": ["bitfit"],
            "dead": [{"method": "adalora", "tinit": 2, "tfinal": 2}],
        },
        "task": {"type": "sequence-classification"},
        "data": {"source": str(tmp_path / "data")},
        "train": {"max_steps": 2, "batch_size": 12, "device": "cpu"},
        "output": str(tmp_path / "runs"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return tmp_path / "recipe.yaml"


def sentence(chance: random.Random) -> dict:
    good = chance.random() < 0.5
    words = [*chance.choices(WORDS[4:], k=4), chance.choice(WORDS[:2] if good else WORDS[2:4])]
    return {"text": " ".join(words), "label": "good" if good else "bad"}
