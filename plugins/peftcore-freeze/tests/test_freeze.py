"""Contract, exactly which names train, counts, what is refused."""

import pytest
import torch
from torch import nn

import peftcore
from peftcore import ConfigError, TargetError, installed
from peftcore.testing import MethodContract, Toy

needs_bert = pytest.mark.skipif(
    "bert" not in installed().backbones, reason="no backbone plugin for BERT is installed"
)


class TestFreeze(MethodContract):
    method = "freeze"


class TestFull(MethodContract):
    method = "full"
    # where everything trains already, another method that selects parameters has nothing to do
    config = {"targets": {"roles": ["*"], "exclude": ["norm"]}}


class TestNormTuning(MethodContract):
    method = "norm_tuning"


class TestAttentionTuning(MethodContract):
    method = "attention_tuning"
    config = {"also": ["norm"]}


def names(model: nn.Module, wanted) -> list[str]:
    return [name for name, _ in model.named_parameters() if wanted(name)]


def trained(model: nn.Module, method: str = "freeze", **config) -> list[str]:
    return [s.info.name for s in peftcore.plan(model, method, **config).selected]


def backbone_without_norms(name: str) -> bool:
    return "norm" not in name and "head" not in name


CASES = [
    ("freeze", {}, lambda n: n.startswith("blocks.1.")),
    ("freeze", {"targets": {"roles": ["block"], "layers": [0]}}, lambda n: "blocks.0." in n),
    ("freeze", {"targets": {"roles": ["block"], "layers": "last 2"}}, lambda n: "blocks" in n),
    (
        "freeze",
        {"targets": {"roles": ["block"], "layers": "first 1", "exclude": ["attention"]}},
        lambda n: "blocks.0." in n and "attention" not in n,
    ),
    (
        "freeze",
        {"targets": {"roles": ["block"], "exclude": ["norm"]}, "also": ["embeddings"]},
        backbone_without_norms,
    ),
    ("freeze", {"also": ["norm"]}, lambda n: "blocks.1." in n or "norm" in n),
    ("freeze", {"targets": ["embeddings"]}, lambda n: n == "embeddings.weight"),
    ("freeze", {"targets": ["path:blocks.*.up"]}, lambda n: ".up." in n),
    ("freeze", {"targets": ["attention"]}, lambda n: "attention" in n),
    ("full", {}, lambda n: "head" not in n),
    ("full", {"targets": {"roles": ["*"], "exclude": ["norm"]}}, backbone_without_norms),
    ("norm_tuning", {}, lambda n: "norm" in n),
    ("attention_tuning", {}, lambda n: "attention" in n),
]  # fmt: skip


@pytest.mark.parametrize(("method", "config", "wanted"), CASES)
def test_exactly_the_chosen_parameters_train(method: str, config: dict, wanted) -> None:
    model = Toy()
    expected = names(model, wanted)
    assert expected and trained(model, method, **config) == expected
    adapter = peftcore.attach(model, method, **config)
    assert names_with_gradient(model) == expected
    adapter.detach()
    assert all(p.requires_grad for p in model.parameters())


def names_with_gradient(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if p.requires_grad]


def test_the_head_trains_beside_and_is_counted_apart() -> None:
    plan = peftcore.plan(Toy(), "full", modules_to_save=["head"])
    assert plan.head == 3 * 16 + 3
    assert plan.trainable + plan.head == plan.base
    model = Toy()
    peftcore.attach(model, [], modules_to_save=["head"])
    assert names_with_gradient(model) == ["head.weight", "head.bias"]


def test_two_adapters_keep_values_of_their_own() -> None:
    model = Toy()
    base = model.blocks[1].up.weight
    for name, step in (("a", 1.0), ("b", 2.0)):
        adapter = peftcore.attach(model, "freeze", name=name)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(step)
    peftcore.activate(model, "a")
    torch.testing.assert_close(model.blocks[1].up.weight, base + 1)
    peftcore.activate(model, "b")
    torch.testing.assert_close(model.blocks[1].up.weight, base + 2)
    peftcore.detach(model)
    assert model.blocks[1].up.weight is base


@needs_bert
@pytest.mark.parametrize(
    ("method", "config", "count"),
    [
        ("norm_tuning", {}, 38_400),
        ("attention_tuning", {}, 28_348_416),
        ("freeze", {}, 7_087_872),
        ("freeze", {"targets": {"roles": ["norm"], "layers": "0-11"}}, 36_864),
        ("freeze", {"targets": {"roles": ["block"], "layers": "0-11"}}, 85_054_464),
        ("freeze", {"targets": ["attention.*"]}, 28_348_416),
    ],
)
def test_bert_base_has_the_counts_of_its_shape(method: str, config: dict, count: int) -> None:
    from peftcore import build_on_meta

    model = build_on_meta("bert-base-cased", head="none")
    assert peftcore.plan(model, method, **config).trainable == count


@needs_bert
def test_full_is_every_parameter_of_the_base() -> None:
    from peftcore import build_on_meta

    plan = peftcore.plan(build_on_meta("bert-base-cased", head="none"), "full")
    assert plan.trainable == plan.base
    assert plan.percent("of_base") == 100


def test_models_that_no_plugin_knows_are_frozen_too() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    assert trained(model) == names(model, lambda n: n.startswith("layers.1."))
    expected = names(model, lambda n: "self_attn" in n)
    assert trained(model, "attention_tuning") == expected
    with pytest.raises(TargetError, match="slice of one fused parameter"):
        trained(model, "attention_tuning", targets=["attention.query"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"targets": {"roles": ["block"], "layers": [2]}}, r"names block 2, but the model has 2"),
        ({"targets": {"roles": ["block"], "layers": "last 3"}}, "names block -1"),
        ({"targets": ["head"]}, "the head trains through modules_to_save"),
        ({"also": ["head"]}, "the head trains through modules_to_save"),
        ({"targets": ["path:head"]}, "has nothing to train"),
        ({"targets": ["blocks"]}, "Did you mean block"),
        ({"layers": 2}, "layers is not a field of freeze"),
    ],
)
def test_bad_input_is_refused_before_anything_changes(config: dict, message: str) -> None:
    model = Toy()
    with pytest.raises(ConfigError, match=message):
        peftcore.attach(model, "freeze", **config)
    assert all(p.requires_grad for p in model.parameters())
    assert "_peftcore" not in model.__dict__
