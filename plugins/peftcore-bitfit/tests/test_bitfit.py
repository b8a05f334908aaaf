"""Contract, groups of biases, missing biases, slices, published counts."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import peftcore
from peftcore import TargetError
from peftcore.testing import MethodContract, Toy
from peftcore_bitfit.method import AddedBias

BERT = {
    "query": ["attention.query"],
    "key": ["attention.key"],
    "value": ["attention.value"],
    "attention.output.dense": ["attention.output"],
    "attention.output.LayerNorm": ["path:**.attention.output.LayerNorm"],
    "intermediate.dense": ["mlp.up"],
    "output.dense": ["mlp.down"],
    "output.LayerNorm": ["path:**.layer.*.output.LayerNorm"],
    "embeddings.LayerNorm": ["path:embeddings.LayerNorm"],
    "pooler.dense": ["pooler"],
}


class TestBitFit(MethodContract):
    method = "bitfit"
    # families with members that have no bias at all
    on = {name: {"add_missing": True} for name in ("gemma", "llama", "mistral", "qwen", "t5")}


class TestAdded(MethodContract):
    method = "bitfit"
    config = {"targets": ["all-linear"], "add_missing": True}

    def pair(self) -> tuple[nn.Module, dict[str, Any]]:
        model, batch = super().pair()
        for module in [m for block in model.blocks for m in block.modules()]:
            if isinstance(module, nn.Linear):
                module.bias = None
        return model, batch


def bert(**sizes: int) -> nn.Module:
    from transformers import BertConfig, BertModel

    with torch.device("meta"):
        return BertModel(BertConfig(**sizes))


def chosen(model: nn.Module, targets: object = ("*",), **config: object) -> list[str]:
    plan = peftcore.plan(model, "bitfit", targets=targets, **config)
    return [s.info.name for s in plan.selected]


def without_bias(model: nn.Module, names: Sequence[str] = ("query", "up")) -> nn.Module:
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.Linear) and name in names:
                child.bias = None
    return model


def test_all_biases_but_the_heads_are_trained() -> None:
    model = Toy()
    expected = [n for n, _ in model.named_parameters() if n.endswith("bias") and n != "head.bias"]
    assert chosen(model) == expected
    attached = peftcore.attach(model, "bitfit")
    assert sum(p.numel() for p in attached.parameters()) == 2 * (6 * 16 + 16 + 32)


def test_bert_base_has_the_published_count() -> None:
    plan = peftcore.plan(bert(), "bitfit")
    assert plan.trainable == 102_912
    assert round(100 * plan.trainable / 108_311_810, 3) == 0.095


@pytest.mark.parametrize("group", BERT)
def test_the_papers_groups_can_be_chosen_alone(group: str) -> None:
    pytest.importorskip("peftcore_text")
    names = chosen(bert(num_hidden_layers=3), BERT[group])
    once = group.startswith(("embeddings", "pooler"))
    assert len(names) == (1 if once else 3)
    assert all(name.endswith(f"{group}.bias") for name in names)


def test_the_groups_together_are_all() -> None:
    pytest.importorskip("peftcore_text")
    model = bert(num_hidden_layers=3)
    assert chosen(model, [role for roles in BERT.values() for role in roles]) == chosen(model)


def test_blocks_can_be_chosen() -> None:
    names = chosen(Toy(), {"roles": ["*"], "layers": "last 1", "exclude": ["norm"]})
    assert len(names) == 6
    assert all(name.startswith("blocks.1.") and "norm" not in name for name in names)


def test_layers_without_a_bias_are_skipped_or_get_one() -> None:
    model = without_bias(Toy())
    skipped = peftcore.plan(model, "bitfit")
    added = peftcore.plan(model, "bitfit", add_missing=True)
    assert not skipped.placed
    assert [p.site.role for p in added.placed] == ["attention.query", "mlp.up"] * 2
    assert added.trainable == skipped.trainable + 2 * (16 + 32)


def test_a_target_without_a_bias_is_an_error_that_says_what_to_write() -> None:
    model = without_bias(Toy())
    with pytest.raises(TargetError, match=r"'mlp.up' chooses no bias .* add_missing: true"):
        peftcore.plan(model, "bitfit", targets=["attention.key", "mlp.up"])
    with pytest.raises(TargetError, match=r"'embeddings' chooses no bias .* Only linear layers"):
        peftcore.plan(model, "bitfit", targets=["embeddings"], add_missing=True)
    with pytest.raises(TargetError, match=r"Did you mean mlp.up"):
        peftcore.plan(model, "bitfit", targets=["mpl.up"])


def test_a_second_adapter_starts_from_the_base() -> None:
    model = Toy()
    bias = model.blocks[0].up.bias
    for parameter in peftcore.attach(model, "bitfit", name="a").parameters():
        nn.init.normal_(parameter)
    peftcore.attach(model, "bitfit", name="b")
    assert torch.equal(model.blocks[0].up.bias, bias)
    peftcore.activate(model)
    assert model.blocks[0].up.bias is bias


def test_the_composed_counts_are_the_sum() -> None:
    pytest.importorskip("peftcore_lora")
    both = peftcore.plan(Toy(), ["bitfit", {"method": "lora", "rank": 4}])
    alone = [peftcore.plan(Toy(), name, **c) for name, c in (("bitfit", {}), ("lora", {"rank": 4}))]
    assert both.trainable == sum(plan.trainable for plan in alone)


def test_added_biases_merge_into_layers_that_had_none() -> None:
    model = without_bias(Toy()).eval()
    batch = {"input_ids": torch.randint(0, 24, (2, 5)), "attention_mask": torch.ones(2, 5)}
    adapter = peftcore.attach(model, "bitfit", targets=["mlp.up"], add_missing=True)
    for parameter in adapter.parameters():
        nn.init.normal_(parameter)
    tuned = model(**batch).logits
    adapter.merge()
    torch.testing.assert_close(model(**batch).logits, tuned)
    adapter.unmerge()
    adapter.detach()
    assert model.blocks[0].up.bias is None


def test_an_added_bias_is_the_same_for_every_position() -> None:
    piece, x = AddedBias(4), torch.randn(2, 5, 3)
    nn.init.normal_(piece.bias)
    assert torch.equal(piece(x), piece.bias.expand(2, 5, 4))
    rows = AddedBias.batched([piece], torch.tensor([-1, 0]))(x)
    assert torch.equal(rows, torch.stack([torch.zeros(5, 4), piece(x)[0]]))


class Fused(peftcore.Backbone):
    """Two layers that hold queries, keys and values together."""

    roles = {"block": "*", "attention.qkv": "*.qkv"}

    def width(self, model: nn.Module, path: str, module: nn.Module) -> int:
        return 4

    def slices(self, path: str, role: str, layer: peftcore.LayerInfo) -> dict:
        parts = ("attention.query", "attention.key", "attention.value")
        if role != "attention.qkv":
            return {}
        return {part: (4 * i, 4 * i + 4) for i, part in enumerate(parts)}


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    monkeypatch.setattr("peftcore.adapter.plan.backbone_of", lambda model: Fused())

    class Block(nn.Module):
        def __init__(self, bias: bool) -> None:
            super().__init__()
            self.qkv = nn.Linear(4, 12, bias=bias)

        def forward(self, x: Tensor) -> Tensor:
            return self.qkv(x)[..., :4]

    return nn.Sequential(Block(True), Block(True))


def test_a_fused_bias_is_trained_whole_or_by_its_slices(fused: nn.Module) -> None:
    whole = peftcore.plan(fused, "bitfit")
    assert (whole.trainable, len(whole.placed)) == (24, 0)
    part = peftcore.plan(fused, "bitfit", targets=["attention.query"])
    assert (part.trainable, len(part.selected)) == (8, 0)
    both = peftcore.plan(fused, "bitfit", targets=["attention.query", "attention.qkv"])
    assert (both.trainable, len(both.placed)) == (24, 0)


def test_a_slice_of_a_missing_bias_is_an_error_or_added(fused: nn.Module) -> None:
    for block in fused:
        block.qkv.bias = None
    with pytest.raises(TargetError, match=r"'attention.value' chooses no bias .* add_missing"):
        peftcore.plan(fused, "bitfit", targets=["attention.value"])
    part = peftcore.plan(fused, "bitfit", targets=["attention.value"], add_missing=True)
    assert [(p.site.features, p.piece.bias.numel()) for p in part.placed] == [((8, 12), 4)] * 2
    assert len(peftcore.plan(fused, "bitfit", add_missing=True).placed) == 2


def test_the_fused_bias_of_torch_attention_is_one_parameter() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    assert len(chosen(model, ["attention.qkv"])) == 2
    assert all(name.endswith("in_proj_bias") for name in chosen(model, ["attention.qkv"]))
    assert len(chosen(model)) == 2 * 6
    with pytest.raises(TargetError, match=r"attention.query at layers.0.self_attn .*attention.qkv"):
        peftcore.plan(model, "bitfit", targets=["attention.query"])
    torch.manual_seed(0)
    adapter = peftcore.attach(model, "bitfit")
    model(torch.randn(3, 2, 8)).square().sum().backward()
    adapter.check_alive()
