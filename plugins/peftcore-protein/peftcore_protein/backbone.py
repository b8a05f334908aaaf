"""ESM: where its layers are, named sizes, a small member."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from peftcore_transformers.backbone import TransformersBackbone

_BLOCK = "**.encoder.layer.*"

_ESM2 = {
    "vocab_size": 33,
    "pad_token_id": 1,
    "mask_token_id": 32,
    "max_position_embeddings": 1026,
    "position_embedding_type": "rotary",
    "token_dropout": True,
    "emb_layer_norm_before": False,
    "layer_norm_eps": 1e-5,
}


def _esm2(width: int, layers: int, heads: int) -> Mapping[str, Any]:
    return {
        **_ESM2,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
    }


class Esm(TransformersBackbone):
    """ESM-2, Lin et al. 2023; its pooler is in no checkpoint and starts random."""

    model_types = ("esm",)
    heads = ("sequence-classification", "token-classification", "masked-lm")
    roles = {
        "embeddings": "**.embeddings.word_embeddings",
        "block": _BLOCK,
        "attention": f"{_BLOCK}.attention",
        "attention.query": f"{_BLOCK}.attention.self.query",
        "attention.key": f"{_BLOCK}.attention.self.key",
        "attention.value": f"{_BLOCK}.attention.self.value",
        "attention.output": f"{_BLOCK}.attention.output.dense",
        "mlp.up": f"{_BLOCK}.intermediate.dense",
        "mlp.down": f"{_BLOCK}.output.dense",
        "norm": (
            f"{_BLOCK}.LayerNorm",
            f"{_BLOCK}.attention.LayerNorm",
            "**.encoder.emb_layer_norm_after",
        ),
        "pooler": "**.pooler.dense",
        # only predict_contacts runs it
        "unused": "**.contact_head.regression",
    }
    small = {
        **_esm2(32, 2, 4),
        "max_position_embeddings": 40,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    configs = {
        "esm2-8m": _esm2(320, 6, 20),
        "esm2-35m": _esm2(480, 12, 20),
        "esm2-150m": _esm2(640, 30, 20),
        "esm2-650m": _esm2(1280, 33, 20),
        "esm2-3b": _esm2(2560, 36, 40),
        "esm2-15b": _esm2(5120, 48, 40),
    }

    def role_globs(self, model: nn.Module) -> Mapping[str, Sequence[str]]:
        """Return role to globs; ESM-1b has a table of positions besides."""
        position = ("**.embeddings.position_embeddings",)
        return {**super().role_globs(model), "embeddings.position": position}
