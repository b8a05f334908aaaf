"""What attaching, switching and removing cost, counted in calls of Python functions."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import peftcore
from peftcore.testing.matrix import loss_of, tiny


class Wide(nn.Module):
    """Twelve blocks of six linears."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({name: nn.Linear(8, 8) for name in "qkvoud"}) for _ in range(12)
        )


def calls(action: Callable[[], Any]) -> int:
    """Count the Python and C functions that an action calls."""
    count = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


def test_the_hundredth_adapter_costs_what_the_first_cost() -> None:
    model = Wide()

    def one(name: str) -> dict[str, int]:
        return {
            "add": calls(lambda: peftcore.attach(model, "probe", name=name, targets=["linear"])),
            "off": calls(lambda: peftcore.activate(model)),
            "on": calls(lambda: peftcore.activate(model, name)),
            "remove": calls(lambda: peftcore.detach(model, name)),
        }

    peftcore.attach(model, "probe", name="stays", targets=["linear"])
    one("warm")
    peftcore.activate(model, "stays")
    second = one("second")
    for i in range(98):
        peftcore.attach(model, "probe", name=f"n{i}", targets=["linear"])
    peftcore.activate(model, "stays")
    hundredth = one("hundredth")
    for action, cost in second.items():
        assert hundredth[action] <= 1.02 * cost, (action, cost, hundredth[action])


def test_an_inactive_adapter_adds_one_test_to_a_call() -> None:
    layer, x = nn.Linear(4, 4), torch.randn(1, 4)
    plain = calls(lambda: layer(x))
    model = nn.Sequential(layer)
    for name in "abc":
        peftcore.attach(model, "probe", name=name, targets=["linear"])
    peftcore.activate(model)
    assert calls(lambda: layer(x)) <= plain + 2


def test_a_plan_on_the_meta_device_makes_no_tensor_with_values() -> None:
    with torch.device("meta"):
        _, model, _ = tiny("toy")
    plan = peftcore.plan(model, "probe")
    assert all(p.is_meta for item in plan.placed for p in item.piece.parameters())


def test_the_forward_saves_nothing_for_frozen_weights() -> None:
    """Nothing but what the base saves anyway, plus what the pieces need, is kept for backward."""
    _, model, batch = tiny("toy")
    adapter = peftcore.attach(model, "probe", targets=["mlp.down"])
    kept: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = loss_of(model(**batch))
    copies: dict[tuple[int, ...], int] = {}
    for tensor in kept:
        if tensor.shape[-1:] == (32,) and tensor.dim() == 3:
            key = (tensor.data_ptr(), *tensor.shape)
            copies[key] = copies.get(key, 0) + 1
    assert len(copies) <= 2 * 2, "one inner activation and its pre-activation for each block"
    loss.backward()
    adapter.check_alive()
