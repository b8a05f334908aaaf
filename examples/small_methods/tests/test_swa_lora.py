from pathlib import Path

import peftcore
import torch
from peftcore.testing import loss_of, run, tiny


def steps(model, adapter, batch, optimizer, numbers: range, of: int) -> list[list[torch.Tensor]]:
    """Take steps of a run and return the factors after each of them."""
    after = []
    model.train()
    for step in numbers:
        optimizer.zero_grad()
        loss_of(model(**batch)).backward()
        optimizer.step()
        adapter.after_step(step, of)
        after.append([p.detach().clone() for p in adapter.parameters()])
    model.eval()
    return after


def test_a_run_ends_with_the_mean_of_its_last_steps() -> None:
    _, model, batch = tiny("toy")
    adapter = peftcore.attach(model, "swa_lora", rank=2, start_at=0.5)
    optimizer = torch.optim.SGD(adapter.parameters(), 0.5)
    for _ in range(2):  # a second run begins anew
        after = steps(model, adapter, batch, optimizer, range(1, 10), of=9)
        adapter.after_run()
        for i, parameter in enumerate(adapter.parameters()):
            mean = torch.stack([factors[i] for factors in after[4:]]).mean(0)
            torch.testing.assert_close(parameter.detach(), mean)
            assert not torch.equal(parameter, after[-1][i])


def test_a_run_that_was_killed_goes_on_with_its_average(tmp_path: Path) -> None:
    _, model, batch = tiny("toy")
    adapter = peftcore.attach(model, "swa_lora", rank=2)
    adapter.save(tmp_path / "start")
    optimizer = torch.optim.SGD(adapter.parameters(), 0.5)
    steps(model, adapter, batch, optimizer, range(1, 9), of=8)
    adapter.after_run()
    uninterrupted = run(model, batch)

    peftcore.detach(model)
    adapter = peftcore.load(model, tmp_path / "start")
    optimizer = torch.optim.SGD(adapter.parameters(), 0.5)
    steps(model, adapter, batch, optimizer, range(1, 8), of=8)
    adapter.save(tmp_path / "killed")
    peftcore.detach(model)
    adapter = peftcore.load(model, tmp_path / "killed")
    optimizer = torch.optim.SGD(adapter.parameters(), 0.5)
    steps(model, adapter, batch, optimizer, range(8, 9), of=8)
    adapter.after_run()
    for one, other in zip(run(model, batch), uninterrupted, strict=True):
        torch.testing.assert_close(one, other)
