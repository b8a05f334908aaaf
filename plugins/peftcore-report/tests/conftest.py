"""A comparison of two arms on a small BERT, trained once for all tests."""

import json
import random
from pathlib import Path

import pytest
import torch
import yaml
from transformers import BertConfig, BertModel, BertTokenizerFast

from peftcore.testing import run_in_process

WORDS = ["fine", "great", "dull", "awful", "the", "film", "was", "a", "story"]


@pytest.fixture(scope="session")
def compared(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("compared")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (root / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(words), intermediate_size=16, **sizes)
    BertModel(config).save_pretrained(root / "bert")
    BertTokenizerFast(str(root / "vocab.txt")).save_pretrained(root / "bert")
    (root / "data").mkdir()
    for split, count in (("train", 24), ("validation", 12), ("test", 12)):
        rows = [sentence(random.Random(f"{split}{i}")) for i in range(count)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (root / "data" / f"{split}.jsonl").write_text(text)
    recipe = {
        "name": "films",
        "seeds": [0, 1],
        "backbone": {"source": str(root / "bert")},
        "compare": {"bitfit": ["bitfit"], "head": [], "dead": DEAD},
        "task": {"type": "sequence-classification"},
        "data": {"source": str(root / "data")},
        "train": {"max_steps": 2, "batch_size": 12, "log_steps": 1, "device": "cpu"},
        "output": str(root / "runs"),
    }
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    done = run_in_process("compare", root / "recipe.yaml", "--executor", "in-process", "-q")
    assert done.exit_code == 1, done.output
    (folder,) = (root / "runs").iterdir()
    return folder


#: Its schedule has no room in 2 steps.
DEAD = [{"method": "adalora", "tinit": 2, "tfinal": 2}]


def sentence(chance: random.Random) -> dict:
    good = chance.random() < 0.5
    words = [*chance.choices(WORDS[4:], k=4), chance.choice(WORDS[:2] if good else WORDS[2:4])]
    return {"text": " ".join(words) + " <b>&", "label": "good" if good else "bad"}
