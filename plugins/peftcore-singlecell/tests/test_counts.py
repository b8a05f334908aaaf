"""The numbers of the PEFT study of scBERT (Liu et al. 2023), on the meta device."""

from typing import Any

import pytest

import peftcore
from peftcore import backbone_named, build_on_meta, installed

BLOCKS, TABLE, HEAD = 5_004_000, 16_907 * 200, 8_724_180

#: Methods as the recipe of the study has them, what they train, and of the blocks how much.
STUDY: dict[str, tuple[list[dict[str, Any]], int, float]] = {
    "layer freezing": (
        [{"method": "freeze", "targets": {"roles": ["block"], "layers": "last 1"}}],
        834_000,
        16.6667,
    ),
    "adapter": (
        [{"method": "pfeiffer", "bottleneck": 24, "act_fn": "gelu", "bias": True}],
        58_944,
        1.1779,
    ),
    "LoRA": (
        [{"method": "lora", "rank": 4, "targets": ["attention.query", "attention.value"]}],
        40_320,
        0.8058,
    ),
    # the study says .22 %, which no reading of BitFit gives
    "BitFit": ([{"method": "bitfit"}], 9_800, 0.1958),
    "BitFit and LoRA": (
        [
            {"method": "bitfit"},
            {"method": "lora", "rank": 4, "targets": ["attention.query", "attention.value"]},
        ],
        50_120,
        1.0016,
    ),
}


def test_scbert_has_the_sizes_of_the_paper() -> None:
    model = build_on_meta("scbert", head="cell-type", num_labels=11)
    plan = peftcore.plan(model, "bitfit", modules_to_save=["head"])
    assert plan.blocks_base == BLOCKS and plan.head == HEAD
    assert plan.base == BLOCKS + TABLE + 7 * 200 + 2 * 200 + HEAD
    assert sum(p.numel() for p in model.performer.parameters()) == 6 * 834_000
    spec = installed().backbones["scbert"]
    assert spec.configs == tuple(backbone_named("scbert").configs)


@pytest.mark.parametrize("name", STUDY)
def test_a_method_trains_as_many_parameters_as_in_the_study(name: str) -> None:
    if missing := {m["method"] for m in STUDY[name][0]} - set(installed().methods):
        pytest.skip(f"not installed: {', '.join(missing)}")
    methods, count, percent = STUDY[name]
    plan = peftcore.plan(build_on_meta("scbert"), methods)
    assert plan.trainable == count
    assert plan.percent("of_blocks") == pytest.approx(percent, abs=5e-5)


@pytest.mark.skipif("freeze" not in installed().methods, reason="peftcore-freeze is not installed")
def test_the_authors_recipe_trains_the_last_block_but_one_a_norm_and_the_head() -> None:
    model = build_on_meta("scbert", head="cell-type", num_labels=11)
    targets = {"roles": ["block"], "layers": "4"}
    plan = peftcore.plan(
        model, "freeze", targets=targets, also=["path:norm"], modules_to_save=["head"]
    )
    assert plan.trainable == 834_000 + 400
    assert plan.trainable + plan.head == 9_558_580
