"""LoRA+: B learns faster than A."""

import pytest
import torch
from torch import nn

import peftcore
from peftcore import ConfigError

peft = pytest.importorskip("peft")


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def test_the_groups_have_the_ratio_and_everything_is_in_one() -> None:
    adapter = peftcore.attach(model(), "lora", rank=2, targets=["linear"], loraplus_lr_ratio=16)
    groups = {group["lr"]: group["params"] for group in adapter.parameter_groups(1e-3)}
    pieces = [item.piece for item in adapter.placed]
    assert groups.keys() == {1e-3, 16e-3}
    assert groups[1e-3] == [piece.lora_A for piece in pieces]
    assert groups[16e-3] == [piece.lora_B for piece in pieces]
    plain = peftcore.attach(model(), "lora", rank=2, targets=["linear"])
    assert [group["lr"] for group in plain.parameter_groups(1e-3)] == [1e-3]


def test_ten_steps_are_those_of_peft() -> None:
    from peft.optimizers import create_loraplus_optimizer

    theirs = peft.get_peft_model(
        model(), peft.LoraConfig(r=2, lora_alpha=2, target_modules=["0", "2"])
    )
    net = model()
    ours = peftcore.attach(net, "lora", rank=2, targets=["linear"], loraplus_lr_ratio=8)
    with torch.no_grad():
        for item in ours.placed:
            layer = theirs.base_model.model.get_submodule(item.site.path)
            item.piece.lora_A.copy_(layer.lora_A["default"].weight)
    optimisers = [
        torch.optim.SGD(ours.parameter_groups(0.05)),
        create_loraplus_optimizer(theirs, torch.optim.SGD, lr=0.05, loraplus_lr_ratio=8),
    ]
    x = torch.randn(5, 6)
    for _ in range(10):
        for optimiser, each in zip(optimisers, (net, theirs), strict=True):
            optimiser.zero_grad()
            each(x).square().mean().backward()
            optimiser.step()
    torch.testing.assert_close(net(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_a_ratio_of_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="loraplus_lr_ratio"):
        peftcore.attach(model(), "lora", loraplus_lr_ratio=0)
