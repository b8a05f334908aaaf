"""Methods that look at data first, add to the loss, act after a step, or learn at a rate apart."""

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import peftcore
from peftcore import Examples, Method, MethodConfig, MethodSpec, hookimpl
from peftcore.adapter.watch import STEPS
from peftcore.errors import AttachError, DeadPieceError
from peftcore.method.pieces import Delta
from peftcore.registry.installed import installed
from peftcore.testing.matrix import loss_of, run, same, tiny

seen: list[dict[str, Any]] = []


class Added(Delta):
    """A vector added to the output, as long as what was seen says."""

    def __init__(self, width: int, start: float):
        super().__init__()
        self.shift = nn.Parameter(torch.full((width,), start))
        self.slow = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return (self.shift + self.slow).expand(*x.shape[:-1], -1)


class Looking(Method):
    """Starts where the mean loss of three examples says."""

    start = 0.0

    @property
    def examples(self) -> int:
        return 3

    @hookimpl
    def peftcore_prepare(self, model: Any, sites: Any, examples: Any, tensors: Any) -> None:
        losses: list[float] = []
        if examples is not None:
            losses = [examples.loss(model, batch).item() for batch in examples.first(3)]
            self.start = sum(losses) / 3
        meta = sites[0].layer.device.type == "meta"
        seen.append({"losses": losses, "state": sorted(tensors or {}), "meta": meta})

    @hookimpl
    def peftcore_rewrite_module(self, site: Any) -> Any:
        return Added(site.layer.out_features, self.start) if site.role == "mlp.down" else None

    @hookimpl
    def peftcore_learning_rates(self, site: Any, piece: Any) -> dict[str, float]:
        return {"slow": 0.25}

    @hookimpl
    def peftcore_extra_loss(self, placed: Any) -> Tensor:
        return torch.stack([item.piece.shift.square().sum() for item in placed]).sum()

    @hookimpl
    def peftcore_after_step(self, placed: Any, step: int, steps: int) -> None:
        for item in placed:
            assert item.piece.shift.grad is not None
            item.piece.shift.fill_(step / steps)


