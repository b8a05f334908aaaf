import peftcore
import pytest
import torch
from peftcore import LayerInfo, PeftcoreError, Site
from peftcore.testing import perturb, tiny
from peftcore_small_methods.mola import Experts, MolaConfig, unbalanced
from torch import nn


def experts(**fields: object) -> Experts:
    config = MolaConfig(rank=2, alpha=3, **fields)
    site = Site("0", "linear", nn.Linear(6, 5), LayerInfo("linear", 6, 5, weight_shape=(5, 6)))
    piece = Experts(site, config)
    for parameter in piece.parameters():
        nn.init.normal_(parameter)
    return piece


def test_each_token_is_served_by_the_experts_that_its_router_prefers() -> None:
    piece, x = experts(experts=4, top_k=2), torch.randn(2, 3, 6)
    update = piece(x, peftcore.Context())
    for row in range(2):
        for token in range(3):
            one = x[row, token]
            p = torch.softmax(piece.router @ one, -1)
            first, second = p.argsort(descending=True)[:2].tolist()
            expected = sum(
                p[i] / (p[first] + p[second]) * piece.lora_B[:, i] @ piece.lora_A[i] @ one
                for i in (first, second)
            )
            torch.testing.assert_close(update[row, token], 3 / 2 * expected)


def test_the_balancing_loss_is_that_of_switch_transformers() -> None:
    p = torch.softmax(torch.randn(7, 3), -1)
    chosen = p.topk(1, -1).indices
    f = [sum(int(p[t].argmax()) == i for t in range(7)) / 7 for i in range(3)]
    expected = 3 * sum(f[i] * p[:, i].mean() for i in range(3))
    torch.testing.assert_close(unbalanced(p, chosen), expected)
    even = torch.full((4, 2), 0.5)
    assert unbalanced(even, torch.tensor([[0], [1], [0], [1]])).item() == pytest.approx(1)


def test_the_loss_of_a_step_is_the_sum_over_routers_and_reaches_them() -> None:
    _, model, batch = tiny("toy")
    adapter = peftcore.attach(model, "mola", rank=2, balance=0.5, experts=3)
    model.train()
    kept = []
    for item in adapter.placed:
        item.piece.register_forward_pre_hook(lambda piece, given: kept.append((piece, given[0])))
    model(**batch)
    loss = adapter.extra_loss()
    real, expected = batch["attention_mask"].bool(), torch.tensor(0.0)
    for piece, x in kept:
        p = torch.softmax(x[real] @ piece.router.T, -1)
        expected += 0.5 * unbalanced(p, p.topk(2, -1).indices)
    assert len(kept) == 4
    torch.testing.assert_close(loss, expected)
    reached = torch.autograd.grad(loss, [piece.router for piece, _ in kept])
    assert all(bool(grad.any()) for grad in reached)


def test_padding_takes_no_part_in_the_balance() -> None:
    _, model, batch = tiny("toy")
    adapter = peftcore.attach(model, "mola", rank=2)
    model.train()
    losses = []
    for filler in (0, 5):
        ids = batch["input_ids"].masked_fill(~batch["attention_mask"].bool(), filler)
        model(**{**batch, "input_ids": ids})
        losses.append(adapter.extra_loss())
    torch.testing.assert_close(*losses)


def test_in_evaluation_nothing_is_kept() -> None:
    _, model, batch = tiny("toy")
    adapter = peftcore.attach(model, "mola", rank=2)
    perturb(adapter)
    model(**batch)
    assert adapter.extra_loss() == 0.0


def test_layers_can_have_unequal_numbers_of_experts() -> None:
    _, model, _ = tiny("toy")
    experts = {"path:blocks.0.**": 2, "default": 4}
    plan = peftcore.plan(model, "mola", rank=2, experts=experts)
    assert plan.trainable == 2 * (2 + 4) * (16 + 2 * (16 + 16))
    with pytest.raises(PeftcoreError, match="top_k 3 of 2 experts; write top_k: 2 or less"):
        peftcore.plan(model, "mola", top_k=3, experts=experts)
