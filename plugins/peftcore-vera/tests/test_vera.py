"""The formula, Hugging Face PEFT's numbers, what is shared, counts, mistakes."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

import peftcore
from peftcore import ConfigError, TargetError, installed
from peftcore.testing import Toy


def bert() -> tuple[nn.Module, dict[str, Tensor]]:
    config = BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=16,
    )  # fmt: skip
    return BertModel(config), {"input_ids": torch.randint(1, 32, (2, 7))}


def llama() -> tuple[nn.Module, dict[str, Tensor]]:
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=24, max_position_embeddings=16,
    )  # fmt: skip
    return LlamaForCausalLM(config), {"input_ids": torch.randint(0, 32, (2, 7))}


@pytest.mark.parametrize(
    "make, leaves",
    [(bert, ["query", "intermediate.dense"]), (llama, ["q_proj", "v_proj", "down_proj"])],
)
def test_outputs_and_gradients_equal_those_of_peft(make: Any, leaves: list[str]) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model, batch = make()
    model.eval()
    config = peft.VeraConfig(r=6, target_modules=leaves, d_initial=0.2)
    theirs = peft.get_peft_model(copy.deepcopy(model), config)
    targets = [f"path:**.{leaf}" for leaf in leaves]
    ours = peftcore.attach(model, "vera", rank=6, targets=targets, d_initial=0.2)
    assert sum(p.numel() for p in ours.parameters()) == theirs.get_nb_trainable_parameters()[0]
    pairs = []
    for item in ours.placed:
        piece: Any = item.piece
        layer: Any = theirs.base_model.model.get_submodule(item.site.path)
        shape = item.site.layer
        big = layer.vera_A["default"], layer.vera_B["default"]
        piece.vera_A.matrix = big[0][:, : shape.in_features]
        piece.vera_B.matrix = big[1][: shape.out_features]
        pairs.append((piece.vera_lambda_b, layer.vera_lambda_b["default"]))
        pairs.append((piece.vera_lambda_d, layer.vera_lambda_d["default"]))
    with torch.no_grad():
        for a, b in pairs:
            torch.testing.assert_close(a, b)
            a.add_(0.3 * torch.randn_like(a))
            b.copy_(a)
    outs = [each(**batch)[0] for each in (model, theirs)]
    for out in outs:
        out.square().mean().backward()
    torch.testing.assert_close(*outs, atol=1e-5, rtol=1e-5)
    for a, b in pairs:
        assert a.grad.any()
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-5)


def attached(**config: Any) -> tuple[nn.Module, peftcore.Adapter]:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 10), nn.Linear(10, 6))
    return model, peftcore.attach(model, "vera", targets=["linear"], **{"rank": 4, **config})


def test_output_is_the_formula() -> None:
    _, adapter = attached()
    piece: Any = adapter.placed[1].piece
    nn.init.normal_(piece.vera_lambda_b)
    nn.init.normal_(piece.vera_lambda_d)
    a, b = piece.vera_A.matrix, piece.vera_B.matrix
    x = torch.randn(3, 6)
    change = piece.vera_lambda_b.diag() @ b @ piece.vera_lambda_d.diag() @ a
    torch.testing.assert_close(piece(x), x @ change.T)
    torch.testing.assert_close(piece.weight_delta(), change)
    assert a.abs().max() <= (6 / 6) ** 0.5 and b.abs().max() <= (6 / 4) ** 0.5


def drawn(adapter: peftcore.Adapter) -> list[Tensor]:
    return [m.matrix for p in adapter.placed for m in (p.piece.vera_A, p.piece.vera_B)]


def test_layers_of_a_size_share_their_matrices_whatever_is_done() -> None:
    model, adapter = attached()

    def shared(adapter: peftcore.Adapter) -> None:
        a1, b1, a2, _b2, a3, b3 = drawn(adapter)
        assert a1 is a2 and b1 is b3 and a1.shape != a3.shape

    shared(adapter)
    model.to(torch.float64)
    shared(adapter)
    assert {t.dtype for t in drawn(adapter)} == {torch.float64}
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        shared(peftcore.adapters(twin)["default"])


def test_the_seed_alone_decides_and_nothing_is_stored(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = drawn(attached()[1])
    torch.manual_seed(2)
    _, adapter = attached()
    assert all(torch.equal(a, b) for a, b in zip(first, drawn(adapter), strict=True))
    other = drawn(attached(projection_seed=1)[1])
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0].T / first[0].abs().max(), first[1] / first[1].abs().max())
    adapter.save(tmp_path / "a")
    names = {name.rpartition(".")[2] for name in peftcore.inspect(tmp_path / "a")["tensors"]}
    assert names == {"vera_lambda_b", "vera_lambda_d"}


def test_llama_7b_has_rank_and_width_a_layer() -> None:
    known = {c for spec in installed().backbones.values() for c in spec.configs}
    if "llama-7b" not in known:
        pytest.skip("no installed backbone has llama-7b")
    plan = peftcore.plan(peftcore.build_on_meta("llama-7b", head="causal-lm"), "vera")
    assert plan.trainable == 64 * (256 + 4096) == 278_528


def test_what_cannot_be_done_is_one_clear_error() -> None:
    with pytest.raises(TargetError, match="is of kind embedding; vera acts on linear layers"):
        peftcore.plan(Toy(), "vera", targets=["embeddings"])
    with pytest.raises(TargetError, match="reads the weight there and never calls"):
        peftcore.plan(nn.Sequential(nn.MultiheadAttention(8, 2)), "vera", dropout=0.1)
    for wrong in ({"rank": 0}, {"dropout": 1.0}, {"d_initial": 0}, {"projection_seed": -1}):
        with pytest.raises(ConfigError):
            peftcore.plan(Toy(), "vera", **wrong)
