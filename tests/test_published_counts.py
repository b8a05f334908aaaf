"""The exact numbers of trainable parameters that the literature gives, as plans on meta."""

from functools import lru_cache
from typing import Any

import pytest
from torch import nn

import peftcore
from peftcore.model.backbones import build_on_meta
from peftcore.registry.installed import installed

QV = ["attention.query", "attention.value"]
QKVUD = [*QV, "attention.key", "mlp.up", "mlp.down"]
ATTENTION = ["attention.*", "cross_attention.*"]
FFN = ["mlp.up", "mlp.down"]
#: A linear head on 512 features, averaged over the 20 data sets of ELEVATER.
HEAD = round((512 + 1) * 57.55)


@lru_cache
def model_of(config: str, head: str) -> nn.Module:
    return build_on_meta(config, head=head)


ROWS: list[tuple[str, str, str, str, dict[str, Any], int, int]] = [
    # paper's table, size, head, method, configuration, trainable, of which not in the plan
    ("L1 series", "llama-7b", "causal-lm", "adapter", {}, 67_108_864, 0),
    ("L1 parallel", "llama-7b", "causal-lm", "parallel_adapter", {}, 247_463_936, 0),
    ("L1 LoRA", "llama-7b", "causal-lm", "lora", {"rank": 32, "targets": QKVUD}, 56_098_816, 0),
    ("L1 DoRA", "llama-7b", "causal-lm", "dora", {"rank": 32, "targets": QKVUD}, 56_975_360, 0),
    ("L1 half", "llama-7b", "causal-lm", "dora", {"rank": 16, "targets": QKVUD}, 28_925_952, 0),
    ("L3 T=30", "llama-7b", "causal-lm", "prefix", {"num_virtual_tokens": 30}, 7_864_320, 0),
    ("L3 T=10", "llama-7b", "causal-lm", "prefix", {"num_virtual_tokens": 10}, 2_621_440, 0),
    ("B1 BERT", "bert-base-cased", "none", "bitfit", {}, 102_912, 0),
    ("B1 ViT", "vit-b16-224", "none", "bitfit", {}, 102_912, 0),
    ("K1 KAdaptation", "clip-vit-b32", "none", "kadaptation", {}, 50_176, 0),
    ("K1 and head", "clip-vit-b32", "none", "kadaptation", {}, 79_699, HEAD),
    ("K1 LoRA", "clip-vit-b32", "none", "lora", {"rank": 4, "targets": QV}, 176_979, HEAD),
    (
        "K1 adapter", "clip-vit-b32", "none", "pfeiffer", {"bottleneck": 64, "layer_norm": True},
        1_237_587, HEAD,
    ),
    (
        "K1 Compacter", "clip-vit-b32", "none", "compacter",
        {"bottleneck": 64, "layer_norm": True, "targets": ["mlp.down"],
         "phm_c_init": "uniform", "train_rule": False, "train_norms": False}, 77_907, HEAD,
    ),
    ("M1 norms", "vit-b16-224", "none", "norm_tuning", {}, 38_400, 0),
    ("M1 attention", "vit-b16-224", "none", "attention_tuning", {}, 28_348_416, 0),
    ("M1 SSF", "vit-b16-224", "none", "ssf", {}, 205_824, 0),
    ("M1 LoRA", "vit-b16-224", "none", "lora", {"rank": 8, "targets": QV}, 294_912, 0),
    ("C1 adapter", "llama-7b", "causal-lm", "llama_adapter", {}, 1_229_760, 0),
    ("C1 LoRA r8", "llama-7b", "causal-lm", "lora", {"rank": 8, "targets": QV}, 4_194_304, 0),
    ("C1 LoRA r16", "llama-7b", "causal-lm", "lora", {"rank": 16, "targets": QV}, 8_388_608, 0),
    ("E1 LoRA", "wavlm-base-plus", "none", "lora", {"rank": 16, "targets": FFN}, 1_474_560, 0),
    (
        "E1 adapter", "wavlm-base-plus", "none", "ser_adapter",
        {"released": True, "targets": ["path:encoder.layers.*.layer_norm", "mlp.down"]},
        2_370_048, 0,
    ),
    ("E1 prompts", "wavlm-base-plus", "none", "embedding_prompt", {}, 46_080, 0),
    ("W1", "whisper-small", "none", "s2lora", {"rank": 32, "targets": ATTENTION}, 53_760, 0),
    ("R1", "llama-7b", "causal-lm", "loreft", {"rank": 8, "positions": "f7+l7"}, 2_097_408, 0),
    ("P1", "esm2-650m", "none", "lora",
     {"rank": 8, "targets": {
         "roles": ["attention.key", "attention.value"], "layers": "25-32"}}, 327_680, 0),
]  # fmt: skip


@pytest.mark.parametrize(
    "config, head, method, options, expected, elsewhere",
    [row[1:] for row in ROWS],
    ids=[row[0].replace(" ", "-") for row in ROWS],
)
def test_the_plan_has_the_published_number_of_parameters(
    config: str, head: str, method: str, options: dict[str, Any], expected: int, elsewhere: int
) -> None:
    known = {size for spec in installed().backbones.values() for size in spec.configs}
    assert config in known and method in installed().methods
    plan = peftcore.plan(model_of(config, head), method, **options)
    assert plan.trainable + elsewhere == expected
