"""Encoders with decoders: where their layers are, named sizes, a small member each."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from peftcore import device_of
from peftcore_transformers.encoder_decoder import EncoderDecoder


class Seq2Seq(EncoderDecoder):
    """An encoder reads a text, and a decoder writes another one."""

    heads = ("seq2seq-lm",)
    default_head = "seq2seq-lm"

    def batch(self, model: nn.Module, rows: int = 2) -> dict[str, Any]:
        """Return random rows of unequal lengths, and labels or what the decoder reads."""
        config: Any = model.get_submodule(self.entry(model)).config
        batch = super().batch(model, rows)
        ids = torch.randint(5, config.vocab_size, (rows, 8))
        if type(model).__name__.endswith("ForConditionalGeneration"):
            batch["labels"] = ids.masked_fill(_behind(ids), -100).to(device_of(model))
        else:
            batch["decoder_input_ids"] = ids.to(device_of(model))
        return batch


def _behind(ids: Tensor) -> Tensor:
    """Return what is behind the end of rows of unequal lengths, [B, L] bool."""
    rows, length = ids.shape
    lengths = torch.tensor([length - 3 * (row % 2) for row in range(rows)])
    return torch.arange(length) >= lengths[:, None]


_T5_BLOCK = "**.block.*"
_T5_FEED_FORWARD = f"{_T5_BLOCK}.layer.*.DenseReluDense"


def _t5(width: int, inner: int, layers: int, heads: int, **more: Any) -> Mapping[str, Any]:
    return {"d_model": width, "d_ff": inner, "num_layers": layers, "num_heads": heads, **more}


#: T5 1.1 and what comes of it: its head is one of its own, and does not scale what it is given.
_V1_1 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}


class T5(Seq2Seq):
    """T5, Raffel et al. 2020, and what has its architecture: T5 1.1, FLAN-T5, mT5, ProtT5.

    The first block of each side owns the table of relative positions that all of its blocks use.
    """

    model_types = ("t5", "mt5")
    roles = {
        "embeddings": "**.{encoder,decoder}.embed_tokens",
        # the same table as the two above, which are called
        "unused": "**.shared",
        "block": _T5_BLOCK,
        "attention": f"{_T5_BLOCK}.layer.0.SelfAttention",
        "attention.query": f"{_T5_BLOCK}.layer.0.SelfAttention.q",
        "attention.key": f"{_T5_BLOCK}.layer.0.SelfAttention.k",
        "attention.value": f"{_T5_BLOCK}.layer.0.SelfAttention.v",
        "attention.output": f"{_T5_BLOCK}.layer.0.SelfAttention.o",
        "x-relative-position": f"{_T5_BLOCK}.layer.0.SelfAttention.relative_attention_bias",
        "cross_attention": f"{_T5_BLOCK}.layer.1.EncDecAttention",
        "cross_attention.query": f"{_T5_BLOCK}.layer.1.EncDecAttention.q",
        "cross_attention.key": f"{_T5_BLOCK}.layer.1.EncDecAttention.k",
        "cross_attention.value": f"{_T5_BLOCK}.layer.1.EncDecAttention.v",
        "cross_attention.output": f"{_T5_BLOCK}.layer.1.EncDecAttention.o",
        "mlp": _T5_FEED_FORWARD,
        "mlp.gate": f"{_T5_FEED_FORWARD}.wi_0",
        "mlp.up": (f"{_T5_FEED_FORWARD}.wi", f"{_T5_FEED_FORWARD}.wi_1"),
        "mlp.down": f"{_T5_FEED_FORWARD}.wo",
        "norm": (f"{_T5_BLOCK}.layer.*.layer_norm", "**.final_layer_norm"),
        # beside both sides, with no network around them
        "head": "**.lm_head",
    }
    small = {
        **_t5(32, 48, 2, 4, **_V1_1),
        "d_kv": 8,
        "vocab_size": 96,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 16,
        "dropout_rate": 0.0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }
    configs = {
        "t5-small": _t5(512, 2048, 6, 8),
        "t5-base": _t5(768, 3072, 12, 12),
        "t5-large": _t5(1024, 4096, 24, 16),
        "t5-3b": _t5(1024, 16384, 24, 32, d_kv=128),
        "t5-11b": _t5(1024, 65536, 24, 128, d_kv=128),
        "flan-t5-small": _t5(512, 1024, 8, 6, **_V1_1),
        "flan-t5-base": _t5(768, 2048, 12, 12, **_V1_1),
        "flan-t5-large": _t5(1024, 2816, 24, 16, **_V1_1),
        "flan-t5-xl": _t5(2048, 5120, 24, 32, **_V1_1),
        "flan-t5-xxl": _t5(4096, 10240, 24, 64, **_V1_1),
    }

    def _make(self, sizes: Mapping[str, Any], head: str, options: Mapping[str, Any]) -> nn.Module:
        """Build a model; where its head does not scale what it is given, the head is its own.

        transformers 5 ties every head of T5, and keeps of an untied one only that it does not
        scale. Checkpoints that hold both tables are loaded untied all the same.
        """
        model: Any = super()._make(sizes, head, options)
        if hasattr(model, "lm_head") and not getattr(model.config, "scale_decoder_outputs", True):
            own = nn.Parameter(torch.empty_like(model.lm_head.weight))
            nn.init.normal_(own, std=model.config.initializer_factor)
            model.lm_head.weight = own
            model.config.tie_word_embeddings = False  # whoever ties weights anew leaves it so
        return model  # type: ignore[no-any-return]


_BART_BLOCK = "**.layers.*"


def _bart(width: int, inner: int, layers: int, heads: int, **more: Any) -> Mapping[str, Any]:
    sides = {
        f"{side}_{key}": value
        for side in ("encoder", "decoder")
        for key, value in {"layers": layers, "ffn_dim": inner, "attention_heads": heads}.items()
    }
    return {"d_model": width, **sides, **more}


class Bart(Seq2Seq):
    """BART, Lewis et al. 2020."""

    model_types = ("bart",)
    roles = {
        "embeddings": "**.{encoder,decoder}.embed_tokens",
        # the same table as the two above, which are called
        "unused": "**.shared",
        "embeddings.position": "**.embed_positions",
        "block": _BART_BLOCK,
        "attention": f"{_BART_BLOCK}.self_attn",
        "attention.query": f"{_BART_BLOCK}.self_attn.q_proj",
        "attention.key": f"{_BART_BLOCK}.self_attn.k_proj",
        "attention.value": f"{_BART_BLOCK}.self_attn.v_proj",
        "attention.output": f"{_BART_BLOCK}.self_attn.out_proj",
        "cross_attention": f"{_BART_BLOCK}.encoder_attn",
        "cross_attention.query": f"{_BART_BLOCK}.encoder_attn.q_proj",
        "cross_attention.key": f"{_BART_BLOCK}.encoder_attn.k_proj",
        "cross_attention.value": f"{_BART_BLOCK}.encoder_attn.v_proj",
        "cross_attention.output": f"{_BART_BLOCK}.encoder_attn.out_proj",
        "mlp.up": f"{_BART_BLOCK}.fc1",
        "mlp.down": f"{_BART_BLOCK}.fc2",
        "norm": ("**.layernorm_embedding", f"{_BART_BLOCK}.*_layer_norm"),
    }
    # the table looks up positions that are none of its arguments
    direct_weights = ("**.embed_positions",)
    small = {
        **_bart(32, 48, 2, 4),
        "vocab_size": 96,
        "max_position_embeddings": 40,
        "dropout": 0.0,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": 2,
    }
    configs = {
        "bart-base": _bart(768, 3072, 6, 12),
        "bart-large": _bart(1024, 4096, 12, 16),
    }
