"""A small BERT with a vocabulary of its own, a small Llama, and data that they can learn."""

import json
import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

GOOD = ["fine", "lovely", "great", "bright"]
BAD = ["dull", "awful", "weak", "boring"]
PLAIN = ["the", "film", "was", "a", "story", "of", "two", "people", "and", "it"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    words = [*SPECIAL, *GOOD, *BAD, *PLAIN]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=24,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("llama")
    words = ["<unk>", "<s>", "</s>", *GOOD, *BAD, *PLAIN]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=64,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def t5(tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("t5")
    words = ["<pad>", "</s>", "<unk>", *GOOD, *BAD, *PLAIN]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(words), d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2,
        dropout_rate=0.0, decoder_start_token_id=0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def sentences(rows: int, seed: int) -> list[dict]:
    chance = random.Random(seed)
    out = []
    for _ in range(rows):
        good = chance.random() < 0.5
        words = chance.choices(PLAIN, k=chance.randint(3, 9))
        words.insert(chance.randrange(len(words)), chance.choice(GOOD if good else BAD))
        out.append({"text": " ".join(words), "label": "good" if good else "bad"})
    return out


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_data(folder: Path) -> Path:
    """Write the rows of the three splits below a folder."""
    data = folder / "data"
    data.mkdir()
    for seed, (split, rows) in enumerate((("train", 64), ("validation", 24), ("test", 24))):
        write_rows(data / f"{split}.jsonl", sentences(rows, seed))
    return data


def write_recipe(
    folder: Path, bert: Path, data: Path, /, name: str = "recipe.yaml", **changes
) -> Path:
    """Write a recipe into a folder with some sections changed, and return its path."""
    train = changes.pop("train", {})
    content = {
        "name": "toy",
        "seed": 3,
        "backbone": {"source": str(bert)},
        "methods": [{"method": "lora", "rank": 2}],
        "task": {"type": "sequence-classification"},
        "data": {"source": str(data)},
        "train": {
            "epochs": 2,
            "batch_size": 8,
            "learning_rate": 0.01,
            "device": "cpu",
            **train,
        },
        "output": str(folder / "runs"),
        **changes,
    }
    path = folder / name
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Use one thread: a copy of a process whose pool of threads is at work waits for ever."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def child():
    """Return a function that does something in a copy of this process.

    It returns the exit code, negative for a signal.
    """

    def run(work: Callable[[], int]) -> int:
        number = os.fork()
        if number == 0:
            code = 99
            try:
                code = work()
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])

    return run


@pytest.fixture(scope="session")
def train_in(bert):
    """Return a function that trains a recipe in a folder, and gives what the program said."""
    from peftcore.testing import run_in_process

    def train(folder: Path, **changes):
        return run_in_process("train", write_recipe(folder, bert, write_data(folder), **changes))

    return train


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path)


@pytest.fixture
def recipe(tmp_path, bert, data):
    """Return a function that writes a recipe with some sections changed, and gives its path."""
    return partial(write_recipe, tmp_path, bert, data)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, train_in):
    """Return the directory of a run that has learned the toy task; it is not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    methods = [{"method": "lora", "rank": 8, "targets": ["embeddings", "all-linear"]}]
    done = train_in(folder, methods=methods, train={"epochs": 8, "learning_rate": 0.003})
    assert done.exit_code == 0, done.output
    (run,) = (folder / "runs").iterdir()
    return run


@pytest.fixture
def peftcore():
    """Return a function that runs the program in this process."""

    from peftcore.testing import run_in_process

    def run(*arguments, **options):
        return run_in_process(*arguments, **options)

    return run
