"""What the parts of the contract share: a method, its configuration, and a toy to try it on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import peftcore
from peftcore.model.backbones import backbone_of
from peftcore.testing import kit
from peftcore.testing.matrix import pairs, reason_against, tiny


class OnToy:
    """One method on a toy of the kit; what can be said of it stands at :class:`MethodContract`."""

    method: ClassVar[str]
    config: ClassVar[Mapping[str, Any]] = {}
    on: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    refused_on: ClassVar[Mapping[str, str]] = {}
    merges: ClassVar[bool | None] = True
    merge_tolerance: ClassVar[float] = 1e-5
    steps: ClassVar[int] = 30
    learning_rate: ClassVar[float] = 1e-2
    routes: ClassVar[bool | None] = True
    compiles: ClassVar[bool | None] = True

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Parametrise over the installed backbones: all, for the first class of a method.

        Further classes of a module, which test other settings of the same method, meet the toys
        and the families that they name.
        """
        if "backbone_name" in metafunc.fixturenames:
            kit.register_kit()
            names = [backbone for name, backbone in pairs() if name == self.method]
            classes = [c for c in vars(metafunc.module).values() if isinstance(c, type)]
            same = (c for c in classes if getattr(c, "method", None) == self.method)
            if next((c for c in same if c.__name__.startswith("Test")), None) is not type(self):
                named = {*kit.TOYS, *self.on, *self.refused_on}
                names = [name for name in names if name in named]
            metafunc.parametrize("backbone_name", names)

    @pytest.fixture(autouse=True)
    def _seeded(self) -> Iterator[None]:
        kit.register_kit()
        torch.manual_seed(0)
        yield

    def toy_name(self) -> str:
        """Return the first of the kit's toys that has what the method needs."""
        able = (toy for toy in kit.TOYS if not reason_against(self.method, toy))
        return next(able, "toy")

    def pair(self) -> tuple[nn.Module, dict[str, Any]]:
        """Return the toy and a batch of it."""
        _, model, batch = tiny(self.toy_name())
        return model, batch

    def batch(self, model: nn.Module, rows: int) -> dict[str, Any]:
        """Return a batch of some rows."""
        return backbone_of(model).batch(model, rows)

    def attach(self, model: nn.Module, **options: Any) -> peftcore.Adapter:
        """Attach the method with the contract's configuration."""
        return peftcore.attach(model, [self.choice(self.toy_name())], **options)

    def choice(self, backbone: str) -> dict[str, Any]:
        """Return the method with its configuration for a backbone."""
        return {"method": self.method, **self.config, **self.on.get(backbone, {})}


def gradients(adapter: peftcore.Adapter) -> dict[str, Tensor]:
    """Return the gradients of all that is trained, by site and tensor."""
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in adapter.named_parameters()
    }
