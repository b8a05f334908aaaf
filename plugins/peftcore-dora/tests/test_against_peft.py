"""Outputs and gradients equal those of Hugging Face PEFT with the same weights."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

import peftcore
from peftcore import Placed
from peftcore_dora.pieces import drawn

peft = pytest.importorskip("peft")


def bert() -> tuple[nn.Module, dict[str, Tensor]]:
    config = BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=16, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertModel(config), {"input_ids": torch.randint(1, 32, (2, 7))}


def llama() -> tuple[nn.Module, dict[str, Tensor]]:
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=24, max_position_embeddings=16,
    )  # fmt: skip
    return LlamaForCausalLM(config), {"input_ids": torch.randint(0, 32, (2, 7))}


def output(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    out = model(**batch)
    return out["logits"] if "logits" in out else out[0] + out[1][:, None]


def tensors_of(model: Any, item: Placed) -> list[tuple[Tensor, Tensor]]:
    """Return the pairs (ours, theirs) at one site."""
    layer = model.base_model.model.get_submodule(item.site.path)
    theirs = [
        layer.lora_A["default"].weight,
        layer.lora_B["default"].weight,
        layer.lora_magnitude_vector["default"].weight,
    ]
    ours = [item.piece.lora_A, item.piece.lora_B, item.piece.magnitude]
    return list(zip(ours, theirs, strict=True))


class SameDraw(nn.Module):
    """Dropout that draws as the piece does; each library draws in its own way."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * drawn(x, self.p) / (1 - self.p)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(
    "make, leaves",
    [(bert, ["query", "value", "dense"]), (llama, ["q_proj", "v_proj", "up_proj", "down_proj"])],
)
def test_outputs_and_gradients_are_equal(make: Any, leaves: list[str], dropout: float) -> None:
    torch.manual_seed(0)
    model, batch = make()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, 1.0, 0.2)  # the biases of a new model are zero
    config = peft.LoraConfig(
        r=3, lora_alpha=5, lora_dropout=dropout, target_modules=leaves, use_dora=True
    )
    theirs = peft.get_peft_model(copy.deepcopy(model), config).train()
    for layer in theirs.modules():
        if dropout and hasattr(layer, "lora_dropout"):
            layer.lora_dropout["default"] = SameDraw(dropout)
    targets = [f"path:**.{leaf}" for leaf in leaves]
    ours = peftcore.attach(model.train(), "dora", rank=3, alpha=5, dropout=dropout, targets=targets)
    assert sum(p.numel() for p in ours.parameters()) == theirs.get_nb_trainable_parameters()[0]
    pairs = [pair for item in ours.placed for pair in tensors_of(theirs, item)]
    for item in ours.placed:
        torch.testing.assert_close(*tensors_of(theirs, item)[2])  # the start of the magnitudes
    with torch.no_grad():
        for a, b in pairs:
            a.add_(0.3 * torch.randn_like(a))
            b.copy_(a)
    outs = []
    for each in (model, theirs):
        torch.manual_seed(1)  # the same dropout
        out = output(each, batch)
        out.square().mean().backward()
        outs.append(out)
    torch.testing.assert_close(*outs, atol=1e-5, rtol=1e-5)
    for a, b in pairs:
        assert a.grad.any()
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-5)
