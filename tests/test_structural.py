"""Models that no plugin knows: torch's own encoder with its fused projections and fast path."""

import pytest
import torch
from torch import nn

import peftcore
from peftcore.errors import AttachError
from peftcore.testing.matrix import perturb

PROJECTIONS = ["attention.query", "attention.value", "attention.output", "linear"]


def encoder() -> tuple[nn.TransformerEncoder, torch.Tensor]:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    return nn.TransformerEncoder(layer, 3).eval(), torch.randn(4, 7, 16)


def test_the_fallback_finds_blocks_and_slices_of_the_fused_projection() -> None:
    model, _ = encoder()
    plan = peftcore.plan(model, "probe", targets=["attention.qkv"])
    assert plan.backbone.name == "structural" and len(plan.placed) == 3
    assert plan.placed[0].site.name == "layers.0.self_attn[attention.qkv]"
    assert [p.site.block for p in plan.placed] == [0, 1, 2]


@pytest.mark.parametrize("role", PROJECTIONS)
def test_lora_trains_every_projection_and_both_paths_agree(role: str) -> None:
    pytest.importorskip("peftcore_lora")
    model, x = encoder()
    bare = model(x)
    adapter = peftcore.attach(model, "lora", rank=2, targets=[role])
    model.train()
    optimiser = torch.optim.Adam(adapter.parameters(), 1e-2)
    losses = []
    for layer in model.layers:
        layer.dropout.p = layer.dropout1.p = layer.dropout2.p = layer.self_attn.dropout = 0.0
    for _ in range(5):
        loss = model(x).pow(4).mean()
        optimiser.zero_grad()
        loss.backward()
        adapter.check_alive()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    slow = model(x)
    model.eval()
    with torch.no_grad():
        fast = model(x)  # torch's fused path, which reads the weights
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(fast, bare)
    adapter.merge()
    with torch.no_grad():
        torch.testing.assert_close(model(x), fast, atol=1e-5, rtol=1e-5)
    adapter.detach()
    torch.testing.assert_close(model(x), bare, atol=0, rtol=0)


def test_a_piece_that_would_be_dead_is_refused() -> None:
    pytest.importorskip("peftcore_bitfit")
    model, x = encoder()
    before = model(x)
    for layer in model.layers:
        layer.self_attn.out_proj.bias = None
    with pytest.raises(AttachError, match="the model reads the weight there and never calls"):
        peftcore.attach(model, "bitfit", add_missing=True)
    assert not peftcore.adapters(model)
    del before


def test_rows_cannot_differ_where_a_weight_is_read() -> None:
    model, _ = encoder()
    perturb(peftcore.attach(model, "probe", targets=["attention.qkv"], name="a"))
    with (
        pytest.raises(AttachError, match="reads the weight of"),
        peftcore.route(model, ["a", None, "a", None]),
    ):
        pass


def test_blocks_can_be_edited_without_a_plugin() -> None:
    pytest.importorskip("peftcore_loreft")
    model, x = encoder()
    bare = model(x)
    adapter = peftcore.attach(model, "loreft", rank=2, positions="all")
    assert adapter.plan.trainable == 3 * (2 * 2 * 16 + 2)
    assert not torch.allclose(model(x), bare)
    model(x).pow(2).mean().backward()
    adapter.check_alive()
