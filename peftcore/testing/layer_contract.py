"""What every handler of a layer type must do."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import peftcore
from peftcore.errors import MergeError
from peftcore.model.backbones import backbone_named
from peftcore.model.layers import Layer, LayerInfo, layer_of
from peftcore.registry.installed import installed
from peftcore.registry.references import resolve
from peftcore.testing import kit
from peftcore.testing.matrix import perturb
from peftcore.testing.refusals import Snapshot, refused

_KINDS = ("linear", "embedding", "conv1d", "conv2d", "conv3d", "norm")


@cache
def _found(layer: str) -> nn.Module | None:
    """Return a layer of a type in a small member of the installed backbones."""
    for name in installed().backbones:
        torch.manual_seed(0)
        for module in backbone_named(name).tiny().modules():
            if f"{type(module).__module__}:{type(module).__qualname__}" == layer:
                return module
    return None


class LayerContract:
    """Subclass it, set ``layer``, and pytest runs the contract.

    Attributes:
        layer: the type that is handled, as ``LayerSpec.type`` names it.
        tolerance: largest difference between two ways to one output, fp32.
    """

    layer: ClassVar[str]
    tolerance: ClassVar[float] = 1e-5

    def make(self) -> nn.Module:
        """Return a small layer with random weights; from an installed backbone by default."""
        found = _found(self.layer)
        if found is None:
            pytest.skip(f"no installed backbone has a {self.layer}: override make()")
        return copy.deepcopy(found)

    def example(self, info: LayerInfo) -> Tensor:
        """Return a batch that the layer takes."""
        if info.kind == "embedding":
            return torch.randint(0, info.in_features, (2, 5))
        if info.kind.startswith("conv"):
            return torch.randn(2, info.in_features, *[11] * int(info.kind[4]))
        return torch.randn(2, 5, info.in_features)

    @pytest.fixture(autouse=True)
    def _seeded(self) -> Iterator[None]:
        kit.register_kit()
        torch.manual_seed(0)
        yield

    def parts(self) -> tuple[nn.Module, Layer, LayerInfo, Tensor]:
        """Return a layer in evaluation mode, its handler, what that says of it, and a batch."""
        module = self.make().eval()
        handler = layer_of(module)
        assert handler is not None, f"no handler is registered for {self.layer}"
        info = handler.info(module)
        return module, handler, info, self.example(info)

    def weighted(self) -> tuple[nn.Module, Layer, LayerInfo, Tensor]:
        """Return the same; skip a norm, which has no weight to multiply with."""
        parts = self.parts()
        if parts[2].kind == "norm":
            pytest.skip("a norm has no weight to multiply with")
        return parts

    def model(self) -> tuple[nn.Module, Tensor]:
        """Return a model of nothing but the layer, and a batch."""
        module, _, _, x = self.weighted()
        return nn.Sequential(OrderedDict(layer=module)), x

    # --- what it says -----------------------------------------------------------------------

    def test_the_handler_is_the_one_of_this_plugin(self) -> None:
        _, handler, _, _ = self.parts()
        assert type(handler) is resolve(installed().layers[self.layer].layer)

    def test_the_sizes_are_those_of_the_layer(self) -> None:
        module, handler, info, x = self.parts()
        assert info.kind in _KINDS, f"{info.kind} is none of {', '.join(_KINDS)}"
        try:
            with torch.no_grad():
                out = module(x)
        except RuntimeError as error:
            raise AssertionError(f"the layer takes no {tuple(x.shape)}: {error}") from error
        axis = 1 if info.kind.startswith("conv") else -1
        assert out.shape[axis] == info.out_features, "out_features is not the width of the output"
        assert (getattr(module, "bias", None) is not None) == info.bias, "bias is told wrongly"
        if info.kind == "norm":
            return
        weight = handler.weight(module)
        assert tuple(weight.shape) == info.weight_shape, "weight_shape is not the weight's"
        rows = info.in_features if info.kind == "embedding" else info.out_features
        assert weight.shape[0] == rows, "the first axis of the weight is not the output"
        assert (weight.dtype, weight.device) == (info.dtype, info.device)

    def test_on_the_meta_device_it_says_the_same(self) -> None:
        module, handler, info, _ = self.parts()
        there = handler.info(copy.deepcopy(module).to("meta"))
        assert there == info.on(torch.device("meta"))

    # --- the weight ---------------------------------------------------------------------------

    def test_a_call_with_its_own_weight_is_the_layer(self) -> None:
        module, handler, _, x = self.weighted()
        with torch.no_grad():
            found = handler.call(module, handler.weight(module), x)
            torch.testing.assert_close(found, module(x), atol=self.tolerance, rtol=1e-5)

    def test_a_call_with_another_weight_runs_with_it(self) -> None:
        module, handler, info, x = self.weighted()
        with torch.no_grad():
            weight = handler.weight(module).clone()
            change = torch.randn_like(weight)
            difference = handler.call(module, weight + change, x) - handler.call(module, weight, x)
            assert difference.abs().max() > 1e-3, "the weight that is given is not used"
            if info.kind == "linear":
                expected = F.linear(x, change)
                torch.testing.assert_close(difference, expected, atol=1e-4, rtol=1e-4)

    def test_the_stored_layout_is_the_one_of_the_parameter(self) -> None:
        module, handler, _, _ = self.parts()
        own = module._parameters.get(handler.weight_name)
        if not handler.writable:
            pytest.skip("the weight is never written back")
        assert own is not None, f"writable, but {handler.weight_name} is no parameter"
        assert torch.equal(handler.stored(handler.weight(module)), own)

    def test_a_written_weight_is_the_one_that_is_read(self) -> None:
        module, handler, _, x = self.weighted()
        if not handler.writable:
            pytest.skip("the weight is never written back")
        new = torch.randn_like(handler.weight(module))
        with torch.no_grad():
            module.get_parameter(handler.weight_name).copy_(handler.stored(new))
            assert torch.equal(handler.weight(module), new)
            found = handler.call(module, new, x)
            torch.testing.assert_close(module(x), found, atol=self.tolerance, rtol=1e-5)

    # --- a method on it -----------------------------------------------------------------------

    @pytest.mark.parametrize("through", ["output", "weight"])
    def test_a_probe_trains_and_leaves_it_bit_for_bit(self, through: str) -> None:
        model, x = self.model()
        before, bare = Snapshot(model), model(x)
        adapter = self.probe(model, through)
        start = model(x)
        torch.testing.assert_close(start, bare, atol=self.tolerance, rtol=1e-5)
        optimiser = torch.optim.SGD(adapter.parameters(), 0.1)
        losses = []
        for _ in range(3):
            loss = (model(x) - bare.detach() - 1).square().mean()
            adapter.check_alive(loss)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            losses.append(loss.item())
        assert losses[-1] < losses[0], "the loss does not fall"
        with peftcore.disabled(model):
            assert torch.equal(model(x), bare)
        adapter.detach()
        assert not before.change(), before.change()

    @pytest.mark.parametrize("through", ["output", "weight"])
    def test_it_is_copied_and_pickled_with_its_pieces(self, through: str) -> None:
        model, x = self.model()
        perturb(self.probe(model, through))
        tuned = model(x)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(twin(x), tuned)

    @pytest.mark.parametrize("through", ["output", "weight"])
    def test_a_probe_is_merged_exactly_or_refused(self, through: str) -> None:
        model, x = self.model()
        adapter = self.probe(model, through)
        perturb(adapter)
        tuned = model(x)
        module: Any = model.get_submodule("layer")
        handler = layer_of(module)
        assert handler is not None
        if not handler.writable:
            with refused(MergeError, "layer", model=model):
                adapter.merge()
            return
        before = handler.weight(module).clone()
        adapter.merge()
        torch.testing.assert_close(model(x), tuned, atol=self.tolerance, rtol=1e-5)
        assert not torch.equal(handler.weight(module), before), "merging wrote nothing"
        adapter.unmerge()
        assert torch.equal(handler.weight(module), before)
        assert torch.equal(model(x), tuned)

    def probe(self, model: nn.Module, through: str) -> peftcore.Adapter:
        """Attach a change of the whole weight of the layer."""
        where = {"targets": ["path:layer"], "backbone": "structural"}
        return peftcore.attach(model, "probe", through=through, **where)  # type: ignore
