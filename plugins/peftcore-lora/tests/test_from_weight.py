"""PiSSA and OLoRA: starts, equality with Hugging Face PEFT, groups, routing, storing."""

import copy
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import BertConfig, BertModel

import peftcore
from peftcore import ConfigError, TargetError
from peftcore.testing import FakeQuantLinear, MethodContract, Toy
from peftcore_lora.pieces import LowRank

STARTS = ["pissa", "pissa_niter_8", "olora"]


class TestPissa(MethodContract):
    method = "lora"
    config = {"init": "pissa", "rank": 4, "alpha": 2}


class TestOlora(MethodContract):
    method = "lora"
    config = {"init": "olora", "rank": 4, "dropout": 0.2, "targets": ["all-linear"]}
    # WavLM reads weights directly, and CNNs have no linear layers besides the head
    on = {"wavlm": {"dropout": 0}, "timm-cnn": {"targets": ["conv"]}}


def attached(model: nn.Module, **config: Any) -> peftcore.Adapter:
    return peftcore.attach(model, "lora", **{"rank": 3, "targets": ["path:0"], **config})


def moved(adapter: peftcore.Adapter) -> peftcore.Adapter:
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return adapter


CONVOLUTIONS = [
    nn.Conv1d(4, 6, 3, stride=2, padding=1),
    nn.Conv2d(4, 6, (3, 2), padding="same", padding_mode="reflect"),
    nn.Conv2d(6, 9, 3, groups=3),
    nn.Conv3d(3, 6, (2, 1, 3), bias=False),
]


@pytest.mark.parametrize("init", STARTS)
@pytest.mark.parametrize("layer", [nn.Linear(8, 12), nn.Linear(12, 8), *CONVOLUTIONS], ids=str)
def test_it_starts_exactly_as_the_base_from_a_part_of_the_weight(
    layer: nn.Module, init: str
) -> None:
    model = nn.Sequential(copy.deepcopy(layer)).double()
    model[0].reset_parameters()  # seeded by now
    wide = layer.weight.shape[1] * getattr(layer, "groups", 1)
    x = torch.randn((2, wide, 9, 8, 7)[: max(2, layer.weight.dim())], dtype=torch.double)
    bare, weight = model(x), model[0].weight.detach().clone()
    piece = attached(model, init=init, alpha=6).placed[0].piece
    assert torch.equal(model(x), bare)
    assert torch.equal(model[0].weight, weight)
    assert not piece.weight_delta().any()
    groups = getattr(layer, "groups", 1)
    each = weight.reshape(groups, len(weight) // groups, -1)
    down, up = (t.reshape(groups, len(t) // groups, -1) for t in (piece.lora_A, piece.lora_B))
    part, r = 2.0 * up @ down, 3 // groups
    if init == "olora":
        Q, R = torch.linalg.qr(each)
        expected = 2.0 * Q[..., :r] @ R[:, :r]
    else:
        U, sigma, Vh = torch.linalg.svd(each, full_matrices=False)
        expected = U[..., :r] * sigma[:, None, :r] @ Vh[:, :r]
        torch.testing.assert_close(up.norm(dim=1), down.norm(dim=2))  # shared evenly
    if "niter" in init:  # equally good, where no gap tells the values apart
        assert (each - part).norm() <= 1.2 * (each - expected).norm()
    else:
        torch.testing.assert_close(part, expected)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("layer", [nn.Linear(8, 12), *CONVOLUTIONS], ids=str)
def test_the_update_is_the_difference_of_two_products(layer: nn.Module, dropout: float) -> None:
    model = nn.Sequential(copy.deepcopy(layer)).double()
    model[0].reset_parameters()  # seeded by now
    wide = layer.weight.shape[1] * getattr(layer, "groups", 1)
    x = torch.randn((2, wide, 9, 8, 7)[: max(2, layer.weight.dim())], dtype=torch.double)
    adapter = moved(attached(model, init="pissa", alpha=6, dropout=dropout))
    piece = adapter.placed[0].piece
    twin = nn.Sequential(copy.deepcopy(layer)).double()
    plain = attached(twin, alpha=6, dropout=dropout).placed[0].piece
    start = copy.deepcopy(plain).eval()
    with torch.no_grad():
        for one, A, B in (
            (plain, piece.lora_A, piece.lora_B),
            (start, piece.lora_A0, piece.lora_B0),
        ):
            one.lora_A.copy_(A)
            one.lora_B.copy_(B)
    outs = []
    for each in (piece, plain):
        torch.manual_seed(5)
        outs.append(each.train()(x))
    torch.testing.assert_close(outs[0], outs[1] - start(x))
    torch.testing.assert_close(piece.eval()(x), plain.eval()(x) - start(x))
    torch.testing.assert_close(piece.weight_delta(), plain.weight_delta() - start.weight_delta())
    tuned = model.eval()(x)
    adapter.merge()
    torch.testing.assert_close(model(x), tuned)


@pytest.mark.parametrize("init", ["pissa", "olora"])
@pytest.mark.parametrize("use_rslora", [False, True])
def test_outputs_and_gradients_equal_those_of_peft(init: str, use_rslora: bool) -> None:
    peft = pytest.importorskip("peft")
    config = BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=16,
    )  # fmt: skip
    model, tokens = BertModel(config).eval(), torch.randint(1, 32, (2, 7))
    with torch.no_grad():
        for parameter in model.parameters():  # as far from each other as trained ones
            parameter.mul_(5) if parameter.dim() == 2 else None
    leaves, same = ["query", "dense"], {"lora_alpha": 5, "use_rslora": use_rslora}
    config = peft.LoraConfig(r=3, init_lora_weights=init, target_modules=leaves, **same)
    theirs = peft.get_peft_model(copy.deepcopy(model), config)
    targets = [f"path:**.{leaf}" for leaf in leaves]
    ours = peftcore.attach(
        model, "lora", rank=3, alpha=5, use_rslora=use_rslora, init=init, targets=targets
    )
    pairs = []
    for item in ours.placed:
        layer: Any = theirs.base_model.model.get_submodule(item.site.path)
        pairs.append((item.piece.lora_A, layer.lora_A["default"].weight))
        pairs.append((item.piece.lora_B, layer.lora_B["default"].weight))
    with torch.no_grad():
        for mine, other in pairs:
            torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)
            change = 0.1 * torch.randn_like(mine)
            mine.add_(change)
            other.add_(change)
    outs = [each(tokens)[0] + each(tokens)[1][:, None] for each in (model, theirs)]
    torch.testing.assert_close(*outs, atol=1e-5, rtol=1e-5)
    for out in outs:
        out.square().mean().backward()
    for mine, other in pairs:
        assert mine.grad.any()
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-5)


