"""Published and closed-form numbers of parameters, on the meta device."""

from typing import Any

import pytest

import peftcore
from peftcore import ConfigError, backbone_named, build_on_meta, installed

FAMILIES = ("timm-vit", "timm-beit", "timm-swin-v2", "timm-cnn", "clip-vision")

BASE = {
    "vit-b16-224": 85_798_656,
    "vit-l16": 303_301_632,
    "vit-h14": 630_764_800,
    "vit-s14": 22_056_192,
    "vit-b14": 86_579_712,
    # as timm counts them, without a head
    "beit-b16": 85_761_984,
    "eva02-b14": 85_758_720,
    "swin-v2-t": 27_578_154,
    "resnet18": 11_176_512,
    "resnet50": 23_508_032,
    "resnet101": 42_500_160,
    "efficientnet-lite0": 3_371_008,
    "efficientnet-b0": 4_007_548,
    "clip-vit-b32": 87_849_216,
    "clip-vit-b16": 86_192_640,
    "clip-vit-l14": 303_966_208,
    # the tower of 1,842,777,344 and the projection to 1,280
    "clip-vit-bigg14": 1_844_907_264,
}


@pytest.mark.parametrize("size", BASE)
def test_a_named_size_has_its_published_number_of_parameters(size: str) -> None:
    model = build_on_meta(size)
    assert all(p.is_meta for p in model.parameters())
    assert sum(p.numel() for p in model.parameters()) == BASE[size]


@pytest.mark.parametrize("size", ["vit-b16-224", "resnet50"])
def test_a_head_is_counted_besides(size: str) -> None:
    model = build_on_meta(size, head="image-classification", num_labels=7)
    width = 768 if size == "vit-b16-224" else 2048
    assert sum(p.numel() for p in model.parameters()) == BASE[size] + 7 * (width + 1)
    plan = peftcore.plan(model, "bitfit", modules_to_save=["head"])
    assert plan.head == 7 * (width + 1)


def test_positions_follow_the_size_of_the_images() -> None:
    small = build_on_meta("vit-s14", img_size=112)
    assert sum(p.numel() for p in small.parameters()) == BASE["vit-s14"] - 384 * (37**2 - 8**2)


def test_both_towers_of_the_largest_clip_are_counted() -> None:
    model: Any = build_on_meta("clip-vit-bigg-14", head="none")
    counts = [
        sum(p.numel() for p in part.parameters())
        for part in (model, model.vision_model, model.text_model)
    ]
    assert counts == [2_539_567_105, 1_842_777_344, 693_021_440]


QUERY_VALUE = ["attention.query", "attention.value"]

# ViT-B/16 and ResNet-50: Dutt et al. 2023 and the methods' own closed forms; CLIP: He et al. 2023
TRAINED: dict[tuple[str, str], tuple[dict[str, Any], int]] = {
    ("vit-b16-224", "bitfit"): ({}, 102_912),
    ("vit-b16-224", "lora"): ({"rank": 8, "targets": QUERY_VALUE}, 12 * 2 * 8 * (768 + 768)),
    ("vit-b16-224", "norm_tuning"): ({}, 38_400),
    ("vit-b16-224", "attention_tuning"): ({}, 28_348_416),
    # Touvron et al. train the positions too: 28,348,416 and 197 x 768
    ("vit-b16-224", "attention_tuning with positions"): (
        {"also": ["embeddings.position"]},
        28_499_712,
    ),
    ("vit-b16-224", "ssf"): ({}, 205_824),
    ("resnet50", "bitfit"): ({}, 26_560),
    ("resnet50", "norm_tuning"): ({}, 53_120),
    # after every convolution and every BatchNorm
    ("resnet50", "ssf"): ({}, 4 * 26_560),
    ("clip-vit-b32", "kadaptation"): ({}, 50_176),
    ("clip-vit-b32", "lora"): ({"rank": 4, "targets": QUERY_VALUE}, 147_456),
}


@pytest.mark.parametrize(("size", "method"), TRAINED)
def test_a_method_trains_as_many_parameters_as_published(size: str, method: str) -> None:
    config, expected = TRAINED[size, method]
    method = method.partition(" ")[0]
    if method not in installed().methods:
        pytest.skip(f"the method {method} is not installed")
    plan = peftcore.plan(build_on_meta(size), method, **config)
    assert plan.base == BASE[size]
    assert plan.trainable == expected


def test_the_blocks_of_a_vision_transformer_are_counted() -> None:
    assert peftcore.plan(build_on_meta("vit-b16-224"), "full").blocks_base == 85_054_464


@pytest.mark.parametrize("family", FAMILIES)
def test_the_spec_lists_the_sizes_of_its_backbone(family: str) -> None:
    sizes = installed().backbones[family].configs
    assert sizes == tuple(backbone_named(family).configs)
    assert set(sizes) <= set(BASE)


@pytest.mark.parametrize(
    ("family", "wrong", "right"),
    [
        ("timm-vit", "vit-b16-244", "vit-b16-224"),
        ("timm-cnn", "resnet-50", "resnet50"),
        ("clip-vision", "clip-vit-32", "clip-vit-b32"),
    ],
)
def test_an_unknown_size_names_the_nearest(family: str, wrong: str, right: str) -> None:
    with pytest.raises(ConfigError, match=f"Did you mean {right}"):
        backbone_named(family).build(wrong)


@pytest.mark.parametrize("family", FAMILIES)
def test_unknown_options_and_heads_are_told_at_once(family: str) -> None:
    backbone = backbone_named(family)
    with pytest.raises(ConfigError) as caught:
        backbone.build(next(iter(backbone.configs)), head="image-clasification", dtyp="float32")
    assert len(caught.value.problems) == 2
    assert "Did you mean dtype?" in str(caught.value)


def test_images_that_are_no_whole_number_of_patches_are_told() -> None:
    with pytest.raises(ConfigError, match="img_size 100 is no multiple of 14"):
        backbone_named("timm-vit").build("vit-s14", img_size=100)
