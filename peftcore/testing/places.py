"""At which site two runs of a model begin to differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from peftcore.model.backbones import backbone_of
from peftcore.model.survey import survey
from peftcore.testing.matrix import run, same, tensors_of


class Run:
    """What a model returned for a batch, and what its sites returned on the way.

    Attributes:
        out: the floating tensors of the output.
        at: those of each layer that was called, by its place and in the order of calls.
    """

    def __init__(self, model: nn.Module, batch: Mapping[str, Any]):
        self.at: dict[str, list[Tensor]] = {}
        with self._watching(model):
            self.out = run(model, batch)

    @contextmanager
    def _watching(self, model: nn.Module) -> Iterator[None]:
        hooks = []
        for site in survey(model, backbone_of(model)).sites:
            if site.features is None and site.layer.kind != "module":

                def note(_: Any, __: Any, out: Any, here: str = site.here) -> None:
                    self.at.setdefault(here, [t.detach().clone() for t in tensors_of(out)])

                hooks.append(site.module.register_forward_hook(note))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def same(self, other: Run) -> bool:
        """Tell whether the outputs agree bit for bit."""
        return same(self.out, other.out)

    def since(self, other: Run) -> str:
        """Say at which layer this run first differs from another one of the same model."""
        for here, tensors in self.at.items():
            if here not in other.at or not _close(tensors, other.at[here]):
                return f", first at {here}"
        return ""


def _close(left: list[Tensor], right: list[Tensor]) -> bool:
    return len(left) == len(right) and all(
        a.shape == b.shape and torch.allclose(a.float(), b.float(), atol=1e-5)
        for a, b in zip(left, right, strict=True)
    )
