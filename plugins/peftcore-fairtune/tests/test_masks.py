"""The mask: its contract, the lengths and counts of the spaces, what is refused."""

import pytest

import peftcore
from peftcore import ConfigError, TargetError, build_on_meta, installed
from peftcore.testing import MethodContract, tiny

needs_vision = pytest.mark.skipif(
    "timm-vit" not in installed().backbones, reason="no backbone plugin for images is installed"
)


class TestFairtune(MethodContract):
    method = "fairtune"
    config = {"space": "mlp"}  # biases are left for others


#: Parameters of one block of ViT-B/16, by part: two norms, qkv and projection, MLP.
NORM, ATTENTION, MLP = 2 * 2 * 768, 2_362_368, 4_722_432
#: Space, mask of one block, bits a block, and trained parameters (Dutt et al.'s code, all blocks).
COUNTS = [
    ("auto_peft1", "111", 3, 85_054_464),
    ("auto_peft1", "010", 3, 28_348_416),
    ("auto_peft1", "100", 3, 36_864),
    ("auto_peft1", "001", 3, 12 * MLP),
    ("auto_peft2", "1111", 4, 85_054_464),
    ("auto_peft2", "1000", 4, 12 * NORM // 2),
    ("auto_peft2", "0110", 4, 12 * (ATTENTION + NORM // 2)),
    ("attention", "1", 1, 28_348_416),
    ("norm", "1", 1, 36_864),
    ("mlp", "1", 1, 12 * MLP),
    ("attention_norm", "1", 1, 28_348_416 + 36_864),
    ("attention_mlp", "1", 1, 28_348_416 + 12 * MLP),
    ("norm_mlp", "1", 1, 36_864 + 12 * MLP),
    ("attention_norm_mlp", "1", 1, 85_054_464),
    ("block", "1", 1, 85_054_464),
    # in module order: weight and bias of qkv, weight and bias of the projection; and the positions
    ("attention_parameters", "1111", 4, 28_499_712),
    ("attention_parameters", "0100", 4, 12 * 3 * 768 + 151_296),
    ("attention_parameters", "0010", 4, 12 * 768 * 768 + 151_296),
]


@needs_vision
@pytest.mark.parametrize(("space", "mask", "bits", "expected"), COUNTS)
def test_a_mask_trains_as_many_parameters_as_the_released_code(
    space: str, mask: str, bits: int, expected: int
) -> None:
    model = build_on_meta("vit-b16-224", head="image-classification", num_labels=2)
    assert len(mask) == bits
    plan = peftcore.plan(
        model, "fairtune", space=space, mask=" ".join([mask] * 12), modules_to_save=["head"]
    )
    assert plan.trainable == expected
    assert plan.head == 2 * 769
    if "0" not in mask:
        assert peftcore.plan(model, "fairtune", space=space).trainable == expected


@needs_vision
def test_the_bits_of_one_block_pick_its_own_parameters() -> None:
    _, model, _ = tiny("timm-vit", "image-classification")
    adapter = peftcore.attach(model, "fairtune", space="auto_peft2", mask="0100 0011")
    names = [swap.selected.info.name for swap in adapter.swaps]
    assert names == [
        *(f"blocks.0.attn.{n}" for n in ("qkv.weight", "qkv.bias", "proj.weight", "proj.bias")),
        "blocks.1.norm2.weight",
        "blocks.1.norm2.bias",
        *(f"blocks.1.mlp.{n}" for n in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")),
    ]


@needs_vision
@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"mask": "111"}, "fairtune.mask has 3 bits; auto_peft1 asks for 6 in this model."),
        ({"mask": "000000"}, "a mask without a 1 trains the head alone: leave the method out"),
        ({"mask": "11211 1"}, "a mask is made of 0 and 1"),
        ({"space": "auto_peft3"}, "auto_peft"),
    ],
)
def test_a_mask_that_does_not_fit_is_named(config: dict, sentence: str) -> None:
    _, model, _ = tiny("timm-vit")
    with pytest.raises((ConfigError, TargetError)) as caught:
        peftcore.plan(model, "fairtune", **config)
    assert sentence in str(caught.value)
