"""The same numbers as Hugging Face PEFT, for methods that both libraries have."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import peftcore
from peftcore.registry.installed import installed
from peftcore.testing.closeness import check_close
from peftcore.testing.matrix import tensors_of, tiny


class InPeft(NamedTuple):
    """One setting of a method in both libraries."""

    config: str
    """Name of PEFT's configuration class, such as ``LoraConfig``."""
    theirs: Mapping[str, Any]
    """Its fields, besides ``target_modules``."""
    ours: Mapping[str, Any]
    """Fields of our configuration, besides ``targets``."""


class Pair(NamedTuple):
    """One trained tensor in both libraries."""

    name: str
    ours: Tensor
    theirs: Tensor


@dataclass
class Twins:
    """One model with our adapter, and a copy of it with PEFT's.

    Attributes:
        model: the model with our adapter.
        theirs: the copy, a ``PeftModel``.
        adapter: our adapter.
        batch: what both are called with.
        pairs: every trained tensor of both.
    """

    model: nn.Module
    theirs: Any
    adapter: peftcore.Adapter
    batch: Mapping[str, Any]
    pairs: list[Pair]

    def outputs(self, seed: int = 1) -> tuple[Tensor, Tensor]:
        """Run both, with the same random numbers; what a model returns is put into one vector."""
        outs = []
        for model in (self.model, self.theirs):
            torch.manual_seed(seed)
            outs.append(torch.cat([t.flatten() for t in tensors_of(model(**self.batch))]))
        return outs[0], outs[1]

    @torch.no_grad()
    def move(self, scale: float) -> None:
        """Add the same noise to every pair."""
        for pair in self.pairs:
            pair.ours.add_(scale * torch.randn_like(pair.ours))
            pair.theirs.copy_(pair.ours.view_as(pair.theirs))

    def check_gradients(self, tolerance: float) -> None:
        """Check that every pair has got the same gradient, and not none or zero."""
        for name, a, b in self.pairs:
            assert a.grad is not None and a.grad.any(), f"{name} has no gradient"
            assert b.grad is not None
            theirs = b.grad.view_as(a)
            check_close(a.grad, theirs, f"gradient of {name}", atol=tolerance, rtol=tolerance)


class EqualToPeft:
    """Subclass it, say what is what, and pytest compares outputs and gradients with PEFT's.

    Attributes:
        method: name of our method.
        cases: name of a case to the setting.
        leaves: name of a backbone to the ends of the paths of the layers that are tuned.
        start: the tensors start equal; else a pair starts at zero in both libraries or in none.
        scale: size of the noise that is added to every tensor before the comparison.
        train: compare in training mode.
        tolerance: of outputs and gradients, absolute and relative.
    """

    method: ClassVar[str]
    cases: ClassVar[Mapping[str, InPeft]]
    leaves: ClassVar[Mapping[str, Sequence[str]]]
    start: ClassVar[bool] = False
    scale: ClassVar[float] = 0.3
    train: ClassVar[bool] = False
    tolerance: ClassVar[float] = 1e-5

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Parametrise over the cases and those of the backbones that are installed."""
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", list(self.cases))
        if "backbone" in metafunc.fixturenames:
            known = {*installed().backbones, *self.models()}
            metafunc.parametrize("backbone", [name for name in self.leaves if name in known])

    # --- what a subclass may say otherwise ---------------------------------------------------

    def models(self) -> Mapping[str, Any]:
        """Return further models by name: functions that return a model and a batch."""
        return {}

    def setting(self, case: str, backbone: str) -> InPeft:
        """Return the setting of a case; for one backbone, where that makes a difference."""
        return self.cases[case]

    def tensors(self, item: peftcore.Placed, layer: Any) -> Mapping[str, Tensor]:
        """Return their tensors at a site by the names of ours; mostly they have the same names.

        Args:
            item: our piece with its site.
            layer: PEFT's layer there.
        """
        found = {n: getattr(layer, n)["default"] for n, _ in item.piece.named_parameters()}
        return {n: getattr(t, "weight", t) for n, t in found.items()}

    def settle(self, twins: Twins, case: str) -> None:
        """Make equal what is neither trained nor drawn in one way, such as dropout."""

    # --- the comparison -----------------------------------------------------------------------

    def twins(self, case: str, backbone: str, *, double: bool = False) -> Twins:
        """Make a model twice and attach the method to both, with the same weights."""
        peft = pytest.importorskip("peft")
        model, batch = self._made(backbone)
        if double:
            model.double()
        model.train(self.train)
        leaves = list(self.leaves[backbone])
        config, theirs, ours = self.setting(case, backbone)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of layers and of compilers
            made = getattr(peft, config)(**{"target_modules": leaves, **theirs})
            other = peft.get_peft_model(copy.deepcopy(model), made)
        other.to(next(model.parameters()).dtype).train(self.train)
        fields = {"targets": [f"path:**.{leaf}" for leaf in leaves], **ours}
        adapter = peftcore.attach(model, [{"method": self.method, **fields}])
        found = Twins(model, other, adapter, batch, self._pairs(adapter, other.base_model.model))
        counted = other.get_nb_trainable_parameters()[0]
        assert sum(p.numel() for p in adapter.parameters()) == counted, "other tensors are trained"
        self.settle(found, case)
        return found

    def _made(self, backbone: str) -> tuple[nn.Module, Mapping[str, Any]]:
        torch.manual_seed(0)
        own = self.models().get(backbone)
        model, batch = own() if own else tiny(backbone)[1:]
        for parameter in model.parameters():
            if parameter.dim() == 1:
                nn.init.normal_(parameter, 1.0, 0.2)  # the biases of a new model are zero
        return model, batch

    def _pairs(self, adapter: peftcore.Adapter, theirs: nn.Module) -> list[Pair]:
        pairs = []
        for item in adapter.placed:
            own = {n: p for n, p in item.piece.named_parameters() if p.requires_grad}
            found = self.tensors(item, theirs.get_submodule(item.site.path))
            assert own.keys() == found.keys(), f"{item.name}: {sorted(own)} and {sorted(found)}"
            pairs += [Pair(f"{item.name}.{name}", own[name], found[name]) for name in own]
        return pairs

    def check_start(self, twins: Twins) -> None:
        """Check that both libraries start alike."""
        for name, a, b in twins.pairs:
            if self.start:
                check_close(a, b.view_as(a), f"start of {name}", atol=1e-6)
            else:
                assert bool(a.any()) == bool(b.any()), f"{name} starts at zero in one of them"

    def test_outputs_and_gradients_equal_those_of_peft(self, case: str, backbone: str) -> None:
        twins = self.twins(case, backbone)
        self.check_start(twins)
        twins.move(self.scale)
        ours, theirs = twins.outputs()
        check_close(ours, theirs, "outputs", atol=self.tolerance, rtol=self.tolerance)
        ours.square().mean().backward()
        theirs.square().mean().backward()
        twins.check_gradients(self.tolerance)
