from collections.abc import Mapping
from typing import Any

import pytest
import transformers
from torch import nn

from peftcore import backbone_named, backbone_of, survey

BLOCK = "model.layers.0"

LLAMA = {
    "model": ["model"],
    "embeddings": ["model.embed_tokens"],
    "block": [BLOCK],
    "attention": [f"{BLOCK}.self_attn"],
    "attention.query": [f"{BLOCK}.self_attn.q_proj"],
    "attention.key": [f"{BLOCK}.self_attn.k_proj"],
    "attention.value": [f"{BLOCK}.self_attn.v_proj"],
    "attention.output": [f"{BLOCK}.self_attn.o_proj"],
    "mlp": [f"{BLOCK}.mlp"],
    "mlp.gate": [f"{BLOCK}.mlp.gate_proj"],
    "mlp.up": [f"{BLOCK}.mlp.up_proj"],
    "mlp.down": [f"{BLOCK}.mlp.down_proj"],
    "norm": [f"{BLOCK}.input_layernorm", f"{BLOCK}.post_attention_layernorm", "model.norm"],
    "head": ["lm_head"],
}
WITHIN = [f"{BLOCK}.self_attn.q_norm", f"{BLOCK}.self_attn.k_norm"]
AROUND = [f"{BLOCK}.pre_feedforward_layernorm", f"{BLOCK}.post_feedforward_layernorm"]

TABLES: dict[str, Mapping[str, list[str]]] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen": LLAMA | {"norm": WITHIN + LLAMA["norm"]},
    "gemma": LLAMA | {"norm": [*WITHIN, *LLAMA["norm"][:2], *AROUND, "model.norm"]},
    "gpt2": {
        "model": ["transformer"],
        "embeddings": ["transformer.wte"],
        "embeddings.position": ["transformer.wpe"],
        "block": ["transformer.h.0"],
        "attention": ["transformer.h.0.attn"],
        "attention.qkv": ["transformer.h.0.attn.c_attn"],
        "attention.query": ["transformer.h.0.attn.c_attn[attention.query]"],
        "attention.key": ["transformer.h.0.attn.c_attn[attention.key]"],
        "attention.value": ["transformer.h.0.attn.c_attn[attention.value]"],
        "attention.output": ["transformer.h.0.attn.c_proj"],
        "mlp": ["transformer.h.0.mlp"],
        "mlp.up": ["transformer.h.0.mlp.c_fc"],
        "mlp.down": ["transformer.h.0.mlp.c_proj"],
        "norm": ["transformer.h.0.ln_1", "transformer.h.0.ln_2", "transformer.ln_f"],
        "head": ["lm_head"],
    },
}


def names(family: str, model: nn.Module) -> dict[str, list[str]]:
    """Return role to sites, of the first block where a site lies in one."""
    found: dict[str, list[str]] = {}
    for site in survey(model, backbone_named(family)).sites:
        if site.block in (None, 0):
            found.setdefault(site.role, []).append(site.name)
    return found


@pytest.mark.parametrize("family", TABLES)
def test_every_role_names_exactly_these_modules(family: str) -> None:
    assert names(family, backbone_named(family).tiny(head="causal-lm")) == TABLES[family]


@pytest.mark.parametrize(
    ("family", "kind", "norms"),
    [
        ("qwen", "Qwen2", LLAMA["norm"]),
        ("gemma", "Gemma", LLAMA["norm"]),
        ("gemma", "Gemma2", [*LLAMA["norm"][:2], *AROUND, "model.norm"]),
    ],
)
def test_earlier_members_of_a_family_are_known(family: str, kind: str, norms: list[str]) -> None:
    small: dict[str, Any] = dict(backbone_named(family).small)
    small.pop("model_type")
    model = getattr(transformers, f"{kind}ForCausalLM")(
        getattr(transformers, f"{kind}Config")(**small)
    )
    assert backbone_of(model).name == family
    assert names(family, model) == LLAMA | {"norm": norms}


@pytest.mark.parametrize("family", TABLES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_every_attention_implementation_calls_the_projections(family: str, attention: str) -> None:
    backbone = backbone_named(family)
    model = backbone.tiny()
    model.set_attn_implementation(attention)
    called: list[str] = []
    roles = ("attention.query", "attention.key", "attention.value", "attention.qkv")
    sites = [s for s in survey(model, backbone).sites if s.role in roles]
    for site in sites:
        site.module.register_forward_hook(lambda *_, path=site.path: called.append(path))
    model(**backbone.batch(model))
    assert set(called) == {site.path for site in sites}