def test_the_start_is_stored_and_not_computed_again(tmp_path, monkeypatch) -> None:
    model = Toy().eval()
    ids = torch.randint(0, 24, (3, 5))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    adapter = moved(peftcore.attach(model, "lora", rank=2, init="pissa"))
    tuned = model(**batch).logits
    adapter.save(tmp_path / "a")
    stored = load_file(tmp_path / "a" / "adapter.safetensors")
    leaves = {name.rpartition(".")[2] for name in stored}
    assert leaves == {"lora_A", "lora_B", "lora_A0", "lora_B0"}
    assert adapter.plan.trainable == 4 * 2 * 32
    adapter.detach()
    monkeypatch.delattr(torch.linalg, "svd")
    peftcore.load(model, tmp_path / "a")
    torch.testing.assert_close(model(**batch).logits, tuned)


def test_on_a_bf16_copy_of_the_base_it_computes_the_same_within_its_rounding(tmp_path) -> None:
    model, x = nn.Sequential(nn.Linear(16, 16), nn.Conv1d(5, 6, 3)), torch.randn(4, 5, 16)
    low = copy.deepcopy(model).bfloat16()
    adapter = moved(attached(model, init="pissa", targets=["linear", "conv"]))
    tuned, bare = model(x), low(x.bfloat16()).float()
    adapter.save(tmp_path / "a")
    peftcore.load(low, tmp_path / "a", allow_other_base=True)
    off = (low(x.bfloat16()).float() - tuned).abs().max()
    assert off <= 0.02 * tuned.abs().max() < 0.1 * (bare - tuned).abs().max()


def test_the_default_start_keeps_nothing_more() -> None:
    (item, *_) = peftcore.attach(Toy(), "lora").placed
    assert type(item.piece) is LowRank
    assert set(item.piece.state_dict()) == {"lora_A", "lora_B"}


