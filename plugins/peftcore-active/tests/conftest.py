"""A small BERT, and a pool of which most rows say the same."""

import json
import random
from pathlib import Path

import pytest
import yaml

from peftcore_train.testing import write_toy

#: Words that tell a label: two that are everywhere, and many that are rare.
FREQUENT = {"good": "fine", "bad": "dull"}
RARE = {label: [f"{label}{chr(97 + i)}" for i in range(20)] for label in FREQUENT}
PLAIN = ("the", "film", "was", "a", "story")


def write_separable(root: Path) -> None:
    """Write rows whose label one word tells: mostly two words in the pool, all evenly in tests."""
    pool = [(label, word) for label, word in FREQUENT.items() for _ in range(88)]
    rare = [(label, word) for label, words in RARE.items() for word in words]
    pool += 2 * rare
    random.Random(0).shuffle(pool)
    for split, rows in (("train", pool), ("validation", rare[::4]), ("test", rare)):
        lines = []
        for number, (label, word) in enumerate(rows):
            # as long for the same word, so that a word is the same row wherever it is
            plain = "the film" if word[-1] in "acegikmoqs" else "film"
            lines.append(json.dumps({"text": f"{plain} {word}", "label": label, "number": number}))
        (root / "data" / f"{split}.jsonl").write_text("\n".join(lines))


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    from transformers import BertTokenizerFast

    root = tmp_path_factory.mktemp("base")
    write_toy(root)
    words = [*FREQUENT.values(), *(word for found in RARE.values() for word in found)]
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    _bert(root / "bert", [*special, *words, *PLAIN], BertTokenizerFast)
    write_separable(root)
    return root


def _bert(folder: Path, words: list[str], tokenizer) -> None:
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=len(words), intermediate_size=32, initializer_range=0.3, **sizes
    )  # so that words can be told apart in the first token
    BertModel(config).save_pretrained(folder)
    (folder.parent / "words.txt").write_text("\n".join(words))
    tokenizer(str(folder.parent / "words.txt")).save_pretrained(folder)


@pytest.fixture(scope="session")
def recipe_in(base):
    """Return a function that writes a recipe into a folder, with some sections changed."""

    def write(folder: Path, **changes) -> Path:
        content = {
            "name": "toy",
            "backbone": {"source": str(base / "bert")},
            "methods": [{"method": "lora", "rank": 8, "targets": ["embeddings", "all-linear"]}],
            "task": {"type": "sequence-classification"},
            "data": {"source": str(base / "data"), "accept": ["leak"]},
            "train": {"epochs": 12, "batch_size": 8, "device": "cpu", "learning_rate": 1e-2},
            "output": str(folder / "runs"),
            **changes,
        }
        path = folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


@pytest.fixture
def recipe(tmp_path, recipe_in):
    """Return a function that writes a recipe into a folder of the test's own."""
    return lambda **changes: recipe_in(tmp_path, **changes)
