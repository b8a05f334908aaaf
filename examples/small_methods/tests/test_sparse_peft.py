from pathlib import Path

import peftcore
import pytest
import torch
from peftcore import PeftcoreError
from peftcore.testing import loss_of, run, same, tiny


def trained(observe: int = 3) -> tuple:
    """Return a model with an adapter after a run of 6 steps, a batch, and what its layers saw."""
    knows, model, batch = tiny("toy")
    adapter = peftcore.attach(model, "sparse_peft", rank=2, alpha=3, sparsity=0.4, observe=observe)
    optimizer = torch.optim.AdamW(adapter.parameters(), 0.05)
    seen = {item.site.path: [] for item in adapter.placed}
    model.train()
    adapter.before_run(6)
    for step in range(1, 7):
        batch = knows.batch(model, rows=4)
        real = batch["attention_mask"].bool()
        handles = [
            item.site.module.register_forward_pre_hook(
                lambda _, given, to=seen[item.site.path], real=real: to.append(given[0][real])
            )
            for item in adapter.placed
        ]
        loss_of(model(**batch)).backward()
        optimizer.step()
        adapter.after_step(step, 6)
        optimizer.zero_grad()
        for handle in handles:
            handle.remove()
    adapter.after_run()
    return model.eval(), adapter, batch, seen


def test_weights_that_matter_least_for_the_inputs_of_the_first_steps_are_pruned() -> None:
    _, adapter, _, seen = trained()
    for item in adapter.placed:
        inputs = torch.cat(seen[item.site.path][:3])
        score = item.site.module.weight.abs() * inputs.norm(dim=0)
        pruned = int(0.4 * 16)
        for row in range(16):
            expected = sorted(score[row].argsort()[:pruned].tolist())
            assert (~item.piece.mask[row]).nonzero()[:, 0].tolist() == expected


def test_the_merged_weight_has_the_zeros_of_the_mask_and_the_same_outputs() -> None:
    model, adapter, batch, _ = trained()
    tuned, before = run(model, batch), [i.site.module.weight.clone() for i in adapter.placed]
    adapter.merge()
    for item in adapter.placed:
        weight, mask = item.site.module.weight, item.piece.mask
        assert torch.equal(weight != 0, mask) and int((~mask).sum()) == 16 * int(0.4 * 16)
    for one, other in zip(run(model, batch), tuned, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    adapter.unmerge()
    assert all(
        torch.equal(i.site.module.weight, b) for i, b in zip(adapter.placed, before, strict=True)
    )


def test_the_mask_is_stored_and_what_was_observed_is_not(tmp_path: Path) -> None:
    model, adapter, batch, _ = trained()
    tuned = run(model, batch)
    adapter.save(tmp_path / "sparse")
    stored = peftcore.inspect(tmp_path / "sparse")["tensors"]
    assert {name.rpartition(".")[2] for name in stored} == {"lora_A", "lora_B", "mask"}
    adapter.detach()
    peftcore.load(model, tmp_path / "sparse")
    assert same(run(model, batch), tuned)


def test_a_run_that_ends_before_pruning_is_refused() -> None:
    with pytest.raises(
        PeftcoreError, match="a run of 6 steps ends before weights are pruned after"
    ):
        trained(observe=6)
