"""A small T5 with a vocabulary of words, and questions that it can learn."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

WORDS = "yes no maybe does the gene drug cell grow shrink help harm it in mice people ask"


@pytest.fixture(scope="session")
def t5(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("t5")
    words = ["<pad>", "</s>", "<unk>", *WORDS.split()]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
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


def entry(number: int, label: str | None) -> dict:
    """Return an entry of PubMedQA; the long answer says what no input may say."""
    found = {
        "QUESTION": f"does the gene grow {number} ?", "CONTEXTS": ["it does", "in mice"],
        "LABELS": ["BACKGROUND", "RESULTS"], "MESHES": [], "YEAR": "2009",
        "LONG_ANSWER": "LEAKED conclusion of the authors",
    }  # fmt: skip
    return found | ({"final_decision": label} if label else {})


@pytest.fixture
def pubmedqa(tmp_path: Path) -> Callable[..., Path]:
    """Return what lays a miniature of PubMedQA out as it is released."""

    def lay(labelled: int = 120, test: int = 12) -> Path:
        folder = tmp_path / "pubmedqa"
        folder.mkdir()
        labels = ["yes", "no", "yes", "maybe", "yes"]
        answers = {str(100 + i): labels[i % 5] for i in range(labelled)}
        entries = {name: entry(int(name), label) for name, label in answers.items()}
        files = {
            "ori_pqal": entries,
            "test_ground_truth": dict([*answers.items()][::5][:test]),
            "ori_pqaa": {str(i): entry(i, ("yes", "no")[i % 2]) for i in range(1000, 1040)},
            "ori_pqau": {str(i): entry(i, None) for i in range(2000, 2010)},
        }
        for name, content in files.items():
            (folder / f"{name}.json").write_text(json.dumps(content, indent=4))
        return folder

    return lay
