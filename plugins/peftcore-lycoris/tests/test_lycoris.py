"""The formulas, Hugging Face PEFT's numbers, counts, mistakes."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

import peftcore
from peftcore import ConfigError, TargetError, installed
from peftcore.testing import Toy
from peftcore_lycoris.pieces import Hadamard, split


def bert() -> tuple[nn.Module, list[str]]:
    config = BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=16,
    )  # fmt: skip
    return BertModel(config), ["query", "value", "intermediate.dense"]


def llama() -> tuple[nn.Module, list[str]]:
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=24, max_position_embeddings=16,
    )  # fmt: skip
    return LlamaForCausalLM(config), ["q_proj", "v_proj", "down_proj"]


CASES: dict[str, Any] = {
    "loha factored": ("LoHaConfig", 2, {}),
    "loha made": ("LoHaConfig", 4, {}),
    "lokr": ("LoKrConfig", 2, {}),
    "lokr low rank": ("LoKrConfig", 1, {}),
    "lokr both": ("LoKrConfig", 1, {"decompose_both": True}),
    "lokr narrow": ("LoKrConfig", 2, {"decompose_factor": 2}),
}


@pytest.mark.parametrize("make", [bert, llama])
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_equal_those_of_peft(make: Any, case: str) -> None:
    peft = pytest.importorskip("peft")
    name, rank, settings = CASES[case]
    torch.manual_seed(0)
    model, leaves = make()
    model.eval()
    config = getattr(peft, name)(r=rank, alpha=5, target_modules=leaves, **settings)
    theirs = peft.get_peft_model(copy.deepcopy(model), config)
    targets = [f"path:**.{leaf}" for leaf in leaves]
    method = case.split()[0]
    ours = peftcore.attach(model, method, rank=rank, alpha=5, targets=targets, **settings)
    assert sum(p.numel() for p in ours.parameters()) == theirs.get_nb_trainable_parameters()[0]
    pairs = []
    for item in ours.placed:
        layer: Any = theirs.base_model.model.get_submodule(item.site.path)
        for tensor, a in item.piece.named_parameters():
            pairs.append((a, getattr(layer, tensor)["default"]))
            assert bool(a.any()) == bool(pairs[-1][1].any()), "another tensor starts at zero"
    with torch.no_grad():
        for a, b in pairs:
            a.add_(0.5 * torch.randn_like(a))
            b.copy_(a)
    ids = torch.randint(1, 32, (2, 7))
    outs = [each(input_ids=ids)[0] for each in (model, theirs)]
    for out in outs:
        out.square().mean().backward()
    torch.testing.assert_close(*outs, atol=1e-5, rtol=1e-5)
    for a, b in pairs:
        assert a.grad.any()
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-5)


def piece_of(method: str, out: int, in_: int, **config: Any) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(in_, out))
    adapter = peftcore.attach(model, method, targets=["linear"], alpha=3, **config)
    for parameter in adapter.parameters():
        nn.init.normal_(parameter)
    return adapter.placed[0].piece


@pytest.mark.parametrize("rank", [2, 5])
def test_loha_is_the_papers_formula(rank: int) -> None:
    piece, x = piece_of("loha", 14, 12, rank=rank), torch.randn(2, 3, 12)
    first, second = piece.hada_w1_a @ piece.hada_w1_b, piece.hada_w2_a @ piece.hada_w2_b
    expected = 3 / rank * first * second
    torch.testing.assert_close(piece.weight_delta(), expected)
    torch.testing.assert_close(piece(x), F.linear(x, expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", [{"rank": 2}, {"rank": 1, "decompose_both": True}], ids=str)
def test_lokr_is_the_papers_formula(config: dict[str, Any]) -> None:
    piece, x = piece_of("lokr", 20, 54, **config), torch.randn(2, 3, 54)
    own = dict(piece.named_parameters())
    c = own["lokr_w1"] if "lokr_w1" in own else own["lokr_w1_a"] @ own["lokr_w1_b"]
    expected = 3 / config["rank"] * torch.kron(c, own["lokr_w2_a"] @ own["lokr_w2_b"])
    assert expected.shape == (20, 54)
    torch.testing.assert_close(piece.weight_delta(), expected)
    torch.testing.assert_close(piece(x), F.linear(x, expected), atol=1e-4, rtol=1e-4)


def test_nothing_of_the_size_of_the_weight_is_kept_for_backward() -> None:
    for method in ("loha", "lokr"):
        piece, x = piece_of(method, 64, 64, rank=2), torch.randn(3, 64)
        kept: list[Tensor] = []

        def pack(tensor: Tensor, kept: list[Tensor] = kept) -> Tensor:
            kept.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            piece(x)
        assert max(tensor.numel() for tensor in kept) < 64 * 64 / 4


def test_rank_dropout_drops_whole_outputs_and_keeps_the_mean() -> None:
    piece = piece_of("loha", 400, 12, rank=2, rank_dropout=0.25)
    x = torch.randn(5, 12)
    dropped, whole = piece.train()(x), piece.eval()(x)
    gone = (dropped == 0).all(0)
    assert 50 < gone.sum() < 150 and not (dropped[:, ~gone] == 0).any()
    torch.testing.assert_close(dropped[:, ~gone], whole[:, ~gone] * 400 / (~gone).sum())


@pytest.mark.parametrize("method", ["loha", "lokr"])
def test_dropout_acts_on_the_input_in_training_only(method: str) -> None:
    piece, x = piece_of(method, 20, 54, rank=2, dropout=0.5), torch.randn(5, 54)
    torch.manual_seed(3)
    dropped = piece.train()(x)
    torch.manual_seed(3)
    expected = F.linear(F.dropout(x, 0.5), piece.weight_delta())
    torch.testing.assert_close(dropped, expected, atol=1e-4, rtol=1e-4)
    expected = F.linear(x, piece.weight_delta())
    torch.testing.assert_close(piece.eval()(x), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("factor", [None, 1, 4, 7, 12, 64])
@pytest.mark.parametrize("size", [1, 2, 127, 128, 250, 768, 11008])
def test_sizes_are_split_as_in_peft(size: int, factor: int | None) -> None:
    pytest.importorskip("peft")
    from peft.tuners.lokr.layer import factorization

    assert split(size, factor) == factorization(size, factor or -1)


def test_low_rank_products_reach_a_higher_rank() -> None:
    assert torch.linalg.matrix_rank(piece_of("loha", 40, 40, rank=3).weight_delta()) == 9
    assert torch.linalg.matrix_rank(piece_of("lokr", 36, 36, rank=2).weight_delta()) == 12


@pytest.mark.parametrize(
    "method, count",
    [("loha", 64 * 2 * 8 * (4096 + 4096)), ("lokr", 64 * (64 * 64 + 8 * (64 + 64)))],
)
def test_llama_7b_has_the_closed_form(method: str, count: int) -> None:
    known = {c for spec in installed().backbones.values() for c in spec.configs}
    if "llama-7b" not in known:
        pytest.skip("no installed backbone has llama-7b")
    model = peftcore.build_on_meta("llama-7b", head="causal-lm")
    assert peftcore.plan(model, method).trainable == count


def test_what_cannot_be_done_is_one_clear_error() -> None:
    for method in ("loha", "lokr"):
        with pytest.raises(TargetError, match=r"rank 17 is above .*query.* rank: 16 or less"):
            peftcore.plan(Toy(), method, rank=17)
        with pytest.raises(TargetError, match=f"of kind norm; {method} acts on linear layers"):
            peftcore.plan(Toy(), method, targets=["norm"])
        attention = nn.Sequential(nn.MultiheadAttention(8, 2))
        for field in ("dropout", "rank_dropout"):
            words = (
                f"{field} 0.1 cannot act .* reads the weight there and never calls .* {field}: 0"
            )
            with pytest.raises(TargetError, match=words):
                peftcore.plan(attention, method, **{field: 0.1})
        for wrong in ({"rank": 0}, {"alpha": 0}, {"rank_dropout": 1.0}, {"dropout": 1.0}):
            with pytest.raises(ConfigError):
                peftcore.plan(Toy(), method, **wrong)
    with pytest.raises(ConfigError):
        peftcore.plan(Toy(), "lokr", decompose_factor=0)
    assert isinstance(peftcore.plan(Toy(), "loha").placed[0].piece, Hadamard)
