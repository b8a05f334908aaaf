import peftcore
import pytest
import torch
from peftcore.testing import perturb, run, tiny


def attention_outputs(model, batch) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    handles = [
        block.attention.register_forward_hook(lambda _, given, out: found.append(out))
        for block in model.blocks
    ]
    model(**batch)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("level", ["sequence", "token"])
def test_what_the_router_scores_below_a_half_skips_the_module(level: str) -> None:
    knows, model, _ = tiny("toy")
    batch = knows.batch(model, rows=6)
    adapter = peftcore.attach(model, "router_tuning", level=level)
    perturb(adapter)
    given: list[torch.Tensor] = []
    handle = model.blocks[0].attention.register_forward_pre_hook(lambda _, a: given.append(a[0]))
    (out, _), (x, *_) = attention_outputs(model, batch), given
    handle.remove()
    with peftcore.disabled(model):
        bare = attention_outputs(model, batch)[0]
    router, real = adapter.placed[0].piece.router[0], batch["attention_mask"].bool()
    passed = []
    for row in range(6):
        mean = x[row][real[row]].mean(0)
        for token in range(9):
            passes = bool(router @ (mean if level == "sequence" else x[row, token]) >= 0)
            expected = bare[row, token] if passes else torch.zeros(16)
            torch.testing.assert_close(out[row, token], expected)
            passed.append(passes)
    assert 0 < sum(passed) < len(passed)


def test_the_loss_counts_what_passes_above_the_capacity() -> None:
    _, model, batch = tiny("toy")
    adapter = peftcore.attach(model, "router_tuning", capacity=0.3, weight=0.1)
    model.train()
    model(**batch)
    loss = adapter.extra_loss()
    torch.testing.assert_close(loss, torch.tensor(0.1 * 2 * 0.7))  # at the start all pass
    loss.backward()
    assert all(bool(p.grad.any()) for p in adapter.parameters())


def test_routers_learn_to_let_no_more_than_the_capacity_pass() -> None:
    knows, model, _ = tiny("toy")
    batch = knows.batch(model, rows=8)
    adapter = peftcore.attach(model, "router_tuning", level="token", capacity=0.4)
    optimizer = torch.optim.Adam(adapter.parameters(), 0.02)
    model.train()
    losses = []
    for _ in range(60):
        model(**batch)
        loss = adapter.extra_loss()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] > 0 and losses[-1] == 0


def test_padding_has_no_say() -> None:
    _, model, batch = tiny("toy")
    perturb(peftcore.attach(model, "router_tuning"))
    outputs = []
    for filler in (0, 5):
        ids = batch["input_ids"].masked_fill(~batch["attention_mask"].bool(), filler)
        outputs.append(run(model, {**batch, "input_ids": ids})[1])
    torch.testing.assert_close(*outputs)
