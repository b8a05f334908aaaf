"""Outputs and gradients equal those of Hugging Face PEFT with the same weights."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

import peftcore
from peftcore import Placed

peft = pytest.importorskip("peft")


class Pictures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.second = nn.Conv2d(8, 12, (1, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.gelu(self.first(x)))


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
    tokens = torch.randint(0, 32, (2, 7))
    return LlamaForCausalLM(config), {"input_ids": tokens, "labels": tokens}


def pictures() -> tuple[nn.Module, dict[str, Tensor]]:
    return Pictures(), {"x": torch.randn(2, 3, 9, 9)}


def output(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    out = model(**batch)
    if isinstance(out, Tensor):
        return out
    return out["logits"] if "logits" in out else out[0] + out[1][:, None]


def theirs_of(model: nn.Module, item: Placed) -> list[Tensor]:
    layer: Any = model.base_model.model.get_submodule(item.site.path)
    if item.site.layer.kind == "embedding":
        return [layer.lora_embedding_A["default"], layer.lora_embedding_B["default"]]
    return [layer.lora_A["default"].weight, layer.lora_B["default"].weight]


@pytest.mark.parametrize(
    "make, leaves, settings",
    [
        (bert, ["query", "value"], {}),
        (bert, ["query", "dense", "word_embeddings"], {"use_rslora": True}),
        (llama, ["q_proj", "v_proj", "down_proj", "embed_tokens"], {}),
        (llama, ["q_proj", "o_proj", "up_proj"], {"use_rslora": True}),
        (pictures, ["first", "second"], {}),
    ],
    ids=["bert", "bert-rslora", "llama", "llama-rslora", "conv2d"],
)
def test_outputs_and_gradients_are_equal(make, leaves: list[str], settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, batch = make()
    model.eval()
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=leaves, **settings)
    theirs = peft.get_peft_model(copy.deepcopy(model), config)
    targets = [f"path:**.{leaf}" for leaf in leaves]
    ours = peftcore.attach(model, "lora", rank=3, alpha=5, targets=targets, **settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for item in ours.placed:
            mine = [item.piece.lora_A, item.piece.lora_B]
            for a, b in zip(mine, theirs_of(theirs, item), strict=True):
                a.copy_(torch.randn(a.shape, generator=generator) * 0.3)
                b.copy_(a)
    assert sum(p.numel() for p in ours.parameters()) == theirs.get_nb_trainable_parameters()[0]
    out, expected = output(model, batch), output(theirs, batch)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    out.square().mean().backward()
    expected.square().mean().backward()
    for item in ours.placed:
        mine = [item.piece.lora_A, item.piece.lora_B]
        for a, b in zip(mine, theirs_of(theirs, item), strict=True):
            assert a.grad.any()
            torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-5)
