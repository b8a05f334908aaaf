"""Decoders of transformers: where their layers are, named sizes, a small member each."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from peftcore import LayerInfo, query_key_value
from peftcore_transformers.backbone import TransformersBackbone

_BLOCK = "**.layers.*"

_SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


class Llama(TransformersBackbone):
    """LLaMA, Touvron et al. 2023; the other families here lay their modules out alike."""

    model_types = ("llama",)
    heads = (
        "causal-lm", "sequence-classification", "token-classification", "question-answering",
    )  # fmt: skip
    default_head = "causal-lm"
    causal = True
    positional = (
        "input_ids", "attention_mask", "position_ids", "past_key_values", "inputs_embeds", "labels",
    )  # fmt: skip
    has = ("tokens", "cache", "one-pass", "own-queries")
    roles = {
        "embeddings": "**.embed_tokens",
        "block": _BLOCK,
        "attention": f"{_BLOCK}.self_attn",
        "attention.query": f"{_BLOCK}.self_attn.q_proj",
        "attention.key": f"{_BLOCK}.self_attn.k_proj",
        "attention.value": f"{_BLOCK}.self_attn.v_proj",
        "attention.output": f"{_BLOCK}.self_attn.o_proj",
        "mlp": f"{_BLOCK}.mlp",
        "mlp.gate": f"{_BLOCK}.mlp.gate_proj",
        "mlp.up": f"{_BLOCK}.mlp.up_proj",
        "mlp.down": f"{_BLOCK}.mlp.down_proj",
        "norm": ("**.norm", f"{_BLOCK}.*_layernorm"),
    }
    small = _SMALL


def _llama(width: int, inner: int, layers: int, heads: int, **more: Any) -> Mapping[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "vocab_size": 32000,
        **more,
    }


_LLAMA_3 = {"vocab_size": 128256, "num_key_value_heads": 8, "rope_theta": 500000.0}
_CODE = {"rope_theta": 1000000.0, "max_position_embeddings": 16384}
_SMOLLM2 = {"vocab_size": 49152, "tie_word_embeddings": True, "rope_theta": 100000.0}

Llama.configs = {
    "llama-7b": _llama(4096, 11008, 32, 32),
    "llama-13b": _llama(5120, 13824, 40, 40),
    "llama-2-7b": _llama(4096, 11008, 32, 32, max_position_embeddings=4096),
    "llama-2-13b": _llama(5120, 13824, 40, 40, max_position_embeddings=4096),
    "llama-3-8b": _llama(4096, 14336, 32, 32, **_LLAMA_3),
    "llama-3.2-1b": _llama(2048, 8192, 16, 32, tie_word_embeddings=True, **_LLAMA_3),
    "codellama-7b": _llama(4096, 11008, 32, 32, **_CODE | {"vocab_size": 32016}),
    "codellama-13b": _llama(5120, 13824, 40, 40, **_CODE | {"vocab_size": 32016}),
    "codellama-34b": _llama(8192, 22016, 48, 64, num_key_value_heads=8, **_CODE),
    "smollm2-135m": _llama(576, 1536, 30, 9, num_key_value_heads=3, **_SMOLLM2),
    "smollm2-360m": _llama(960, 2560, 32, 15, num_key_value_heads=5, **_SMOLLM2),
}


class Mistral(Llama):
    """Mistral, Jiang et al. 2023."""

    model_types = ("mistral",)
    configs = {
        "mistral-7b": _llama(4096, 14336, 32, 32, num_key_value_heads=8),
    }


class Qwen(Llama):
    """Qwen 2, 2.5 and 3, Qwen team 2024 and 2025."""

    model_types = ("qwen2", "qwen3")
    small = {**_SMALL, "model_type": "qwen3"}
    roles = {**Llama.roles, "norm": (*Llama.roles["norm"], f"{_BLOCK}.self_attn.{{q,k}}_norm")}
    configs = {
        "qwen2.5-0.5b": _llama(
            896, 4864, 24, 14, vocab_size=151936, num_key_value_heads=2, tie_word_embeddings=True
        ),
        "qwen2.5-7b": _llama(3584, 18944, 28, 28, vocab_size=152064, num_key_value_heads=4),
        "qwen3-0.6b": _llama(
            1024, 3072, 28, 16, vocab_size=151936, num_key_value_heads=8, head_dim=128,
            tie_word_embeddings=True, model_type="qwen3",
        ),
    }  # fmt: skip


class Gemma(Llama):
    """Gemma 1 to 3, Gemma team 2024 and 2025; the text models, whose embeddings are scaled."""

    model_types = ("gemma", "gemma2", "gemma3_text")
    heads = ("causal-lm", "sequence-classification", "token-classification")
    small = {**_SMALL, "model_type": "gemma3_text", "sliding_window": 16}
    roles = Qwen.roles
    configs = {
        "gemma-2b": _llama(
            2048, 16384, 18, 8, vocab_size=256000, num_key_value_heads=1, head_dim=256
        ),
        "gemma-7b": _llama(
            3072, 24576, 28, 16, vocab_size=256000, num_key_value_heads=16, head_dim=256
        ),
        "gemma-2-2b": _llama(
            2304, 9216, 26, 8, vocab_size=256000, num_key_value_heads=4, head_dim=256,
            model_type="gemma2",
        ),
        "gemma-3-1b": _llama(
            1152, 6912, 26, 4, vocab_size=262144, num_key_value_heads=1, head_dim=256,
            model_type="gemma3_text",
        ),
    }  # fmt: skip

    def tiny(self, *, head: str = "none") -> nn.Module:
        """Return a random small Gemma 3, or a Gemma 2 for the head that Gemma 3 lacks."""
        lacks = head == "token-classification"
        return self._make({**self.small, **({"model_type": "gemma2"} if lacks else {})}, head, {})


_H = "**.h.*"


class Gpt2(TransformersBackbone):
    """GPT-2, Radford et al. 2019; one fused layer projects to queries, keys and values."""

    model_types = ("gpt2",)
    heads = Llama.heads
    default_head = "causal-lm"
    causal = True
    positional = (
        "input_ids", "past_key_values", "attention_mask", "token_type_ids", "position_ids",
        "inputs_embeds", "encoder_hidden_states", "encoder_attention_mask", "labels",
    )  # fmt: skip
    has = Llama.has
    roles = {
        "embeddings": "**.wte",
        "embeddings.position": "**.wpe",
        "block": _H,
        "attention": f"{_H}.attn",
        "attention.qkv": f"{_H}.attn.c_attn",
        "attention.output": f"{_H}.attn.c_proj",
        "mlp": f"{_H}.mlp",
        "mlp.up": f"{_H}.mlp.c_fc",
        "mlp.down": f"{_H}.mlp.c_proj",
        "norm": (f"{_H}.ln_{{1,2}}", "**.ln_f"),
    }
    small = {
        "vocab_size": 96,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    configs = {
        "gpt2": {"n_embd": 768, "n_layer": 12, "n_head": 12},
        "gpt2-medium": {"n_embd": 1024, "n_layer": 24, "n_head": 16},
        "gpt2-large": {"n_embd": 1280, "n_layer": 36, "n_head": 20},
        "gpt2-xl": {"n_embd": 1600, "n_layer": 48, "n_head": 25},
    }

    def slices(self, path: str, role: str, layer: LayerInfo) -> Mapping[str, tuple[int, int]]:
        """Return the three parts of the fused projection."""
        return query_key_value(layer) if role == "attention.qkv" else {}
