"""The kit's own probe, toys and layer pass the contracts."""

from torch import nn

from peftcore.testing import BackboneContract, FakeQuantLinear, LayerContract, MethodContract


class TestProbe(MethodContract):
    method = "probe"


class TestToy(BackboneContract):
    backbone = "toy"


class TestToyDecoder(BackboneContract):
    backbone = "toy-decoder"


class TestToyCnn(BackboneContract):
    backbone = "toy-cnn"


class TestFakeQuantLinear(LayerContract):
    layer = "peftcore.testing.toy:FakeQuantLinear"

    def make(self) -> nn.Module:
        return FakeQuantLinear(nn.Linear(6, 4))
