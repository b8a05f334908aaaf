"""Text encoders of transformers: where their layers are, named sizes, a small member each."""

from collections.abc import Mapping
from typing import Any

from peftcore_transformers.backbone import TransformersBackbone

_BLOCK = "**.encoder.layer.*"

_HEAD = "sequence-classification"

_BERT = {
    "embeddings": "**.embeddings.word_embeddings",
    "embeddings.position": "**.embeddings.position_embeddings",
    "x-token-type": "**.embeddings.token_type_embeddings",
    "block": _BLOCK,
    "attention": f"{_BLOCK}.attention",
    "attention.query": f"{_BLOCK}.attention.self.query",
    "attention.key": f"{_BLOCK}.attention.self.key",
    "attention.value": f"{_BLOCK}.attention.self.value",
    "attention.output": f"{_BLOCK}.attention.output.dense",
    "mlp.up": f"{_BLOCK}.intermediate.dense",
    "mlp.down": f"{_BLOCK}.output.dense",
    "norm": ("**.embeddings.LayerNorm", "**.encoder.**.LayerNorm"),
    "pooler": "**.pooler.dense",
}

_SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def _sizes(width: int, layers: int, heads: int, **more: Any) -> Mapping[str, Any]:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        **more,
    }


#: Of families whose attention can be used in a decoder, with a cache.
_WITH_CACHE = ("tokens", "bidirectional", "one-pass", "own-queries", "cache")


class Bert(TransformersBackbone):
    """BERT, Devlin et al. 2019."""

    model_types = ("bert",)
    default_head = _HEAD
    has = _WITH_CACHE
    roles = _BERT
    small = _SMALL
    configs = {
        "bert-base-cased": _sizes(768, 12, 12, vocab_size=28996),
        "bert-base-uncased": _sizes(768, 12, 12, vocab_size=30522),
        "bert-large-cased": _sizes(1024, 24, 16, vocab_size=28996),
        "bert-large-uncased": _sizes(1024, 24, 16, vocab_size=30522),
    }


_ROBERTA = {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}


class Roberta(TransformersBackbone):
    """RoBERTa, Liu et al. 2019, and its multilingual and French kin."""

    model_types = ("roberta", "xlm-roberta", "camembert")
    default_head = _HEAD
    has = _WITH_CACHE
    roles = _BERT
    small = {**_SMALL, "type_vocab_size": 1}
    configs = {
        "roberta-base": _sizes(768, 12, 12, vocab_size=50265, **_ROBERTA),
        "roberta-large": _sizes(1024, 24, 16, vocab_size=50265, **_ROBERTA),
        "xlm-roberta-base": _sizes(
            768, 12, 12, vocab_size=250002, model_type="xlm-roberta", **_ROBERTA
        ),
    }


_DEBERTA_V3 = {
    "vocab_size": 128100,
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-7,
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "max_relative_positions": -1,
    "position_biased_input": False,
    "pooler_dropout": 0,
    "pooler_hidden_act": "gelu",
}


class Deberta(TransformersBackbone):
    """DeBERTa v2 and v3, He et al. 2021 and 2023.

    With ``share_att_key`` the query and key projections run a second time, on the one table of
    relative positions that serves the whole batch: adapters there cannot differ by row.
    """

    model_types = ("deberta-v2",)
    default_head = _HEAD
    has = ("tokens", "bidirectional", "one-pass")
    lacks = {"own-queries": "its projection of queries serves positions as well"}
    roles = {
        **{role: glob for role, glob in _BERT.items() if role != "x-token-type"},
        "embeddings.position": (
            "**.embeddings.position_embeddings",
            "**.encoder.rel_embeddings",
        ),
        "attention.query": f"{_BLOCK}.attention.self.query_proj",
        "attention.key": f"{_BLOCK}.attention.self.key_proj",
        "attention.value": f"{_BLOCK}.attention.self.value_proj",
    }
    direct_weights = ("**.encoder.rel_embeddings",)
    small = {
        **_SMALL,
        **_DEBERTA_V3,
        "vocab_size": 96,
        "position_buckets": 8,
        "pooler_hidden_size": 32,
    }
    configs = {
        "deberta-v3-small": _sizes(768, 6, 12, **_DEBERTA_V3),
        "deberta-v3-base": _sizes(768, 12, 12, **_DEBERTA_V3),
        "deberta-v3-large": _sizes(1024, 24, 16, pooler_hidden_size=1024, **_DEBERTA_V3),
    }


_DISTIL = "**.transformer.layer.*"


class DistilBert(TransformersBackbone):
    """DistilBERT, Sanh et al. 2019."""

    model_types = ("distilbert",)
    default_head = _HEAD
    roles = {
        "embeddings": "**.embeddings.word_embeddings",
        "embeddings.position": "**.embeddings.position_embeddings",
        "block": _DISTIL,
        "attention": f"{_DISTIL}.attention",
        "attention.query": f"{_DISTIL}.attention.q_lin",
        "attention.key": f"{_DISTIL}.attention.k_lin",
        "attention.value": f"{_DISTIL}.attention.v_lin",
        "attention.output": f"{_DISTIL}.attention.out_lin",
        "mlp": f"{_DISTIL}.ffn",
        "mlp.up": f"{_DISTIL}.ffn.lin1",
        "mlp.down": f"{_DISTIL}.ffn.lin2",
        "norm": ("**.embeddings.LayerNorm", f"{_DISTIL}.{{sa,output}}_layer_norm"),
    }
    small = {
        "vocab_size": 96,
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 64,
        "max_position_embeddings": 40,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "seq_classif_dropout": 0.0,
    }
    configs = {
        "distilbert-base-uncased": {
            "vocab_size": 30522, "dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072,
        },
    }  # fmt: skip


class Electra(TransformersBackbone):
    """ELECTRA, Clark et al. 2020; the discriminator."""

    model_types = ("electra",)
    default_head = _HEAD
    has = _WITH_CACHE
    roles = {
        **{role: glob for role, glob in _BERT.items() if role != "pooler"},
        "x-embeddings-project": "**.embeddings_project",
    }
    small = {**_SMALL, "embedding_size": 16}
    configs = {
        "electra-small": _sizes(256, 12, 4, vocab_size=30522, embedding_size=128),
        "electra-base": _sizes(768, 12, 12, vocab_size=30522, embedding_size=768),
        "electra-large": _sizes(1024, 24, 16, vocab_size=30522, embedding_size=1024),
    }
