"""Outputs, gradients, penalty, budgets and pruned triplets equal those of Hugging Face PEFT."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

import peftcore
from peftcore_adalora.pieces import TENSORS

peft = pytest.importorskip("peft")

STEPS = 30


def bert() -> tuple[nn.Module, dict[str, Tensor], list[str]]:
    config = BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=16,
    )  # fmt: skip
    leaves = ["query", "value", "intermediate.dense"]
    return BertModel(config), {"input_ids": torch.randint(1, 32, (2, 7))}, leaves


def llama() -> tuple[nn.Module, dict[str, Tensor], list[str]]:
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=24, max_position_embeddings=16,
    )  # fmt: skip
    tokens = torch.randint(0, 32, (2, 7))
    batch = {"input_ids": tokens, "labels": tokens}
    return LlamaForCausalLM(config), batch, ["q_proj", "v_proj", "down_proj"]


class Twins:
    """One model with our adapter and a copy of it with PEFT's, with the same weights."""

    def __init__(self, make: Any, double: bool = False, **settings: Any) -> None:
        torch.manual_seed(0)
        model, self.batch, leaves = make()
        self.model = (model.double() if double else model).eval()
        r = settings["init_r"]
        config = peft.AdaLoraConfig(
            target_modules=leaves, lora_alpha=5, total_step=STEPS, **settings
        )
        self.theirs = peft.get_peft_model(copy.deepcopy(self.model), config)
        if double:
            self.theirs.double()
        self.ours = peftcore.attach(
            self.model, "adalora",
            alpha=5 * r / (r + 1e-5),  # PEFT divides by r + 1e-5
            targets=[f"path:**.{leaf}" for leaf in leaves], **settings,
        )  # fmt: skip
        self.pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        for item in self.ours.placed:
            layer: Any = self.theirs.base_model.model.get_submodule(item.site.path)
            self.pairs += [(getattr(item.piece, n), getattr(layer, n)["default"]) for n in TENSORS]
        self.generator = torch.Generator().manual_seed(1)

    def noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype)

    def randomise(self) -> None:
        with torch.no_grad():
            for a, b in self.pairs:
                a.copy_(0.3 * self.noise(a))
                b.copy_(a)


@pytest.mark.parametrize("make", [bert, llama])
def test_outputs_and_gradients_are_equal(make: Any) -> None:
    twins = Twins(make, init_r=3, target_r=2)
    twins.randomise()
    counted = twins.theirs.get_nb_trainable_parameters()[0]
    assert sum(p.numel() for p in twins.ours.parameters()) == counted
    outs = []
    for model in (twins.model, twins.theirs):
        out = model(**twins.batch)
        outs.append(out["logits"] if "logits" in out else out[0])
        outs[-1].square().mean().backward()
    torch.testing.assert_close(*outs, atol=1e-5, rtol=1e-5)
    for a, b in twins.pairs:
        assert a.grad is not None and a.grad.any()
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-5)


def test_loss_with_penalty_and_its_gradients_are_equal() -> None:
    twins = Twins(llama, init_r=3, target_r=2, orth_reg_weight=0.7)
    twins.randomise()
    plain = twins.model(**twins.batch).loss
    ours = plain + twins.ours.extra_loss()
    theirs = twins.theirs.base_model(**twins.batch).loss  # a PeftModel of no task leaves it out
    assert ours > plain + 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    ours.backward()
    theirs.backward()
    for a, b in twins.pairs:
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "schedule",
    [
        {"tinit": 4, "tfinal": 8},
        {"tinit": 0, "tfinal": 0, "beta1": 0.5, "beta2": 0.95},
        {"tinit": 3, "tfinal": 5, "deltaT": 4},
    ],
    ids=["phases", "all-of-it", "every-fourth"],
)
def test_the_allocator_does_the_same_in_every_step(schedule: dict[str, Any]) -> None:
    twins = Twins(bert, double=True, init_r=6, target_r=2, **schedule)
    twins.randomise()
    method, layers = twins.ours.methods[0], len(twins.ours.placed)
    allocator = twins.theirs.base_model.rankallocator
    counts = []
    for step in range(1, STEPS + 1):
        with torch.no_grad():  # as an optimiser does: it revives what was pruned
            for a, b in twins.pairs:
                a.add_(0.05 * twins.noise(a))
                b.copy_(a)
        for a, b in twins.pairs:
            a.grad = twins.noise(a)
            b.grad = a.grad.clone()
        twins.ours.after_step(step, STEPS)
        twins.theirs.base_model.update_and_allocate(step)
        assert method.budget(step, STEPS, layers) == allocator.budget_schedule(step)[0]
        for a, b in twins.pairs:
            torch.testing.assert_close(a, b)
            assert torch.equal(a == 0, b == 0)
        counts.append(sum(int(i.piece.lora_E.count_nonzero()) for i in twins.ours.placed))
    assert counts[0] > counts[-1] == 2 * layers
    assert len({int(i.piece.kept.sum()) for i in twins.ours.placed}) > 1  # not the same everywhere
