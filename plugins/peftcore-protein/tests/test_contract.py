from peftcore.testing import BackboneContract


class TestEsm(BackboneContract):
    backbone = "esm"
    heads = ("none", "sequence-classification", "masked-lm")
