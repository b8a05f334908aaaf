"""The formula, Hugging Face PEFT's numbers, counts, mistakes."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

import peftcore
from peftcore import ConfigError, TargetError, installed
from peftcore.testing import Toy


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


@pytest.mark.parametrize("make", [bert, llama])
def test_outputs_and_gradients_equal_those_of_peft(make: Any) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model, leaves = make()
    model.eval()
    config = peft.FourierFTConfig(
        n_frequency=20, scaling=30.0, random_loc_seed=5, init_weights=True, target_modules=leaves
    )
    theirs = peft.get_peft_model(copy.deepcopy(model), config)
    targets = [f"path:**.{leaf}" for leaf in leaves]
    ours = peftcore.attach(
        model, "fourierft", n_frequency=20, scaling=30, random_loc_seed=5, targets=targets
    )
    assert sum(p.numel() for p in ours.parameters()) == theirs.get_nb_trainable_parameters()[0]
    pairs = []
    for item in ours.placed:
        layer: Any = theirs.base_model.model.get_submodule(item.site.path)
        assert torch.equal(item.piece.frequencies.places, layer.indices["default"])
        pairs.append((item.piece.fourierft_spectrum, layer.fourierft_spectrum["default"]))
    with torch.no_grad():
        for a, b in pairs:
            assert not a.any() and not b.any()
            b.copy_(nn.init.normal_(a))
    ids = torch.randint(1, 32, (2, 7))
    outs = [each(input_ids=ids)[0] for each in (model, theirs)]
    for out in outs:
        out.square().mean().backward()
    torch.testing.assert_close(*outs, atol=1e-5, rtol=1e-5)
    for a, b in pairs:
        assert a.grad.any()
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-5)


def test_the_update_is_a_sum_of_waves() -> None:
    model, x = nn.Sequential(nn.Linear(5, 6)), torch.randn(2, 3, 5)
    adapter = peftcore.attach(model, "fourierft", n_frequency=7, scaling=9, targets=["linear"])
    piece: Any = adapter.placed[0].piece
    values = nn.init.normal_(piece.fourierft_spectrum)
    o, i = torch.meshgrid(torch.arange(6), torch.arange(5), indexing="ij")
    expected = torch.zeros(6, 5)
    for value, u, v in zip(values, *piece.frequencies.places, strict=True):
        expected += value * torch.cos(2 * math.pi * (u * o / 6 + v * i / 5)) * 9 / 30
    torch.testing.assert_close(piece.weight_delta(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(piece(x), F.linear(x, expected), atol=1e-5, rtol=1e-5)


def test_the_seed_alone_decides_and_no_place_is_stored(tmp_path: Path) -> None:
    def places(seed: int, weights: int) -> torch.Tensor:
        torch.manual_seed(weights)
        model = nn.Sequential(nn.Linear(5, 6))
        adapter = peftcore.attach(
            model, "fourierft", n_frequency=7, random_loc_seed=seed, targets=["linear"]
        )
        adapter.save(tmp_path / "a")
        assert list(peftcore.inspect(tmp_path / "a")["tensors"].values()) == [[7]]
        return adapter.placed[0].piece.frequencies.places

    assert torch.equal(places(1, 0), places(1, 1))
    assert not torch.equal(places(1, 0), places(2, 0))


def test_layers_of_a_size_share_their_frequencies() -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 5), nn.Linear(5, 6))
    peftcore.attach(model, "fourierft", n_frequency=7, targets=["linear"])
    first, second, third = (p.piece.frequencies for p in peftcore.adapters(model)["default"].placed)
    assert first is third and first is not second
    twin = copy.deepcopy(model)
    mine = [p.piece.frequencies for p in peftcore.adapters(twin)["default"].placed]
    assert mine[0] is mine[2] and mine[0] is not first
    plan = peftcore.plan(
        nn.Sequential(nn.Linear(5, 6)), "fourierft", targets=["linear"], n_frequency=7
    )
    assert plan.placed[0].piece.frequencies.places.is_meta


def test_llama_7b_has_n_a_layer() -> None:
    known = {c for spec in installed().backbones.values() for c in spec.configs}
    if "llama-7b" not in known:
        pytest.skip("no installed backbone has llama-7b")
    model = peftcore.build_on_meta("llama-7b", head="causal-lm")
    assert peftcore.plan(model, "fourierft", n_frequency=1000).trainable == 64_000


def test_what_cannot_be_done_is_one_clear_error() -> None:
    with pytest.raises(TargetError, match=r"257 is above .* has 256 values. .*: 256 or less"):
        peftcore.plan(Toy(), "fourierft", n_frequency=257)
    with pytest.raises(TargetError, match="of kind norm; fourierft acts on linear layers"):
        peftcore.plan(Toy(), "fourierft", targets=["norm"])
    for wrong in ({"n_frequency": 0}, {"scaling": 0}, {"random_loc_seed": -1}):
        with pytest.raises(ConfigError):
            peftcore.plan(Toy(), "fourierft", **wrong)
