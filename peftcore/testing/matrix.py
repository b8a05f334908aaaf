"""Every installed method on every installed backbone: one light pass a pair."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import peftcore
from peftcore.errors import TargetError
from peftcore.model.backbones import Backbone, backbone_named
from peftcore.registry.installed import installed, resolve
from peftcore.testing import toy


@dataclass(frozen=True)
class Pair:
    """A method on a backbone.

    Attributes:
        method, backbone: names of the two.
        impossible: the declared reason why they do not go together, or an empty string.
    """

    method: str
    backbone: str
    impossible: str = ""


def pairs() -> list[Pair]:
    """Return every pair of installed method and backbone; the kit's own probe is left out."""
    toy.register()
    return [
        Pair(method, backbone, installed().impossible(method, backbone))
        for method in installed().methods
        for backbone in installed().backbones
        if method != "probe"
    ]


def config_for(method: str, backbone: str) -> dict[str, Any]:
    """Return the configuration with which a method is tried on a backbone."""
    known = installed().methods[method].config_for
    return dict(known.get(backbone, known.get("*", {})))


def tiny(backbone: str, head: str = "none") -> tuple[Backbone, nn.Module, dict[str, Any]]:
    """Return a backbone, a random small model of it in evaluation mode, and a batch."""
    knows = backbone_named(backbone)
    torch.manual_seed(0)
    model = knows.tiny(head=head).eval()
    return knows, model, knows.batch(model)


def tensors_of(output: Any) -> list[Tensor]:
    """Return the floating tensors of what a model returned, in order."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, Mapping):
        output = list(output.values())
    elif hasattr(output, "__dataclass_fields__"):
        output = list(vars(output).values())
    if isinstance(output, tuple | list):
        return [t for item in output for t in tensors_of(item)]
    return []


def loss_of(output: Any) -> Tensor:
    """Return the model's loss, or a sum of squares of what it returned."""
    loss = getattr(output, "loss", None)
    if loss is not None:
        return loss  # type: ignore[no-any-return]
    return torch.stack([t.float().pow(2).mean() for t in tensors_of(output)]).sum()


def run(model: nn.Module, batch: Mapping[str, Any]) -> list[Tensor]:
    """Run a model without gradients and return its floating tensors."""
    with torch.no_grad():
        return tensors_of(model(**batch))


def perturb(adapter: peftcore.Adapter) -> None:
    """Move every trained tensor a little, so that an adapter does something."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in adapter.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.1 * noise.to(parameter))


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    """Tell whether two runs agree bit for bit."""
    return len(left) == len(right) and all(
        torch.equal(a, b) for a, b in zip(left, right, strict=True)
    )


def _attach(model: nn.Module, method: str, config: dict[str, Any]) -> peftcore.Adapter:
    fields = resolve(installed().methods[method].config).model_fields
    try:
        return peftcore.attach(model, method, **config)
    except TargetError:
        if config or "targets" not in fields:
            raise
        # neither plugin need know the other: a backbone may lack the roles of the defaults
        return peftcore.attach(model, method, targets=["all-linear"])


def check_pair(method: str, backbone: str) -> None:
    """Attach, forward, backward, save, load and detach one method on one backbone.

    Raises:
        PeftcoreError, AssertionError: the pair does not work; the message says where.
    """
    _, model, batch = tiny(backbone)
    bare, keys = run(model, batch), list(model.state_dict())
    adapter = _attach(model, method, config_for(method, backbone))
    loss_of(model(**batch)).backward()
    adapter.check_alive()
    trained = {id(p) for p in adapter.parameters()}
    leaked = [n for n, p in model.named_parameters() if p.grad is not None and id(p) not in trained]
    assert not leaked, f"{method} on {backbone}: frozen {leaked[0]} got a gradient"
    perturb(adapter)
    tuned = run(model, batch)
    assert not same(bare, tuned), f"{method} on {backbone}: the adapter changes nothing"
    with tempfile.TemporaryDirectory() as folder:
        adapter.save(Path(folder) / "adapter")
        adapter.detach()
        assert list(model.state_dict()) == keys, f"{method} on {backbone}: state-dict keys changed"
        assert same(run(model, batch), bare), f"{method} on {backbone}: detach changed the base"
        adapter = peftcore.load(model, Path(folder) / "adapter")
    assert same(run(model, batch), tuned), f"{method} on {backbone}: loading changed the outputs"
    adapter.detach()
