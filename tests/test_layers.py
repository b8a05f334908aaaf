"""Layers of unusual kinds."""

import sys
import types

import pytest
import torch
from torch import Tensor, nn

import peftcore
from peftcore import LayerSpec, installed
from peftcore.errors import AttachError, ConfigError, MergeError
from peftcore.model.globs import role_matches
from peftcore.model.layers import Layer, layer_of
from peftcore.testing import Toy


class Packed(nn.Linear):
    """A linear whose weight is packed bytes, two values each, as quantisation libraries do it."""

    def __init__(self, linear: nn.Linear):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.dense = linear.weight.detach()
        data = torch.zeros(linear.weight.numel() // 2, 1, dtype=torch.uint8)
        self.weight = nn.Parameter(data, requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.dense, self.bias)


def test_a_packed_weight_does_not_say_the_sizes_and_is_never_merged() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Packed(nn.Linear(8, 4)))
    adapter = peftcore.attach(model, "probe", targets=["linear"])
    assert adapter.plan.trainable == 8 * 4
    model(torch.randn(2, 8)).sum().backward()
    adapter.check_alive()
    with pytest.raises(MergeError, match="quantised"):
        adapter.merge()
    layer = layer_of(model[0])
    assert layer is not None
    with pytest.raises(AttachError, match="keeps a quantised weight"):
        layer.weight(model[0])


def test_a_parametrised_convolution_has_the_size_of_its_weight() -> None:
    conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 6, 3, padding=1))
    layer = layer_of(conv)
    assert layer is not None and layer.info(conv).weight_shape == (6, 4, 3)


def test_braces_and_stars_work_in_roles() -> None:
    assert role_matches("attention.query", "attention.{query,value}")
    assert not role_matches("attention.key", "attention.{query,value}")
    assert role_matches("attention.key", "*.key") and role_matches("norm", "*")


def test_a_setting_without_a_value_for_a_role_names_field_and_role() -> None:
    pytest.importorskip("peftcore_lora")
    model = Toy()
    with pytest.raises(ConfigError, match=r"lora\.rank: no value for role attention\.value"):
        peftcore.attach(model, "lora", rank={"attention.query": 4})


class Scaled(nn.Linear):
    """A linear layer that a plugin comes to know."""


class KnowsScaled(Layer):
    """What a plugin says of it."""


def test_a_layer_that_is_registered_later_is_handled_at_once(monkeypatch) -> None:
    module = types.ModuleType("later")
    module.Scaled, module.KnowsScaled = Scaled, KnowsScaled
    monkeypatch.setitem(sys.modules, "later", module)
    monkeypatch.setattr(Scaled, "__module__", "later")
    layer = Scaled(3, 2)
    assert not isinstance(layer_of(layer), KnowsScaled)
    record = peftcore.register(LayerSpec("later:Scaled", "later:KnowsScaled"), name="later")
    assert isinstance(layer_of(layer), KnowsScaled)
    installed().remove(record)
    assert not isinstance(layer_of(layer), KnowsScaled)
