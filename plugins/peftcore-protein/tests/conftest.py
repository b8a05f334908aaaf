"""A small ESM-2 with a vocabulary of residues."""

from pathlib import Path

import pytest
import torch
from transformers import EsmConfig, EsmModel, EsmTokenizer

RESIDUES = "LAGVSERTIDPKQNFYMHWC"
VOCABULARY = ["<cls>", "<pad>", "<eos>", "<unk>", *RESIDUES, "X", "<mask>"]


@pytest.fixture(scope="session")
def esm(tmp_path_factory) -> Path:
    """An ESM-2 without a pooler in its checkpoint, as the real ones are."""
    folder = tmp_path_factory.mktemp("esm")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    EsmTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = EsmConfig(
        vocab_size=len(VOCABULARY), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, pad_token_id=1, mask_token_id=len(VOCABULARY) - 1,
        position_embedding_type="rotary", token_dropout=True, initializer_range=0.3,
    )  # fmt: skip
    EsmModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder
