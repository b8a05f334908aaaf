"""What every handler of a module that holds several weights must do."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import peftcore
from peftcore.model.layers import Layer, weights_of
from peftcore.model.roles import check_role
from peftcore.testing import kit
from peftcore.testing.matrix import perturb, tensors_of
from peftcore.testing.refusals import Snapshot

kit.register_kit()


class WeightsContract:
    """Subclass it, override ``make`` and ``example``, and pytest runs the contract.

    Attributes:
        tolerance: largest difference between two ways to one output, fp32.
    """

    tolerance: ClassVar[float] = 1e-5

    def make(self) -> nn.Module:
        """Return a small module with random weights."""
        raise NotImplementedError

    def example(self, module: nn.Module) -> tuple[Any, ...]:
        """Return positional arguments of a call of the module that reads all of its weights."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _seeded(self) -> Iterator[None]:
        kit.register_kit()
        torch.manual_seed(0)
        yield

    def weights(self) -> tuple[nn.Module, Mapping[str, Layer]]:
        """Return a module in evaluation mode, and role to the handler of each of its weights."""
        module = self.make().eval()
        found = weights_of(module)
        assert found, f"no weight of {type(module).__name__} is known: is its type registered?"
        return module, found

    def output(self, module: nn.Module, given: tuple[Any, ...]) -> Tensor:
        """Return the first floating tensor of a call."""
        return tensors_of(module(*given))[0]

    def test_roles_are_of_the_vocabulary_and_no_weight_has_two(self) -> None:
        _, found = self.weights()
        for role in found:
            check_role(role)
        assert len({layer.weight_name for layer in found.values()}) == len(found)

    def test_the_sizes_are_those_of_the_weights(self) -> None:
        module, found = self.weights()
        for role, layer in found.items():
            info, weight = layer.info(module), layer.weight(module)
            assert tuple(weight.shape) == info.weight_shape, f"weight_shape of {role}"
            sides = weight.shape[-2:] if info.kind == "experts" else weight.shape[:2]
            assert tuple(sides) == (info.out_features, info.in_features), f"sides of {role}"
            assert (weight.dtype, weight.device) == (info.dtype, info.device)
            there = layer.info(copy.deepcopy(module).to("meta"))
            assert there == info.on(torch.device("meta"))

    def test_the_stored_layout_is_the_one_of_the_parameter(self) -> None:
        module, found = self.weights()
        for layer in found.values():
            own = module.get_parameter(layer.weight_name)
            assert torch.equal(layer.stored(layer.weight(module)), own)

    def test_the_module_reads_every_weight(self) -> None:
        module, found = self.weights()
        given = self.example(module)
        for role, layer in found.items():
            own = module.get_parameter(layer.weight_name)
            (gradient,) = torch.autograd.grad(self.output(module, given).sum(), own)
            assert gradient.any(), f"{role} has no part in the output"

    def test_a_probe_trains_merges_exactly_and_leaves_it_bit_for_bit(self) -> None:
        module, found = self.weights()
        model, given = nn.ModuleDict({"held": module}), self.example(module)
        before, bare = Snapshot(model), self.output(module, given)
        adapter = peftcore.attach(model, "probe", targets=list(found), through="weight")
        assert len(adapter.placed) == len(found)
        loss = (self.output(module, given) - bare.detach() - 1).square().mean()
        adapter.check_alive(loss)
        perturb(adapter)
        tuned = self.output(module, given)
        assert not torch.equal(tuned, bare)
        adapter.merge()
        merged = self.output(module, given)
        torch.testing.assert_close(merged, tuned, atol=self.tolerance, rtol=1e-5)
        adapter.unmerge()
        adapter.detach()
        assert not before.change(), before.change()
