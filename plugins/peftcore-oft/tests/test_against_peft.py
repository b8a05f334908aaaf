"""Outputs and gradients equal those of Hugging Face PEFT with the same weights."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

import peftcore
from peftcore_oft.rotations import butterfly

peft = pytest.importorskip("peft")


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


def oft(layer: Any) -> dict[str, Tensor]:
    return {"oft_R": layer.oft_R["default"].weight}


def boft(layer: Any) -> dict[str, Tensor]:
    return {"boft_R": layer.boft_R["default"], "boft_s": layer.boft_s["default"]}


def hra(layer: Any) -> dict[str, Tensor]:
    return {"hra_u": layer.hra_u["default"]}


_EXACT = {"use_cayley_neumann": False}
_OFT = {"oft_block_size": 4}
CASES: dict[str, Any] = {
    "oft": (oft, "OFTConfig", {**_OFT, **_EXACT}, {"block_size": 4}),
    "oft shared": (
        oft,
        "OFTConfig",
        {**_OFT, **_EXACT, "block_share": True},
        {"block_size": 4, "block_share": True},
    ),
    "oft series": (oft, "OFTConfig", _OFT, {"block_size": 4, "use_cayley_neumann": True}),
    "oft longer series": (
        oft,
        "OFTConfig",
        {**_OFT, "num_cayley_neumann_terms": 7},
        {"block_size": 4, "use_cayley_neumann": True, "num_cayley_neumann_terms": 7},
    ),
    "coft": (
        oft,
        "OFTConfig",
        {**_OFT, **_EXACT, "coft": True, "eps": 0.3},
        {"block_size": 4, "coft": True, "eps": 0.3},
    ),
    "boft": (boft, "BOFTConfig", {"boft_block_size": 4}, {"block_size": 4}),
    "hra": (hra, "HRAConfig", {"r": 4}, {"rank": 4}),
}


@pytest.mark.parametrize("make", [bert, llama])
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_equal(make: Any, case: str) -> None:
    tensors, config, settings, own = CASES[case]
    torch.manual_seed(0)
    model, leaves = make()
    model.eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, 1.0, 0.2)  # the biases of a new model are zero
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tries to compile an extension
        made = getattr(peft, config)(target_modules=leaves, **settings)
        theirs = peft.get_peft_model(copy.deepcopy(model), made)
    targets = [f"path:**.{leaf}" for leaf in leaves]
    ours = peftcore.attach(model, case.split()[0].replace("coft", "oft"), targets=targets, **own)
    assert sum(p.numel() for p in ours.parameters()) == theirs.get_nb_trainable_parameters()[0]
    pairs = []
    for item in ours.placed:
        found = tensors(theirs.base_model.model.get_submodule(item.site.path))
        assert found.keys() == dict(item.piece.named_parameters()).keys()
        pairs += [(getattr(item.piece, name), b) for name, b in found.items()]
    with torch.no_grad():
        for a, b in pairs:
            a.add_(0.3 * torch.randn_like(a))
            b.copy_(a.view_as(b))
    ids = torch.randint(1, 32, (2, 7))
    outs = [each(input_ids=ids)[0] for each in (model, theirs)]
    for out in outs:
        out.square().mean().backward()
    torch.testing.assert_close(*outs, atol=1e-5, rtol=1e-5)
    for a, b in pairs:
        assert a.grad.any()
        torch.testing.assert_close(a.grad, b.grad.view_as(a), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("width, block, factors", [(16, 4, 2), (32, 4, 4), (24, 6, 2), (40, 2, 3)])
def test_the_butterfly_order_is_theirs(width: int, block: int, factors: int) -> None:
    from peft.tuners.boft.layer import BOFTLayer

    for level in range(factors):
        blocks = width // block // 2**level
        expected = BOFTLayer.block_butterfly_perm(None, width, blocks, block // 2, factors - 1)
        found = butterfly(width, block, level)
        assert found.tolist() == expected.tolist()
