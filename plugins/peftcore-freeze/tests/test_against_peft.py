"""The same numbers as LN tuning of Hugging Face PEFT."""

import copy

import pytest
import torch

import peftcore
from peftcore import installed
from peftcore.testing import tiny

peft = pytest.importorskip("peft")


@pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")
@pytest.mark.parametrize(
    ("family", "leaves"),
    [
        ("bert", ["LayerNorm"]),
        ("llama", ["input_layernorm", "post_attention_layernorm", "norm"]),
    ],
)
def test_norm_tuning_equals_ln_tuning(family: str, leaves: list[str]) -> None:
    if family not in installed().backbones:
        pytest.skip(f"no backbone plugin for {family}")
    _, model, batch = tiny(family)
    theirs = peft.get_peft_model(copy.deepcopy(model), peft.LNTuningConfig(target_modules=leaves))
    ours = peftcore.attach(model, "norm_tuning")
    pairs = []
    for swap in ours.swaps:
        path, _, leaf = swap.selected.info.name.rpartition(".")
        layer = theirs.base_model.model.get_submodule(path)
        pairs.append((swap.own, getattr(layer.ln_tuning_layers["default"], leaf)))
    assert sum(p.numel() for p in ours.parameters()) == theirs.get_nb_trainable_parameters()[0]
    with torch.no_grad():
        for a, b in pairs:
            a.add_(0.1 * torch.randn_like(a))
            b.copy_(a)
    outs = [each(**batch).last_hidden_state for each in (model, theirs)]
    torch.testing.assert_close(*outs, atol=1e-5, rtol=1e-5)
    for out in outs:
        out.square().mean().backward()
    for a, b in pairs:
        assert a.grad.any()
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-5)
