"""Decoders whose feed-forward part is a choice among experts."""

from __future__ import annotations

from peftcore_llm.backbones import Llama

_MLP = "**.layers.*.mlp"
_SHARED = "{shared_expert,shared_experts}"


class Moe(Llama):
    """Mixtral, Jiang et al. 2024, and decoders of its architecture: OLMoE, Qwen MoE, gpt-oss.

    Experts that every token passes (``shared_expert``) have the roles of a dense feed-forward part.
    The routed ones are one parameter for each projection, of the roles ``mlp.experts.*``.
    """

    model_types = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "gpt_oss")
    roles = {
        **Llama.roles,
        "mlp.gate": (f"{_MLP}.gate_proj", f"{_MLP}.{_SHARED}.gate_proj"),
        "mlp.up": (f"{_MLP}.up_proj", f"{_MLP}.{_SHARED}.up_proj"),
        "mlp.down": (f"{_MLP}.down_proj", f"{_MLP}.{_SHARED}.down_proj"),
        "router": (f"{_MLP}.gate", f"{_MLP}.router", f"{_MLP}.shared_expert_gate"),
        "norm": (*Llama.roles["norm"], "**.layers.*.self_attn.{q,k}_norm"),
    }
    small = {
        **Llama.small,
        "model_type": "qwen2_moe",
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 24,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    }
    configs = {
        "mixtral-8x7b": {
            "model_type": "mixtral",
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_local_experts": 8,
        },
        "qwen3-30b-a3b": {
            "model_type": "qwen3_moe",
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "num_experts": 128,
            "num_experts_per_tok": 8,
        },
        "gpt-oss-20b": {
            "model_type": "gpt_oss",
            "vocab_size": 201088,
            "hidden_size": 2880,
            "intermediate_size": 2880,
            "num_hidden_layers": 24,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "num_local_experts": 32,
        },
    }
