"""Every installed method on every installed backbone: one light pass a pair."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import peftcore
from peftcore.errors import PeftcoreError, TargetError
from peftcore.model.backbones import Backbone, backbone_named
from peftcore.model.features import missing
from peftcore.model.survey import Survey, survey
from peftcore.registry.installed import installed
from peftcore.registry.references import resolve
from peftcore.testing import kit


def pairs() -> list[tuple[str, str]]:
    """Return every pair of installed method and backbone; the kit's own probe is left out."""
    kit.register_kit()
    return [
        (method, backbone)
        for method in installed().methods
        for backbone in installed().backbones
        if method != "probe"
    ]


def reason_against(method: str, backbone: str) -> str:
    """Return why a method cannot run on a backbone's small member by what it needs, or nothing."""
    return missing(_surveyed(backbone), installed().methods[method].needs)


@cache
def _surveyed(backbone: str) -> Survey:
    knows, model, _ = tiny(backbone)
    return survey(model, knows)


def tiny(backbone: str, head: str = "none") -> tuple[Backbone, nn.Module, dict[str, Any]]:
    """Return a backbone, a random small model of it in evaluation mode, and a batch."""
    kit.register_kit()
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


def attached(model: nn.Module, method: str, config: Mapping[str, Any]) -> peftcore.Adapter:
    """Attach a method; where its targets' roles are not there, at all linears or by its defaults.

    Neither plugin need know the other: a backbone may lack the roles that a test of a method names,
    or have experts among them.
    """
    fields = resolve(installed().methods[method].config).model_fields
    plain = {name: value for name, value in config.items() if name != "targets"}
    tries = [config, {**plain, "targets": ["all-linear"]}, plain] if "targets" in fields else []
    for choice in tries[:-1]:
        try:
            return peftcore.attach(model, [{"method": method, **choice}])
        except TargetError as error:
            if not any(reason in str(error) for reason in ("matches nothing", "of kind experts")):
                raise
    return peftcore.attach(model, [{"method": method, **(tries[-1] if tries else config)}])


def refusal(method: str, backbone: str, config: Mapping[str, Any]) -> str:
    """Return the sentence with which a pair is refused, or an empty string where it is not.

    Raises:
        AssertionError: the model was not left as it was.
    """
    _, model, batch = tiny(backbone)
    bare, keys = run(model, batch), list(model.state_dict())
    try:
        attached(model, method, config).detach()
    except PeftcoreError as error:
        assert not peftcore.adapters(model), f"{method} on {backbone}: refused, but attached"
        assert list(model.state_dict()) == keys and same(run(model, batch), bare), (
            f"{method} on {backbone}: refused, but the model was changed"
        )
        return str(error)
    return ""


def check_pair(method: str, backbone: str, config: Mapping[str, Any]) -> None:
    """Attach, forward, backward, save, load and detach one method on one backbone.

    Raises:
        PeftcoreError, AssertionError: the pair does not work; the message says where.
    """
    _, model, batch = tiny(backbone)
    bare, keys = run(model, batch), list(model.state_dict())
    adapter = attached(model, method, config)
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
