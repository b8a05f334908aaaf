"""The kit's own probe passes the method contract, and the toy the backbone contract."""

from peftcore.testing import BackboneContract, MethodContract


class TestProbe(MethodContract):
    method = "probe"


class TestToy(BackboneContract):
    backbone = "toy"
