"""A small LLaMA with a vocabulary of words, and changes of code that it can learn."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from peftcore_code import prompts

#: What changes and comments of these tests are made of.
WORDS = "yes no Comment + - = : ( ) 1 2 a b c x if for in return def name it better why add test is"


@pytest.fixture
def change() -> Callable[..., dict]:
    """Return what makes a row with all columns of CodeReviewer's three parts."""

    def make(old: str = "a = b", new: str = "a = c", said: str = "name it better") -> dict:
        return {
            "patch": f"@@ -1,2 +1,2 @@ class A\n x\n-{old}\n+{new}", "y": 1, "msg": said,
            "old": f" x\n-{old}", "new": f" x\n+{new}", "comment": said, "id": 7,
            "oldf": "x\n" * 1000,
        }  # fmt: skip

    return make


@pytest.fixture(scope="session")
def reviewer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reviewer")
    texts = [WORDS, prompts.alpaca("say", "this"), *prompts.INSTRUCTIONS.values()]
    split = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    words = [word for text in texts for word, _ in split.pre_tokenize_str(text)]
    words = list(dict.fromkeys(["<unk>", "<s>", "</s>", *words]))
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        chat_template="{% for m in messages %}{{ m.content }} {% endfor %}",
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=64, max_position_embeddings=128, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