@pytest.mark.parametrize("inits", [("pissa", "olora"), ("default", "pissa"), ("olora", "default")])
def test_rows_of_one_batch_can_have_adapters_of_unlike_starts(inits: tuple[str, str]) -> None:
    model, x = nn.Sequential(nn.Linear(6, 6)), torch.randn(3, 2, 6)
    expected = [model(x)]
    for name, init in zip("ab", inits, strict=True):
        moved(attached(model, name=name, init=init))
        expected.append(model(x))
    with peftcore.route(model, ["b", "a", None]):
        mixed = model(x)
    torch.testing.assert_close(mixed, torch.stack([expected[2][0], expected[1][1], expected[0][2]]))


def test_batched_rows_are_the_single_pieces_and_train() -> None:
    pieces = [
        moved(attached(nn.Sequential(nn.Linear(6, 5)), init=init)).placed[0].piece
        for init in ("pissa", "olora")
    ]
    x, index = torch.randn(4, 3, 6), torch.tensor([1, -1, 0, 1])
    out = type(pieces[0]).batched(pieces, index)(x)
    for row, i in enumerate(index):
        expected = torch.zeros_like(out[row]) if i < 0 else pieces[i](x[row])
        torch.testing.assert_close(out[row], expected, atol=1e-5, rtol=1e-5)
    out.sum().backward()
    assert all(p.grad.any() for piece in pieces for p in piece.parameters())


def test_a_quantised_weight_is_decomposed_as_it_is_read() -> None:
    quantised = FakeQuantLinear(nn.Linear(8, 6))
    model, x = nn.Sequential(quantised), torch.randn(4, 8)
    bare = model(x)
    piece = attached(model, init="pissa", rank=6, targets=["linear"]).placed[0].piece
    assert torch.equal(model(x), bare)
    whole = piece.lora_B @ piece.lora_A
    torch.testing.assert_close(whole, quantised.dense(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("init", STARTS)
def test_slices_and_weights_that_the_model_reads_itself(init: str) -> None:
    model, x = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(2, 3, 8)
    bare = model(x, x, x)[0]
    roles = ["attention.value", "attention.output"]
    adapter = peftcore.attach(model, "lora", rank=3, init=init, targets=roles)
    assert torch.equal(model(x, x, x)[0], bare)
    moved(adapter)
    tuned = model(x, x, x)[0]
    assert not torch.allclose(tuned, bare)
    tuned.square().sum().backward()
    adapter.check_alive()


def test_a_large_model_is_planned_without_decomposing_it() -> None:
    with torch.device("meta"):
        model = nn.Sequential(*[nn.Linear(8192, 8192) for _ in range(20)])
    plan = peftcore.plan(model, "lora", init="pissa", targets=["linear"])
    assert plan.trainable == 20 * 2 * 8 * 8192


def test_low_precision_weights_are_decomposed_in_fp32() -> None:
    model = nn.Sequential(nn.Linear(8, 8)).bfloat16()
    x = torch.randn(3, 8, dtype=torch.bfloat16)
    bare = model(x)
    piece = attached(model, init="olora").placed[0].piece
    assert piece.lora_A.dtype == piece.lora_A0.dtype == torch.float32
    assert torch.equal(model(x), bare)


@pytest.mark.parametrize("init", ["pisa", "pissa_niter_", "pissa_niter_x", "PiSSA"])
def test_an_unknown_start_is_refused(init: str) -> None:
    with pytest.raises(ConfigError, match="init: "):
        peftcore.plan(Toy(), "lora", init=init)


def test_embeddings_and_too_large_ranks_are_refused() -> None:
    words = r'embeddings \(embeddings\): an embedding has no other start .* Write init: "default"'
    with pytest.raises(TargetError, match=words):
        peftcore.plan(Toy(), "lora", init="pissa", targets=["embeddings"])
    with pytest.raises(TargetError, match="rank 17 is above"):
        peftcore.plan(Toy(), "lora", init="olora", rank=17)


def test_the_start_can_be_given_per_role() -> None:
    init = {"embeddings": "default", "mlp.up": "olora", "default": "pissa"}
    targets = ["embeddings", "mlp.up", "mlp.down"]
    adapter = peftcore.attach(Toy(), "lora", rank=2, init=init, targets=targets)
    found = {i.site.role: getattr(i.piece, "init", "default") for i in adapter.placed}
    assert found == {"embeddings": "default", "mlp.up": "olora", "mlp.down": "pissa"}