@pytest.fixture(autouse=True)
def looking(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = SimpleNamespace(Config=MethodConfig, Method=Looking)
    monkeypatch.setitem(sys.modules, "looking_module", module)  # type: ignore[arg-type]
    seen.clear()
    spec = MethodSpec("looking", "Looks.", "looking_module:Config", "looking_module:Method")
    with installed().with_plugin(spec):
        yield


def batches(count: int) -> list[dict[str, Any]]:
    backbone, model, _ = tiny("toy")
    return [backbone.batch(model, rows=1) for _ in range(count)]


def test_a_method_sees_as_many_examples_as_it_asks_for() -> None:
    _, model, batch = tiny("toy")
    bare, given = run(model, batch), batches(5)
    expected = [model(**one).loss.item() for one in given[:3]]
    adapter = peftcore.attach(model, "looking", examples=Examples(given))
    assert seen == [{"losses": pytest.approx(expected), "state": [], "meta": False}]
    assert adapter.placed[0].piece.shift[0].item() == pytest.approx(sum(expected) / 3)
    adapter.detach()
    assert same(run(model, batch), bare)


@pytest.mark.parametrize(
    "examples, sentence",
    [
        (None, "looking looks at 3 examples before it starts: give them as"),
        (2, "3 examples were asked for and 2 are there"),
        ("no labels", "Toy returned no loss for an example: give examples with labels"),
    ],
)
def test_missing_examples_are_an_error_before_anything_is_changed(
    examples: Any, sentence: str
) -> None:
    _, model, batch = tiny("toy")
    bare, keys = run(model, batch), list(model.state_dict())
    if examples == 2:
        examples = Examples(batches(2))
    elif examples is not None:
        examples = Examples([{k: v for k, v in b.items() if k != "labels"} for b in batches(3)])
    with pytest.raises(AttachError, match=sentence):
        peftcore.attach(model, "looking", examples=examples)
    assert same(run(model, batch), bare) and list(model.state_dict()) == keys
    assert not peftcore.adapters(model)


def test_a_plan_needs_no_examples() -> None:
    _, model, _ = tiny("toy")
    assert peftcore.plan(model, "looking").trainable == 2 * 2 * 16
    assert seen == [{"losses": [], "state": [], "meta": True}]


def test_loading_hands_over_the_checkpoint_and_asks_for_no_examples(tmp_path: Path) -> None:
    _, model, batch = tiny("toy")
    adapter = peftcore.attach(model, "looking", examples=Examples(batches(3)))
    tuned = run(model, batch)
    adapter.save(tmp_path / "a")
    adapter.detach()
    peftcore.load(model, tmp_path / "a")
    assert seen[-1]["state"][0] == "blocks.0.down.looking.shift" and len(seen[-1]["state"]) == 4
    assert same(run(model, batch), tuned)


def test_a_training_loop_of_ones_own_gets_groups_penalty_and_action() -> None:
    _, model, batch = tiny("toy")
    adapter = peftcore.attach(model, ["probe", "looking"], examples=Examples(batches(3)))
    groups = adapter.parameter_groups(0.1)
    slow = [p.piece.slow for p in adapter.placed if p.label == "looking"]
    assert {group["lr"] for group in groups} == {0.1, 0.025}
    assert next(g["params"] for g in groups if g["lr"] == 0.025) == slow
    assert sum(len(group["params"]) for group in groups) == len(adapter.parameters())
    shifts = [p.piece.shift for p in adapter.placed if p.label == "looking"]
    penalty = adapter.extra_loss()
    torch.testing.assert_close(penalty, sum(s.square().sum() for s in shifts))
    (loss_of(model(**batch)) + penalty).backward()
    adapter.check_alive()
    adapter.after_step(3, 4)
    assert all(bool((s == 0.75).all()) for s in shifts)


def test_methods_without_a_penalty_add_nothing() -> None:
    _, model, _ = tiny("toy")
    adapter = peftcore.attach(model, "probe")
    assert adapter.extra_loss() == 0.0 and adapter.learning_rates() == {}
    adapter.after_step(1, 1)


def test_a_penalty_does_not_hide_a_piece_that_never_ran() -> None:
    _, model, batch = tiny("toy")
    adapter = peftcore.attach(model, "looking", examples=Examples(batches(3)))
    loss = model(**batch).loss
    adapter.check_alive(loss)
    assert all(p.grad is None for p in adapter.parameters())
    slow = torch.stack([item.piece.slow.sum() for item in adapter.placed]).sum()
    (slow + adapter.extra_loss()).backward(retain_graph=True)
    adapter.check_alive()  # the penalty gave all of them a gradient
    with pytest.raises(DeadPieceError, match=r"blocks.0.down.looking.shift and 1 more"):
        adapter.check_alive(slow)


def trained(called: bool, steps: int, *, gathered: int = 1, fused: bool = False) -> list[str]:
    """Train in a loop that calls hooks or none; return what it was warned of."""
    _, model, batch = tiny("toy")
    adapter = peftcore.attach(model, ["looking", "probe"], examples=Examples(batches(3)))
    groups = adapter.parameter_groups(0.1) if called else adapter.parameters()
    optimizer = torch.optim.AdamW(groups, fused=fused)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(1, steps + 1):
            for _ in range(gathered):
                loss = loss_of(model(**batch))
                (loss + adapter.extra_loss() if called else loss).backward()
            optimizer.step()
            if called:
                adapter.after_step(step, steps)
            optimizer.zero_grad()
    return [str(one.message) for one in caught]


@pytest.mark.parametrize("fused", [False, True])
def test_a_loop_that_calls_no_hook_is_told_once(fused: bool) -> None:
    assert not trained(False, 1, gathered=STEPS + 2, fused=fused)
    (told,) = trained(False, 2 * STEPS + 2, fused=fused)
    assert "parameter_groups(lr), extra_loss(), after_step(step, steps), where looking has" in told
    assert not trained(True, STEPS + 2, fused=fused)
