"""A small BERT with a vocabulary of its own, and rows that it can learn."""

import json
import random
from pathlib import Path
from typing import Any

import torch
import yaml

GOOD, BAD = ("fine", "great"), ("dull", "awful")
PLAIN = ("the", "film", "was", "a", "story")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_toy(folder: Path, *, rows: int = 16, train: int | None = None, end: str = "") -> None:
    """Write a BERT into ``folder/bert``, and sentences with a label into ``folder/data``.

    Args:
        folder: where.
        rows: of each split.
        train: of the training split, if it has another number.
        end: what each text ends with.
    """
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = [*_SPECIAL, *GOOD, *BAD, *PLAIN]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(words), intermediate_size=16, **sizes)
    BertModel(config).save_pretrained(folder / "bert")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    (folder / "data").mkdir()
    for split in ("train", "validation", "test"):
        count = rows if split != "train" or train is None else train
        made = (_sentence(random.Random(f"{split}{i}"), end) for i in range(count))
        text = "".join(json.dumps(row) + "\n" for row in made)
        (folder / "data" / f"{split}.jsonl").write_text(text)


def write_recipe(file: Path, toy: Path, **changes: Any) -> Path:
    """Write a recipe that tunes the BERT of :func:`write_toy` on its rows; return its path.

    Args:
        file: the new file; runs go beside it.
        toy: where BERT and rows were written.
        changes: sections in place of the recipe's; of ``train`` single fields.
    """
    train = {"epochs": 2, "batch_size": 8, "device": "cpu", **(changes.pop("train", None) or {})}
    content = {
        "name": "toy",
        "backbone": {"source": str(toy / "bert")},
        "methods": [{"method": "lora", "rank": 2}],
        "task": {"type": "sequence-classification"},
        "data": {"source": str(toy / "data")},
        "train": train,
        "output": str(file.parent / "runs"),
        **changes,
    }
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


def _sentence(chance: random.Random, end: str) -> dict[str, str]:
    good = chance.random() < 0.5
    words = [*chance.choices(PLAIN, k=4), chance.choice(GOOD if good else BAD)]
    return {"text": " ".join(words) + end, "label": "good" if good else "bad"}
