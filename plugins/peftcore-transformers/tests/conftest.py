"""An encoder and a decoder of transformers as families of their own, and folders of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from peftcore_transformers.backbone import TransformersBackbone

BLOCK = "**.encoder.layer.*"


class Encoder(TransformersBackbone):
    """BERT."""

    model_types = ("bert",)
    default_head = "sequence-classification"
    roles = {
        "embeddings": "**.embeddings.word_embeddings",
        "block": BLOCK,
        "attention.query": f"{BLOCK}.attention.self.query",
        "mlp.up": f"{BLOCK}.intermediate.dense",
        "pooler": "**.pooler.dense",
    }
    small = {
        "vocab_size": 96,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 40,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    configs = {
        "base": {"vocab_size": 28996},
        "deep": {"vocab_size": 28996, "num_hidden_layers": 24},
    }


class Decoder(TransformersBackbone):
    """LLaMA, with its output layer tied to the embeddings."""

    model_types = ("llama",)
    heads = ("causal-lm", "sequence-classification")
    causal = True
    positional = (
        "input_ids", "attention_mask", "position_ids", "past_key_values", "inputs_embeds", "labels",
    )  # fmt: skip
    roles = {
        "embeddings": "**.embed_tokens",
        "block": "**.layers.*",
        "attention.query": "**.layers.*.self_attn.q_proj",
        "norm": ("**.norm", "**.layers.*.*_layernorm"),
    }
    small = {
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


@pytest.fixture
def decoder() -> Decoder:
    return Decoder()


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that saves a small member with a head, and gives its folder."""

    def saved(family: TransformersBackbone, head: str = "none", name: str = "model") -> Path:
        torch.manual_seed(0)
        model: Any = family.tiny(head=head)
        model.save_pretrained(tmp_path / name)
        return tmp_path / name

    return saved


@pytest.fixture
def edit() -> Callable[..., None]:
    """Return a function that changes values of a folder's config.json."""

    def edited(folder: Path, **changes: object) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edited


def _sharded(folder: Path, ending: str, write: Callable[[dict[str, Any], Path], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem, names = ("model" if ending == "safetensors" else "pytorch_model"), sorted(tensors)
    parts = {f"{stem}-{i + 1}.{ending}": names[i::3] for i in range(3)}
    for file, part in parts.items():
        write({name: tensors[name] for name in part}, folder / file)
    index = {"metadata": {}, "weight_map": {n: f for f, part in parts.items() for n in part}}
    (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(index))


def _pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


#: Ways in which a checkpoint's weights lie in a folder.
LAYOUTS: dict[str, Callable[[Path], None]] = {
    "safetensors": lambda folder: None,
    "shards": lambda folder: _sharded(
        folder, "safetensors", lambda t, f: save_file(t, f, {"format": "pt"})
    ),
    "pickled": _pickled,
    "pickled shards": lambda folder: _sharded(folder, "bin", torch.save),
}


@pytest.fixture(params=LAYOUTS)
def laid_out(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    """Return a function that lays the weights of a folder out in one of the ways."""
    return LAYOUTS[request.param]
