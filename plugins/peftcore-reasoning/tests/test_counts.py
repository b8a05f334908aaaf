"""Published counts, from the recipes of examples/ and from the tables; nothing has weights."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from peftcore.testing import run_in_process
from peftcore_reasoning import published

EXAMPLES = Path(__file__).parents[3] / "examples"
THIRTEEN = ("compare.prefix.methods[0].num_virtual_tokens=10",)

#: Name, size, row of the tables or recipe of examples/, trainable besides a head.
ROWS: list[tuple[str, str, str, int]] = [
    ("R1", "llama-7b", "loreft", 2_097_408),
    ("R2", "llama-2-7b", "ultrafeedback-llama2.yaml", 262_176),
    ("R3", "roberta-base", "glue-roberta.yaml", 18_444),
    ("L1 series", "llama-7b", "series", 67_108_864),
    ("L1 parallel", "llama-7b", "parallel", 247_463_936),
    ("L1 LoRA", "llama-7b", "lora", 56_098_816),
    ("L1 DoRA", "llama-7b", "dora", 56_975_360),
    ("L1 half", "llama-7b", "dora-half", 28_925_952),
    ("L3 T=30", "llama-7b", "prefix", 7_864_320),
    ("13B prefix", "llama-13b", "prefix", 4_096_000),
    ("13B series", "llama-13b", "series", 104_857_600),
    ("13B parallel", "llama-13b", "parallel", 387_973_120),
    ("13B LoRA", "llama-13b", "lora", 87_818_240),
    ("13B half", "llama-13b", "dora-half", 45_281_280),
    ("13B DoRA", "llama-13b", "dora", 89_190_400),
    ("13B LoReFT", "llama-13b", "loreft", 3_277_120),
]


@lru_cache
def survey() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run_in_process("survey", "--json").stdout)
    return found


@pytest.mark.parametrize(
    ("size", "arm", "expected"), [row[1:] for row in ROWS],
    ids=[row[0].replace(" ", "-") for row in ROWS],
)  # fmt: skip
def test_rows_train_the_published_number_of_parameters(size: str, arm: str, expected: int) -> None:
    if arm.endswith(".yaml"):
        done = run_in_process("plan", EXAMPLES / arm, "--set", f"backbone.source={size}", "--json")
        found = json.loads(done.stdout)
        assert found.get("arms", {}).get("loreft", found)["trainable"] == expected
        return
    found = {row["trainable"] for row in survey() if (row["size"], row["arm"]) == (size, arm)}
    assert found == {expected}


def test_the_survey_is_right_but_for_two_prefixes() -> None:
    """Per cent of both tables from our plans; averages are the means of what is printed."""
    found = survey()
    assert len(found) == 24
    for line in found:
        assert published.mean_is_printed(line["scores"], line["average"]), line
    wrong = {(line["table"], line["size"]) for line in found if "wrong" in line["verdict"]}
    assert wrong == {(2, "llama-13b")}
    cut = {(line["size"], line["arm"]) for line in found if "cut off" in line["verdict"]}
    assert cut == {("llama-7b", "prefix")}


def test_recipes_and_tables_have_the_same_methods() -> None:
    from peftcore_train.schema import jobs_of, read_recipe

    for table, name in ((1, "commonsense"), (2, "arithmetic")):
        for size, settings in (("llama-7b", ()), ("llama-13b", THIRTEEN)):
            jobs = jobs_of(read_recipe(EXAMPLES / f"{name}-llama.yaml", settings))
            rows = published.SCORES[table, size]
            assert [job.arm for job in jobs] == list(rows)
            for job in jobs:
                (method,) = job.recipe.methods
                assert method == published.method_of(job.arm, size)
                assert set(job.task.tests) == set(published.SETS[table])
