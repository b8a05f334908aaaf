"""The formula, the schedule, what is kept and what is stored, counts, mistakes."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import peftcore
from peftcore import ConfigError, TargetError, installed
from peftcore.testing import Toy, perturb
from peftcore_adalora.method import allocate
from peftcore_adalora.pieces import TENSORS


def linear(**config: Any) -> tuple[nn.Module, peftcore.Adapter]:
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 7)).double()
    return model, peftcore.attach(model, "adalora", targets=["linear"], **config)


def train(adapter: peftcore.Adapter, model: nn.Module, steps: int, until: int) -> None:
    optimiser = torch.optim.Adam(adapter.parameters(), 1e-2)
    x, y = torch.randn(8, 6).double(), torch.randn(8, 7).double()
    adapter.before_run(steps)
    for step in range(1, until + 1):
        ((model(x) - y).square().mean() + adapter.extra_loss()).backward()
        optimiser.step()
        adapter.after_step(step, steps)
        optimiser.zero_grad()


def test_output_and_weight_form_are_the_formula() -> None:
    model, adapter = linear(init_r=3, target_r=2, alpha=6)
    perturb(adapter)
    x = torch.randn(2, 3, 6).double()
    expected = x
    for layer, item in zip(model, adapter.placed, strict=True):
        Q, values, P = (getattr(item.piece, name).detach() for name in TENSORS)
        change = 2.0 * P @ torch.diag(values[:, 0]) @ Q
        expected = expected @ (layer.weight + change).T + layer.bias
    torch.testing.assert_close(model(x), expected)
    adapter.merge()
    torch.testing.assert_close(model(x), expected)


def test_the_penalty_is_the_mean_of_the_norms() -> None:
    _, adapter = linear(init_r=3, target_r=2, orth_reg_weight=0.25)
    norms = []
    for item in adapter.placed:
        Q, P = item.piece.lora_A, item.piece.lora_B
        for product in (Q @ Q.T, P.T @ P):
            norms.append((product - torch.eye(3)).square().sum().sqrt())
    torch.testing.assert_close(adapter.extra_loss(), 0.25 * torch.stack(norms).sum() / 4)
    _, adapter = linear(init_r=3, target_r=2, orth_reg_weight=0)
    assert adapter.extra_loss() == 0.0


def test_the_start_and_the_count() -> None:
    plan = peftcore.plan(nn.Linear(2000, 3000), "adalora", targets=["linear"])
    assert plan.trainable == 12 * (2000 + 3000 + 1)
    model = nn.Sequential(nn.Linear(2000, 3000))
    (item,) = peftcore.attach(model, "adalora", targets=["linear"]).placed
    assert not item.piece.lora_E.any()
    for vectors in (item.piece.lora_A, item.piece.lora_B):
        assert vectors.std().item() == pytest.approx(0.02, rel=0.05)


def test_llama_7b_has_the_closed_form() -> None:
    known = {c for spec in installed().backbones.values() for c in spec.configs}
    if "llama-7b" not in known:
        pytest.skip("no installed backbone has llama-7b")
    plan = peftcore.plan(peftcore.build_on_meta("llama-7b", head="causal-lm"), "adalora")
    assert plan.trainable == 2 * 32 * 12 * (4096 + 4096 + 1)


def test_pruned_values_stay_zero_though_the_optimiser_moves_them() -> None:
    model, adapter = linear(init_r=4, target_r=1, tinit=2, tfinal=6)
    train(adapter, model, steps=16, until=12)
    kept = [item.piece.kept.clone() for item in adapter.placed]
    assert sum(int(k.sum()) for k in kept) == 2
    values = [item.piece.lora_E for item in adapter.placed]
    with torch.no_grad():
        for each in values:
            each.add_(1.0)
    adapter.after_step(13, 16)
    for each, item, before in zip(values, adapter.placed, kept, strict=True):
        assert torch.equal(each != 0, before) and torch.equal(item.piece.kept, before)


def test_with_equal_ranks_nothing_is_pruned() -> None:
    model, adapter = linear(init_r=3, target_r=3)
    train(adapter, model, steps=4, until=4)
    assert all(item.piece.kept.all() and item.piece.lora_E.all() for item in adapter.placed)


def test_of_equal_scores_exactly_the_budget_is_kept() -> None:
    _, adapter = linear(init_r=3, target_r=2)
    pieces: list[Any] = [item.piece for item in adapter.placed]
    allocate(pieces, 4)
    assert torch.cat([piece.kept for piece in pieces]).sum() == 4


def test_a_layer_without_a_gradient_loses_importance() -> None:
    model, adapter = linear(init_r=3, target_r=2, tinit=5)
    train(adapter, model, steps=20, until=3)
    before = [item.piece.importance() for item in adapter.placed]
    adapter.after_step(4, 20)  # the gradients are None
    for item, score in zip(adapter.placed, before, strict=True):
        assert (item.piece.importance() < score).all()


def test_a_skipped_step_of_fp16_leaves_no_trace_that_is_not_finite() -> None:
    model, adapter = linear(init_r=3, target_r=2)
    train(adapter, model, steps=20, until=3)
    for parameter in adapter.parameters():
        parameter.grad = torch.full_like(parameter, torch.inf)
    adapter.after_step(4, 20)
    assert all(item.piece.importance().isfinite().all() for item in adapter.placed)


def test_averages_are_copied_with_the_model_and_not_stored(tmp_path: Path) -> None:
    model, adapter = linear(init_r=4, target_r=2, tfinal=2)
    train(adapter, model, steps=9, until=6)
    twin = copy.deepcopy(model)
    averages = dict(adapter.placed[0].piece.named_buffers())
    assert len(averages) == 4 and all(tensor.any() for tensor in averages.values())
    copies = dict(twin.named_buffers())
    for name, tensor in model.named_buffers():
        assert torch.equal(copies[name], tensor)
    stored = {name.rpartition(".")[2] for name in adapter.placed[0].piece.state_dict()}
    assert stored == set(TENSORS)
    adapter.save(tmp_path / "a")
    names = peftcore.inspect(tmp_path / "a")["tensors"]
    assert {name.rpartition(".")[2] for name in names} == set(TENSORS) and len(names) == 6
    x = torch.randn(2, 6).double()
    tuned = model(x)
    adapter.detach()
    peftcore.load(model, tmp_path / "a")
    assert torch.equal(model(x), tuned)


@pytest.mark.parametrize(
    "config, words",
    [
        ({"target_r": 5, "init_r": 4}, "target_r 5 is above init_r 4"),
        ({"init_r": 0}, "init_r: input should be greater than or equal to 1"),
        ({"beta1": 1}, "beta1: input should be less than 1"),
        ({"orth_reg_weight": -1}, "orth_reg_weight: input should be greater than or equal to 0"),
        ({"deltaT": 0}, "deltaT: input should be greater than or equal to 1"),
        (
            {"init_r": 1000},
            "init_r 1000 is above the size of .* Write init_r: 16 or less, or leave",
        ),
        ({"targets": ["norm"]}, "is of kind norm; adalora acts on linear layers"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_one_clear_error(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        peftcore.plan(Toy(), "adalora", **config)


def test_dropout_cannot_act_where_the_weight_is_read_directly() -> None:
    model = nn.MultiheadAttention(8, 2)
    config = {"targets": ["attention.output"], "init_r": 2, "target_r": 1}
    peftcore.plan(model, "adalora", **config)
    with pytest.raises(TargetError, match=r"dropout 0\.1 cannot act at .* Write dropout: 0"):
        peftcore.plan(model, "adalora", dropout=0.1, **config)


@pytest.mark.parametrize("tinit, tfinal", [(4, 6), (10, 0), (0, 10), (50, 50)])
def test_a_schedule_without_room_is_an_error_that_says_what_to_write(
    tinit: int, tfinal: int
) -> None:
    _, adapter = linear(init_r=4, target_r=2, tinit=tinit, tfinal=tfinal)
    with pytest.raises(ConfigError, match=r"sum is below 10, such as tinit: 1 and tfinal: 3"):
        adapter.before_run(10)
    adapter.before_run(tinit + tfinal + 1)
