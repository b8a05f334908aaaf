from peftcore.testing import BackboneContract

HEADS = ("none", "causal-lm", "sequence-classification")


class TestLlama(BackboneContract):
    backbone = "llama"
    heads = HEADS


class TestMistral(BackboneContract):
    backbone = "mistral"
    heads = HEADS


class TestQwen(BackboneContract):
    backbone = "qwen"
    heads = HEADS


class TestGemma(BackboneContract):
    backbone = "gemma"
    heads = HEADS


class TestMoe(BackboneContract):
    backbone = "moe"
    heads = ("none", "causal-lm")


class TestGpt2(BackboneContract):
    backbone = "gpt2"
    heads = HEADS
