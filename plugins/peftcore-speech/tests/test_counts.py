"""Sizes and published numbers of trainable parameters, on the meta device."""

import pytest
import torch

import peftcore
from peftcore import backbone_named, build_on_meta, installed
from peftcore_speech.heads import LayersClassifier

COUNTS = {
    "wavlm-base-plus": 94_381_936,
    "wav2vec2-base": 94_371_712,
    "hubert-base": 94_371_712,
    "whisper-tiny": 37_760_640,
    "whisper-base": 72_593_920,
    "whisper-small": 241_734_912,
    "whisper-medium": 763_857_920,
    "whisper-large-v2": 1_543_304_960,
}
FEED_FORWARD = ["mlp.up", "mlp.down"]


@pytest.mark.parametrize("size", COUNTS)
def test_a_named_size_has_its_published_number_of_parameters(size: str) -> None:
    model = build_on_meta(size)
    assert sum(p.numel() for p in model.parameters()) == COUNTS[size]
    assert all(p.is_meta for p in model.parameters())
    assert peftcore.plan(model, "lora", rank=2).base == COUNTS[size]


@pytest.mark.parametrize("family", ["wavlm", "wav2vec2", "hubert", "whisper"])
def test_the_spec_lists_the_sizes_of_its_backbone(family: str) -> None:
    sizes = installed().backbones[family].configs
    assert sizes == tuple(backbone_named(family).configs)
    assert set(sizes) <= set(COUNTS)


@pytest.mark.parametrize(("rank", "count"), [(16, 1_474_560), (8, 737_280)])
def test_lora_of_peft_ser_has_its_number(rank: int, count: int) -> None:
    """Feng and Narayanan 2023: LoRA on both linears of the feed-forward part, alpha 1."""
    model = build_on_meta("wavlm-base-plus")
    plan = peftcore.plan(model, "lora", rank=rank, alpha=1, targets=FEED_FORWARD)
    assert plan.trainable == count
    if rank == 16:
        assert plan.percent("of_base") == pytest.approx(1.5623, abs=5e-5)


def test_the_adapter_of_peft_ser_has_its_number() -> None:
    """Width 128, one a block, from the norm of the feed-forward part to its end."""
    ends = ["path:encoder.layers.*.layer_norm", "mlp.down"]
    model = build_on_meta("wavlm-base-plus")
    plan = peftcore.plan(model, "ser_adapter", released=True, targets=ends)
    assert plan.trainable == 12 * (2 * 768 * 128 + 128 + 768) == 2_370_048
    assert plan.percent("of_base") == pytest.approx(2.511, abs=5e-4)


@pytest.mark.parametrize("head", [(), ("head",)])
def test_the_classifier_of_peft_ser_has_its_number(head: tuple[str, ...]) -> None:
    """395,280 parameters under four labels; beside LoRA 1,869,840 are trained."""
    with torch.device("meta"):
        model = LayersClassifier(build_on_meta("wavlm-base-plus"), 4, 256, 0.1, embedded=False)
    config = {"rank": 16, "alpha": 1, "targets": FEED_FORWARD}
    plan = peftcore.plan(model, "lora", **config, modules_to_save=head)
    assert plan.head == (395_280 if head else 0)
    assert plan.trainable + plan.head == (1_869_840 if head else 1_474_560)


def test_whisper_small_has_144_square_projections() -> None:
    targets = ["attention.*", "cross_attention.*"]
    plan = peftcore.plan(build_on_meta("whisper-small"), "lora", rank=4, targets=targets)
    assert len(plan.placed) == 144
    assert {p.site.layer.weight_shape for p in plan.placed} == {(768, 768)}
    assert plan.trainable == 144 * 4 * 2 * 768
