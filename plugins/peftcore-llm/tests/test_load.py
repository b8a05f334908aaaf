from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from peftcore import ConfigError, backbone_named

LLAMA = backbone_named("llama")
WORDS = {"<unk>": 0, "<s>": 1, "</s>": 2, "red": 3, "green": 4}


def save_tokenizer(folder: Path, **special: str) -> None:
    tokenizer = Tokenizer(WordLevel(WORDS, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = LLAMA.tiny(head="causal-lm")
    model.config.pad_token_id = None
    model.generation_config.pad_token_id = None
    model.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("special", "pad"),
    [
        ({"unk_token": "<unk>", "eos_token": "</s>"}, 0),
        ({"eos_token": "</s>"}, 2),
        ({"eos_token": "</s>", "pad_token": "red"}, 3),
    ],
)
def test_a_missing_pad_token_is_the_unknown_token_or_the_end(
    folder: Path, special: dict[str, str], pad: int
) -> None:
    save_tokenizer(folder, **special)
    loaded = LLAMA.load(str(folder), head="causal-lm")
    assert loaded.tokenizer.pad_token_id == pad == loaded.model.config.pad_token_id
    assert loaded.fresh == ()


def test_a_classifier_can_be_put_on_a_decoder(folder: Path) -> None:
    save_tokenizer(folder, unk_token="<unk>")
    loaded = LLAMA.load(str(folder), head="sequence-classification", num_labels=3)
    assert loaded.fresh == ("score.weight",)
    batch = loaded.tokenizer(["red green", "red"], padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    assert loaded.model(**batch).logits.shape == (2, 3)


def test_a_decoder_has_no_masked_head(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no head 'masked-lm'.*causal-lm"):
        LLAMA.load(str(folder), head="masked-lm")


@pytest.mark.parametrize("family", ["mistral", "qwen", "gemma", "gpt2"])
def test_every_family_loads_what_it_saved(family: str, tmp_path: Path) -> None:
    backbone = backbone_named(family)
    model = backbone.tiny(head="causal-lm")
    model.save_pretrained(tmp_path)
    loaded = backbone.load(str(tmp_path), head="causal-lm")
    batch = backbone.batch(model)
    assert loaded.fresh == ()
    torch.testing.assert_close(loaded.model(**batch).logits, model(**batch).logits)
    with pytest.raises(ConfigError, match="the backbone llama knows llama"):
        LLAMA.load(str(tmp_path))
