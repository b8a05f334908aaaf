import pytest

from peftcore import backbone_named, build_on_meta, installed

FAMILIES = ("llama", "mistral", "qwen", "gemma", "gpt2")

COUNTS = {
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-3-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "codellama-7b": 6_738_546_688,
    "codellama-13b": 13_016_028_160,
    "codellama-34b": 33_743_970_304,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "mistral-7b": 7_241_732_096,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "gemma-2b": 2_506_172_416,
    "gemma-7b": 8_537_680_896,
    "gemma-2-2b": 2_614_341_888,
    "gemma-3-1b": 999_885_952,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
}


@pytest.mark.parametrize("size", COUNTS)
def test_a_named_size_has_its_published_number_of_parameters(size: str) -> None:
    model = build_on_meta(size, head="causal-lm")
    assert sum(p.numel() for p in model.parameters()) == COUNTS[size]
    assert all(p.is_meta for p in model.parameters())


def test_a_dtype_can_be_asked_for() -> None:
    import torch

    assert build_on_meta("smollm2-135m", dtype="bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize("family", FAMILIES)
def test_the_spec_lists_the_sizes_of_its_backbone(family: str) -> None:
    sizes = installed().backbones[family].configs
    assert sizes == tuple(backbone_named(family).configs)
    assert set(sizes) <= set(COUNTS)
