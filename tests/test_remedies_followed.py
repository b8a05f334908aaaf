"""What messages tell to do helps: each is made to appear, and followed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import peftcore
from peftcore import AttachError, ConfigError, TargetError, bare_class, installed
from peftcore.testing import perturb, run, same, tiny


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [
        ("lora", "rank", 100),
        ("lora", "rank", {"attention.*": 100, "default": 4}),
        ("oft", "block_size", 5),
    ],
)
def test_a_remedy_for_one_role_keeps_what_was_said_of_the_others(
    method: str, name: str, value: Any
) -> None:
    if method not in installed().methods:
        pytest.skip(f"{method} is not installed")
    _, model, _ = tiny("toy")
    targets = ["attention.query", "attention.value", "mlp.up"]
    for _ in targets:
        with pytest.raises(TargetError) as refused:
            peftcore.attach(model, method, targets=targets, **{name: value})
        value = json.loads(re.findall(r"\{.*\}", str(refused.value))[0])
        if isinstance(value, dict) and {"attention.query", "attention.value"} <= value.keys():
            break
    value = {**value, "mlp.up": 4}
    assert peftcore.attach(model, method, targets=targets, **{name: value}).placed


def test_a_module_that_lost_its_class_is_told_and_can_be_attached_anew() -> None:
    if "lora" not in installed().methods:
        pytest.skip("lora is not installed")
    _, model, batch = tiny("toy")
    adapter = peftcore.attach(model, "lora")
    module = adapter.placed[0].site.module
    module.__class__ = bare_class(module)
    with pytest.raises(AttachError, match=r"its class back\. Detach the adapter and att"):
        adapter.merge()
    adapter.detach()
    adapter = peftcore.attach(model, "lora")
    bare = run(model, batch)
    perturb(adapter)
    assert not same(run(model, batch), bare)
    adapter.merge()


def test_a_setting_without_its_section_is_answered_with_the_section(tmp_path: Path) -> None:
    read_recipe = pytest.importorskip("peftcore_train.schema").read_recipe
    recipe = tmp_path / "r.yaml"
    for given, wanted in (("epochs=3", "train.epochs=3"), ("max_length=8", "task.max_length=8")):
        with pytest.raises(ConfigError, match=rf"has no section .* Write {wanted}\."):
            read_recipe(recipe, [given])
